//! A client whose packets come in by another way: answers follow it, but not a blind sender.

use lb_common::layout::{Flow, Hop, Verdict, flags};

use crate::frame::Segment;
use crate::place::{BACKEND_MAC, CLIENT_MAC, Connection, IFINDEX, OUR_MAC, OUR_OUT_MAC};
use crate::row::table;
use crate::spliced::{becomes, with_client_entry};
use crate::world::Action;

#[test]
fn moves() {
    let c = Connection::v4();
    let tagged_out = |f: &mut Flow| {
        f.vlan = 300;
        f.flags |= flags::TAGGED;
    };
    let mut rows = vec![];
    // The client moves: another router forwards its packets, or another VLAN.
    let router = [2, 0, 0, 0xaa, 0xaa, 1];
    let our_other = [2, 0, 0, 0xba, 0x1a, 3];
    let from_router = |s: Segment| s.but(|s| (s.src_mac, s.dst_mac) = (router, our_other));
    let both = [Verdict::HopLearnt, Verdict::Spliced];
    // The backend entry has acknowledged up to 1000: 64 KB before and 1 MB after are credible.
    for (name, seq) in [
        ("the client moves", 1000u32),
        (
            "the client moves while it retransmits",
            1000u32.wrapping_sub(0x1_0000),
        ),
        ("the client moves with 1 MB on the way", 1000 + 0x10_0000),
    ] {
        let s = from_router(c.client_segment().seq(seq));
        rows.push(
            becomes(name, c, s.clone(), c.spliced(&c.client_segment().seq(seq)))
                .gives(Action::Redirect, &both)
                .then(move |w, _| {
                    let (client, backend) =
                        (w.flow(&c.client).unwrap(), w.flow(&c.backend).unwrap());
                    assert_eq!(
                        (backend.dst_mac, backend.src_mac, backend.ifindex),
                        (router, our_other, IFINDEX)
                    );
                    assert_eq!(backend.flags & flags::TAGGED, 0);
                    assert_eq!(client.ingress, Hop::signature(IFINDEX, &router, 0));
                    // The second packet of the new way is nothing new, and answers go back by it.
                    let run = w.run(&s.bytes());
                    assert_eq!(run.counted.len(), 1);
                    let answer = Segment::read(&w.run(&c.backend_segment().bytes()).frame);
                    assert_eq!((answer.dst_mac, answer.src_mac), (router, our_other));
                }),
        );
    }
    for (name, seq) in [
        (
            "a blind sender does not move the client: too old",
            1000u32.wrapping_sub(0x1_0001),
        ),
        (
            "a blind sender does not move the client: too new",
            1000 + 0x10_0001,
        ),
        (
            "a blind sender does not move the client: far off",
            0x8000_0000,
        ),
    ] {
        let s = from_router(c.client_segment().seq(seq));
        rows.push(
            becomes(name, c, s, c.spliced(&c.client_segment().seq(seq))).then(move |w, _| {
                let (client, backend) = (w.flow(&c.client).unwrap(), w.flow(&c.backend).unwrap());
                assert_eq!((backend.dst_mac, backend.src_mac), (CLIENT_MAC, OUR_MAC));
                assert_eq!(client.ingress, Hop::signature(IFINDEX, &CLIENT_MAC, 0));
            }),
        );
    }
    let s = c.client_segment().tag(0x8100, 0x6064);
    rows.push(
        becomes(
            "the client moves into a VLAN",
            c,
            s.clone(),
            c.spliced(&s).but(|s| s.tags[0].1 = 0x612c),
        )
        .with(with_client_entry(c, tagged_out))
        .gives(Action::Redirect, &both)
        .then(move |w, _| {
            let backend = w.flow(&c.backend).unwrap();
            assert_eq!(
                (backend.vlan, backend.flags & flags::TAGGED),
                (100, flags::TAGGED)
            );
        }),
    );
    rows.push(
        becomes(
            "the client moves out of a VLAN",
            c,
            c.client_segment(),
            c.spliced(&c.client_segment()),
        )
        .with(with_client_entry(c, |f| {
            f.ingress = Hop::signature(IFINDEX, &CLIENT_MAC, 100)
        }))
        .with(move |w| {
            let backend = Flow {
                vlan: 100,
                flags: flags::TAGGED,
                ..c.backend_entry()
            };
            w.flows.insert(c.backend, backend, 0).unwrap();
        })
        .gives(Action::Redirect, &both)
        .then(move |w, _| {
            let backend = w.flow(&c.backend).unwrap();
            assert_eq!((backend.vlan, backend.flags & flags::TAGGED), (0, 0));
        }),
    );
    rows.push(
        becomes(
            "the client comes in by another interface",
            c,
            c.client_segment(),
            c.spliced(&c.client_segment()),
        )
        .with(with_client_entry(c, |f| {
            f.ingress = Hop::signature(99, &CLIENT_MAC, 0)
        }))
        .with(move |w| {
            let backend = Flow {
                ifindex: 99,
                ..c.backend_entry()
            };
            w.flows.insert(c.backend, backend, 0).unwrap();
        })
        .gives(Action::Redirect, &both)
        .then(move |w, _| assert_eq!(w.flow(&c.backend).unwrap().ifindex, IFINDEX)),
    );
    let s = c
        .backend_segment()
        .but(|s| (s.src_mac, s.dst_mac) = (router, our_other));
    rows.push(
        becomes(
            "a backend that moves is the agent's matter",
            c,
            s,
            c.spliced(&c.backend_segment()),
        )
        .then(move |w, _| {
            let client = w.flow(&c.client).unwrap();
            assert_eq!((client.dst_mac, client.src_mac), (BACKEND_MAC, OUR_OUT_MAC));
        }),
    );
    table("moves", rows);
}
