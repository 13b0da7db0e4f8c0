//! What is measured.

use anyhow::{Context, ensure};
use lb_common::cookie;
use lb_common::layout::{Verdict, flags};
use lb_common::options::Timestamps;
use lb_common::wire::{Emit, SynOptions, flag};

use crate::frames::{self, Options, STAMPS, VIP, arp, flow_key, flow_key_v6, frame, segment};
use crate::known;
use crate::scene::{MANY, SETTINGS, Scene};
use crate::table::Row;

const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;

/// How often a row's packet runs: packets a call, and calls.
#[derive(Clone, Copy)]
pub struct Runs {
    pub packets: u32,
    pub calls: u32,
}
/// The packet comes out as it went in, or as one that may go in again.
pub const STEADY: Runs = Runs {
    packets: 1_000_000,
    calls: 7,
};
/// The packet comes out as something else.
const SINGLE: Runs = Runs {
    packets: 1,
    calls: 20_000,
};

/// Packets of open connections: name, options, payload.
const SPLICED: [(&str, Options, &[u8]); 6] = [
    ("100 bytes, timestamps", Options::Stamps, &[0x30; 100]),
    ("ACK, timestamps", Options::Stamps, &[]),
    ("ACK, no options", Options::None, &[]),
    ("ACK, timestamps and SACK of 1 block", Options::Sack(1), &[]),
    ("ACK, timestamps and SACK of 3", Options::Sack(3), &[]),
    ("ACK, timestamps in another layout", Options::Unaligned, &[]),
];

/// Measures everything.
pub fn measure(scene: &mut Scene) -> anyhow::Result<Vec<Row>> {
    let mut rows = vec![];
    for (direction, flags) in [
        ("from the client", flags::FROM_CLIENT),
        ("from the backend", 0),
    ] {
        scene.chain(1, flags)?;
        for (what, options, payload) in SPLICED {
            let frame = frames::spliced(flow_key(0), options, payload)?;
            rows.push(spliced(scene, what, direction, 1, &frame)?);
        }
        for (what, options, payload) in &SPLICED[..2] {
            let frame = frames::spliced(flow_key_v6(), *options, payload)?;
            rows.push(spliced(
                scene,
                &format!("IPv6, {what}"),
                direction,
                1,
                &frame,
            )?);
        }
    }
    others(scene, &mut rows)?;
    known::measure(scene, &mut rows)?;
    scene.chain(MANY, flags::FROM_CLIENT)?;
    for (what, options, payload) in &SPLICED[..3] {
        let frame = frames::spliced(flow_key(0), *options, payload)?;
        rows.push(spliced(scene, what, "from the client", MANY, &frame)?);
    }
    Ok(rows)
}

/// Packets that belong to no flow.
fn others(scene: &Scene, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    let mut other = |name: &str, runs, frame: &[u8], action| {
        let (row, _) = row(scene, name, "mqlb", runs, 1, frame, action)?;
        rows.push(row);
        anyhow::Ok(())
    };
    other("passed (ARP)", STEADY, &arp(), PASS)?;
    let key = lb_common::layout::FlowKey::v4([192, 0, 2, 1], 5555, VIP, 1883);
    let syn = Emit {
        flags: flag::SYN,
        ack: 0,
        syn: SynOptions {
            mss: Some(1460),
            window_scale: Some(7),
            sack: true,
        },
        timestamps: Some(Timestamps { value: 77, echo: 0 }),
        ..segment(key)
    };
    other("SYN to SYN-ACK, Linux's options", SINGLE, &frame(&syn)?, TX)?;
    let cookie = cookie::make(&SETTINGS.cookie_keys[0], &key, 999, 0xef);
    let ack = Emit {
        seq: 1000,
        ack: cookie.wrapping_add(1),
        timestamps: Some(STAMPS),
        ..segment(key)
    };
    other("bare ACK, valid cookie", STEADY, &frame(&ack)?, DROP)?;
    let previous = cookie::make(&SETTINGS.cookie_keys[1], &key, 999, 0xef);
    let ack = Emit {
        ack: previous.wrapping_add(1),
        ..ack
    };
    other(
        "bare ACK, cookie of the previous key",
        STEADY,
        &frame(&ack)?,
        DROP,
    )?;
    let wrong = Emit {
        ack: cookie ^ 0x1100,
        payload: b"\x10",
        ..ack
    };
    other(
        "wrong cookie, over the limit of RSTs",
        STEADY,
        &frame(&wrong)?,
        DROP,
    )
}

/// A packet that walks through a chain of flows.
pub fn spliced(
    scene: &Scene,
    what: &str,
    direction: &str,
    flows: u32,
    frame: &[u8],
) -> anyhow::Result<Row> {
    let before = scene.counted(Verdict::Spliced)?;
    let (row, last) = row(
        scene,
        &format!("{what}, {direction}"),
        "mqlb_measured",
        STEADY,
        flows,
        frame,
        TX,
    )?;
    // Not one packet of the row may have taken another way.
    let spliced = scene.counted(Verdict::Spliced)? - before;
    let packets = u64::from(STEADY.calls) * u64::from(STEADY.packets);
    ensure!(
        spliced == packets,
        "{what}: {spliced} of {packets} packets were spliced"
    );
    frames::check(&last).with_context(|| format!("{what}: after the last splice"))?;
    ensure!(
        (last.len(), frames::ttl(&last)) == (frame.len(), frames::ttl(frame)),
        "{what}: another length or TTL after the last splice"
    );
    Ok(row)
}

/// Measures one row, and the empty program in the same way; gives the frame that came out last too.
pub fn row(
    scene: &Scene,
    name: &str,
    program: &str,
    runs: Runs,
    flows: u32,
    frame: &[u8],
    action: u32,
) -> anyhow::Result<(Row, Vec<u8>)> {
    let (mut ns, mut empty, mut last) = (vec![], vec![], vec![]);
    // Side by side, so that a noisy minute hits both.
    for _ in 0..runs.calls {
        let called = scene.call(program, frame, runs.packets)?;
        ensure!(
            called.action == action,
            "{name}: action {}, not {action}",
            called.action
        );
        ns.push(called.ns);
        last = called.frame;
        empty.push(scene.call("mqlb_empty", frame, runs.packets)?.ns);
    }
    let row = Row {
        name: name.to_owned(),
        packets: runs.packets,
        calls: runs.calls,
        flows,
        least: least(&ns),
        median: median(ns),
        empty: least(&empty),
    };
    Ok((row, last))
}

pub fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
