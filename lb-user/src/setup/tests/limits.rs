//! Limits: clients that are refused, refusals that are too many, half-open set-ups of one source.

use super::super::*;
use super::client::State as ClientState;
use super::world::{LISTENER, SECOND, segment};
use super::{Backend, Client, World, connect, connect_v5};
use lb_common::limits::rate::Pace;

fn world(settings: Settings) -> World {
    let mut world = World::with_settings(LISTENER, settings);
    world.add_backend(Backend::v4(1));
    world
}

#[test]
fn denied_clients_are_told_why_and_no_backend_hears_of_them() {
    for (denied, verdict, old, new) in [
        (Denied::Blocked, Verdict::ClientBlocked, 5, 0x8a),
        (Denied::TooOften, Verdict::ClientRate, 3, 0x97),
        (Denied::ListenerFull, Verdict::ListenerFull, 3, 0x97),
        (Denied::FlowsFull, Verdict::FlowsFull, 3, 0x88),
    ] {
        for (stream, connack) in [
            (connect("sensor-1", 60, b""), vec![0x20, 2, 0, old]),
            (connect_v5("sensor-1"), vec![0x20, 3, 0, new, 0]),
        ] {
            let mut world = world(Settings::default());
            world.steering.denied = Some(denied);
            world.connect(Client::v4(40_000, stream));
            world.run_until("the refusal", |w| w.clients[0].their_fin);
            assert_eq!(world.clients[0].received, connack, "{denied:?}");
            assert_eq!(world.count(verdict), 1);
            world.run(10 * SECOND);
            world.assert_forgotten();
            assert_eq!(world.to_backends.len(), 0);
        }
    }
}

#[test]
fn backends_that_are_full_are_told_from_backends_that_are_gone() {
    for (full, verdict, code) in [
        (true, Verdict::BackendsFull, 0x97),
        (false, Verdict::NoBackend, 0x88),
    ] {
        let mut world = World::new(LISTENER);
        world.steering.full = full;
        world.connect(Client::v4(40_000, connect_v5("sensor-1")));
        world.run_until("the refusal", |w| w.clients[0].their_fin);
        assert_eq!(world.clients[0].received, [0x20, 3, 0, code, 0]);
        assert_eq!(world.count(verdict), 1);
    }
}

#[test]
fn refusals_beyond_the_rate_are_resets() {
    let mut world = world(Settings {
        refusals: Some(Pace::new(1, 2)),
        ..Settings::default()
    });
    world.steering.denied = Some(Denied::Blocked);
    for port in 0..5 {
        world.connect(Client::v4(40_000 + port, connect("x", 60, b"")));
    }
    world.run_until("an answer to all", |w| {
        w.clients
            .iter()
            .all(|c| c.their_fin || c.state == ClientState::Reset)
    });
    let told = world.clients.iter().filter(|c| c.their_fin).count();
    assert_eq!(told, 2);
    assert_eq!(world.count(Verdict::RefusalLimited), 3);
    assert_eq!(world.count(Verdict::ClientBlocked), 5);
    world.run(10 * SECOND);
    world.assert_forgotten();
    world.connect(Client::v4(50_000, connect("x", 60, b"")));
    world.run_until("the refusal, later", |w| w.clients[5].their_fin);
}

#[test]
fn a_rate_of_0_refuses_nobody_in_words() {
    let mut world = world(Settings {
        refusals: None,
        ..Settings::default()
    });
    world.steering.denied = Some(Denied::ListenerFull);
    world.connect(Client::v4(40_000, connect("x", 60, b"")));
    world.run_until("the RST", |w| w.clients[0].state == ClientState::Reset);
    assert_eq!(world.count(Verdict::RefusalLimited), 1);
    world.assert_forgotten();
}

#[test]
fn a_source_with_too_many_half_connects_loses_its_own_oldest() {
    let mut world = world(Settings {
        per_source: 3,
        ..Settings::default()
    });
    let half = |port| Client::v4(port, connect("half", 60, b"")[..5].to_vec());
    // Somebody else, who is older than all of them.
    let mut other = half(39_999);
    other.key.src[15] ^= 1;
    world.connect(other);
    world.run(SECOND / 10);
    for port in 0..5 {
        world.connect(half(40_000 + port));
        world.run(SECOND / 10);
    }
    let reset: Vec<_> = world
        .clients
        .iter()
        .map(|c| c.state == ClientState::Reset)
        .collect();
    assert_eq!(reset, [false, true, true, false, false, false]);
    assert_eq!(world.count(Verdict::SetupEvicted), 2);
    assert_eq!(world.setups.stats().sniffing, 4);
    assert_eq!(world.datapath.map.len(), 4, "entries went with them");
    // Whole CONNECTs of the same source go through meanwhile.
    world.connect(Client::v4(50_000, connect("whole", 60, b"")));
    world.run_until("the connection", |w| w.steering.opened.len() == 1);
    assert_eq!(world.count(Verdict::SetupEvicted), 3);
    world.run(20 * SECOND);
    assert_eq!(world.count(Verdict::SniffTimeout), 3);
    assert_eq!(world.setups.stats().sniffing, 0);
}

/// 65,536 connections whose time is up at once don't keep packets waiting until all are gone.
#[test]
fn timers_run_some_at_a_time() {
    let mut world = world(Settings::default());
    let settings = Settings::default();
    for n in 0..3_000u16 {
        let key = Client::v4(10_000 + n, vec![]).key;
        let flow = Flow {
            state: State::Sniff as u8,
            flags: lb_common::layout::flags::FROM_CLIENT,
            next_seq: 7,
            last_ack: 9,
            listener: 3,
            ..Flow::ZERO
        };
        world.datapath.map.insert(key, flow);
        let first = lb_common::wire::Emit {
            payload: &[0x10],
            ..segment(key, 8, 9, flag::ACK)
        };
        let hop = lb_common::layout::Hop {
            ifindex: super::world::TO_CLIENTS,
            ..Default::default()
        };
        let frame = super::world::frame(&hop, &first);
        let punt = Punt {
            time: world.now,
            ifindex: hop.ifindex,
            captured: u16::try_from(frame.len()).unwrap(),
            length: u16::try_from(frame.len()).unwrap(),
            isn: 7,
            kind: PuntKind::Client as u8,
            listener: 3,
            _pad: [0; 2],
        };
        world.setups.on_punt(
            world.now,
            &punt,
            &frame,
            &mut world.datapath,
            &mut world.steering,
        );
    }
    assert_eq!(world.setups.stats().sniffing, 3_000);
    let due = world.now + settings.sniff_timeout;
    let mut turns = 0;
    while world.setups.next_deadline().is_some_and(|at| at <= due) {
        let before = world.setups.stats().sniffing;
        world
            .setups
            .on_time(due, &mut world.datapath, &mut world.steering);
        let ended = before - world.setups.stats().sniffing;
        assert!((1..=1024).contains(&ended), "{ended} in one turn");
        turns += 1;
    }
    assert_eq!(turns, 3);
}
