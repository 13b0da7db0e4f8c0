//! What must hold, and whether it did in a run.

use serde::Serialize;
use serde_json::Value;

use super::Sample;
use super::statistics::{self, Spread, added, ratio};

const XDP: &str = "mqlb-xdp";
const DIRECT: &str = "direct";

/// One of them.
#[derive(Clone, Debug, Serialize)]
pub struct Promise {
    pub what: &'static str,
    pub most: f64,
    /// `None`: what it takes was not measured.
    pub found: Option<f64>,
    /// First and third quartile of the rounds.
    pub spread: Option<[f64; 2]>,
    pub unit: &'static str,
}

impl Promise {
    /// `None`: nobody knows.
    pub fn holds(&self) -> Option<bool> {
        self.found.map(|found| found <= self.most)
    }

    fn new(what: &'static str, most: f64, unit: &'static str, found: Option<Spread>) -> Self {
        Self {
            what,
            most,
            found: found.map(|spread| spread.median),
            spread: found.map(|spread| [spread.low, spread.high]),
            unit,
        }
    }
}

/// All of them, judged by a run's samples; `haproxy` names its system, `flows` is what the example `nanoseconds` said of many.
pub fn judge(samples: &[Sample], haproxy: Option<&str>, flows: Option<&Value>) -> Vec<Promise> {
    let direct = |scenario, key| ratio(samples, scenario, key, XDP, DIRECT);
    let beside = |scenario, key| added(samples, scenario, key, XDP, DIRECT, haproxy?);
    let alone = |key, scenario| own(samples, key, scenario, haproxy?);
    let lost = |scenario| statistics::spread(samples, scenario, XDP, "lost");
    let bytes = |system| memory(samples, system);
    let less = haproxy.and_then(|haproxy| Some(bytes(XDP)? / bytes(haproxy)?));
    let single = |value: Option<f64>| Spread::of(value);
    vec![
        Promise::new(
            "CPU per request-response pair, × direct",
            1.0,
            "×",
            direct("pairs", "cpu"),
        ),
        Promise::new(
            "p50 of a pair, closed loop, × direct",
            1.0,
            "×",
            direct("pairs", "p50"),
        ),
        Promise::new(
            "CPU per connection, known clients, × direct",
            1.15,
            "×",
            direct("churn-known", "cpu"),
        ),
        Promise::new(
            "CPU per connection, new clients, × direct",
            1.3,
            "×",
            direct("churn-new", "cpu"),
        ),
        Promise::new(
            "CPU per pair minus direct, share of HAProxy's",
            0.1,
            "×",
            beside("pairs", "cpu"),
        ),
        Promise::new(
            "CPU per connection minus direct, known clients, share of HAProxy's",
            0.1,
            "×",
            beside("churn-known", "cpu"),
        ),
        Promise::new(
            "CPU per connection minus direct, new clients, share of HAProxy's",
            0.2,
            "×",
            beside("churn-new", "cpu"),
        ),
        Promise::new(
            "XDP programs alone, a pair: share of what HAProxy adds to direct",
            0.1,
            "×",
            alone("pair", "pairs"),
        ),
        Promise::new(
            "XDP programs alone, a connection, known clients: share of what HAProxy adds to direct",
            0.1,
            "×",
            alone("known", "churn-known"),
        ),
        Promise::new(
            "XDP programs alone, a connection, new clients: share of what HAProxy adds to direct",
            0.2,
            "×",
            alone("new", "churn-new"),
        ),
        Promise::new("memory per idle connection", 512.0, "B", single(bytes(XDP))),
        Promise::new(
            "memory per idle connection, share of HAProxy's",
            1.0 / 25.0,
            "×",
            single(less),
        ),
        Promise::new(
            "added p50 at low load, share of HAProxy's",
            0.2,
            "×",
            beside("calm", "p50"),
        ),
        Promise::new("sessions lost on restart", 0.0, "%", lost("restart")),
        Promise::new("sessions lost on kill -9", 0.0, "%", lost("kill-9")),
        Promise::new(
            "ns per packet at 1,000,000 flows, × at 1,000",
            1.5,
            "×",
            single(flows.and_then(growth)),
        ),
    ]
}

/// What the XDP programs take by the kernel's clock, as a share of what `haproxy` adds to the plain route in a scenario.
fn own(samples: &[Sample], key: &str, scenario: &str, haproxy: &str) -> Option<Spread> {
    let programs = statistics::spread(samples, "programs", XDP, key)?;
    let cpu = |system| Some(statistics::spread(samples, scenario, system, "cpu")?.median);
    let added = cpu(haproxy)? - cpu(DIRECT)?;
    Some(Spread {
        low: programs.low / added,
        median: programs.median / added,
        high: programs.high / added,
    })
}

/// Bytes that a connection costs the balancer: its process, the kernel's objects beyond the plain route's, and maps.
pub fn memory(samples: &[Sample], system: &str) -> Option<f64> {
    let median =
        |system: &str, key| Some(statistics::spread(samples, "memory", system, key)?.median);
    let slab = median(system, "slab")? - median(DIRECT, "slab")?;
    Some(median(system, "rss")? + slab + median(system, "maps")?)
}

/// From the example's rows.
fn growth(flows: &Value) -> Option<f64> {
    let at = |count: u64| {
        let mut rows = flows["rows"].as_array()?.iter();
        rows.find(|row| row["flows"] == count)?["splice_ns"].as_f64()
    };
    Some(at(1_000_000)? / at(1_000)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_not_promised_to_hold() {
        let promises = judge(&[], Some("haproxy"), None);
        assert!(promises.iter().all(|promise| promise.holds().is_none()));
    }

    #[test]
    fn each_round_is_judged_against_its_own() {
        let sample = |system: &str, cpu| Sample {
            scenario: "pairs",
            system: system.into(),
            round: 0,
            values: [("cpu", cpu)].into(),
        };
        let samples = [
            sample(DIRECT, 20.0),
            sample(XDP, 21.0),
            sample("haproxy", 40.0),
        ];
        let promises = judge(&samples, Some("haproxy"), None);
        assert_eq!(
            (promises[0].found, promises[0].holds()),
            (Some(1.05), Some(false))
        );
        assert_eq!(
            (promises[4].found, promises[4].holds()),
            (Some(0.05), Some(true))
        );
    }

    #[test]
    fn growth_is_read_from_the_rows() {
        let flows = serde_json::json!({"rows": [
            {"flows": 1000, "splice_ns": 100.0}, {"flows": 1_000_000, "splice_ns": 140.0},
        ]});
        assert_eq!(growth(&flows), Some(1.4));
    }
}
