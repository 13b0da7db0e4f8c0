//! Limits of connections at a time. Nothing counts connections down: whoever opens one counts it in
//! `opened`, and the sweeper, which sees every live connection, says up to which count more may be
//! opened. An error (a crash, an evicted entry, a race) lasts until the next sweep.
//!
//! The sweeper reads `opened` first and walks the flow map then. What is opened meanwhile may be seen by
//! the walk and be counted in `opened` too: too little credit until the next sweep, never too much.

/// How many connections were opened, and up to which count they may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Credit {
    /// Connections opened so far, wrapping. Added to by whoever opens one.
    pub opened: u32,
    /// More are opened while `opened` is below this, wrapping. Written by the sweeper.
    pub open_until: u32,
}
const _: () = assert!(size_of::<Credit>() == 8);

/// "No limit" as a number of connections: never opened between two sweeps.
pub const UNLIMITED: u32 = 1 << 30;

/// Cells for listeners, by the index that [`crate::layout::Listener::credit`] gives.
pub const LISTENERS: u32 = 256;
/// The cell of all connections together, behind those of listeners and of backends by their number (half of
/// their slot).
pub const ALL: u32 = LISTENERS + 512;
/// Cells in all.
pub const CELLS: u32 = ALL + 1;

impl Credit {
    /// How many more may be opened.
    #[inline(always)]
    #[must_use]
    pub const fn left(&self) -> u32 {
        let left = self.open_until.wrapping_sub(self.opened);
        if left > u32::MAX / 2 { 0 } else { left }
    }

    /// What the sweeper writes: `opened` as it was before the walk, the limit, and what the walk found.
    #[must_use]
    pub const fn until(opened: u32, most: u32, live: u32) -> u32 {
        let most = if most > UNLIMITED { UNLIMITED } else { most };
        opened.wrapping_add(most.saturating_sub(live))
    }
}

/// The cell of a backend, by any of its slots in the backends map.
#[inline(always)]
#[must_use]
pub const fn of_backend(slot: u16) -> u32 {
    LISTENERS + (slot as u32 / 2) % (ALL - LISTENERS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn left_wraps() {
        let credit = |opened, open_until| Credit { opened, open_until }.left();
        assert_eq!(credit(5, 8), 3);
        assert_eq!(credit(8, 8), 0);
        assert_eq!(credit(9, 8), 0);
        assert_eq!(credit(u32::MAX, 2), 3);
        assert_eq!(credit(2, u32::MAX), 0);
        assert_eq!(Credit::until(u32::MAX, 5, 3), 1);
        assert_eq!(Credit::until(7, 5, 9), 7);
        assert_eq!(credit(7, Credit::until(7, u32::MAX, 0)), UNLIMITED);
    }

    #[test]
    fn both_slots_of_a_backend_have_one_cell_and_no_listener_has_it() {
        assert_eq!(of_backend(6), of_backend(7));
        assert_ne!(of_backend(6), of_backend(8));
        assert_eq!(of_backend(0), LISTENERS);
        assert_eq!(of_backend(1023), ALL - 1);
    }

    /// What may happen, one after the other.
    #[derive(Clone, Debug)]
    enum Step {
        Open,
        Close,
        /// A connection was counted but never came to be.
        Fail,
        /// The walk begins: `opened` is read.
        Look,
        /// The walk has passed this share of the connections.
        Walk(u8),
        /// The walk is over.
        Write,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            8 => Just(Step::Open),
            4 => Just(Step::Close),
            1 => Just(Step::Fail),
            2 => Just(Step::Look),
            3 => any::<u8>().prop_map(Step::Walk),
            2 => Just(Step::Write),
        ];
        prop::collection::vec(step, 1..400)
    }

    proptest! {
        /// However opening, closing and sweeping interleave, there are never more connections than the
        /// limit, and a sweep of a quiet moment gives back everything that is free.
        #[test]
        fn never_too_many_and_no_drift(steps in steps(), most in 1u32..20, start: u32) {
            let mut credit = Credit { opened: start, open_until: Credit::until(start, most, 0) };
            // By place in the map: the walk passes places in order, connections open anywhere.
            let mut map = [false; 64];
            let (mut place, mut looked, mut passed, mut seen) = (0usize, None, 0usize, 0u32);
            let live = |map: &[bool; 64]| u32::try_from(map.iter().filter(|l| **l).count()).unwrap();
            for step in steps {
                match step {
                    Step::Open if credit.left() > 0 => {
                        while map[place % 64] { place += 1; }
                        map[place % 64] = true;
                        place += 29;
                        credit.opened = credit.opened.wrapping_add(1);
                    }
                    Step::Open => {}
                    Step::Close => {
                        if let Some(at) = (place..place + 64).find(|at| map[at % 64]) {
                            map[at % 64] = false;
                        }
                    }
                    Step::Fail if credit.left() > 0 => credit.opened = credit.opened.wrapping_add(1),
                    Step::Fail => {}
                    Step::Look => (looked, passed, seen) = (Some(credit.opened), 0, 0),
                    Step::Walk(by) if looked.is_some() => {
                        let to = (passed + usize::from(by % 32)).min(64);
                        seen += u32::try_from(map[passed..to].iter().filter(|l| **l).count()).unwrap();
                        passed = to;
                    }
                    Step::Walk(_) => {}
                    Step::Write => if let Some(opened) = looked.take() {
                        seen += u32::try_from(map[passed..].iter().filter(|l| **l).count()).unwrap();
                        credit.open_until = Credit::until(opened, most, seen);
                    }
                }
                prop_assert!(live(&map) <= most, "{} of {most}", live(&map));
            }
            credit.open_until = Credit::until(credit.opened, most, live(&map));
            prop_assert_eq!(credit.left(), most - live(&map));
        }
    }
}
