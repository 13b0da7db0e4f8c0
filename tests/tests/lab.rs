//! The lab itself, without any balancer.

mod common;

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use lb_tests::broker::Kind;
use lb_tests::lab::{self, Lab};
use lb_tests::plan::MQTT_PORT;
use lb_tests::topology::neighbours;
use lb_tests::wire::{self, Wire};

#[test]
fn brokers_serve_both_families_and_their_connections_are_counted() {
    for kind in [Kind::Mosquitto, Kind::Embedded] {
        let lab = common::lab_with(lab::Options {
            broker: Some(kind),
            ..lab::Options::default()
        });
        // Straight to the second broker: the balancer's namespace is a router, too.
        let broker = lab.topology.plan.broker(1).sockets(MQTT_PORT);
        let fleet = lab
            .fleet_with(|options| options.servers = broker.to_vec())
            .unwrap();
        let round = fleet.connect(0..20).unwrap();
        round.check().unwrap();
        assert!(
            round.placed.values().all(|name| name == "emqx2"),
            "{kind:?}"
        );
        let counted: Vec<_> = lab.connections().unwrap().into_values().collect();
        assert_eq!(counted, [0, 20, 0], "{kind:?}");
        // Whoever leaves may return at once, before its last session has been put away.
        for _ in 0..50 {
            fleet.disconnect(0..20).unwrap();
            fleet.connect(0..20).unwrap().check().unwrap();
        }
        assert_eq!(fleet.gauges.lost.load(Relaxed), 0);
    }
}

#[test]
fn two_labs_that_the_host_can_reach_have_different_networks() {
    let options = lab::Options {
        backends: 1,
        broker: None,
        host: true,
        ..lab::Options::default()
    };
    let labs = [common::lab_with(options), common::lab_with(options)];
    let [first, second] = labs.each_ref().map(|lab| lab.topology.plan.vip().v4);
    assert_ne!(first, second);
    for lab in &labs {
        // Nobody listens, so the balancer's namespace answers with a reset, which takes a round trip.
        for vip in lab.topology.plan.vip().sockets(MQTT_PORT) {
            let error = TcpStream::connect(vip).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{vip}");
        }
    }
}

/// A trunk at each side of the balancer, and in place of a balancer a wire: what comes through is tagged.
#[test]
fn a_trunk_carries_frames_of_its_vlan_and_no_others() {
    let lab = common::lab_with(lab::Options {
        backends: 1,
        broker: None,
        wire: Some(wire::Options {
            vlan: Some(100),
            ..wire::Options::default()
        }),
        ..lab::Options::default()
    });
    talk_over_a_wire(&lab);
    for wire in &lab.topology.wires {
        assert!(wire.counts.carried.load(Relaxed) > 4);
    }

    // The balancer's own stack knows no VLAN: its frames are not carried.
    let untagged = &lab.topology.wires[0].counts.untagged;
    let before = untagged.load(Relaxed);
    let client = lab.topology.plan.client().sockets(MQTT_PORT)[0];
    let connect = || TcpStream::connect_timeout(&client, Duration::from_millis(500));
    let refused = lab.topology.lb.enter(connect).unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TimedOut);
    assert!(untagged.load(Relaxed) > before);
}

/// Connects the balancer's interfaces to each other, and client and backend 0 through them.
fn talk_over_a_wire(lab: &Lab) {
    let topology = &lab.topology;
    let (clients, backend) = (&topology.clients, &topology.brokers[0]);
    let _wire = Wire::connect(&topology.lb, "eth0", "eth1", wire::Options::default()).unwrap();
    // Each finds the other where it looks for its router.
    let plan = topology.plan;
    clients
        .ip(neighbours(plan.vip(), plan.broker(0), "eth0"))
        .unwrap();
    backend
        .ip(neighbours(plan.gateway(), plan.client(), "eth0"))
        .unwrap();
    let address = plan.broker(0).sockets(MQTT_PORT)[0];
    let listener = backend
        .enter(|| TcpListener::bind(address))
        .unwrap()
        .unwrap();
    let client = clients.enter(|| TcpStream::connect(address)).unwrap();
    let (server, _) = listener.accept().unwrap();
    common::transfer(client.unwrap(), server, 1_000_000);
}
