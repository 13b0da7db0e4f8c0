//! Clients that are bound to no backend, connected by turns.

use lb_common::layout::{Binding, Listener, Turns, Verdict, source_mode, ticks};
use lb_common::limits::client::ClientPace;
use lb_common::limits::credit::{self, of_backend};

use crate::frame::Segment;
use crate::known::{
    self, Client, ID, SLOT, backend, bind, connect_with, entries, hash, listener, now, syn_ack,
    verdicts,
};
use crate::place::{self, POOL};
use crate::world::{Action, NO_TURNS, World};

/// A second backend.
const OTHER: u16 = SLOT + 2;
/// Turns that were taken before: the first of a round, near the end of what the counter holds.
const BEFORE: u64 = u64::MAX - 3;

/// Two backends that differ in their port, with two turns for the first and one for the second.
fn prepare(w: &mut World) {
    known::prepare(w);
    w.bindings.remove(&hash(ID)).unwrap();
    for client in [Client::v4(), Client::v6()] {
        let mut it = backend(&client, u16::from(!client.key.is_v4()));
        it.port = 1884u16.to_be_bytes();
        let slot = OTHER + u16::from(!client.key.is_v4());
        w.backends.set(slot.into(), it, 0).unwrap();
    }
    w.set_credit(of_backend(OTHER), 1000);
    give(w, |_| {});
}

fn give(w: &mut World, change: impl Fn(&mut Turns)) {
    let mut turns = Turns {
        next: BEFORE,
        len: 3,
        families: Turns::V4 | Turns::V6,
        ..NO_TURNS
    };
    turns.round[..3].copy_from_slice(&[SLOT, SLOT, OTHER]);
    change(&mut turns);
    w.turns.set(POOL.into(), turns, 0).unwrap();
}

fn taken(w: &World) -> u64 {
    let turns = w.turns.get(&POOL.into(), 0).unwrap();
    turns.next.wrapping_sub(BEFORE)
}

fn world(name: &str) -> Option<World> {
    let mut w = World::new(name)?;
    prepare(&mut w);
    Some(w)
}

#[test]
fn new_clients_take_turns_and_are_bound() {
    let Some(mut w) = world("turns") else {
        return;
    };
    for family in [Client::v4(), Client::v6()] {
        prepare(&mut w);
        give(&mut w, |turns| turns.next = 7);
        let mut ports = vec![];
        for n in 0..6u8 {
            let mut client = family;
            client.key.src_port = [9, n];
            let id = [b'n', n + b'0', u8::from(family.key.is_v4()) + b'0'];
            let run = w.run(&client.connect(&connect_with(&id, b"p")).bytes());
            assert_eq!(
                (run.action, verdicts(&run)),
                (Action::Redirect, vec![Verdict::KernelSynNew])
            );
            let syn = Segment::read(&run.frame);
            ports.push(u16::from_be_bytes(syn.key.dst_port));
            let binding = w.bindings.get(&hash(&id), 0).unwrap();
            assert_eq!(
                binding,
                Binding {
                    backend: if ports[usize::from(n)] == 1884 {
                        OTHER
                    } else {
                        SLOT
                    },
                    last_seen: binding.last_seen,
                    ..Binding::default()
                }
            );
            assert!(ticks::since(now(), binding.last_seen) < 100);
            // It opens like that of a known client.
            let run = w.run(&syn_ack(&syn, &client).bytes());
            assert_eq!(verdicts(&run), [Verdict::SteeredKernel]);
            // And who is bound takes no turn.
            client.key.src_port = [10, n];
            let run = w.run(&client.connect(&connect_with(&id, b"p")).bytes());
            assert_eq!(verdicts(&run), [Verdict::KernelSyn]);
        }
        // Turn 7 is the second of the round.
        assert_eq!(ports, [1883, 1884, 1883, 1883, 1884, 1883]);
        assert_eq!(w.turns.get(&POOL.into(), 0).unwrap().next, 13);
    }
}

