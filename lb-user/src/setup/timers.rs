//! When the next timer of which connection runs.

use std::collections::BTreeSet;

/// One timer for each connection.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(u64, u64)>);

impl Timers {
    /// Sets the timer of connection `id` to `at` ns.
    pub fn start(&mut self, at: u64, id: u64) {
        self.0.insert((at, id));
    }

    /// Takes it back; `at` must be what it was set to.
    pub fn stop(&mut self, at: u64, id: u64) {
        self.0.remove(&(at, id));
    }

    /// When the first one runs.
    pub fn next(&self) -> Option<u64> {
        self.0.first().map(|(at, _)| *at)
    }

    /// The connection of the first timer that is due.
    pub fn due(&self, now: u64) -> Option<u64> {
        self.0
            .first()
            .filter(|(at, _)| *at <= now)
            .map(|(_, id)| *id)
    }
}
