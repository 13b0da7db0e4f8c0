//! CONNECTs of one client identifier. The state is a field of its binding, so it is bounded like the
//! bindings, outlives the agent, and both paths of set-up charge the same account.
//!
//! Time is in units of 2^17 ns (131 µs), wrapping after 6.5 days: 32 bits are enough.

/// A rate of CONNECTs. All zero: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct ClientPace {
    /// Between two CONNECTs at the full rate, in units; 0: no limit.
    pub interval: u32,
    /// (burst − 1) × interval.
    pub tolerance: u32,
}
const _: () = assert!(size_of::<ClientPace>() == 8);

/// Half a day: a limit that asks for more patience than that is no rate any more.
const LONGEST: u64 = 1 << 28;

impl ClientPace {
    /// `per_second` CONNECTs on average, `burst` at once; 0 of either counts as 1.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bounded by LONGEST")]
    pub const fn new(per_second: u32, burst: u32) -> Self {
        let per_second = if per_second == 0 {
            1
        } else {
            per_second as u64
        };
        let unit = per_second << 17;
        let interval = (1_000_000_000 + unit / 2) / unit;
        let interval = if interval == 0 { 1 } else { interval };
        let tolerance = interval * burst.saturating_sub(1) as u64;
        let tolerance = if tolerance > LONGEST {
            LONGEST
        } else {
            tolerance
        };
        Self {
            interval: interval as u32,
            tolerance: tolerance as u32,
        }
    }

    /// The state after a CONNECT at `now` (monotonic ns), or `None` if it is one too many.
    ///
    /// A state that this pace can't have left, 0 and states of long ago included, is a full bucket.
    #[inline(always)]
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the wrap is part of the format"
    )]
    pub const fn take(&self, state: u32, now: u64) -> Option<u32> {
        let now = (now >> 17) as u32;
        let ahead = state.wrapping_sub(now);
        if ahead > self.tolerance + self.interval {
            return Some(now.wrapping_add(self.interval));
        }
        if ahead > self.tolerance {
            return None;
        }
        Some(state.wrapping_add(self.interval))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_and_then_the_rate() {
        let pace = ClientPace::new(1, 3);
        // Anywhere in the wrapping clock, also where a state of 0 lies far ahead.
        for now in [0, SECOND, 1 << 48, (1 << 49) - 5 * SECOND, 1 << 50] {
            let mut state = 0;
            let mut at_once = 0;
            while let Some(next) = pace.take(state, now) {
                (state, at_once) = (next, at_once + 1);
            }
            assert_eq!(at_once, 3, "at {now}");
            assert_eq!(pace.take(state, now + SECOND / 2), None);
            let next = pace.take(state, now + SECOND + (1 << 18)).unwrap();
            assert_eq!(pace.take(next, now + SECOND + (1 << 18)), None);
        }
    }

    #[test]
    fn no_limit() {
        let pace = ClientPace::default();
        let mut state = 0;
        for _ in 0..1000 {
            state = pace.take(state, 77 * SECOND).unwrap();
        }
    }

    #[test]
    fn extremes() {
        assert_eq!(ClientPace::new(u32::MAX, u32::MAX).interval, 1);
        let slow = ClientPace::new(0, u32::MAX);
        assert_eq!(u64::from(slow.tolerance), LONGEST);
    }

    proptest! {
        #[test]
        fn whoever_keeps_to_the_rate_is_admitted(per_second in 1u32..500, burst in 1u32..20, start in 0u64..1 << 50) {
            let pace = ClientPace::new(per_second, burst);
            let (mut state, mut now) = (pace.take(0, start).unwrap_or(0), start);
            for _ in 0..100 {
                now += (u64::from(pace.interval) + 1) << 17;
                state = pace.take(state, now).unwrap();
            }
        }

        #[test]
        fn never_more_than_burst_and_rate(per_second in 1u32..500, burst in 1u32..20, start in 1u64 << 40..1 << 45,
            gaps in prop::collection::vec(0u64..200_000_000, 1..300)) {
            let pace = ClientPace::new(per_second, burst);
            let (mut state, mut now, mut admitted) = (0, start, 0u64);
            for gap in gaps {
                now += gap;
                if let Some(next) = pace.take(state, now) {
                    (state, admitted) = (next, admitted + 1);
                }
            }
            let share = ((now - start) >> 17) / u64::from(pace.interval);
            prop_assert!(admitted <= u64::from(burst) + share + 1, "{admitted} in {} ns", now - start);
        }
    }
}
