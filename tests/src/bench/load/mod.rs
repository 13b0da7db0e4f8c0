//! The benchmarks' clients: one thread with epoll, in the clients' namespace.
//!
//! [`dial`]: many connects at a time, kept or closed again; [`closed`]: requests, each after the answer to the
//! one before; [`open`]: requests at a given rate, whatever the answers do; [`bulk`]: much data on one connection;
//! [`place`]: which broker a client got.

pub mod bulk;
pub mod closed;
pub mod dial;
pub mod open;
pub mod place;

use std::net::TcpStream;
use std::time::Duration;

/// Connections that are open. Dropping them closes them without a DISCONNECT.
pub type Held = Vec<TcpStream>;

/// Nobody waits longer for an answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Requests and their answers in some time.
#[derive(Debug, Default)]
pub struct Answered {
    pub count: u64,
    /// Without an answer when time was over and [`PATIENCE`] had passed.
    pub unanswered: u64,
    pub elapsed: Duration,
    /// Sorted; nanoseconds.
    pub latencies: Vec<u64>,
}

impl Answered {
    /// The latency that `share` (of 1) of all answers did not exceed, in microseconds (nearest rank); NaN without any.
    pub fn percentile(&self, share: f64) -> f64 {
        percentile(&self.latencies, share)
    }

    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64()
    }
}

/// Of sorted nanoseconds, in microseconds.
pub fn percentile(sorted: &[u64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil().max(1.0) as usize;
    sorted
        .get(rank - 1)
        .map_or(f64::NAN, |nanoseconds| *nanoseconds as f64 / 1e3)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let sorted: Vec<u64> = (1..=1000).map(|us| us * 1000).collect();
        assert_eq!(percentile(&sorted, 0.5), 500.0);
        assert_eq!(percentile(&sorted, 0.999), 999.0);
        assert_eq!(percentile(&sorted, 1.0), 1000.0);
        assert!(percentile(&[], 0.5).is_nan());
    }
}
