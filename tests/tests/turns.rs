//! New clients are connected by the kernel where the backends take turns, and by the agent where more is to
//! be looked at; who does it makes no difference to who gets them.

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use lb_tests::balancer::Options;
use lb_tests::broker::Kind;
use lb_tests::fleet::Fleet;
use lb_tests::lab::{self, Lab};
use lb_tests::mqlb::{Mqlb, Steered};
use lb_tests::raw::{self, Connect};

fn lab() -> Lab {
    common::lab_with(lab::Options {
        broker: Some(Kind::Embedded),
        ..lab::Options::default()
    })
}

fn fleet(lab: &Lab, prefix: &str) -> Fleet {
    lab.fleet_with(|o| o.prefix = prefix.into()).unwrap()
}

/// How many of so many new clients each backend gets.
fn placed(fleet: &Fleet, clients: u32) -> [usize; 3] {
    let round = fleet.connect(0..clients).unwrap();
    round.check().unwrap();
    let placed = round.per_broker();
    [0, 1, 2].map(|n| placed.get(&Lab::broker_name(n)).copied().unwrap_or(0))
}

/// Who connected clients while this ran.
fn steered(mqlb: &Mqlb, during: impl FnOnce()) -> (u64, u64) {
    let Steered { kernel, agent } = mqlb.steered().unwrap();
    during();
    let after = mqlb.steered().unwrap();
    (after.kernel - kernel, after.agent - agent)
}

fn weighted() -> Options {
    Options {
        weights: vec![5, 2, 3],
        ..Options::default()
    }
}

#[test]
fn new_clients_follow_the_weights_by_the_kernel_alone_also_without_an_agent() {
    let lab = lab();
    let mut mqlb = Mqlb::start(&lab, &weighted()).unwrap();
    let (first, second) = (fleet(&lab, "first"), fleet(&lab, "second"));
    let by = steered(&mqlb, || assert_eq!(placed(&first, 200), [100, 40, 60]));
    assert_eq!(by, (200, 0));
    assert_eq!(mqlb.counter("kernel_syn_new").unwrap(), 200);

    let by = {
        let before = mqlb.steered().unwrap();
        mqlb.kill();
        assert_eq!(placed(&second, 100), [50, 20, 30]);
        first.disconnect(0..200).unwrap();
        let back = first.connect(0..200).unwrap();
        back.check().unwrap();
        assert_eq!(back.returned, 200);
        mqlb.restart().unwrap();
        let after = mqlb.steered().unwrap();
        (after.kernel - before.kernel, after.agent - before.agent)
    };
    assert_eq!(by, (300, 0));
    // The successor knows those whom it never saw.
    second.disconnect(0..100).unwrap();
    let back = second.connect(0..100).unwrap();
    back.check().unwrap();
    assert_eq!(back.returned, 100);
}

/// A CONNECT in two segments, which is the agent's to read.
fn split(lab: &Lab, n: usize) -> TcpStream {
    let vip = lab.topology.plan.vip().addresses()[n % 2];
    let connect = Connect::new(&format!("split-{n}")).encode();
    let mut stream = raw::open(lab, vip, &connect[..9]).unwrap();
    stream.set_nodelay(true).unwrap();
    // The rest must not be one segment with it.
    std::thread::sleep(Duration::from_millis(20));
    stream.write_all(&connect[9..]).unwrap();
    common::expect_connack(&mut stream);
    stream
}

#[test]
fn kernel_and_agent_take_turns_of_one_round() {
    let lab = lab();
    let mqlb = Mqlb::start(&lab, &weighted()).unwrap();
    let fleet = fleet(&lab, "whole");
    let mut streams = vec![];
    let by = steered(&mqlb, || {
        for n in 0..10 {
            fleet.connect(n..n + 1).unwrap().check().unwrap();
            streams.push(split(&lab, n as usize));
        }
    });
    assert_eq!(by, (10, 10));
    let counted: Vec<_> = lab.connections().unwrap().into_values().collect();
    assert_eq!(counted, [10, 4, 6]);
}

