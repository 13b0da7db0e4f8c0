//! What belongs to no flow: first data, stray segments, and what isn't ours.

use lb_common::cookie;
use lb_common::layout::{FlowKey, Settings, State, Verdict, flags};

use crate::frame::{ACK, FIN, PSH, RST, SYN, Segment, edit, timestamps};
use crate::place::{
    self, BACKEND_MAC, CURRENT_KEY, FROM_BACKEND, FROM_CLIENT, LISTENER, PREVIOUS_KEY, SETTINGS,
};
use crate::row::{Row, table};
use crate::world::Action;

const ISN: u32 = 0xffff_fffe;
/// MSS class 7, window scale 7, SACK.
const OPTIONS: u8 = 0xef;

/// A segment of a client whose SYN was answered with a cookie under `secret`.
fn after_cookie(key: FlowKey, secret: &[u64; 2]) -> Segment {
    let cookie = cookie::make(secret, &key, ISN, OPTIONS);
    Segment::new(key, FROM_CLIENT)
        .seq(ISN.wrapping_add(1))
        .ack(cookie.wrapping_add(1))
}

fn resets(row: Row, verdict: Verdict, segment: &Segment) -> Row {
    row.gives(Action::Tx, &[verdict])
        .out(segment.reset())
        .then(|world, _| assert_eq!(world.flows.keys().count(), 0))
}

/// The first data of a client: punted, and an entry that holds its ISN.
fn first(name: &'static str, s: Segment) -> Row {
    Row::new(name, &s)
        .punts(Verdict::PuntedNew)
        .then(move |world, run| {
            assert_eq!(run.punts[0].kind, 1);
            assert_eq!((run.punts[0].isn, run.punts[0].listener), (ISN, LISTENER));
            let flow = world.flow(&s.key).unwrap();
            assert_eq!(flow.state, State::Sniff as u8);
            assert_eq!(flow.flags, flags::FROM_CLIENT);
            assert_eq!(flow.listener, LISTENER);
            assert_eq!((flow.next_seq, flow.last_ack), (ISN, s.ack));
            assert_ne!(flow.last_seen, 0);
            assert_eq!((flow.packets, flow.bytes, flow.client), (0, 0, 0));
            assert_eq!(world.flows.keys().count(), 1);
        })
}

#[test]
fn handshake() {
    let v4 = || after_cookie(place::client_v4(), &CURRENT_KEY);
    let v6 = || after_cookie(place::client_v6(), &CURRENT_KEY);
    let connect = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02id";
    let padded = |s: Segment| {
        let mut frame = s.bytes();
        frame.resize(60, 0);
        frame
    };
    let stale = || after_cookie(place::client_v4(), &PREVIOUS_KEY).payload(connect);
    // Coarse bits wrong: nobody's cookie.
    let wrong = |s: Segment| s.but(|s| s.ack ^= 0x1100);
    let rotated = |settings: Settings| move |w: &mut crate::world::World| w.set_settings(&settings);
    let twice = rotated(Settings {
        cookie_keys: [[5, 6], [7, 8]],
        cookie_epoch: SETTINGS.cookie_epoch + 2,
        ..SETTINGS
    });
    let mut rows = vec![
        Row::new("bare ACK", &v4()).drops(Verdict::BareAck),
        Row::new(
            "bare ACK, IPv6, timestamps",
            &v6().options(&timestamps(1, 2)),
        )
        .drops(Verdict::BareAck),
        Row::raw("bare ACK padded to 60 bytes has no data", padded(v4()), 40)
            .drops(Verdict::BareAck),
        first("CONNECT", v4().payload(connect).flags(ACK | PSH)),
        first("CONNECT, IPv6", v6().payload(connect).flags(ACK | PSH)),
        first(
            "CONNECT with timestamps, tagged",
            v4().payload(connect)
                .options(&timestamps(1, 2))
                .tag(0x8100, 9),
        ),
        first("data with FIN", v4().payload(connect).flags(ACK | FIN)),
        first("one byte", v4().payload(b"\x10")),
        first("a record of 256 bytes", v4().payload(&[7; 256 - 54])),
        first("a record of 257 bytes", v4().payload(&[7; 257 - 54])),
        first("1500 bytes", v4().payload(&[7; 1500 - 40])),
        first("the previous key", stale()),
        {
            // As it will be after the next rotation: what was current is the previous one.
            let s = v4().payload(connect);
            first("the current key after a rotation", s).with(rotated(Settings {
                cookie_keys: [[5, 6], CURRENT_KEY],
                cookie_epoch: SETTINGS.cookie_epoch + 1,
                ..SETTINGS
            }))
        },
        Row::new(
            "a later segment before the first",
            &v4()
                .but(|s| s.seq = s.seq.wrapping_add(1448))
                .payload(connect),
        )
        .drops(Verdict::EarlySegment),
        Row::new(
            "FIN of a CONNECT that didn't come yet",
            &v4()
                .but(|s| s.seq = s.seq.wrapping_add(14))
                .flags(ACK | FIN),
        )
        .drops(Verdict::EarlySegment),
        // What a client says to a second SYN-ACK, when its CONNECT is lost.
        Row::new(
            "a bare ACK behind first bytes that didn't come",
            &v4().but(|s| s.seq = s.seq.wrapping_add(1448)),
        )
        .drops(Verdict::BareAck),
        Row::new("RST", &v4().flags(RST)).drops(Verdict::StrayReset),
        Row::new(
            "RST with ACK and data",
            &wrong(v4()).flags(RST | ACK).payload(b"why"),
        )
        .drops(Verdict::StrayReset),
        Row::new("RST, IPv6", &v6().flags(RST)).drops(Verdict::StrayReset),
    ];
    for (name, verdict, segment) in [
        (
            "wrong cookie",
            Verdict::ResetUnknown,
            wrong(v4()).payload(connect),
        ),
        (
            "wrong cookie, IPv6, options",
            Verdict::ResetUnknown,
            wrong(v6()).payload(&[7; 1000]).options(&timestamps(1, 2)),
        ),
        (
            "wrong cookie on a bare ACK",
            Verdict::ResetUnknown,
            wrong(v4()),
        ),
        (
            "wrong cookie, two tags",
            Verdict::ResetUnknown,
            wrong(v4()).payload(connect).tag(0x88a8, 5).tag(0x8100, 7),
        ),
        (
            "FIN right after the handshake",
            Verdict::ClosedEarly,
            v4().flags(ACK | FIN),
        ),
        ("SYN-ACK", Verdict::ResetUnknown, v4().flags(SYN | ACK)),
        ("SYN and FIN", Verdict::ResetUnknown, v4().flags(SYN | FIN)),
        ("no flag", Verdict::ResetUnknown, v4().flags(0)),
        (
            "no flag but data",
            Verdict::ResetUnknown,
            v6().flags(PSH).payload(connect),
        ),
        ("FIN alone", Verdict::ResetUnknown, v4().flags(FIN)),
    ] {
        rows.push(resets(Row::new(name, &segment), verdict, &segment));
    }
    let old = v4().payload(connect);
    rows.push(
        resets(
            Row::new("a key of two rotations ago", &old),
            Verdict::ResetUnknown,
            &old,
        )
        .with(twice),
    );
    table("handshake", rows);
}

