//! Sources: the block list, and what one of them may do.

use std::time::Duration;

use aya::maps::lpm_trie;
use lb_common::cookie;
use lb_common::layout::{FlowKey, Listener, Source, SourceKey, Verdict, v4_mapped};
use lb_common::limits::credit::Credit;
use lb_common::limits::rate::Pace;
use mqlb::agent::limits::{LimitError, Limits, Origin, Target, parse_prefix};
use mqlb::dataplane::{Home, Maps};

use crate::frame::{ACK, FIN, PSH, RST, SYN, Segment};
use crate::place::{self, CURRENT_KEY, Connection, FROM_CLIENT, UNLIMITED};
use crate::row::{Row, table};
use crate::world::{Action, World};

/// The first data of a client of `key`'s network, by its last byte and port.
fn first_data(key: FlowKey, host: u8, port: u16) -> Segment {
    let mut key = FlowKey {
        src_port: port.to_be_bytes(),
        ..key
    };
    key.src[15] = host;
    let cookie = cookie::make(&CURRENT_KEY, &key, 0, 0);
    Segment::new(key, FROM_CLIENT)
        .seq(1)
        .ack(cookie.wrapping_add(1))
        .payload(b"\x10")
}

fn verdict(world: &mut World, s: &Segment) -> Verdict {
    let run = world.run(&s.bytes());
    let [(verdict, _)] = run.counted[..] else {
        panic!("{:?}", run.counted)
    };
    verdict
}

fn block(bits: u32, address: [u8; 16]) -> impl Fn(&mut World) {
    move |w| {
        w.blocked
            .insert(&lpm_trie::Key::new(bits, address), 1, 0)
            .unwrap();
    }
}

#[test]
fn blocked() {
    let v4 = || first_data(place::client_v4(), 7, 40_000);
    let v6 = || first_data(place::client_v6(), 7, 40_000);
    let bare = |s: Segment| s.but(|s| s.payload.clear()).flags(ACK);
    let syn = |s: Segment| s.but(|s| s.payload.clear()).flags(SYN).ack(0);
    let net = v4_mapped([10, 9, 0, 0]);
    let mut rows = vec![];
    for (name, segment) in [
        ("SYN", syn(v4())),
        ("bare ACK", bare(v4())),
        ("first data", v4()),
        (
            "first data with a wrong cookie",
            v4().but(|s| s.ack ^= 0x1100),
        ),
        ("FIN", bare(v4()).flags(FIN | ACK)),
        ("RST", bare(v4()).flags(RST)),
        ("nonsense", v4().flags(PSH)),
    ] {
        rows.push(
            Row::new(name, &segment)
                .with(block(96 + 16, net))
                .drops(Verdict::SourceBlocked)
                .then(|w, _| {
                    assert_eq!(w.flows.keys().count(), 0);
                    assert_eq!(w.sources.keys().count(), 0);
                }),
        );
    }
    rows.push(
        Row::new("one address", &v4())
            .with(block(128, v4().key.src))
            .drops(Verdict::SourceBlocked),
    );
    rows.push(
        Row::new("IPv6", &syn(v6()))
            .with(block(48, v6().key.src))
            .drops(Verdict::SourceBlocked),
    );
    let mut neighbour = v4().key.src;
    neighbour[15] ^= 1;
    rows.push(
        Row::new("a neighbour", &v4())
            .with(block(128, neighbour))
            .punts(Verdict::PuntedNew),
    );
    rows.push(
        Row::new("all of IPv6, seen from IPv4", &v4())
            .with(block(3, [0x20; 16]))
            .punts(Verdict::PuntedNew),
    );
    rows.push(
        Row::new(
            "to another port of the host",
            &v4().but(|s| s.key.dst_port = [0, 22]),
        )
        .with(block(96 + 16, net)),
    );
    let c = Connection::v4();
    rows.push(
        Row::new(
            "an open connection costs no look-up",
            &c.client_segment().payload(b"x"),
        )
        .with(move |w| c.open(w))
        .with(block(96, v4_mapped([0; 4])))
        .gives(Action::Redirect, &[Verdict::Spliced])
        .looks(|_| {}),
    );
    table("blocked", rows);
}

#[test]
fn nothing_is_written_before_the_cookie_is_right() {
    let limited = |w: &mut World| {
        w.set_listener(&Listener {
            source_flows: 1,
            source_pace: Pace::new(1, 1),
            ..UNLIMITED
        });
    };
    let nothing = |w: &mut World, _: &crate::world::Run| {
        assert_eq!(w.sources.keys().count(), 0);
        assert_eq!(w.flows.keys().count(), 0);
    };
    let s = || first_data(place::client_v4(), 7, 40_000);
    let wrong = s().but(|s| s.ack ^= 0x1100);
    let early = s().but(|s| s.seq += 1000);
    let bare = s().but(|s| s.payload.clear());
    let syn = bare.but(|s| s.ack = 0).flags(SYN);
    let rows = vec![
        Row::new("SYN", &syn)
            .with(limited)
            .gives(Action::Tx, &[Verdict::SynAck])
            .looks(|_| {})
            .then(nothing),
        Row::new("wrong cookie", &wrong)
            .with(limited)
            .gives(Action::Tx, &[Verdict::ResetUnknown])
            .out(wrong.reset())
            .then(nothing),
        Row::new("a later segment", &early)
            .with(limited)
            .drops(Verdict::EarlySegment)
            .then(nothing),
        Row::new("bare ACK", &bare)
            .with(limited)
            .drops(Verdict::BareAck)
            .then(nothing),
    ];
    table("nothing-written", rows);
}

