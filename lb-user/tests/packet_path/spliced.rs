//! A packet of an open connection, as a row: what comes out and what is counted in the entries.

use lb_common::layout::{Flow, Verdict, ticks};

use crate::clock;
use crate::frame::{SYN, Segment};
use crate::place::Connection;
use crate::row::Row;
use crate::world::{Action, World};

/// The action that follows from a direction: clients' packets leave by another interface.
fn action(c: &Connection, s: &Segment) -> Action {
    if s.key == c.client {
        Action::Redirect
    } else {
        Action::Tx
    }
}

/// `s` on the open connection `c` becomes `out`.
pub fn becomes(name: &'static str, c: Connection, s: Segment, out: Segment) -> Row {
    let bytes = s.ip_len() as u64;
    Row::new(name, &s)
        .with(move |w| c.open(w))
        .gives(action(&c, &s), &[Verdict::Spliced])
        .out(out)
        .then(move |world, run| {
            assert_eq!(run.frame.len(), s.bytes().len());
            let flow = world.flow(&s.key).unwrap();
            assert_eq!((flow.packets, flow.bytes), (1, bytes));
            // A new beginning doesn't keep the old connection alive.
            if s.flags & SYN != 0 {
                assert_eq!(flow.last_seen, 0);
            } else {
                let age = ticks::since(ticks::from_ns(clock::coarse_ns()), flow.last_seen);
                assert!(age < 300, "{}", flow.last_seen);
            }
            let pair = world.flow(&flow.pair()).unwrap();
            assert_eq!((pair.packets, pair.bytes, pair.last_seen), (0, 0, 0));
        })
}

/// `s` is spliced as `Connection::spliced` says.
pub fn plain(name: &'static str, c: Connection, s: Segment) -> Row {
    let out = c.spliced(&s);
    becomes(name, c, s, out)
}

/// The backend's entry, changed.
pub fn with_backend_entry(c: Connection, f: impl Fn(&mut Flow) + 'static) -> impl Fn(&mut World) {
    move |w| {
        let mut entry = c.backend_entry();
        f(&mut entry);
        c.enter(w, c.client_entry(), entry);
    }
}

/// The client's entry, changed.
pub fn with_client_entry(c: Connection, f: impl Fn(&mut Flow) + 'static) -> impl Fn(&mut World) {
    move |w| {
        let mut entry = c.client_entry();
        f(&mut entry);
        c.enter(w, entry, c.backend_entry());
    }
}
