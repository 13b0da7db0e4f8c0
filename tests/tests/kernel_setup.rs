//! Clients are connected by the kernel alone, those that were here before back to their backend; what it
//! can't finish the agent takes over, and the client notices neither.

mod common;

use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_tests::balancer::Options;
use lb_tests::broker::Kind;
use lb_tests::cards::Wires;
use lb_tests::lab::{self, Lab};
use lb_tests::mqlb::{Mqlb, Steered};
use lb_tests::raw::{self, Connect};

/// New clients are the agent's.
const KNOWN: &str = "set_up = \"known\"";

fn steered_since(mqlb: &Mqlb, before: Steered) -> Steered {
    let now = mqlb.steered().unwrap();
    Steered {
        kernel: now.kernel - before.kernel,
        agent: now.agent - before.agent,
    }
}

/// Fleets of both families and of MQTT 3.1.1 and 5 come back.
fn all_return_by_the_kernel(source: &'static str, mode: &'static str) {
    let lab = common::lab_with(lab::Options {
        broker: Some(Kind::Embedded),
        ..lab::Options::default()
    });
    let options = Options {
        source,
        mode,
        xdp: KNOWN.into(),
        ..Options::default()
    };
    let mut mqlb = Mqlb::start(&lab, &options).unwrap();
    let fleet = lab.fleet().unwrap();
    let first = fleet.connect(0..200).unwrap();
    first.check().unwrap();
    let before = mqlb.steered().unwrap();
    assert_eq!(
        before,
        Steered {
            kernel: 0,
            agent: 200
        }
    );

    fleet.disconnect(0..200).unwrap();
    let second = fleet.connect(0..200).unwrap();
    second.check().unwrap();
    assert_eq!((second.returned, &second.placed), (200, &first.placed));
    let all = Steered {
        kernel: 200,
        agent: 0,
    };
    assert_eq!(steered_since(&mqlb, before), all);

    // The agent isn't needed for it.
    fleet.disconnect(0..200).unwrap();
    mqlb.kill();
    let third = fleet.connect(0..200).unwrap();
    third.check().unwrap();
    assert_eq!((third.returned, &third.placed), (200, &first.placed));
    mqlb.restart().unwrap();
    let both = Steered {
        kernel: 400,
        agent: 0,
    };
    assert_eq!(steered_since(&mqlb, before), both);
    for punted in [
        "punted_takeover",
        "punted_delivery",
        "punted_no_port",
        "kernel_ack",
    ] {
        assert_eq!(mqlb.counter(punted).unwrap(), 0, "{punted}");
    }
}

#[test]
fn a_fleet_returns_by_the_kernel_alone() {
    all_return_by_the_kernel("snat", "auto");
}

#[test]
fn a_fleet_returns_with_its_own_addresses() {
    all_return_by_the_kernel("client", "auto");
}

#[test]
fn a_fleet_returns_in_generic_mode() {
    all_return_by_the_kernel("snat", "generic");
}

/// A CONNECT with a password of this many bytes.
fn connect_with(id: &str, password: usize) -> Vec<u8> {
    let mut connect = Connect::new(id);
    connect.login = Some(("user".into(), vec![b'j'; password]));
    connect.encode()
}

/// Connects to a mosquitto and works with the session; gives the time until the CONNACK.
fn works(lab: &Lab, vip: IpAddr, connect: &[u8]) -> Duration {
    let begun = Instant::now();
    let mut stream = raw::open(lab, vip, connect).unwrap();
    common::expect_connack(&mut stream);
    let took = begun.elapsed();
    stream.write_all(&raw::subscribe(7, "topic")).unwrap();
    assert_eq!(
        raw::read_packet(&mut stream).unwrap(),
        (0x90, vec![0, 7, 0])
    );
    stream.write_all(&raw::publish("topic", b"hello")).unwrap();
    let (first, body) = raw::read_packet(&mut stream).unwrap();
    assert_eq!((first, &body[7..]), (0x30, &b"hello"[..]));
    took
}

/// Passwords of all lengths, up to what fills a segment: where the SYN-ACK can't grow enough, the agent
/// sends the CONNECT, and without an agent the client does, once more.
#[test]
fn connects_of_all_lengths() {
    let lab = common::lab_with_brokers(2);
    let mut mqlb = Mqlb::start(&lab, &Options::default()).unwrap();
    let vips = lab.topology.plan.vip().addresses();
    let lengths = [0, 1, 20, 100, 180, 200, 250, 400, 900, 1300];
    let each = |check: &dyn Fn(usize, Duration)| {
        for vip in vips {
            for length in lengths {
                let id = format!("length-{length}-{vip}");
                check(length, works(&lab, vip, &connect_with(&id, length)));
            }
        }
    };
    each(&|_, _| {});
    let before = mqlb.steered().unwrap();
    let retransmission = Duration::from_millis(180);
    each(&|length, took| assert!(took < retransmission, "{length}: {took:?}"));
    let all = Steered {
        kernel: 2 * lengths.len() as u64,
        agent: 0,
    };
    assert_eq!(steered_since(&mqlb, before), all);
    // There is more room behind a frame with other drivers, and on veth up to Linux 6.1, which copies it into a page.
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    if Wires::from_environment() == Wires::Veth && !kernel.starts_with("6.1.") {
        let punted = mqlb.counter("punted_delivery").unwrap();
        assert!(punted > 0, "900 bytes don't fit on veth");
    }

    mqlb.kill();
    each(&|length, took| {
        let patience = if length < 180 {
            retransmission
        } else {
            Duration::from_secs(2)
        };
        assert!(took < patience, "{length}: {took:?}");
    });
}

/// One client, bound to the first backend, which then fails: the CONNECT goes to the second.
fn lands_elsewhere(silent: bool) {
    let lab = common::lab_without_brokers(2);
    let (first, accepted) = common::accepting_backend(&lab, 0);
    let mqlb = Mqlb::start(&lab, &common::unchecked()).unwrap();
    let connects: Vec<_> = lab
        .topology
        .plan
        .vip()
        .addresses()
        .map(|vip| (vip, connect_with(&format!("client-{vip}"), 30)))
        .to_vec();
    for (vip, connect) in &connects {
        let mut client = raw::open(&lab, *vip, connect).unwrap();
        common::expect_connack(&mut client);
        accepted.recv_timeout(Duration::from_secs(10)).unwrap();
    }
    let before = mqlb.steered().unwrap();
    // Some were refused by the second one already.
    let failed = mqlb.counter("backend_failed").unwrap();
    if silent {
        lab.topology.brokers[0]
            .nft("table inet silent {\n chain input {\n type filter hook input priority 0; tcp dport 1883 drop\n }\n}\n")
            .unwrap();
    }
    drop(first);
    let (_second, accepted) = common::accepting_backend(&lab, 1);
    for (vip, connect) in &connects {
        let mut client = raw::open(&lab, *vip, connect).unwrap();
        common::expect_connack(&mut client);
        let (_, received) = accepted.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(
            received,
            raw::read_packet(&mut connect.as_slice()).unwrap().1
        );
    }
    // Otherwise the kernel wasn't asked, and this has shown nothing.
    assert_eq!(mqlb.counter("kernel_syn").unwrap(), 2);
    assert_eq!(mqlb.counter("backend_failed").unwrap() - failed, 2);
    assert_eq!(
        steered_since(&mqlb, before),
        Steered {
            kernel: 0,
            agent: 2
        }
    );
}

#[test]
fn a_bound_backend_that_refuses() {
    lands_elsewhere(false);
}

#[test]
fn a_bound_backend_that_is_silent() {
    lands_elsewhere(true);
}