#[test]
fn rate_of_connects() {
    let Some(mut world) = World::new("connect-rate") else {
        return;
    };
    for key in [place::client_v4(), place::client_v6()] {
        world.reset();
        world.set_listener(&Listener {
            source_pace: Pace::new(2, 3),
            v4_bits: 96 + 24,
            v6_bits: 120,
            ..UNLIMITED
        });
        for n in 0..3 {
            let s = first_data(key, n, 1000);
            assert_eq!(verdict(&mut world, &s), Verdict::PuntedNew, "{n} of 3");
        }
        let late = first_data(key, 3, 1000);
        assert_eq!(verdict(&mut world, &late), Verdict::SourceRate);
        assert!(world.flow(&late.key).is_none());
        // More of a connection that was admitted is no CONNECT.
        let more = first_data(key, 0, 1000).but(|s| s.seq += 1);
        assert_eq!(verdict(&mut world, &more), Verdict::PuntedSetup);
        // Another network is another source.
        let mut other = first_data(key, 3, 1000).key;
        other.src[14] ^= 1;
        assert_eq!(
            verdict(&mut world, &first_data(other, 3, 1000)),
            Verdict::PuntedNew
        );
        // The retransmission.
        std::thread::sleep(Duration::from_millis(550));
        assert_eq!(verdict(&mut world, &late), Verdict::PuntedNew);
        assert_eq!(
            verdict(&mut world, &first_data(key, 4, 1000)),
            Verdict::SourceRate
        );
    }
}

#[test]
fn connections_at_a_time() {
    let Some(mut world) = World::new("source-flows") else {
        return;
    };
    let key = place::client_v4();
    let limits = Listener {
        source_flows: 2,
        v4_bits: 96 + 24,
        ..UNLIMITED
    };
    world.set_listener(&limits);
    for port in 0..2 {
        let s = first_data(key, 1, 1000 + port);
        assert_eq!(verdict(&mut world, &s), Verdict::PuntedNew);
    }
    let s = first_data(key, 2, 1000);
    let run = world.run(&s.bytes());
    assert_eq!(run.action, Action::Tx);
    assert_eq!(Segment::read(&run.frame), s.reset());
    assert_eq!(run.counted[0].0, Verdict::SourceFull);
    // The sweeper: one of them has closed.
    let source = SourceKey {
        prefix: v4_mapped([10, 9, 0, 0]),
        pool: UNLIMITED.pool,
        _pad: 0,
    };
    let now = world.sources.get(&source, 0).unwrap();
    assert_eq!(
        now.credit,
        Credit {
            opened: 2,
            open_until: 2
        }
    );
    let swept = Source {
        credit: Credit {
            open_until: Credit::until(2, 2, 1),
            ..now.credit
        },
        ..now
    };
    world.sources.insert(source, swept, 0).unwrap();
    assert_eq!(verdict(&mut world, &s), Verdict::PuntedNew);
    let another = first_data(key, 3, 1000);
    assert_eq!(verdict(&mut world, &another), Verdict::SourceFull);
    // Those that are refused cost no token of the rate.
    world.set_listener(&Listener {
        source_pace: Pace::new(1, 1),
        ..limits
    });
    assert_eq!(verdict(&mut world, &another), Verdict::SourceFull);
    world.sources.insert(source, swept, 0).unwrap();
    assert_eq!(verdict(&mut world, &another), Verdict::PuntedNew);
}

#[test]
fn repeated_segments() {
    let Some(mut world) = World::new("repeated") else {
        return;
    };
    let first = first_data(place::client_v4(), 7, 40_000);
    assert_eq!(verdict(&mut world, &first), Verdict::PuntedNew);
    assert_eq!(verdict(&mut world, &first), Verdict::PuntRepeated);
    // Byte by byte: each is another segment, and so is a FIN at the same place.
    for n in 1..20 {
        let next = first.but(|s| s.seq += n);
        assert_eq!(verdict(&mut world, &next), Verdict::PuntedSetup, "byte {n}");
        assert_eq!(verdict(&mut world, &next), Verdict::PuntRepeated);
    }
    let last = first.but(|s| s.seq += 19);
    assert_eq!(
        verdict(&mut world, &last.but(|s| s.flags = ACK | FIN)),
        Verdict::PuntedSetup
    );
    assert_eq!(
        verdict(&mut world, &last.but(|s| s.payload = b"ab".to_vec())),
        Verdict::PuntedSetup
    );
    let again = last.but(|s| s.payload = b"cd".to_vec());
    assert_eq!(verdict(&mut world, &again), Verdict::PuntRepeated);
    // A retransmission time-out later it may be wanted.
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(verdict(&mut world, &again), Verdict::PuntedSetup);
}