#[test]
fn orders_and_failures_change_whose_turn_it_is() {
    let lab = lab();
    let mqlb = Mqlb::start(&lab, &Options::default()).unwrap();
    let by = steered(&mqlb, || {
        mqlb.command(&["drain", "emqx2"]).unwrap();
        assert_eq!(placed(&fleet(&lab, "drained"), 20), [10, 0, 10]);
        mqlb.command(&["ready", "emqx2"]).unwrap();
        mqlb.command(&["weight", "emqx2", "0"]).unwrap();
        assert_eq!(placed(&fleet(&lab, "weightless"), 20), [10, 0, 10]);
        mqlb.command(&["weight", "emqx2", "2"]).unwrap();
        assert_eq!(placed(&fleet(&lab, "weighted"), 20), [5, 10, 5]);
    });
    assert_eq!(by, (60, 0));

    // A backend that refuses: the agent finds another one, and its turns are over for a while.
    lab.topology.brokers[0]
        .nft("table inet refusing {\n chain input {\n type filter hook input priority 0; tcp dport 1883 reject with tcp reset\n }\n}\n")
        .unwrap();
    let [first, second, third] = placed(&fleet(&lab, "refused"), 40);
    assert_eq!((first, second + third), (0, 40));
}

#[test]
fn where_more_is_to_be_looked_at_the_agent_chooses() {
    let policy = |policy: &str| Options {
        pool: format!("policy = \"{policy}\""),
        ..Options::default()
    };
    let rows = [
        ("least connections", policy("least-connections")),
        ("consistent hashing", policy("consistent")),
        (
            "connections of a backend are counted",
            Options {
                max_flows: vec![100],
                ..Options::default()
            },
        ),
        (
            "a long round",
            Options {
                weights: vec![1000, 999, 998],
                ..Options::default()
            },
        ),
        (
            "a rate of clients",
            Options {
                pool: "client_connects = \"100/s burst 100\"".into(),
                ..Options::default()
            },
        ),
        (
            "known clients only",
            Options {
                xdp: "set_up = \"known\"".into(),
                ..Options::default()
            },
        ),
    ];
    for (why, options) in rows {
        let lab = lab();
        let mqlb = Mqlb::start(&lab, &options).unwrap();
        let fleet = fleet(&lab, "client");
        let by = steered(&mqlb, || {
            assert_eq!(placed(&fleet, 12).iter().sum::<usize>(), 12)
        });
        assert_eq!(by, (0, 12), "{why}");
        fleet.disconnect(0..12).unwrap();
    }
}

#[test]
fn nobody_is_connected_by_the_kernel_if_that_is_configured() {
    let lab = lab();
    let options = Options {
        xdp: "set_up = \"none\"".into(),
        ..Options::default()
    };
    let mqlb = Mqlb::start(&lab, &options).unwrap();
    let fleet = fleet(&lab, "client");
    let by = steered(&mqlb, || {
        assert_eq!(placed(&fleet, 12), [4, 4, 4]);
        fleet.disconnect(0..12).unwrap();
        let back = fleet.connect(0..12).unwrap();
        back.check().unwrap();
        assert_eq!(back.returned, 12);
    });
    assert_eq!(by, (0, 24));
}

#[test]
fn while_a_client_is_blocked_the_agent_looks_at_all_that_are_new() {
    let lab = lab();
    let mqlb = Mqlb::start(&lab, &Options::default()).unwrap();
    mqlb.command(&["block", "--client", "banned"]).unwrap();
    let by = steered(&mqlb, || {
        assert_eq!(placed(&fleet(&lab, "during"), 12), [4, 4, 4]);
    });
    assert_eq!(by, (0, 12));
    let vip = lab.topology.plan.vip().addresses()[0];
    let banned = Connect::new("banned").encode();
    let mut client = raw::open(&lab, vip, &banned).unwrap();
    let (first, body) = raw::read_packet(&mut client).unwrap();
    assert_eq!((first, body[0]), (0x20, 0));
    assert_ne!(body[1], 0, "it is refused");

    mqlb.command(&["unblock", "--client", "banned"]).unwrap();
    let by = steered(&mqlb, || {
        assert_eq!(placed(&fleet(&lab, "after"), 12), [4, 4, 4]);
    });
    assert_eq!(by, (12, 0));
}
