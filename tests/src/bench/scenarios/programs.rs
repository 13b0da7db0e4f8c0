//! The XDP programs by the kernel's own clock (`kernel.bpf_stats_enabled`): what mqlb itself costs, without the wires
//! that carry packets to it. With a network card that is all there is on the balancer, but for the card's driver.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::pairs::{CLIENTS, PAYLOAD};
use super::{Scenario, Values, lower};
use crate::bench::fdinfo::{self, Info};
use crate::bench::load::{closed, dial};
use crate::bench::systems::Arena;

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";
/// `enum bpf_prog_type` in linux/bpf.h.
const XDP: u64 = 6;

pub const SCENARIO: Scenario = Scenario {
    name: "programs",
    title: "The XDP programs alone",
    metrics: &[
        lower("pair", "per pair", "µs"),
        lower("known", "per connection, known clients", "µs"),
        lower("new", "per connection, new clients", "µs"),
        lower("packet", "per packet of pairs", "ns"),
    ],
    applies: |system| system.is_xdp(),
    rounds: |scale| scale.rounds,
    measure: |arena, scale, _| {
        arena.know(scale.known)?;
        let pid = arena.balancer().context("mqlb has no process")?;
        let _on = Stats::on()?;
        let plan = || dial::Plan {
            window: CLIENTS,
            keep: false,
            limit: Some(scale.time()),
        };
        let before = Runs::of(pid)?;
        let mut ids = (0..scale.known).cycle().map(Arena::known_id);
        let (known, _) = arena.dial(&mut ids, plan())?;
        let after_known = Runs::of(pid)?;
        let (new, _) = arena.dial_new(usize::MAX, plan())?;
        let after_new = Runs::of(pid)?;
        let held = arena.hold(CLIENTS, CLIENTS)?;
        let before_pairs = Runs::of(pid)?;
        let plan = closed::Plan {
            depth: 1,
            payload: PAYLOAD,
            time: scale.time(),
        };
        let (answered, _) = arena.measured(|| closed::run(&held, plan))?;
        let pairs = Runs::of(pid)?.since(&before_pairs);
        ensure!(
            known.connected > 0 && new.connected > 0 && answered.count > 0 && pairs.count > 0,
            "nothing was measured"
        );
        let per = |runs: Runs, count: u64| runs.ns as f64 / 1e3 / count as f64;
        Ok(Values::from([
            ("pair", per(pairs, answered.count)),
            ("known", per(after_known.since(&before), known.connected)),
            ("new", per(after_new.since(&after_known), new.connected)),
            ("packet", pairs.ns as f64 / pairs.count as f64),
        ]))
    },
};

/// While it is there, the kernel measures its programs, which costs each packet two looks at the clock.
struct Stats {
    before: String,
}

impl Stats {
    fn on() -> Result<Self> {
        let before = std::fs::read_to_string(SWITCH).with_context(|| format!("read {SWITCH}"))?;
        std::fs::write(SWITCH, "1").with_context(|| format!("write {SWITCH}"))?;
        Ok(Self { before })
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(SWITCH, self.before.trim()) {
            eprintln!("{SWITCH} could not be set back: {error}");
        }
    }
}

/// How often programs ran, and how long in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Runs {
    ns: u64,
    count: u64,
}

impl Runs {
    /// Of the XDP programs that a process has open (`bpf_prog_show_fdinfo` in the kernel).
    fn of(pid: u32) -> Result<Self> {
        // Several descriptors may be of one program.
        let programs: BTreeMap<_, _> = fdinfo::of(pid)?.iter().filter_map(Self::read).collect();
        ensure!(
            !programs.is_empty(),
            "process {pid} has no XDP program open"
        );
        Ok(programs.values().fold(Self::default(), |sum, runs| Self {
            ns: sum.ns + runs.ns,
            count: sum.count + runs.count,
        }))
    }

    /// The program's number and its runs; `None` if it is no XDP program.
    fn read(info: &Info) -> Option<(u64, Self)> {
        if info.number("prog_type")? != XDP {
            return None;
        }
        let runs = Self {
            ns: info.number("run_time_ns")?,
            count: info.number("run_cnt")?,
        };
        Some((info.number("prog_id")?, runs))
    }

    const fn since(self, earlier: &Self) -> Self {
        Self {
            ns: self.ns - earlier.ns,
            count: self.count - earlier.count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_read_from_fdinfo() {
        let text = "pos:\t0\nflags:\t02000002\nprog_type:\t6\nprog_jited:\t1\nprog_tag:\t0a\nmemlock:\t4096\n\
             prog_id:\t17\nrun_time_ns:\t500\nrun_cnt:\t4\nrecursion_misses:\t0\n";
        let runs = Runs { ns: 500, count: 4 };
        let read = |text: &str| Runs::read(&Info(text.to_owned()));
        assert_eq!(read(text), Some((17, runs)));
        assert_eq!(read(&text.replace("type:\t6", "type:\t3")), None);
        assert_eq!(read("pos:\t0\n"), None);
    }
}
