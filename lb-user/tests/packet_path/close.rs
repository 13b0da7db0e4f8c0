//! The end of connections: FIN and RST are followed in both entries, and a tuple is used again.

use lb_common::layout::flags::{FIN_FIRST, FIN_PEER, FIN_SELF, FROM_CLIENT, RST_SELF};
use lb_common::layout::{Flow, Verdict, flags};

use crate::frame::{ACK, FIN, PSH, RST, SYN, Segment, timestamps};
use crate::place::Connection;
use crate::row::{Row, table};
use crate::spliced::plain;
use crate::world::{Action, World};

/// Flags of (client's entry, backend's entry), apart from `FROM_CLIENT`.
type Both = (u8, u8);

fn entered(c: Connection, (client, backend): Both) -> impl Fn(&mut World) {
    move |w| {
        let client = Flow {
            flags: client | FROM_CLIENT,
            ..c.client_entry()
        };
        let backend = Flow {
            flags: backend,
            ..c.backend_entry()
        };
        c.enter(w, client, backend);
    }
}

fn left(w: &World, c: Connection) -> Both {
    let client = w.flow(&c.client).unwrap().flags;
    assert_ne!(client & FROM_CLIENT, 0);
    (client & !FROM_CLIENT, w.flow(&c.backend).unwrap().flags)
}

/// `s` is spliced, and takes the flags from `before` to `after`.
fn turns(name: &'static str, c: Connection, before: Both, s: Segment, after: Both) -> Row {
    plain(name, c, s)
        .with(entered(c, before))
        .then(move |w, _| assert_eq!(left(w, c), after, "flags"))
}

#[test]
fn fin_and_reset() {
    const RST_SEEN: u8 = flags::RST;
    let mut rows = vec![];
    for c in [Connection::v4(), Connection::v6()] {
        let client = |f: u8| c.client_segment().flags(f);
        let backend = |f: u8| c.backend_segment().flags(f);
        let r = &mut rows;
        let none = (0, 0);
        let client_first = (FIN_SELF | FIN_FIRST, FIN_PEER);
        let backend_first = (FIN_PEER, FIN_SELF | FIN_FIRST);
        let client_then_backend = (FIN_SELF | FIN_FIRST | FIN_PEER, FIN_SELF | FIN_PEER);
        let backend_then_client = (FIN_SELF | FIN_PEER, FIN_SELF | FIN_FIRST | FIN_PEER);
        r.push(turns(
            "the client closes first",
            c,
            none,
            client(FIN | ACK),
            client_first,
        ));
        r.push(turns(
            "and the backend after it",
            c,
            client_first,
            backend(FIN | ACK),
            client_then_backend,
        ));
        r.push(turns(
            "the backend closes first",
            c,
            none,
            backend(FIN | ACK).options(&timestamps(1, 2)),
            backend_first,
        ));
        r.push(turns(
            "and the client after it",
            c,
            backend_first,
            client(FIN | ACK).payload(b"\xe0\0"),
            backend_then_client,
        ));
        r.push(turns(
            "FIN again",
            c,
            client_first,
            client(FIN | ACK),
            client_first,
        ));
        r.push(turns(
            "the first FIN again, after the second",
            c,
            client_then_backend,
            client(FIN | ACK),
            client_then_backend,
        ));
        r.push(turns(
            "an ACK changes nothing",
            c,
            client_first,
            backend(ACK),
            client_first,
        ));
        r.push(turns(
            "data against a half-closed side",
            c,
            client_first,
            backend(ACK | PSH).payload(b"last words"),
            client_first,
        ));

        let client_reset = (RST_SEEN | RST_SELF, RST_SEEN);
        let backend_reset = (RST_SEEN, RST_SEEN | RST_SELF);
        r.push(turns(
            "the client resets",
            c,
            none,
            client(RST | ACK),
            client_reset,
        ));
        r.push(turns(
            "the backend resets",
            c,
            none,
            backend(RST),
            backend_reset,
        ));
        for (name, segment) in [
            ("a blind RST to the backend", client(RST).seq(0x4000_0000)),
            ("a RST beyond the window", client(RST).seq(1000 + 0x1_0000)),
            ("a blind FIN", client(FIN | ACK).seq(0xc000_0000)),
        ] {
            r.push(turns(name, c, none, segment, none));
        }
        r.push(turns(
            "a backend that knows nothing any more",
            c,
            none,
            backend(RST | ACK).seq(0),
            backend_reset,
        ));
        r.push(turns(
            "more from the one who has reset",
            c,
            client_reset,
            client(ACK).payload(b"late"),
            client_reset,
        ));
        r.push(turns(
            "the other side talks on: it did not take the RST",
            c,
            client_reset,
            backend(ACK),
            none,
        ));
        r.push(turns(
            "the client talks on",
            c,
            backend_reset,
            client(ACK).payload(b"alive"),
            none,
        ));
        r.push(turns(
            "the other side answers with FIN",
            c,
            client_reset,
            backend(FIN | ACK),
            backend_first,
        ));
        r.push(turns(
            "RST from both",
            c,
            client_reset,
            backend(RST),
            (RST_SEEN | RST_SELF, RST_SEEN | RST_SELF),
        ));
        r.push(turns(
            "RST from a side that has closed",
            c,
            client_first,
            client(RST),
            (
                FIN_SELF | FIN_FIRST | RST_SEEN | RST_SELF,
                FIN_PEER | RST_SEEN,
            ),
        ));

        // The tuple is used again only after the end.
        for (name, state, closed) in [
            ("SYN after a RST of the client", client_reset, true),
            ("SYN after a RST of the backend", backend_reset, true),
            ("SYN after both FINs", client_then_backend, true),
            ("SYN on an open connection", none, false),
            ("SYN on a half-closed connection", client_first, false),
            (
                "SYN on a connection half-closed by the backend",
                backend_first,
                false,
            ),
        ] {
            let syn = client(SYN).seq(77).ack(0).options(&[2, 4, 5, 0xb4]);
            r.push(if closed {
                Row::new(name, &syn)
                    .with(entered(c, state))
                    .gives(Action::Tx, &[Verdict::SynAck])
                    .looks(move |got| {
                        assert_eq!(
                            (got.flags, got.ack, got.key),
                            (SYN | ACK, 78, c.client.reversed())
                        )
                    })
                    .then(move |w, _| {
                        assert!(w.flow(&c.client).is_none(), "the client's entry goes");
                        assert!(w.flow(&c.backend).is_some(), "the backend's port lingers");
                    })
            } else {
                turns(name, c, state, syn, state)
            });
        }
        r.push(turns(
            "SYN from a backend after both FINs is the client's to judge",
            c,
            client_then_backend,
            backend(SYN),
            client_then_backend,
        ));

        // The other entry is gone already: nothing to follow, nothing to fail.
        let s = client(FIN | ACK);
        r.push(
            Row::new("FIN without the other entry", &s)
                .with(move |w| {
                    w.flows.insert(c.client, c.client_entry(), 0).unwrap();
                })
                .gives(Action::Redirect, &[Verdict::Spliced])
                .out(c.spliced(&s))
                .then(move |w, _| {
                    assert_eq!(
                        w.flow(&c.client).unwrap().flags,
                        FROM_CLIENT | FIN_SELF | FIN_FIRST
                    )
                }),
        );
    }
    table("close", rows);
}