#[test]
fn a_void_binding_is_replaced() {
    let Some(mut w) = world("turns-void") else {
        return;
    };
    let old = now().wrapping_sub(ticks::span(1_801_000_000_000));
    bind(&mut w, old);
    give(&mut w, |turns| turns.round[..3].fill(OTHER));
    let run = w.run(&Client::v4().connect(&connect_with(ID, b"p")).bytes());
    assert_eq!(verdicts(&run), [Verdict::KernelSynNew]);
    let binding = w.bindings.get(&hash(ID), 0).unwrap();
    assert_eq!(binding.backend, OTHER);
    assert!(ticks::since(now(), binding.last_seen) < 100);
}

/// The same CONNECT again, while it is being connected: no other turn, no other backend.
#[test]
fn a_retransmission_takes_no_turn() {
    let Some(mut w) = world("turns-again") else {
        return;
    };
    let connect = Client::v4().connect(&connect_with(ID, b"p")).bytes();
    let first = w.run(&connect);
    assert_eq!(verdicts(&first), [Verdict::KernelSynNew]);
    let again = w.run(&connect);
    assert_eq!(verdicts(&again), [Verdict::KernelSynAgain]);
    let key = |frame: &[u8]| Segment::read(frame).key;
    assert_eq!(key(&again.frame), key(&first.frame));
    assert_eq!(taken(&w), 1);
}

#[test]
fn what_the_agent_must_do_takes_no_turn() {
    let Some(mut w) = world("turns-punted") else {
        return;
    };
    type Before = fn(&mut World);
    let rows: [(&str, Before, Verdict); 10] = [
        (
            "no turns",
            |w| give(w, |turns| turns.len = 0),
            Verdict::PuntedUnbound,
        ),
        (
            "turns of the other family",
            |w| give(w, |turns| turns.families = Turns::V6),
            Verdict::PuntedUnbound,
        ),
        (
            "a limit of CONNECTs by client",
            |w| {
                w.set_listener(&Listener {
                    client_pace: ClientPace::new(1, 1),
                    ..listener(source_mode::SNAT)
                });
            },
            Verdict::PuntedUnbound,
        ),
        (
            "a listener that doesn't steer",
            |w| {
                w.set_listener(&Listener {
                    steer: 0,
                    ..listener(source_mode::SNAT)
                });
            },
            Verdict::PuntedNew,
        ),
        (
            "a backend that is down",
            |w| {
                let mut it = w.backends.get(&SLOT.into(), 0).unwrap();
                it.state = 2;
                w.backends.set(SLOT.into(), it, 0).unwrap();
            },
            Verdict::PuntedBackend,
        ),
        (
            "another pool's backend",
            |w| {
                let mut it = w.backends.get(&SLOT.into(), 0).unwrap();
                it.pool += 1;
                w.backends.set(SLOT.into(), it, 0).unwrap();
            },
            Verdict::PuntedBackend,
        ),
        (
            "a slot that isn't there",
            |w| give(w, |turns| turns.round[..3].fill(60_000)),
            Verdict::PuntedBackend,
        ),
        (
            "a backend that is full",
            |w| w.set_credit(of_backend(SLOT), 0),
            Verdict::PuntedFull,
        ),
        (
            "a flow map that is full",
            |w| w.set_credit(credit::ALL, 0),
            Verdict::PuntedFull,
        ),
        (
            "no port",
            |w| {
                w.set_settings(&lb_common::layout::Settings {
                    snat_first: 23_456,
                    snat_last: 23_456,
                    ..known::settings()
                });
                let taken = place::backend_v4();
                w.flows
                    .insert(taken, lb_common::layout::Flow::ZERO, 0)
                    .unwrap();
            },
            Verdict::PuntedNoPort,
        ),
    ];
    for (name, before, verdict) in rows {
        prepare(&mut w);
        before(&mut w);
        let there = entries(&w);
        let run = w.run(&Client::v4().connect(&connect_with(ID, b"p")).bytes());
        assert_eq!(
            (run.action, verdicts(&run), run.punts.len()),
            (Action::Drop, vec![verdict], 1),
            "{name}"
        );
        assert_eq!(taken(&w), 0, "{name}");
        assert!(w.bindings.get(&hash(ID), 0).is_err(), "{name}");
        assert_eq!(entries(&w), there + 1, "{name}");
    }
}
