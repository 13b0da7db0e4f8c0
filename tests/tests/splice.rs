//! What passes between a client and its backend once they are connected.

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering::Relaxed;

use lb_tests::lab;
use lb_tests::raw;
use lb_tests::wire;

const MEGABYTE: usize = 1_000_000;

#[test]
fn a_client_that_closed_its_half_still_gets_its_answer() {
    let lab = common::lab_without_brokers(1);
    let (_stand_in, accepted) = common::accepting_backend(&lab, 0);
    let _balancer = common::balance(&lab, &common::unchecked());
    for vip in lab.topology.plan.vip().addresses() {
        let (mut client, mut backend) = common::session(&lab, &accepted, vip);
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut question = Vec::new();
        backend.read_to_end(&mut question).unwrap();
        assert_eq!(question, b"question");
        let answer = vec![b'a'; 100_000];
        backend.write_all(&answer).unwrap();
        drop(backend);
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert!(received == answer, "{} bytes of answer", received.len());
    }
}

#[test]
fn a_backend_that_closed_its_half_still_gets_what_the_client_sends() {
    let lab = common::lab_without_brokers(1);
    let (_stand_in, accepted) = common::accepting_backend(&lab, 0);
    let _balancer = common::balance(&lab, &common::unchecked());
    for vip in lab.topology.plan.vip().addresses() {
        let (mut client, mut backend) = common::session(&lab, &accepted, vip);
        backend.shutdown(Shutdown::Write).unwrap();
        assert_eq!(
            raw::read(&mut client, &mut [0]).unwrap(),
            0,
            "end of the backend's half"
        );
        client.write_all(b"late").unwrap();
        drop(client);
        let mut received = Vec::new();
        backend.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"late");
    }
}

#[test]
fn a_hundred_megabytes_each_way_keep_their_checksum() {
    let lab = common::lab_without_brokers(1);
    let (_stand_in, accepted) = common::accepting_backend(&lab, 0);
    let _balancer = common::balance(&lab, &common::unchecked());
    let [v4, v6] = lab.topology.plan.vip().addresses();
    for (vip, length) in [(v4, 100 * MEGABYTE), (v6, 10 * MEGABYTE)] {
        let (client, backend) = common::session(&lab, &accepted, vip);
        common::transfer(client, backend, length);
    }
}

#[test]
fn ten_megabytes_each_way_survive_loss_reordering_and_repetition() {
    let lab = common::lab_with(lab::Options {
        backends: 1,
        broker: None,
        wire: Some(wire::Options {
            lost: 2,
            repeated: 1,
            delayed: 1,
            vlan: None,
        }),
        ..lab::Options::default()
    });
    let (_stand_in, accepted) = common::accepting_backend(&lab, 0);
    let _balancer = common::balance(&lab, &common::unchecked());
    let [v4, v6] = lab.topology.plan.vip().addresses();
    for (vip, length) in [(v4, 10 * MEGABYTE), (v6, 2 * MEGABYTE)] {
        let (client, backend) = common::session(&lab, &accepted, vip);
        common::transfer(client, backend, length);
    }
    for wire in &lab.topology.wires {
        let counts = &wire.counts;
        for (what, count) in [
            ("lost", &counts.lost),
            ("delayed", &counts.delayed),
            ("repeated", &counts.repeated),
        ] {
            assert!(
                count.load(Relaxed) > 50,
                "the wire has hardly {what} any frame"
            );
        }
    }
}