/// One source can't have the agent to itself: while the ring buffer fills, it has a small burst.
#[test]
fn punts_of_one_source() {
    let Some(mut world) = World::new("punts-of-one") else {
        return;
    };
    let key = place::client_v4();
    let flood = first_data(key, 1, 40_000);
    assert_eq!(verdict(&mut world, &flood), Verdict::PuntedNew);
    let mut seq = 0;
    let mut next = |world: &mut World, leaving: bool| {
        seq += 1;
        let s = flood.but(|s| s.seq += seq);
        let run = if leaving {
            world.run_leaving_punts(&s.bytes())
        } else {
            world.run(&s.bytes())
        };
        run.counted[0].0
    };
    // As if it had sent some tens of thousands a second for a while: a second ahead of its rate.
    let source = SourceKey {
        prefix: flood.key.src,
        pool: UNLIMITED.pool,
        _pad: 0,
    };
    let ahead = |world: &mut World, ns: u64| {
        let now = world.sources.get(&source, 0).unwrap();
        assert_ne!(now.punts, 0);
        let punts = mqlb::dataplane::clock::now_ns() + ns;
        let value = Source { punts, ..now };
        world.sources.insert(source, value, 0).unwrap();
    };
    ahead(&mut world, 1_000_000_000);
    // The agent keeps up, so it may.
    assert_eq!(next(&mut world, false), Verdict::PuntedSetup);
    // Then a sixteenth of the ring buffer waits.
    assert_eq!(next(&mut world, true), Verdict::PuntedSetup);
    assert_eq!(next(&mut world, true), Verdict::PuntLimited);
    // Others are not.
    let other = first_data(key, 2, 40_000);
    let run = world.run_leaving_punts(&other.bytes());
    assert_eq!(run.counted[0].0, Verdict::PuntedNew);
    // A new connection of the flood leaves no entry.
    let fresh = first_data(key, 1, 40_001);
    let run = world.run_leaving_punts(&fresh.bytes());
    assert_eq!(run.counted[0].0, Verdict::PuntLimited);
    assert!(world.flow(&fresh.key).is_none());
    world.drain();
    assert_eq!(next(&mut world, false), Verdict::PuntedSetup);
}

/// The agent's side writes what the program reads.
#[test]
fn block_and_unblock() {
    let Some(mut world) = World::new("block-unblock") else {
        return;
    };
    let state = tempfile::tempdir().unwrap();
    let open = |world: &World| {
        Limits::open(&Home::pinned(world.dir()), state.path(), |id| {
            id.len() as u64
        })
    };
    let mut limits = open(&world).unwrap();
    let mut maps = Maps::open(&Home::pinned(world.dir())).unwrap();
    let s = first_data(place::client_v4(), 7, 40_000);
    let network = Target::Source(parse_prefix("10.9.0.0/24").unwrap());
    let address = Target::Source(parse_prefix("10.9.0.7").unwrap());
    let client = Target::Client("sensor-1".to_owned());
    for target in [&network, &address, &client] {
        limits.block(target, &mut maps).unwrap();
        let again = limits.block(target, &mut maps).unwrap_err();
        assert!(matches!(again, LimitError::Already(_)), "{again}");
    }
    assert!(limits.rules().get().clients.contains(&8));
    assert_eq!(verdict(&mut world, &s), Verdict::SourceBlocked);
    limits.unblock(&network, &mut maps).unwrap();
    assert_eq!(
        verdict(&mut world, &s),
        Verdict::SourceBlocked,
        "by its address"
    );

    // Another agent knows.
    let mut limits = open(&world).unwrap();
    let listing = limits.list();
    let entry = |text: &str| vec![(text.to_owned(), Origin::Command)];
    assert_eq!(listing.sources, entry("10.9.0.7/32"));
    assert_eq!(listing.clients, entry("sensor-1"));
    limits.unblock(&address, &mut maps).unwrap();
    assert_eq!(verdict(&mut world, &s), Verdict::PuntedNew);
    let error = limits.unblock(&network, &mut maps).unwrap_err();
    assert!(matches!(error, LimitError::NotBlocked(_)), "{error}");
    limits.unblock(&client, &mut maps).unwrap();
    assert!(limits.rules().get().block_nobody());
    let empty = Target::Client(String::new());
    let error = limits.block(&empty, &mut maps).unwrap_err();
    assert!(matches!(error, LimitError::EmptyClient), "{error}");
}
