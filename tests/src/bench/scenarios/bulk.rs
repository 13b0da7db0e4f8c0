//! Bulk data on one connection, each way.

use anyhow::Context;

use super::{Scenario, Values, all_rounds, every, higher, lower};
use crate::bench::load::bulk;

pub const SCENARIO: Scenario = Scenario {
    name: "bulk",
    title: "Bulk data on one connection",
    metrics: &[
        higher("up", "client to broker", "MB/s"),
        higher("down", "broker to client", "MB/s"),
        lower("cpu_up", "CPU per MB, client to broker", "µs"),
        lower("cpu_down", "CPU per MB, broker to client", "µs"),
    ],
    applies: every,
    rounds: all_rounds,
    measure: |arena, scale, _| {
        let held = arena.hold(1, 1)?;
        let stream = held.first().context("one connection")?;
        let bytes = scale.bulk;
        let mega = bytes as f64 / 1e6;
        let (up, up_used) = arena.measured(|| bulk::up(stream, bytes))?;
        let (down, down_used) = arena.measured(|| bulk::down(stream, bytes))?;
        Ok(Values::from([
            ("up", mega / up.as_secs_f64()),
            ("down", mega / down.as_secs_f64()),
            ("cpu_up", up_used.lab.as_secs_f64() * 1e6 / mega),
            ("cpu_down", down_used.lab.as_secs_f64() * 1e6 / mega),
        ]))
    },
};
