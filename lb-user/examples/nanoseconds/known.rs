//! Known clients: what it costs to read a CONNECT and find its binding, and what a whole set-up costs.
//!
//! A CONNECT becomes a SYN and is none any more, so it runs once a call, with cold caches, each time
//! from another client; its SYN-ACK likewise.

use anyhow::{Context, ensure};
use lb_common::cookie;
use lb_common::layout::{FlowKey, Verdict};
use lb_common::options::Timestamps;
use lb_common::siphash;
use lb_common::wire::{Emit, Packet, SynOptions, flag};

use crate::frames::{VIP, frame, segment};
use crate::rows::{Runs, STEADY, least, median, row};
use crate::scene::{SETTINGS, Scene};
use crate::table::Row;

const DROP: u32 = 1;
const TX: u32 = 3;

/// One packet a call.
const SINGLE: Runs = Runs {
    packets: 1,
    calls: 10_000,
};
/// As long as many devices' identifiers are.
const ID: &[u8] = b"device-0001-abcdef-23by";

/// An MQTT 3.1.1 CONNECT, with user name and password if there is a password.
fn connect(id: &[u8], password: &[u8]) -> Vec<u8> {
    let field = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        [&length.to_be_bytes(), bytes].concat()
    };
    let flags = if password.is_empty() { 0x02 } else { 0xc2 };
    let mut body = [b"\0\x04MQTT\x04", &[flags, 0, 60][..], &field(id)].concat();
    if !password.is_empty() {
        body.extend(field(b"user"));
        body.extend(field(password));
    }
    let mut packet = vec![0x10];
    match u8::try_from(body.len()) {
        Ok(length @ 0..128) => packet.push(length),
        _ => packet.extend([body.len() as u8 | 0x80, (body.len() >> 7) as u8]),
    }
    packet.extend(body);
    packet
}

/// The segment of a client's CONNECT.
fn first_data(client: u32, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let [_, a, b, c] = client.to_be_bytes();
    let key = FlowKey::v4([100, a, b, c], 40_000, VIP, 1883);
    let cookie = cookie::make(&SETTINGS.cookie_keys[0], &key, 999, 0xef);
    frame(&Emit {
        seq: 1000,
        ack: cookie.wrapping_add(1),
        flags: flag::ACK | flag::PSH,
        timestamps: Some(Timestamps {
            value: 77,
            echo: 88,
        }),
        payload,
        ..segment(key)
    })
}

/// Measures everything about known clients.
pub fn measure(scene: &mut Scene, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    scene.knows(siphash::bytes(&SETTINGS.client_key, ID))?;
    for (what, id, password) in [
        ("identifier of 8 bytes", &b"device-1"[..], &b""[..]),
        ("identifier of 23 bytes", ID, b""),
        ("identifier of 23 bytes, login", ID, b"password"),
        ("identifier of 256 bytes", &[b'x'; 256], b""),
    ] {
        let frame = first_data(1, &connect(id, password))?;
        let name = format!("CONNECT read, hashed, looked up: {what}");
        rows.push(row(scene, &name, "mqlb_glance", STEADY, 1, &frame, DROP)?.0);
    }
    set_up(scene, rows)
}

/// Measures the whole set-up alone.
pub fn set_up_alone(scene: &mut Scene, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    scene.knows(siphash::bytes(&SETTINGS.client_key, ID))?;
    set_up(scene, rows)
}

/// CONNECT to SYN, and SYN-ACK to ACK and CONNECT.
fn set_up(scene: &Scene, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let payload = connect(ID, b"password");
    let (mut syns, mut acks, mut empty) = (vec![], vec![], vec![]);
    let before = scene.counted(Verdict::SteeredKernel)?;
    for client in 0..SINGLE.calls {
        let begun = first_data(client, &payload)?;
        let called = scene.call("mqlb", &begun, 1)?;
        ensure!(called.action == TX, "CONNECT: action {}", called.action);
        syns.push(called.ns);
        let syn = Packet::parse(&called.frame)
            .ok()
            .context("the SYN can't be read")?;
        ensure!(syn.tcp.has(flag::SYN), "the CONNECT became no SYN");
        let syn_ack = Emit {
            seq: 5000,
            ack: syn.tcp.seq().wrapping_add(1),
            flags: flag::SYN | flag::ACK,
            syn: SynOptions {
                mss: Some(1460),
                window_scale: Some(7),
                sack: true,
            },
            timestamps: Some(Timestamps {
                value: 99,
                echo: 77,
            }),
            ..segment(syn.key.reversed())
        };
        let called = scene.call("mqlb", &frame(&syn_ack)?, 1)?;
        ensure!(called.action == TX, "SYN-ACK: action {}", called.action);
        acks.push(called.ns);
        let sent = Packet::parse(&called.frame)
            .ok()
            .context("the CONNECT can't be read")?;
        ensure!(
            sent.payload == payload && sent.checksum_ok(),
            "the CONNECT that left is another one"
        );
        empty.push(scene.call("mqlb_empty", &begun, 1)?.ns);
    }
    let opened = scene.counted(Verdict::SteeredKernel)? - before;
    ensure!(
        opened == u64::from(SINGLE.calls),
        "{opened} of {} connections were opened",
        SINGLE.calls
    );
    for (name, ns) in [
        ("CONNECT to SYN, the whole set-up", syns),
        ("SYN-ACK to ACK and CONNECT", acks),
    ] {
        rows.push(Row {
            name: name.to_owned(),
            packets: SINGLE.packets,
            calls: SINGLE.calls,
            flows: 2 * SINGLE.calls,
            least: least(&ns),
            median: median(ns),
            empty: least(&empty),
        });
    }
    Ok(())
}
