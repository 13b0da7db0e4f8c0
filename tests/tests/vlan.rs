//! Clients and brokers behind a trunk: every frame at the balancer has a tag.

mod common;

use std::sync::atomic::Ordering::Relaxed;

use lb_tests::lab;
use lb_tests::wire;

#[test]
fn frames_of_a_vlan_keep_their_tag_both_ways() {
    let lab = common::lab_with(lab::Options {
        wire: Some(wire::Options {
            vlan: Some(100),
            ..wire::Options::default()
        }),
        ..lab::Options::default()
    });
    let _balancer = common::balance(&lab, &common::unchecked());
    let fleet = lab.fleet().unwrap();
    // The wires carry no frame that comes from the balancer without the tag.
    let round = fleet.connect(0..40).unwrap();
    round.check().unwrap();
    assert_eq!(round.placed.len(), 40);
    for wire in &lab.topology.wires {
        assert!(wire.counts.carried.load(Relaxed) > 40 * 8);
    }
}
