//! Which broker a client gets, and that it gets it again.

mod common;

use lb_tests::balancer::Options;
use lb_tests::broker::Kind;
use lb_tests::lab;

#[test]
fn ten_clients_on_three_equal_brokers_are_4_3_3() {
    let lab = common::lab_with_brokers(3);
    let _balancer = common::balance(&lab, &Options::default());
    let fleet = lab.fleet().unwrap();
    let round = fleet.connect(0..10).unwrap();
    round.check().unwrap();
    let counted = lab.connections().unwrap();
    assert_eq!(
        round.per_broker(),
        counted,
        "told by, and counted at the brokers"
    );
    let mut counts: Vec<_> = counted.into_values().collect();
    counts.sort_unstable();
    assert_eq!(counts, [3, 3, 4]);
}

#[test]
fn a_thousand_clients_follow_weights_5_2_3_and_all_return_from_new_ports() {
    let lab = common::lab_with(lab::Options {
        broker: Some(Kind::Embedded),
        ..lab::Options::default()
    });
    let options = Options {
        weights: vec![5, 2, 3],
        ..Options::default()
    };
    let _balancer = common::balance(&lab, &options);
    let fleet = lab.fleet().unwrap();
    let first = fleet.connect(0..1000).unwrap();
    first.check().unwrap();
    let counted = lab.connections().unwrap();
    assert_eq!(
        first.per_broker(),
        counted,
        "told by, and counted at the brokers"
    );
    for (broker, expected) in [("emqx1", 500_usize), ("emqx2", 200), ("emqx3", 300)] {
        let count = counted[broker];
        assert!(
            expected.abs_diff(count) <= 1,
            "{broker} has {count} of {expected}"
        );
    }

    // Clients close first, so their ports are in TIME_WAIT and the kernel chooses others.
    fleet.disconnect(0..1000).unwrap();
    let second = fleet.connect(0..1000).unwrap();
    second.check().unwrap();
    assert_eq!(second.returned, 1000);
    assert_eq!(second.placed, first.placed);
}

#[test]
fn identifiers_that_share_their_first_32_characters_are_different_clients() {
    let lab = common::lab_with_brokers(3);
    let _balancer = common::balance(&lab, &Options::default());
    let fleet = lab
        .fleet_with(|options| options.prefix = "x".repeat(60))
        .unwrap();
    let round = fleet.connect(0..9).unwrap();
    round.check().unwrap();
    let counts: Vec<_> = round.per_broker().into_values().collect();
    assert_eq!(counts, [3, 3, 3]);
}
