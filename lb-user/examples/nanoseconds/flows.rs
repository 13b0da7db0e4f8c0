//! What many flows cost: up to a million connections in the real flow map, and packets through the real program.
//!
//! A fleet without sockets: for each count the map is made as large as the agent makes it for the largest one, and
//! filled with both entries of so many connections. Then
//! - packets of them run through the program by BPF_PROG_TEST_RUN, each of another connection than the one before, in an
//!   order that no cache foresees;
//! - clients that the map doesn't know yet are connected by the program itself: CONNECT to SYN, SYN-ACK to ACK and
//!   CONNECT, one packet a call, as cold as they are on a busy machine.

use std::time::Instant;

use lb_common::layout::flags;

use crate::frames::{self, Options};
use crate::pins::PinDirectory;
use crate::scene::Scene;
use crate::{known, rows};

const CONNECTIONS: [u32; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Beside the connections: those that are set up while they are measured.
const ROOM: u32 = 50_000;

/// What so many connections cost.
pub struct Row {
    flows: u32,
    /// Nanoseconds a packet, the empty program's and the same of the fastest call.
    splice: f64,
    splice_least: f64,
    empty: f64,
    /// Nanoseconds of a set-up's two packets, beyond the empty program's.
    set_up: f64,
    map_bytes: u64,
    fill_seconds: f64,
}

/// Measures everything.
pub fn measure() -> anyhow::Result<Vec<Row>> {
    CONNECTIONS.into_iter().map(with).collect()
}

fn with(connections: u32) -> anyhow::Result<Row> {
    let most = CONNECTIONS[CONNECTIONS.len() - 1];
    let pins = PinDirectory::new("flows")?;
    let mut scene = Scene::load(pins.path(), 2 * most + ROOM)?;
    let begun = Instant::now();
    // Two entries a connection.
    scene.chain(2 * connections, flags::FROM_CLIENT)?;
    let fill_seconds = begun.elapsed().as_secs_f64();
    let frame = frames::spliced(frames::flow_key(0), Options::Stamps, &[0x30; 100])?;
    let spliced = rows::spliced(&scene, "100 bytes, timestamps", "", 2 * connections, &frame)?;
    let mut set_ups = vec![];
    known::set_up_alone(&mut scene, &mut set_ups)?;
    Ok(Row {
        flows: connections,
        splice: spliced.median,
        splice_least: spliced.least,
        empty: spliced.empty,
        set_up: set_ups.iter().map(|row| row.median - row.empty).sum(),
        map_bytes: scene.memory_of_flows()?,
        fill_seconds,
    })
}

pub fn print(rows: &[Row]) {
    println!(
        "{:>12}{:>16}{:>8}{:>8}{:>14}{:>12}{:>10}",
        "connections", "ns per packet", "least", "empty", "set-up, ns", "map, MB", "filled, s"
    );
    for row in rows {
        println!(
            "{:>12}{:>16.0}{:>8.0}{:>8.0}{:>14.0}{:>12.0}{:>10.1}",
            row.flows,
            row.splice,
            row.splice_least,
            row.empty,
            row.set_up,
            row.map_bytes as f64 / 1e6,
            row.fill_seconds
        );
    }
}

pub fn print_json(rows: &[Row]) -> anyhow::Result<()> {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            serde_json::json!({
                "flows": row.flows, "splice_ns": row.splice, "splice_least_ns": row.splice_least,
                "empty_ns": row.empty, "set_up_ns": row.set_up, "map_bytes": row.map_bytes,
                "fill_seconds": row.fill_seconds,
            })
        })
        .collect();
    println!(
        "{}",
        serde_json::to_string_pretty(&serde_json::json!({ "rows": rows }))?
    );
    Ok(())
}
