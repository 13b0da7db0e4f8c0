//! Clients that connect, get their CONNACK and go: what a connection costs.

use anyhow::{Result, ensure};

use super::{Metric, Scale, Scenario, Values, all_rounds, every, higher, lower, of_connects};
use crate::bench::load::dial;
use crate::bench::systems::Arena;

/// Connects under way.
const WINDOW: usize = 64;

const METRICS: &[Metric] = &[
    lower("cpu", "CPU per connection", "µs"),
    higher("rate", "connections", "1/s"),
    lower("p50", "connect to CONNACK, p50", "µs"),
    lower("p99", "connect to CONNACK, p99", "µs"),
    lower("failed", "failed", ""),
];

pub const KNOWN: Scenario = Scenario {
    name: "churn-known",
    title: "Connect, CONNACK, disconnect: clients that have been here",
    metrics: METRICS,
    applies: every,
    rounds: all_rounds,
    measure: |arena, scale, _| {
        arena.know(scale.known)?;
        let known = scale.known;
        let mut ids = (0..known).cycle().map(Arena::known_id);
        let (dialled, used) = arena.dial(&mut ids, plan(scale))?;
        values(&dialled, used)
    },
};

pub const NEW: Scenario = Scenario {
    name: "churn-new",
    title: "Connect, CONNACK, disconnect: clients that nobody knows",
    metrics: METRICS,
    applies: every,
    rounds: all_rounds,
    measure: |arena, scale, _| {
        let (dialled, used) = arena.dial_new(usize::MAX, plan(scale))?;
        values(&dialled, used)
    },
};

fn plan(scale: &Scale) -> dial::Plan {
    dial::Plan {
        window: WINDOW,
        keep: false,
        limit: Some(scale.time()),
    }
}

fn values(dialled: &dial::Dialled, used: crate::bench::cpu::Used) -> Result<Values> {
    ensure!(
        dialled.connected > 0,
        "nobody was connected: {:?}",
        dialled.failure
    );
    Ok(of_connects(dialled, used))
}
