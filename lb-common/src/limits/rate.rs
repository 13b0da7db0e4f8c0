//! Rates, as a virtual schedule (GCRA, ITU-T I.371): the state is one number, the time at which the
//! bucket would be full again. A full bucket is any time in the past, so fresh state is 0.

/// A rate with a burst. All zero: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Pace {
    /// Between two events at the full rate, ns; 0: no limit.
    pub interval: u64,
    /// How far ahead of the schedule an event may come, ns: (burst − 1) × interval.
    pub tolerance: u64,
}
const _: () = assert!(size_of::<Pace>() == 16);

impl Pace {
    /// No limit.
    pub const NONE: Self = Self {
        interval: 0,
        tolerance: 0,
    };

    /// `per_second` events on average, `burst` at once; 0 of either counts as 1.
    #[must_use]
    pub const fn new(per_second: u32, burst: u32) -> Self {
        let interval = match per_second {
            0 => 1_000_000_000,
            n => 1_000_000_000 / n as u64,
        };
        // More than 10^9 a second.
        let interval = if interval == 0 { 1 } else { interval };
        Self {
            interval,
            tolerance: interval * burst.saturating_sub(1) as u64,
        }
    }

    /// The state after an event at `now`, or `None` if the event is too many. The caller stores it.
    ///
    /// A state that this pace can't have left (the limit was changed) counts as a full bucket.
    #[inline(always)]
    #[must_use]
    pub const fn take(&self, state: u64, now: u64) -> Option<u64> {
        let ahead = state.saturating_sub(now);
        if ahead > self.tolerance + self.interval {
            return Some(now + self.interval);
        }
        if ahead > self.tolerance {
            return None;
        }
        Some(now + ahead + self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_and_then_the_rate() {
        let pace = Pace::new(10, 5);
        let (mut state, now) = (0, 77 * SECOND);
        for n in 0..5 {
            state = pace.take(state, now).unwrap_or_else(|| panic!("{n} of 5"));
        }
        assert_eq!(pace.take(state, now), None);
        assert_eq!(pace.take(state, now + SECOND / 10 - 1), None);
        state = pace.take(state, now + SECOND / 10).unwrap();
        assert_eq!(pace.take(state, now + SECOND / 10), None);
        // A long pause saves up one burst and no more.
        let later = now + 1000 * SECOND;
        for _ in 0..5 {
            state = pace.take(state, later).unwrap();
        }
        assert_eq!(pace.take(state, later), None);
    }

    #[test]
    fn no_limit() {
        let mut state = 0;
        for _ in 0..1000 {
            state = Pace::NONE.take(state, 5).unwrap();
        }
    }

    #[test]
    fn another_limit_does_not_inherit_a_long_wait() {
        let old = Pace::new(1, 1000);
        let mut state = 0;
        for _ in 0..1000 {
            state = old.take(state, SECOND).unwrap();
        }
        assert!(Pace::new(1, 1).take(state, SECOND).is_some());
    }

    proptest! {
        /// In any span never more than the burst and the rate's share of the span, and whoever keeps to
        /// the rate is never refused.
        #[test]
        fn exact(per_second in 1u32..5000, burst in 1u32..50, gaps in prop::collection::vec(0u64..50_000_000, 1..400)) {
            let pace = Pace::new(per_second, burst);
            let (mut state, mut now) = (0, SECOND);
            let mut admitted: Vec<u64> = vec![];
            for gap in gaps {
                now += gap;
                if let Some(next) = pace.take(state, now) {
                    state = next;
                    admitted.push(now);
                }
            }
            for (i, from) in admitted.iter().enumerate() {
                for (j, to) in admitted.iter().enumerate().skip(i) {
                    let most = u64::from(burst) + (to - from) / pace.interval;
                    prop_assert!((j - i + 1) as u64 <= most, "{} in {} ns", j - i + 1, to - from);
                }
            }
        }

        #[test]
        fn the_rate_itself_is_admitted(per_second in 1u32..5000, burst in 1u32..50) {
            let pace = Pace::new(per_second, burst);
            let (mut state, mut now) = (0, SECOND);
            for _ in 0..200 {
                state = pace.take(state, now).unwrap();
                now += pace.interval;
            }
        }
    }
}
