//! Requests and answers over 64 connections, each with one request under way: what a message costs, and how many
//! there can be.

use super::{Scenario, Values, all_rounds, cpu, every, higher, lower};
use crate::bench::load::closed;

/// Connections.
pub const CLIENTS: usize = 64;
/// Bytes of a request's payload.
pub const PAYLOAD: usize = 64;

pub const SCENARIO: Scenario = Scenario {
    name: "pairs",
    title: "Request and response, 64 clients, closed loop",
    metrics: &[
        lower("cpu", "CPU per pair", "µs"),
        higher("rate", "pairs", "1/s"),
        lower("p50", "latency p50", "µs"),
        lower("p99", "latency p99", "µs"),
    ],
    applies: every,
    rounds: all_rounds,
    measure: |arena, scale, _| {
        let held = arena.hold(CLIENTS, CLIENTS)?;
        let plan = |time| closed::Plan {
            depth: 1,
            payload: PAYLOAD,
            time,
        };
        // Caches, windows and, on the balancer, next hops.
        arena.measured(|| closed::run(&held, plan(scale.time() / 10)))?;
        let (answered, used) = arena.measured(|| closed::run(&held, plan(scale.time())))?;
        let mut values = Values::from([
            ("rate", answered.per_second()),
            ("p50", answered.percentile(0.5)),
            ("p99", answered.percentile(0.99)),
        ]);
        cpu(&mut values, used, answered.count);
        Ok(values)
    },
};
