//! Messages both ways, with clients that have nothing to do with each other.

mod common;

use lb_tests::balancer::Options;
use lb_tests::broker::Kind;
use lb_tests::lab::{self, Lab};
use lb_tests::netns::run;
use lb_tests::topology::Arms;

#[test]
fn mosquitto_clients_of_all_versions_over_ipv4_and_ipv6_with_mosquitto() {
    let lab = common::lab_with_brokers(1);
    every_version_and_family(&lab);
}

#[test]
fn mosquitto_clients_of_all_versions_over_ipv4_and_ipv6_with_the_embedded_broker() {
    let lab = common::lab_with(lab::Options {
        backends: 1,
        broker: Some(Kind::Embedded),
        ..lab::Options::default()
    });
    every_version_and_family(&lab);
}

#[test]
fn mosquitto_clients_of_all_versions_over_ipv4_and_ipv6_on_one_arm() {
    let lab = common::lab_with(lab::Options {
        backends: 1,
        arms: Arms::One,
        ..lab::Options::default()
    });
    every_version_and_family(&lab);
}

/// A message that one client leaves at the broker reaches another.
fn every_version_and_family(lab: &Lab) {
    let _balancer = common::balance(lab, &Options::default());
    for version in ["mqttv31", "mqttv311", "mqttv5"] {
        for vip in lab.topology.plan.vip().addresses() {
            let host = vip.to_string();
            let topic = format!("test/{version}/{host}");
            let shared = ["-h", &host, "-V", version, "-t", &topic, "-q", "1"];
            let clients = &lab.topology.clients;
            let publish = ["-i", "publisher", "-r", "-m", "hello"];
            let mut publisher = clients.command("mosquitto_pub").unwrap();
            run(publisher.args(shared).args(publish)).unwrap();
            let subscribe = ["-i", "subscriber", "-C", "1", "-W", "10"];
            let mut subscriber = clients.command("mosquitto_sub").unwrap();
            let heard = run(subscriber.args(shared).args(subscribe)).unwrap();
            assert_eq!(heard, "hello\n", "{version} to {host}");
        }
    }
}

/// The fleet's clients speak 3.1.1 and 5 over both families, and each must hear its own message.
#[test]
fn rumqttc_clients_hear_themselves_over_ipv4_and_ipv6_on_one_arm_and_on_two() {
    for arms in [Arms::One, Arms::Two] {
        let lab = common::lab_with(lab::Options {
            arms,
            ..lab::Options::default()
        });
        let _balancer = common::balance(&lab, &Options::default());
        let fleet = lab.fleet().unwrap();
        let round = fleet.connect(0..60).unwrap();
        round.check().unwrap();
        assert_eq!(round.placed.len(), 60, "{arms:?}");
    }
}
