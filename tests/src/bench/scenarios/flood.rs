//! SYNs from everywhere, at a rate that is the same for all, while clients connect.

use anyhow::ensure;

use super::{Scenario, Values, all_rounds, higher, lower};
use crate::bench::load::{dial, percentile};
use crate::bench::systems::Kind;
use crate::flood::{self, Flood};

/// SYNs a second.
const RATE: u32 = 100_000;

pub const SCENARIO: Scenario = Scenario {
    name: "syn-flood",
    title: "Clients connect during a flood of 100,000 SYNs a second",
    metrics: &[
        higher("rate", "connections of real clients", "1/s"),
        higher("served", "share of clients that were served", "%"),
        lower("p50", "connect to CONNACK, p50", "µs"),
        lower("p99", "connect to CONNACK, p99", "µs"),
        higher("sent", "SYNs that could be sent", "1/s"),
    ],
    // Nobody floods the brokers' own addresses.
    applies: |system| system.kind != Kind::Direct,
    rounds: all_rounds,
    measure: |arena, scale, _| {
        let flood = Flood::start(&arena.lab, flood::Kind::Syn, Some(RATE), None)?;
        let begun = std::time::Instant::now();
        let plan = dial::Plan {
            window: 16,
            keep: false,
            limit: Some(scale.time()),
        };
        let (dialled, _) = arena.dial_new(usize::MAX, plan)?;
        let elapsed = begun.elapsed().as_secs_f64();
        let sent = flood.stop()?;
        let attempts = dialled.connected + dialled.failed;
        ensure!(attempts > 0, "nobody tried to connect");
        Ok(Values::from([
            (
                "rate",
                dialled.connected as f64 / dialled.elapsed.as_secs_f64(),
            ),
            ("served", 100.0 * dialled.connected as f64 / attempts as f64),
            ("p50", percentile(&dialled.latencies, 0.5)),
            ("p99", percentile(&dialled.latencies, 0.99)),
            ("sent", sent as f64 / elapsed),
        ]))
    },
};
