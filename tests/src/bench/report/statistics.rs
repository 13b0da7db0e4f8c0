//! Medians, spreads, and ratios of measurements that were made in turn.

use std::collections::BTreeMap;

use super::Sample;

/// Median and quartiles of some measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    /// `None` without any.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values
            .into_iter()
            .filter(|value| value.is_finite())
            .collect();
        values.sort_by(f64::total_cmp);
        Some(Self {
            low: quantile(&values, 0.25)?,
            median: quantile(&values, 0.5)?,
            high: quantile(&values, 0.75)?,
        })
    }
}

/// By linear interpolation between the neighbours.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let at = share * (sorted.len().checked_sub(1)? as f64);
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(below + (above - below) * at.fract())
}

/// A metric of a system in all rounds.
pub fn series(samples: &[Sample], scenario: &str, system: &str, key: &str) -> BTreeMap<u32, f64> {
    samples
        .iter()
        .filter(|sample| sample.scenario == scenario && sample.system == system)
        .filter_map(|sample| Some((sample.round, *sample.values.get(key)?)))
        .collect()
}

/// Spread of a metric over all rounds.
pub fn spread(samples: &[Sample], scenario: &str, system: &str, key: &str) -> Option<Spread> {
    Spread::of(series(samples, scenario, system, key).into_values())
}

/// Spread of what `of` makes of both systems' values of the same round.
pub fn paired(
    samples: &[Sample],
    scenario: &str,
    key: &str,
    systems: [&str; 2],
    of: impl Fn(f64, f64) -> f64,
) -> Option<Spread> {
    let [first, second] = systems.map(|system| series(samples, scenario, system, key));
    Spread::of(
        first
            .iter()
            .filter_map(|(round, value)| Some(of(*value, *second.get(round)?))),
    )
}

/// How many times as much it is, round by round.
pub fn ratio(
    samples: &[Sample],
    scenario: &str,
    key: &str,
    system: &str,
    to: &str,
) -> Option<Spread> {
    paired(samples, scenario, key, [system, to], |value, base| {
        value / base
    })
}

/// What `system` adds to `base`, as a share of what `other` adds.
pub fn added(
    samples: &[Sample],
    scenario: &str,
    key: &str,
    system: &str,
    base: &str,
    other: &str,
) -> Option<Spread> {
    let [system, base, other] = [system, base, other].map(|of| series(samples, scenario, of, key));
    Spread::of(system.iter().filter_map(|(round, value)| {
        let (base, other) = (base.get(round)?, other.get(round)?);
        Some((value - base) / (other - base))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(system: &str, round: u32, value: f64) -> Sample {
        Sample {
            scenario: "s",
            system: system.into(),
            round,
            values: [("k", value)].into(),
        }
    }

    #[test]
    fn quartiles_lie_between_neighbours() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.low, spread.median, spread.high), (1.75, 2.5, 3.25));
        assert_eq!(Spread::of([f64::NAN]), None);
    }

    #[test]
    fn rounds_are_compared_with_their_own() {
        // The machine was half as fast in the second round.
        let samples = [
            sample("a", 0, 10.0),
            sample("b", 0, 20.0),
            sample("c", 0, 60.0),
            sample("a", 1, 20.0),
            sample("b", 1, 40.0),
            sample("c", 1, 120.0),
            sample("b", 2, 1.0),
        ];
        assert_eq!(ratio(&samples, "s", "k", "b", "a").unwrap().median, 2.0);
        let added = added(&samples, "s", "k", "b", "a", "c").unwrap();
        assert_eq!((added.low, added.high), (0.2, 0.2));
        assert_eq!(ratio(&samples, "s", "k", "b", "nobody"), None);
    }
}
