//! What a sweep of the flow map costs, by the number of connections: all of them alive, the usual case.
//!
//! `cargo run --release -p lb-user --example sweep -- 1000000` (the default). A line for each sweep: the thread's CPU
//! time. Nothing is attached or left behind. Needs root and a BPF file system on /sys/fs/bpf.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use aya::EbpfLoader;
use lb_common::layout::{Flow, FlowKey, State, flags, ticks};
use mqlb::agent::limits::Shared;
use mqlb::agent::sweep::{Spans, Sweeper};
use mqlb::config::Timeouts;
use mqlb::dataplane::{Home, Maps, RESERVE, clock};

const SWEEPS: usize = 5;
const BACKENDS: u16 = 3;

struct PinDirectory(PathBuf);

impl Drop for PinDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}

fn main() -> anyhow::Result<()> {
    let connections = std::env::args().nth(1);
    let connections: u32 = connections.map_or(Ok(1_000_000), |n| n.parse())?;
    let pins =
        PinDirectory(Path::new("/sys/fs/bpf").join(format!("mqlb-sweep-{}", std::process::id())));
    std::fs::create_dir(&pins.0).with_context(|| format!("create {}", pins.0.display()))?;
    let _programs = EbpfLoader::new()
        .default_map_pin_directory(&pins.0)
        .map_max_entries("FLOWS", connections * 2 + RESERVE)
        .map_max_entries("BINDINGS", connections)
        .load(mqlb::PROGRAMS)
        .context("create the maps")?;
    let home = Home::pinned(&pins.0);
    let mut maps = Maps::open(&home)?;
    for n in 0..connections {
        connect(&mut maps, n)?;
    }
    let timeouts = Timeouts {
        sniff: Duration::from_secs(10),
        handshake: Duration::from_secs(10),
        connect: Duration::from_secs(3),
        grace: Duration::from_secs(30),
        keepalive_least: Duration::ZERO,
        keepalive_zero: Duration::from_secs(86_400),
        closed: Duration::from_secs(60),
        dns: Duration::from_secs(300),
    };
    let linger = Duration::from_secs(30 * 60);
    let (_keep, spans) = tokio::sync::watch::channel(Spans { timeouts, linger });
    let mut sweeper = Sweeper::new(&home, spans, Shared::default(), 1)?;
    for _ in 0..SWEEPS {
        let (begun, cpu) = (Instant::now(), cpu_time());
        let found = sweeper.sweep()?;
        let live: u64 = found.by_slot.values().sum();
        anyhow::ensure!(
            live == u64::from(connections),
            "{live} live connections found"
        );
        println!(
            "{connections} connections: {:?} of CPU time, {:?} in all",
            cpu_time() - cpu,
            begun.elapsed()
        );
    }
    Ok(())
}

/// Both entries of live connection `n`, and its binding.
fn connect(maps: &mut Maps, n: u32) -> anyhow::Result<()> {
    let [_, a, b, c] = n.to_be_bytes();
    let client = FlowKey::v4([10, a, b, c], 40_000, [10, 255, 0, 1], 1883);
    let slot = n as u16 % BACKENDS * 2;
    let port = 10_000 + u16::from(c) + u16::from(b & 63) * 256;
    let to_backend = FlowKey::v4([10, 254, 0, a], port, [10, 253, b >> 6, slot as u8], 1883);
    let now = ticks::from_ns(clock::now_ns());
    let flow = Flow {
        state: State::Open as u8,
        backend: slot,
        client: u64::from(n) + 1,
        last_seen: now,
        idle_limit: ticks::span(3_600_000_000_000),
        ..Flow::ZERO
    };
    let backend_key = to_backend.reversed();
    let from_client = Flow {
        flags: flags::FROM_CLIENT,
        ..flow
    };
    let entries = [
        (client, from_client.towards(&client, &to_backend)),
        (backend_key, flow.towards(&backend_key, &client.reversed())),
    ];
    for (key, flow) in entries {
        maps.flows.insert(key, flow, 0)?;
    }
    let binding = lb_common::layout::Binding {
        backend: slot,
        last_seen: now,
        ..Default::default()
    };
    Ok(maps.bindings.insert(flow.client, binding, 0)?)
}

/// CPU time of this thread so far.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes to `time`.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