#[test]
fn not_ours() {
    let v4 = || Segment::new(place::client_v4(), FROM_CLIENT).payload(b"data");
    let v6 = || Segment::new(place::client_v6(), FROM_CLIENT).payload(b"data");
    let elsewhere = |s: Segment| s.but(|s| s.key.dst[15] ^= 0x80);
    let from_backend = |key| Segment::new(key, FROM_BACKEND).payload(b"late");
    let mut rows = vec![
        Row::new("TCP to another address", &elsewhere(v4())),
        Row::new("TCP to another address, IPv6", &elsewhere(v6())),
        Row::new("SYN to another address", &elsewhere(v4()).flags(SYN)),
        Row::new(
            "another port of the VIP",
            &v4().but(|s| s.key.dst_port = [0, 22]),
        ),
        Row::new(
            "another port of the VIP, IPv6",
            &v6().but(|s| s.key.dst_port = [0, 22]),
        ),
        Row::new(
            "from a backend to a port below the range",
            &from_backend(place::backend_v4()).but(|s| s.key.dst_port = 19_999u16.to_be_bytes()),
        ),
        Row::new(
            "from a backend to a port above the range",
            &from_backend(place::backend_v4()).but(|s| s.key.dst_port = 30_000u16.to_be_bytes()),
        ),
        Row::new(
            "from a backend to an address that isn't ours",
            &elsewhere(from_backend(place::backend_v4())),
        ),
        Row::new(
            "from another port of a backend",
            &from_backend(place::backend_v4()).but(|s| s.key.src_port = [0, 80]),
        ),
        Row::new(
            "RST from a backend, of no flow",
            &from_backend(place::backend_v4()).flags(RST),
        )
        .drops(Verdict::StrayReset),
        Row::raw(
            "UDP to the VIP",
            edit(v4().bytes(), 14 + 9, &[17]),
            v4().ip_len(),
        ),
        Row::raw(
            "UDP to the VIP, IPv6",
            edit(v6().bytes(), 14 + 6, &[17]),
            v6().ip_len(),
        ),
        Row::raw(
            "a frame of 14 bytes",
            [&BACKEND_MAC[..], &BACKEND_MAC, &[8, 0]].concat(),
            0,
        ),
        {
            let mut arp = [
                &[0xff; 6][..],
                &BACKEND_MAC,
                &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            ]
            .concat();
            arp.resize(60, 0);
            Row::raw("ARP", arp, 46)
        },
    ];
    for (name, segment) in [
        (
            "from a backend, of no flow",
            from_backend(place::backend_v4()),
        ),
        (
            "from a backend, of no flow, IPv6",
            from_backend(place::backend_v6()),
        ),
        (
            "SYN-ACK from a backend, of no flow",
            from_backend(place::backend_v4()).flags(SYN | ACK),
        ),
        (
            "SYN from a backend",
            from_backend(place::backend_v4()).flags(SYN),
        ),
        (
            "first port of the range",
            from_backend(place::backend_v4()).but(|s| s.key.dst_port = 20_000u16.to_be_bytes()),
        ),
        (
            "last port of the range",
            from_backend(place::backend_v4()).but(|s| s.key.dst_port = 29_999u16.to_be_bytes()),
        ),
    ] {
        rows.push(resets(
            Row::new(name, &segment),
            Verdict::ResetUnknown,
            &segment,
        ));
    }
    table("not-ours", rows);
}
