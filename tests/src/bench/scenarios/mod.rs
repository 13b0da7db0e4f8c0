//! What the systems are made to do, a file for each.

pub mod bulk;
pub mod churn;
pub mod flood;
pub mod latency;
pub mod memory;
pub mod messages;
pub mod moved;
pub mod pairs;
pub mod programs;
pub mod restart;
pub mod storm;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::cpu::Used;
use super::load::dial::Dialled;
use super::load::percentile;
use super::systems::{Arena, System};

/// How much of everything.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Scale {
    /// Times that each system is measured in each scenario.
    pub rounds: u32,
    /// Seconds of a measurement under load.
    pub seconds: f64,
    /// Clients that are known beforehand.
    pub known: usize,
    /// Clients of a storm.
    pub storm: usize,
    /// Idle connections.
    pub connections: usize,
    /// Bytes of a bulk transfer.
    pub bulk: usize,
}

impl Scale {
    pub fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// Results of a measurement, by the key of the metric.
pub type Values = BTreeMap<&'static str, f64>;

/// One kind of result.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Metric {
    pub key: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    pub better: Better,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Lower,
    Higher,
}

/// One of them.
#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub title: &'static str,
    pub metrics: &'static [Metric],
    /// Whether it can be asked of a system.
    pub applies: fn(&System) -> bool,
    /// How often: what takes long needs fewer rounds than the scale says.
    pub rounds: fn(&Scale) -> u32,
    pub measure: fn(&mut Arena, &Scale, &Facts) -> Result<Values>,
}

/// What earlier scenarios found out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// Requests a second, closed loop, of the weakest system.
    pub peak: f64,
}

/// In the order in which they run.
pub const ALL: [&Scenario; 15] = [
    &pairs::SCENARIO,
    &churn::KNOWN,
    &churn::NEW,
    &programs::SCENARIO,
    &storm::KNOWN,
    &storm::NEW,
    &latency::LOW,
    &latency::LOADED,
    &messages::SCENARIO,
    &bulk::SCENARIO,
    &flood::SCENARIO,
    &memory::SCENARIO,
    &restart::GRACEFUL,
    &restart::KILL,
    &moved::SCENARIO,
];

const fn lower(key: &'static str, title: &'static str, unit: &'static str) -> Metric {
    Metric {
        key,
        title,
        unit,
        better: Better::Lower,
    }
}

const fn higher(key: &'static str, title: &'static str, unit: &'static str) -> Metric {
    Metric {
        key,
        title,
        unit,
        better: Better::Higher,
    }
}

fn every(_: &System) -> bool {
    true
}

fn all_rounds(scale: &Scale) -> u32 {
    scale.rounds
}

/// Rate, latency and CPU of connects, and how many failed.
fn of_connects(dialled: &Dialled, used: Used) -> Values {
    let mut values = Values::from([
        (
            "rate",
            dialled.connected as f64 / dialled.elapsed.as_secs_f64(),
        ),
        ("p50", percentile(&dialled.latencies, 0.5)),
        ("p99", percentile(&dialled.latencies, 0.99)),
        ("failed", dialled.failed as f64),
    ]);
    cpu(&mut values, used, dialled.connected);
    values
}

/// CPU microseconds for each of `count`, and for the noise the machine's.
fn cpu(values: &mut Values, used: Used, count: u64) {
    let per = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
    values.insert("cpu", per(used.lab));
    values.insert("cpu_machine", per(used.machine));
}
