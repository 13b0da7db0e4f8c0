//! What backends learn about where a client comes from.

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::time::Duration;

use lb_tests::balancer::Options;
use lb_tests::lab;
use lb_tests::raw::{self, Connect};
use lb_tests::stand_in::{StandIn, read_proxy_v2};
use lb_tests::topology::Arms;
use lb_tests::wire;

#[test]
fn with_source_client_backends_see_the_clients_own_address_and_port() {
    for arms in [Arms::Two, Arms::One] {
        let lab = common::lab_with(lab::Options {
            backends: 2,
            broker: None,
            arms,
            ..lab::Options::default()
        });
        let (_first, accepted) = common::accepting_backend(&lab, 0);
        let options = Options {
            source: "client",
            ..common::unchecked()
        };
        let _balancer = common::balance(&lab, &options);
        for vip in lab.topology.plan.vip().addresses() {
            let (client, backend) = common::session(&lab, &accepted, vip);
            assert_eq!(
                backend.peer_addr().unwrap(),
                client.local_addr().unwrap(),
                "{arms:?}"
            );
            common::transfer(client, backend, 1_000_000);
        }
    }
}

#[test]
fn with_source_snat_backends_see_the_balancers_address() {
    let lab = common::lab_without_brokers(1);
    let (_stand_in, accepted) = common::accepting_backend(&lab, 0);
    let _balancer = common::balance(&lab, &common::unchecked());
    let plan = lab.topology.plan;
    let gateways = plan.gateway().addresses();
    for (vip, gateway) in plan.vip().addresses().into_iter().zip(gateways) {
        let (client, backend) = common::session(&lab, &accepted, vip);
        assert_eq!(backend.peer_addr().unwrap().ip(), gateway);
        common::transfer(client, backend, 1_000_000);
    }
}

#[test]
fn proxy_protocol_v2_names_the_client_in_front_of_an_intact_connect() {
    let lab = common::lab_without_brokers(1);
    let (sender, seen) = channel();
    let _stand_in = StandIn::start(&lab, 0, move |mut stream| {
        let source = read_proxy_v2(&mut stream).expect("a PROXY v2 header");
        let connect = raw::read_packet(&mut stream).expect("a CONNECT");
        stream.write_all(&raw::CONNACK).expect("send the CONNACK");
        // The test may have ended.
        let _ = sender.send((source, connect, stream));
    })
    .unwrap();
    let options = Options {
        proxy_protocol: true,
        ..common::unchecked()
    };
    let _balancer = common::balance(&lab, &options);
    for vip in lab.topology.plan.vip().addresses() {
        let mut connect = Connect::new("proxied");
        connect.login = Some(("user".into(), vec![b'p'; 3_000]));
        let sent = connect.encode();
        let mut client = raw::open(&lab, vip, &sent).unwrap();
        common::expect_connack(&mut client);
        let (source, received, backend) = seen.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(source, client.local_addr().unwrap());
        assert_eq!(received, raw::read_packet(&mut sent.as_slice()).unwrap());
        common::transfer(client, backend, 1_000_000);
    }
}

/// Known clients, over a wire that loses and reorders what the kernel sends only once.
#[test]
fn a_client_that_comes_back_is_named_by_the_kernel() {
    let lab = common::lab_with(lab::Options {
        backends: 1,
        broker: None,
        wire: Some(wire::Options {
            lost: 5,
            repeated: 5,
            delayed: 5,
            vlan: None,
        }),
        ..lab::Options::default()
    });
    let (sender, seen) = channel();
    let _stand_in = StandIn::start(&lab, 0, move |mut stream| {
        let read = |stream: &mut TcpStream| {
            Some((read_proxy_v2(stream).ok()?, raw::read_packet(stream).ok()?))
        };
        // Some are given up by their clients.
        if let Some((source, connect)) = read(&mut stream) {
            let _ = stream.write_all(&raw::CONNACK);
            let _ = sender.send((source, connect, stream));
        }
    })
    .unwrap();
    let options = Options {
        proxy_protocol: true,
        ..common::unchecked()
    };
    let balancer = common::balance(&lab, &options);
    let mqlb = balancer.mqlb().expect("mqlb");
    let mut connect = Connect::new("proxied");
    connect.login = Some(("user".into(), vec![b'p'; 1_000]));
    let sent = connect.encode();
    for round in 0..20 {
        for vip in lab.topology.plan.vip().addresses() {
            let mut client = raw::open(&lab, vip, &sent).unwrap();
            common::expect_connack(&mut client);
            let (source, received, backend) = seen.recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!(source, client.local_addr().unwrap(), "round {round}");
            assert_eq!(received, raw::read_packet(&mut sent.as_slice()).unwrap());
            common::transfer(client, backend, 10_000);
        }
    }
    let steered = mqlb.steered().unwrap();
    assert!(steered.kernel >= 30, "{steered:?}");
}
