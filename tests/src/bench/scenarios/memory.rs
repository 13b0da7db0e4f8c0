//! Connections that only are: what each costs the balancer in memory.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Scenario, Values, every, lower};
use crate::bench::fdinfo::{self, Info};
use crate::bench::load::dial;

/// Types of maps (`enum bpf_map_type` in linux/bpf.h).
const HASH: u64 = 1;
const LRU_HASH: u64 = 9;

pub const SCENARIO: Scenario = Scenario {
    name: "memory",
    title: "Memory per idle connection",
    metrics: &[
        lower("rss", "resident memory of the balancer's process", "B"),
        lower(
            "slab",
            "kernel objects, clients' and brokers' included",
            "B",
        ),
        lower("maps", "BPF maps, at their capacity", "B"),
    ],
    applies: every,
    rounds: |scale| scale.rounds.min(3),
    measure: |arena, scale, _| {
        let count = scale.connections as f64;
        let before = Memory::now(arena.balancer())?;
        let held = arena.hold(scale.connections, 256)?;
        // What was freed by connecting is counted as free.
        std::thread::sleep(std::time::Duration::from_secs(1));
        let after = Memory::now(arena.balancer())?;
        let maps = match (arena.is_xdp(), arena.balancer()) {
            (true, Some(pid)) => per_connection(&maps(pid)?)?,
            _ => 0.0,
        };
        dial::leave(&held);
        drop(held);
        arena.settle()?;
        Ok(Values::from([
            ("rss", (after.rss - before.rss) / count),
            ("slab", (after.slab - before.slab) / count),
            ("maps", maps),
        ]))
    },
};

struct Memory {
    /// Bytes; 0 without a process.
    rss: f64,
    slab: f64,
}

impl Memory {
    fn now(pid: Option<u32>) -> Result<Self> {
        let rss = match pid {
            None => 0.0,
            Some(pid) => kilobytes(Path::new(&format!("/proc/{pid}/status")), "VmRSS:")?,
        };
        let table = std::fs::read_to_string("/proc/slabinfo").context("read /proc/slabinfo")?;
        Ok(Self {
            rss,
            slab: slab(&table).context("/proc/slabinfo has another form")?,
        })
    }
}

fn kilobytes(file: &Path, key: &str) -> Result<f64> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    Ok(1024.0 * number.with_context(|| format!("no {key} in {}", file.display()))?)
}

/// Bytes in use in all caches (slabinfo(5)): "name active_objs num_objs objsize …", after two lines of heading.
fn slab(table: &str) -> Option<f64> {
    let mut total = 0.0;
    for line in table.lines().skip(2) {
        let mut fields = line.split_whitespace().skip(1);
        let active: f64 = fields.next()?.parse().ok()?;
        let size: f64 = fields.nth(1)?.parse().ok()?;
        total += active * size;
    }
    Some(total)
}

/// Type, most entries and bytes of each map that a process has open (`bpf_map_show_fdinfo` in the kernel).
fn maps(pid: u32) -> Result<Vec<[u64; 3]>> {
    let of = |info: &Info| {
        Some([
            info.number("map_type")?,
            info.number("max_entries")?,
            info.number("memlock")?,
        ])
    };
    Ok(fdinfo::of(pid)?.iter().filter_map(of).collect())
}

/// A connection has two entries of the map of flows, and its client one of the bindings': the largest maps of
/// their types.
fn per_connection(maps: &[[u64; 3]]) -> Result<f64> {
    let entry = |kind: u64| {
        let of_kind = maps.iter().filter(|[of, ..]| *of == kind);
        let [_, entries, bytes] = of_kind
            .max_by_key(|[.., bytes]| *bytes)
            .with_context(|| format!("no map of type {kind} is open"))?;
        anyhow::Ok(*bytes as f64 / *entries as f64)
    };
    Ok(2.0 * entry(HASH)? + entry(LRU_HASH)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_in_use_are_added_up() {
        let table = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize>\n\
             TCP 10 20 2000 8 4 : tunables\nother 3 4 100 1 1 : tunables\n";
        assert_eq!(slab(table), Some(20_300.0));
    }

    #[test]
    fn a_connection_is_two_flows_and_a_binding() {
        let maps = [
            [1, 100, 20_000],
            [1, 10, 100],
            [9, 10, 1_000],
            [2, 1, 1 << 30],
        ];
        assert_eq!(per_connection(&maps).unwrap(), 500.0);
        assert!(per_connection(&maps[..2]).is_err());
    }
}
