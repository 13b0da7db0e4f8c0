//! What the findings about one backend's address amount to. Knows neither sockets nor clock.
//!
//! | state | next | when |
//! |---|---|---|
//! | not judged | what was found | the first check, so that the start need not wait for `rise` of them |
//! | up, evacuating | down | `fall` failed checks in a row |
//! | any | down | at once, when a client's connection could not be set up |
//! | up | evacuating | at once: the node says so itself, which is no false alarm |
//! | down, evacuating | up | `rise` checks in a row that found it up |
//! | down | evacuating | `rise` checks in a row that found it alive, not all of them up |
//!
//! A state moves at most once for each check and each failed connection, so the number of changes is bounded
//! by the interval of the checks, however a backend flaps.

/// What a backend is, as far as checks can tell; also what one check finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Takes clients.
    Up,
    /// Alive, but says that its clients are being moved elsewhere: no new ones, nobody is cut off.
    Evacuating,
    /// Takes nobody.
    Down,
}

impl State {
    /// As shown to people.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Up => "up",
            State::Evacuating => "evacuating",
            State::Down => "down",
        }
    }
}

/// A state that became another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// `None`: it was not judged before.
    pub from: Option<State>,
    pub to: State,
}

/// When a check began, on a scale that only has failed connections on it: how many there were before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun(u64);

/// Rise and fall of one address.
#[derive(Clone, Debug)]
pub struct Judge {
    rise: u32,
    fall: u32,
    state: Option<State>,
    /// Checks in a row that found it up.
    up: u32,
    /// Checks in a row that found it up or evacuating.
    alive: u32,
    /// Checks in a row that found it down.
    down: u32,
    /// Connections that failed.
    failed: u64,
}

impl Judge {
    /// Without a verdict yet. `rise` and `fall` are checks in a row, at least 1.
    pub const fn new(rise: u32, fall: u32) -> Self {
        Self {
            rise,
            fall,
            state: None,
            up: 0,
            alive: 0,
            down: 0,
            failed: 0,
        }
    }

    /// Other thresholds from the next finding on; the verdict stays.
    pub const fn set_thresholds(&mut self, rise: u32, fall: u32) {
        self.rise = rise;
        self.fall = fall;
    }

    /// The verdict; `None` before the first.
    pub const fn state(&self) -> Option<State> {
        self.state
    }

    /// Checks alone would have it down: `fall` of them in a row.
    pub const fn is_down_by_checks(&self) -> bool {
        self.down >= self.fall
    }

    /// To be called when a check begins.
    pub const fn begin(&self) -> Begun {
        Begun(self.failed)
    }

    /// A check that began at `begun` ended. A good one that began before the last failed connection
    /// says nothing about the time after it, and doesn't count.
    pub fn checked(&mut self, begun: Begun, found: State) -> Option<Change> {
        if found == State::Down {
            self.up = 0;
            self.alive = 0;
            self.down = self.down.saturating_add(1);
        } else if begun == self.begin() {
            self.up = if found == State::Up {
                self.up.saturating_add(1)
            } else {
                0
            };
            self.alive = self.alive.saturating_add(1);
            self.down = 0;
        } else {
            return None;
        }
        let to = match (self.state, found) {
            (None, found) => found,
            (Some(_), State::Down) if self.is_down_by_checks() => State::Down,
            (Some(State::Up), State::Evacuating) => State::Evacuating,
            (Some(State::Down | State::Evacuating), _) if self.up >= self.rise => State::Up,
            (Some(State::Down), _) if self.alive >= self.rise => State::Evacuating,
            (Some(same), _) => same,
        };
        self.move_to(to)
    }

    /// A client's connection to it could not be set up.
    pub fn connection_failed(&mut self) -> Option<Change> {
        self.failed += 1;
        self.up = 0;
        self.alive = 0;
        self.move_to(State::Down)
    }

