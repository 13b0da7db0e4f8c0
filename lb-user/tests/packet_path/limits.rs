//! Whatever has an end: the ring buffer, the flow map, the rate of RSTs.

use std::time::Duration;

use lb_common::cookie;
use lb_common::layout::{Flow, FlowKey, Settings, State, Verdict};

use crate::frame::{ACK, SYN, Segment};
use crate::place::{self, CURRENT_KEY, FROM_CLIENT, SETTINGS};
use crate::world::{Action, Run, World};

/// The first data of the `n`th client.
fn first_data(n: u16) -> Segment {
    let key = FlowKey {
        src_port: (40_000 + n).to_be_bytes(),
        ..place::client_v4()
    };
    let cookie = cookie::make(&CURRENT_KEY, &key, 0, 0);
    Segment::new(key, FROM_CLIENT)
        .seq(1)
        .ack(cookie.wrapping_add(1))
        .payload(b"\x10")
}

fn verdicts(run: &Run) -> Vec<Verdict> {
    run.counted.iter().map(|(v, _)| *v).collect()
}

#[test]
fn full_ring() {
    let Some(mut world) = World::new("full-ring") else {
        return;
    };
    let mut punted = 0;
    let lost = loop {
        let s = first_data(punted);
        let run = world.run_leaving_punts(&s.bytes());
        assert_eq!(run.action, Action::Drop);
        match verdicts(&run)[..] {
            [Verdict::PuntedNew] => punted += 1,
            [Verdict::PuntOverflow] => break s,
            ref other => panic!("{other:?}"),
        }
    };
    // Records of 8 + 24 + 256 in three quarters of 4096 bytes.
    assert_eq!(punted, 11, "records of clients in a page");
    // The client retransmits, which is all that the overflow costs; no entry is left that nobody
    // would remove.
    assert_eq!(
        verdicts(&world.run_leaving_punts(&s_again(&lost))),
        [Verdict::PuntOverflow]
    );
    assert!(world.flow(&lost.key).is_none());
    // Nor does the agent get more of those that it has.
    let more = first_data(0).but(|s| s.seq += 1);
    assert_eq!(
        verdicts(&world.run_leaving_punts(&more.bytes())),
        [Verdict::PuntOverflow]
    );
    world.drain();
    let run = world.run(&lost.bytes());
    assert_eq!(verdicts(&run), [Verdict::PuntedNew]);
    assert_eq!((run.punts.len(), run.punts[0].isn), (1, 0));
    // It was not noted as handed over when it wasn't.
    let run = world.run(&more.bytes());
    assert_eq!(verdicts(&run), [Verdict::PuntedSetup]);
}

/// The last quarter is for the backends: their SYN-ACKs end set-ups.
#[test]
fn a_ring_that_clients_filled_takes_what_backends_say() {
    let Some(mut world) = World::new("backends-quarter") else {
        return;
    };
    let mut n = 0;
    while verdicts(&world.run_leaving_punts(&first_data(n).bytes())) == [Verdict::PuntedNew] {
        n += 1;
    }
    let c = place::Connection::v4();
    let entry = Flow {
        state: State::Setup as u8,
        listener: place::LISTENER,
        ..Flow::ZERO
    };
    world.flows.insert(c.backend, entry, 0).unwrap();
    let syn_ack = c.backend_segment().flags(SYN | ACK).bytes();
    let mut taken = 0;
    while verdicts(&world.run_leaving_punts(&syn_ack)) == [Verdict::PuntedSetup] {
        taken += 1;
    }
    assert!((2..=3).contains(&taken), "{taken} records in a quarter");
    assert_eq!(
        verdicts(&world.run_leaving_punts(&syn_ack)),
        [Verdict::PuntOverflow]
    );
}

/// A retransmission: the same but for the IP header's identification.
fn s_again(s: &Segment) -> Vec<u8> {
    s.but(|s| s.id += 1).bytes()
}

#[test]
fn full_flow_map() {
    const SIZE: u16 = 4;
    let Some(mut world) = World::with_flows("full-flows", u32::from(SIZE)) else {
        return;
    };
    for n in 0..SIZE {
        let run = world.run(&first_data(n).bytes());
        assert_eq!(verdicts(&run), [Verdict::PuntedNew], "client {n}");
    }
    let s = first_data(SIZE);
    let run = world.run(&s.bytes());
    assert_eq!(
        (run.action, verdicts(&run)),
        (Action::Tx, vec![Verdict::FlowsFull])
    );
    assert_eq!(Segment::read(&run.frame), s.reset());
    assert!(run.punts.is_empty());
    // Nobody was evicted, and a slot that comes free is used.
    for n in 0..SIZE {
        assert!(world.flow(&first_data(n).key).is_some(), "client {n}");
    }
    world.flows.remove(&first_data(1).key).unwrap();
    let run = world.run(&s.bytes());
    assert_eq!(verdicts(&run), [Verdict::PuntedNew]);
}

/// Keeps this thread on one CPU: each has a bucket of its own.
fn stay_on_one_cpu() {
    // SAFETY: sched_getcpu has no preconditions; the set is ours, and pid 0 is this thread.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(usize::try_from(libc::sched_getcpu()).unwrap(), &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn rate_of_resets() {
    let Some(mut world) = World::new("reset-rate") else {
        return;
    };
    stay_on_one_cpu();
    let s = first_data(0).but(|s| s.ack ^= 0x1100);
    let limited = (Action::Drop, vec![Verdict::ResetLimited]);
    let rate = |reset_rate, world: &mut World| {
        world.set_settings(&Settings {
            reset_rate,
            ..SETTINGS
        });
        let run = world.run(&s.bytes());
        if run.action == Action::Drop {
            assert_eq!(run.frame, s.bytes());
        } else {
            assert_eq!(Segment::read(&run.frame), s.reset());
        }
        (run.action, verdicts(&run))
    };
    assert_eq!(rate(0, &mut world), limited, "a rate of 0 sends none");
    world.reset();
    let sent = (Action::Tx, vec![Verdict::ResetUnknown]);
    assert_eq!(rate(1, &mut world), sent, "a full bucket");
    assert_eq!(rate(1, &mut world), limited, "an empty one");
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(rate(1, &mut world), sent, "a second later");
    assert_eq!(
        rate(1, &mut world),
        limited,
        "a burst is one second's worth"
    );
}
