//! Connections in set-up: what the program keeps from the agent, and what it hands over.

use lb_common::layout::{Flow, State, Verdict, flags};

use crate::frame::{ACK, FIN, PSH, RST, SYN, Segment};
use crate::place::{Connection, LISTENER};
use crate::row::{Row, table};
use crate::world::{Action, World};

/// The client's ISN in the entry.
const ISN: u32 = 999;

/// The client's entry while its CONNECT is read.
fn sniffing(c: Connection) -> impl Fn(&mut World) {
    move |w| {
        let entry = Flow {
            state: State::Sniff as u8,
            flags: flags::FROM_CLIENT,
            listener: LISTENER,
            next_seq: ISN,
            ..Flow::ZERO
        };
        w.flows.insert(c.client, entry, 0).unwrap();
    }
}

/// The backend's entry while our SYN is out.
fn dialling(c: Connection) -> impl Fn(&mut World) {
    move |w| {
        let entry = Flow {
            state: State::Setup as u8,
            listener: LISTENER,
            ..Flow::ZERO
        };
        w.flows.insert(c.backend, entry, 0).unwrap();
    }
}

#[test]
fn sniff() {
    let mut rows = vec![];
    for c in [Connection::v4(), Connection::v6()] {
        let segment = || c.client_segment();
        for (name, s) in [
            ("more data", segment().payload(b"more")),
            (
                "the first data again",
                segment().flags(ACK | PSH).payload(b"\x10"),
            ),
            ("1 kB of data", segment().payload(&[1; 1000])),
            ("FIN", segment().flags(ACK | FIN)),
            ("RST", segment().flags(RST)),
            ("RST with ACK", segment().flags(RST | ACK)),
        ] {
            rows.push(
                Row::new(name, &s)
                    .with(sniffing(c))
                    .punts(Verdict::PuntedSetup)
                    .then(move |w, run| {
                        let punt = &run.punts[0];
                        assert_eq!((punt.kind, punt.isn, punt.listener), (1, ISN, LISTENER));
                        let flow = w.flow(&c.client).unwrap();
                        assert_eq!((flow.state, flow.next_seq), (State::Sniff as u8, ISN));
                    }),
            );
        }
        rows.push(
            Row::new("bare ACK", &segment())
                .with(sniffing(c))
                .drops(Verdict::BareAck)
                .then(move |w, _| assert!(w.flow(&c.client).is_some())),
        );
        rows.push(
            Row::new("the same SYN", &segment().flags(SYN).seq(ISN).ack(0))
                .with(sniffing(c))
                .drops(Verdict::DuplicateSyn)
                .then(move |w, _| assert!(w.flow(&c.client).is_some())),
        );
        let anew = segment().flags(SYN).seq(ISN + 1).ack(0);
        rows.push(
            Row::new("a SYN with another ISN begins anew", &anew)
                .with(sniffing(c))
                .gives(Action::Tx, &[Verdict::SynAck])
                .looks(move |got| {
                    assert_eq!(
                        (got.flags, got.ack, got.key),
                        (SYN | ACK, ISN + 2, c.client.reversed())
                    );
                })
                .then(move |w, _| assert!(w.flow(&c.client).is_none())),
        );
    }
    table("sniff", rows);
}

/// What is left of a connection that the agent has ended.
#[test]
fn cut() {
    let left = |c: Connection| {
        move |w: &mut World| {
            let entry = Flow::cut(LISTENER, 7);
            w.flows.insert(c.client, entry, 0).unwrap();
        }
    };
    let mut rows = vec![];
    for c in [Connection::v4(), Connection::v6()] {
        let segment = || c.client_segment();
        for (name, s) in [
            ("a challenge ACK", segment()),
            ("data", segment().payload(b"\xc0\0")),
            ("FIN", segment().flags(ACK | FIN)),
            ("SYN-ACK", segment().flags(SYN | ACK)),
        ] {
            // A SYN-ACK begins anew no less, and nobody waits for it.
            let stays = s.flags & SYN == 0;
            rows.push(
                Row::new(name, &s)
                    .with(left(c))
                    .gives(Action::Tx, &[Verdict::ResetUnknown])
                    .out(s.reset())
                    .then(move |w, _| assert_eq!(w.flow(&c.client).is_some(), stays)),
            );
        }
        rows.push(
            Row::new("RST", &segment().flags(RST))
                .with(left(c))
                .drops(Verdict::StrayReset)
                .then(move |w, _| assert!(w.flow(&c.client).is_some())),
        );
        rows.push(
            Row::new("SYN", &segment().flags(SYN).ack(0))
                .with(left(c))
                .gives(Action::Tx, &[Verdict::SynAck])
                .looks(|got| assert_eq!(got.flags, SYN | ACK))
                .then(move |w, _| assert!(w.flow(&c.client).is_none())),
        );
    }
    table("cut", rows);
}

#[test]
fn dial() {
    let mut rows = vec![];
    for c in [Connection::v4(), Connection::v6()] {
        let segment = || c.backend_segment();
        for (name, s) in [
            (
                "SYN-ACK",
                segment().flags(SYN | ACK).options(&[2, 4, 5, 0xb4]),
            ),
            ("RST", segment().flags(RST | ACK)),
            ("a challenge ACK", segment()),
            ("data", segment().payload(b"\x20\x02\x00\x00")),
            ("FIN", segment().flags(FIN | ACK)),
            ("SYN", segment().flags(SYN)),
            (
                "malformed options are the agent's to judge",
                segment().options(&[8, 0, 0, 0]),
            ),
            (
                "a TTL of 1 is no matter: nothing is forwarded",
                segment().but(|s| s.ttl = 1),
            ),
        ] {
            rows.push(
                Row::new(name, &s)
                    .with(dialling(c))
                    .punts(Verdict::PuntedSetup)
                    .then(move |w, run| {
                        let punt = &run.punts[0];
                        assert_eq!((punt.kind, punt.isn, punt.listener), (2, 0, LISTENER));
                        assert_eq!(w.flow(&c.backend).unwrap().state, State::Setup as u8);
                    }),
            );
        }
    }
    table("dial", rows);
}

/// A frame that is longer than a record is cut, and the record says so.
#[test]
fn long_frames_are_cut() {
    let Some(mut world) = World::new("long-frames") else {
        return;
    };
    let c = Connection::v4();
    sniffing(c)(&mut world);
    for (payload, captured) in [
        (2048 - 54, 2048),
        (2048 - 53, 2048),
        (3000, 2048),
        (256 - 54, 256),
        (255 - 54, 255),
    ] {
        let s = c.client_segment().payload(&vec![0x61; payload]);
        let frame = s.bytes();
        let run = world.run(&frame);
        assert_eq!(run.action, Action::Drop);
        let [punt] = &run.punts[..] else {
            panic!("{} punts", run.punts.len())
        };
        assert_eq!(
            (usize::from(punt.length), punt.captured),
            (frame.len(), captured)
        );
        assert_eq!(punt.frame, frame[..usize::from(captured)]);
    }
}

/// A punted frame keeps its tags and everything else.
#[test]
fn tagged_frames_are_punted_as_they_are() {
    let c = Connection::v6();
    let s: Segment = c
        .backend_segment()
        .flags(SYN | ACK)
        .tag(0x88a8, 7)
        .tag(0x8100, 8);
    let rows = vec![
        Row::new("tagged", &s)
            .with(dialling(c))
            .punts(Verdict::PuntedSetup),
    ];
    table("tagged-punts", rows);
}
