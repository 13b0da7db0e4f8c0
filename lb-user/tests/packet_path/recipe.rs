//! What a recipe makes of the headers.

use lb_common::layout::{Flow, Verdict};

use crate::frame::{ACK, CWR, ECE, PSH, SYN, Segment, timestamps};
use crate::place::Connection;
use crate::row::{Row, table};
use crate::spliced::{becomes, plain};

#[test]
fn recipes() {
    let v4 = Connection::v4();
    let v6 = Connection::v6();
    let wrap = Connection {
        delta: 1,
        ts_delta: 1,
        ..v4
    };
    let data = [0x30; 100];
    let urgent = |s: Segment| s.but(|s| (s.tos, s.id, s.window) = (0xb9, 0xffff, 0xfffe));
    let mut rows = vec![
        plain("pure ACK from the client", v4, v4.client_segment()),
        plain("pure ACK from the backend", v4, v4.backend_segment()),
        plain("pure ACK from the client, IPv6", v6, v6.client_segment()),
        plain("pure ACK from the backend, IPv6", v6, v6.backend_segment()),
        plain(
            "pure ACK with timestamps from the client",
            v4,
            v4.client_segment().options(&timestamps(77, 88)),
        ),
        plain(
            "pure ACK with timestamps from the backend",
            v4,
            v4.backend_segment().options(&timestamps(77, 88)),
        ),
        plain(
            "pure ACK with timestamps from the client, IPv6",
            v6,
            v6.client_segment().options(&timestamps(77, 88)),
        ),
        plain(
            "pure ACK with timestamps from the backend, IPv6",
            v6,
            v6.backend_segment().options(&timestamps(77, 88)),
        ),
        plain(
            "data from the client",
            v4,
            v4.client_segment()
                .options(&timestamps(77, 88))
                .payload(&data)
                .flags(ACK | PSH),
        ),
        plain(
            "data from the backend",
            v4,
            v4.backend_segment()
                .options(&timestamps(77, 88))
                .payload(&data)
                .flags(ACK | PSH),
        ),
        plain(
            "data from the client, IPv6",
            v6,
            v6.client_segment()
                .options(&timestamps(77, 88))
                .payload(&data),
        ),
        plain(
            "data from the backend, IPv6",
            v6,
            v6.backend_segment().payload(&data),
        ),
        plain(
            "data of odd length",
            v4,
            v4.client_segment().payload(&[0xff; 1447]),
        ),
        plain("one byte", v4, v4.backend_segment().payload(b"!")),
        plain(
            "everything else of the headers stays",
            v4,
            urgent(v4.client_segment()).flags(ACK | PSH | ECE | CWR),
        ),
        plain(
            "everything else of the headers stays, IPv6",
            v6,
            urgent(v6.backend_segment()).flags(ACK | PSH | ECE | CWR),
        ),
        plain(
            "sequence number wraps",
            wrap,
            wrap.backend_segment().seq(u32::MAX).payload(b"x"),
        ),
        plain(
            "acknowledgement wraps",
            wrap,
            wrap.client_segment().ack(0).payload(b"x"),
        ),
        plain(
            "TSval wraps",
            wrap,
            wrap.backend_segment().options(&timestamps(u32::MAX, 0)),
        ),
        plain(
            "TSecr wraps",
            wrap,
            wrap.client_segment().options(&timestamps(0, 0)),
        ),
        plain(
            "numbers of all ones",
            v4,
            v4.client_segment()
                .seq(u32::MAX)
                .ack(u32::MAX)
                .options(&timestamps(u32::MAX, u32::MAX)),
        ),
        plain(
            "SYN on an open connection is the backend's to judge",
            v4,
            v4.client_segment()
                .flags(SYN)
                .ack(0)
                .options(&timestamps(5, 0)),
        ),
        plain(
            "no ACK: acknowledgement and TSecr stay",
            v4,
            v4.client_segment()
                .flags(PSH)
                .ack(7)
                .options(&timestamps(5, 9)),
        ),
        plain("TTL of 2", v4, v4.client_segment().but(|s| s.ttl = 2)),
        plain(
            "hop limit of 255",
            v6,
            v6.client_segment().but(|s| s.ttl = 255),
        ),
    ];
    for (name, s) in [
        ("TTL of 1", v4.client_segment().but(|s| s.ttl = 1)),
        ("TTL of 0", v4.client_segment().but(|s| s.ttl = 0)),
    ] {
        rows.push(
            Row::new(name, &s)
                .with(move |w| v4.open(w))
                .drops(Verdict::TtlExpired),
        );
    }
    let s = v6.backend_segment().but(|s| s.ttl = 1);
    rows.push(
        Row::new("hop limit of 1", &s)
            .with(move |w| v6.open(w))
            .drops(Verdict::TtlExpired),
    );

    // The last acknowledgement moves forward only.
    for (name, ack, expected) in [
        ("a newer acknowledgement is kept", 5000, 5000),
        ("an older acknowledgement is not", 0xffff_ff00, 100),
    ] {
        let s = v4.client_segment().ack(ack);
        rows.push(
            plain(name, v4, s)
                .with(move |w| {
                    let client = Flow {
                        last_ack: 100,
                        ..v4.client_entry()
                    };
                    v4.enter(w, client, v4.backend_entry());
                })
                .then(move |w, _| assert_eq!(w.flow(&v4.client).unwrap().last_ack, expected)),
        );
    }

    for (name, shift, window, expected) in [
        ("window scaled up", 3, 1000, 8000),
        ("window scaled up and capped", 3, 10_000, 0xffff),
        ("window scaled down", -3, 1000, 125),
        ("window scaled down, never to 0", -7, 1, 1),
        ("window of 0 stays 0", -7, 0, 0),
        ("window of 0 stays 0 when scaled up", 7, 0, 0),
        ("largest shift up", 14, 1, 16_384),
        ("largest shift down", -14, 0xffff, 3),
    ] {
        for c in [Connection { shift, ..v4 }, Connection { shift, ..v6 }] {
            let s = c
                .backend_segment()
                .but(|s| s.window = window)
                .options(&timestamps(1, 2));
            let out = c.spliced(&s).but(|s| s.window = expected);
            rows.push(becomes(name, c, s, out));
            // The client's window is nobody's business.
            let s = c.client_segment().but(|s| s.window = window);
            rows.push(plain(name, c, s));
        }
    }
    let c = Connection { shift: 3, ..v4 };
    rows.push(plain(
        "window of a SYN-ACK is never scaled",
        c,
        c.backend_segment().flags(SYN | ACK),
    ));
    table("recipes", rows);
}