    fn move_to(&mut self, to: State) -> Option<Change> {
        let from = self.state.replace(to);
        (from != Some(to)).then_some(Change { from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::State::{Down, Evacuating, Up};
    use super::*;
    use proptest::prelude::*;

    /// The states after each of these findings.
    fn states(judge: &mut Judge, found: &[State]) -> Vec<State> {
        found
            .iter()
            .map(|&found| {
                let begun = judge.begin();
                judge.checked(begun, found);
                judge.state().unwrap()
            })
            .collect()
    }

    #[test]
    fn the_first_check_decides_at_once() {
        for found in [Up, Evacuating, Down] {
            let mut judge = Judge::new(3, 3);
            assert_eq!(judge.state(), None);
            let begun = judge.begin();
            let change = Change {
                from: None,
                to: found,
            };
            assert_eq!(judge.checked(begun, found), Some(change));
        }
    }

    #[test]
    fn it_falls_and_rises_by_checks_in_a_row() {
        let mut judge = Judge::new(2, 3);
        let found = [
            Up, Down, Down, Up, Down, Down, Down, Up, Down, Up, Up, Down, Up,
        ];
        let expected = [Up, Up, Up, Up, Up, Up, Down, Down, Down, Down, Up, Up, Up];
        assert_eq!(states(&mut judge, &found), expected);
    }

    #[test]
    fn evacuation_counts_at_once_and_ends_by_rise() {
        let mut judge = Judge::new(2, 2);
        let found = [Up, Evacuating, Up, Evacuating, Down, Up, Up];
        let expected = [
            Up, Evacuating, Evacuating, Evacuating, Evacuating, Evacuating, Up,
        ];
        assert_eq!(states(&mut judge, &found), expected);
        // A node that comes back while it is evacuated takes no clients in between.
        let mut judge = Judge::new(2, 1);
        let found = [Down, Up, Evacuating, Up, Up];
        let expected = [Down, Down, Evacuating, Evacuating, Up];
        assert_eq!(states(&mut judge, &found), expected);
    }

    #[test]
    fn a_failed_connection_counts_at_once_and_only_later_checks_end_it() {
        let mut judge = Judge::new(2, 5);
        states(&mut judge, &[Up]);
        let before = judge.begin();
        let change = Change {
            from: Some(Up),
            to: Down,
        };
        assert_eq!(judge.connection_failed(), Some(change));
        assert_eq!(judge.connection_failed(), None);
        // Begun before it, ended after it.
        for _ in 0..3 {
            assert_eq!(judge.checked(before, Up), None);
            assert_eq!(judge.checked(before, Evacuating), None);
        }
        assert_eq!(states(&mut judge, &[Up]), [Down]);
        judge.connection_failed();
        assert_eq!(states(&mut judge, &[Up, Up]), [Down, Up]);
    }

    #[test]
    fn without_a_verdict_a_failed_connection_is_one() {
        let mut judge = Judge::new(2, 2);
        assert_eq!(
            judge.connection_failed(),
            Some(Change {
                from: None,
                to: Down
            })
        );
        assert_eq!(states(&mut judge, &[Up, Up]), [Down, Up]);
    }

    #[test]
    fn other_thresholds_keep_the_verdict() {
        let mut judge = Judge::new(1, 1);
        states(&mut judge, &[Up]);
        judge.set_thresholds(3, 2);
        assert_eq!(
            states(&mut judge, &[Down, Down, Up, Up, Up]),
            [Up, Down, Down, Down, Up]
        );
    }

    #[derive(Clone, Copy, Debug)]
    enum Input {
        /// A check, and whether a connection failed while it ran.
        Check(State, bool),
        Failed,
    }

    fn inputs() -> impl Strategy<Value = Vec<Input>> {
        let state = prop_oneof![3 => Just(Up), 1 => Just(Evacuating), 2 => Just(Down)];
        let input = prop_oneof![
            8 => (state, prop::bool::weighted(0.1)).prop_map(|(s, failed)| Input::Check(s, failed)),
            1 => Just(Input::Failed),
        ];
        prop::collection::vec(input, 0..80)
    }

    proptest! {
        /// Judged anew from the whole history after each input, by the words of the table above.
        #[test]
        fn every_change_has_its_reason(rise in 1u32..5, fall in 1u32..5, inputs in inputs()) {
            let mut judge = Judge::new(rise, fall);
            // What counts: findings, and `None` for a failed connection.
            let mut history: Vec<Option<State>> = Vec::new();
            let mut shown = None;
            for input in inputs {
                let mut changes = Vec::new();
                match input {
                    Input::Failed => {
                        changes.push(judge.connection_failed());
                        history.push(None);
                    }
                    Input::Check(found, failed) => {
                        let begun = judge.begin();
                        if failed {
                            changes.push(judge.connection_failed());
                            history.push(None);
                        }
                        changes.push(judge.checked(begun, found));
                        if !failed || found == Down {
                            history.push(Some(found));
                        }
                    }
                }
                for change in changes.into_iter().flatten() {
                    prop_assert_eq!(change.from, shown);
                    prop_assert_ne!(change.from, Some(change.to));
                    shown = Some(change.to);
                }
                prop_assert_eq!(shown, judge.state());

                let last = |n: u32, good: &dyn Fn(State) -> bool| {
                    history.len() >= n as usize
                        && history.iter().rev().take(n as usize).all(|h| h.is_some_and(good))
                };
                match history.last() {
                    None => prop_assert_eq!(shown, None),
                    Some(None) => prop_assert_eq!(shown, Some(Down)),
                    Some(Some(found)) if history.len() == 1 => prop_assert_eq!(shown, Some(*found)),
                    Some(Some(_)) => {
                        if last(fall, &|s| s == Down) {
                            prop_assert_eq!(shown, Some(Down));
                        }
                        if last(rise, &|s| s == Up) {
                            prop_assert_eq!(shown, Some(Up));
                        }
                        if last(rise, &|s| s != Down) {
                            prop_assert_ne!(shown, Some(Down));
                        }
                        if last(1, &|s| s == Evacuating) {
                            prop_assert_ne!(shown, Some(Up));
                        }
                    }
                }
            }
        }

        /// Nothing but the reasons of the table moves a state.
        #[test]
        fn without_a_reason_nothing_changes(rise in 2u32..5, fall in 2u32..5, flaps in 1usize..50) {
            let mut judge = Judge::new(rise, fall);
            states(&mut judge, &[Up]);
            for _ in 0..flaps {
                prop_assert_eq!(states(&mut judge, &[Down, Up]), [Up, Up]);
            }
            judge.connection_failed();
            for _ in 0..flaps {
                prop_assert_eq!(states(&mut judge, &[Up, Down]), [Down, Down]);
            }
        }
    }
}
