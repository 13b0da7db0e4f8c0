//! Many small messages: 16 under way on each of 64 connections.

use super::pairs::{CLIENTS, PAYLOAD};
use super::{Scenario, Values, all_rounds, cpu, every, higher, lower};
use crate::bench::load::closed;

pub const SCENARIO: Scenario = Scenario {
    name: "messages",
    title: "Small messages: 64 clients, 16 under way on each",
    metrics: &[
        higher("rate", "messages, each acknowledged", "1/s"),
        lower("cpu", "CPU per message and its acknowledgement", "µs"),
    ],
    applies: every,
    rounds: all_rounds,
    measure: |arena, scale, _| {
        let held = arena.hold(CLIENTS, CLIENTS)?;
        let plan = closed::Plan {
            depth: 16,
            payload: PAYLOAD,
            time: scale.time(),
        };
        let (answered, used) = arena.measured(|| closed::run(&held, plan))?;
        let mut values = Values::from([("rate", answered.per_second())]);
        cpu(&mut values, used, answered.count);
        Ok(values)
    },
};
