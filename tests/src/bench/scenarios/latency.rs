//! Latency of requests that leave when they are due: at shares of what the weakest system can do at most, and at a
//! load so low that nobody waits for anybody.

use anyhow::{Result, ensure};

use super::pairs::{CLIENTS, PAYLOAD};
use super::{Scale, Scenario, Values, all_rounds, every, lower};
use crate::bench::load::open;
use crate::bench::systems::Arena;

/// Requests a second at low load.
const CALM: f64 = 500.0;

pub const LOADED: Scenario = Scenario {
    name: "latency",
    title: "Latency under load, open loop, 64 clients",
    metrics: &[
        lower("p50_25", "25 % of the weakest system's peak, p50", "µs"),
        lower("p99_25", "25 %, p99", "µs"),
        lower("p999_25", "25 %, p99.9", "µs"),
        lower("p50_50", "50 %, p50", "µs"),
        lower("p99_50", "50 %, p99", "µs"),
        lower("p999_50", "50 %, p99.9", "µs"),
        lower("p50_75", "75 %, p50", "µs"),
        lower("p99_75", "75 %, p99", "µs"),
        lower("p999_75", "75 %, p99.9", "µs"),
        lower("unanswered", "unanswered", ""),
    ],
    applies: every,
    rounds: all_rounds,
    measure: |arena, scale, facts| {
        ensure!(
            facts.peak > 0.0,
            "the scenario `pairs` must run first: it finds the peak"
        );
        let mut values = Values::from([("unanswered", 0.0), ("peak", facts.peak)]);
        for (share, keys) in [
            (0.25, ["p50_25", "p99_25", "p999_25"]),
            (0.50, ["p50_50", "p99_50", "p999_50"]),
            (0.75, ["p50_75", "p99_75", "p999_75"]),
        ] {
            load(arena, scale, share * facts.peak, keys, &mut values)?;
        }
        Ok(values)
    },
};

pub const LOW: Scenario = Scenario {
    name: "calm",
    title: "Latency at low load: 500 requests a second",
    metrics: &[
        lower("p50", "p50", "µs"),
        lower("p99", "p99", "µs"),
        lower("p999", "p99.9", "µs"),
        lower("unanswered", "unanswered", ""),
    ],
    applies: every,
    rounds: all_rounds,
    measure: |arena, scale, _| {
        let mut values = Values::from([("unanswered", 0.0)]);
        load(arena, scale, CALM, ["p50", "p99", "p999"], &mut values)?;
        Ok(values)
    },
};

fn load(
    arena: &mut Arena,
    scale: &Scale,
    rate: f64,
    keys: [&'static str; 3],
    values: &mut Values,
) -> Result<()> {
    let held = arena.hold(CLIENTS, CLIENTS)?;
    let time = scale.time();
    let (answered, _) = arena.measured(|| open::run(&held, rate, PAYLOAD, time))?;
    for (key, share) in keys.into_iter().zip([0.5, 0.99, 0.999]) {
        values.insert(key, answered.percentile(share));
    }
    *values.entry("unanswered").or_default() += answered.unanswered as f64;
    Ok(())
}
