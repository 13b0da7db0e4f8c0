//! Everybody comes at once and stays: how long until all are served.

use anyhow::{Result, ensure};

use super::{Metric, Scale, Scenario, Values, all_rounds, every, higher, lower, of_connects};
use crate::bench::cpu::Used;
use crate::bench::load::dial;
use crate::bench::systems::Arena;

/// Connects under way: the listening queues of those that have some are larger.
const WINDOW: usize = 2_000;

const METRICS: &[Metric] = &[
    lower("seconds", "until everybody is connected", "s"),
    higher("rate", "connections", "1/s"),
    lower("cpu", "CPU per connection", "µs"),
    lower("p50", "connect to CONNACK, p50", "µs"),
    lower("p99", "connect to CONNACK, p99", "µs"),
    lower("failed", "failed", ""),
];

pub const KNOWN: Scenario = Scenario {
    name: "storm-known",
    title: "Connect storm: clients that have been here",
    metrics: METRICS,
    applies: every,
    rounds: all_rounds,
    measure: |arena, scale, _| {
        arena.know(scale.known)?;
        let mut ids = (0..scale.storm.min(scale.known)).map(Arena::known_id);
        let (dialled, used) = arena.dial(&mut ids, dial::Plan::keep(WINDOW))?;
        values(arena, &dialled, used, scale)
    },
};

pub const NEW: Scenario = Scenario {
    name: "storm-new",
    title: "Connect storm: clients that nobody knows",
    metrics: METRICS,
    applies: every,
    rounds: all_rounds,
    measure: |arena, scale, _| {
        let (dialled, used) = arena.dial_new(scale.storm, dial::Plan::keep(WINDOW))?;
        values(arena, &dialled, used, scale)
    },
};

fn values(arena: &Arena, dialled: &dial::Dialled, used: Used, scale: &Scale) -> Result<Values> {
    ensure!(
        dialled.connected * 2 > scale.storm as u64,
        "{} of {} connects failed: {:?}",
        dialled.failed,
        scale.storm,
        dialled.failure
    );
    let mut values = of_connects(dialled, used);
    values.insert("seconds", dialled.elapsed.as_secs_f64());
    dial::leave(&dialled.held);
    arena.settle()?;
    Ok(values)
}
