//! Backends that don't take a connection are skipped, and the client doesn't notice.

mod common;

use std::time::Duration;

use lb_tests::lab::Lab;
use lb_tests::raw::{self, Connect};

/// Six clients in a row are all served by backend 1, with the CONNECT that they sent.
fn all_are_served_by_the_second(lab: &Lab) {
    let (_stand_in, accepted) = common::accepting_backend(lab, 1);
    let balancer = common::balance(lab, &common::unchecked());
    for number in 0..3 {
        for vip in lab.topology.plan.vip().addresses() {
            let connect = Connect::new(&format!("client-{number}-{vip}")).encode();
            let mut client = raw::open(lab, vip, &connect).unwrap();
            common::expect_connack(&mut client);
            let (_, received) = accepted.recv_timeout(Duration::from_secs(10)).unwrap();
            let (_, sent) = raw::read_packet(&mut connect.as_slice()).unwrap();
            assert_eq!(received, sent);
        }
    }
    // Otherwise nobody was sent to the first one, and this has shown nothing.
    if let Some(mqlb) = balancer.mqlb() {
        assert!(mqlb.counter("backend_failed").unwrap() > 0);
    }
}

#[test]
fn a_backend_that_refuses_is_skipped() {
    let lab = common::lab_without_brokers(2);
    all_are_served_by_the_second(&lab);
}

#[test]
fn a_backend_that_is_silent_is_skipped() {
    let lab = common::lab_without_brokers(2);
    lab.topology.brokers[0]
        .nft(
            "table inet silent {\n chain input {\n \
             type filter hook input priority 0; tcp dport 1883 drop\n }\n}\n",
        )
        .unwrap();
    all_are_served_by_the_second(&lab);
}
