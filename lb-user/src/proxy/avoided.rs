//! Ports of backends that failed a moment ago, other than those for MQTT: they are passed over for a while, and the
//! backend isn't otherwise suspected for it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long.
const WHILE: Duration = Duration::from_secs(2);

/// Until when, by the backend's slot and the port.
#[derive(Debug, Default)]
pub(super) struct Avoided(Mutex<HashMap<(u16, u16), Instant>>);

impl Avoided {
    /// It has just failed.
    pub fn note(&self, slot: u16, port: u16) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        all.retain(|_, until| *until > now);
        all.insert((slot, port), now + WHILE);
    }

    /// Those of one port.
    pub fn slots(&self, port: u16) -> Vec<u16> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let still = all
            .iter()
            .filter(|((_, p), until)| *p == port && **until > now);
        still.map(|((slot, _), _)| *slot).collect()
    }
}
