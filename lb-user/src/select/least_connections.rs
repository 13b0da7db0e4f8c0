//! Least connections in proportion to the weight: the node that would have the least per unit of weight
//! with one connection more. Those that tie take turns, in smooth weighted order.
//!
//! Connections are counted by whoever walks the flow map, so between two counts the numbers are those
//! of the last one plus the choices since then ([`Selector`](super::Selector) adds them): a burst of
//! clients doesn't all go to the node that was the emptiest a second ago.

use super::policy::{Candidate, Policy};
use super::round_robin::RoundRobin;

/// Chooses the node with the least connections.
#[derive(Debug, Default)]
pub struct LeastConnections {
    turns: RoundRobin,
}

/// Whether `a` would have less than `b`, with one connection more each: `(flows + 1) / weight`, without
/// the division.
fn less(a: &Candidate, b: &Candidate) -> bool {
    let with_one = |c: &Candidate| u64::from(c.flows) + 1;
    with_one(a) * u64::from(b.weight) < with_one(b) * u64::from(a.weight)
}

impl Policy for LeastConnections {
    fn choose(&mut self, _client: u64, candidates: &[Candidate]) -> Option<usize> {
        let least = candidates
            .iter()
            .filter(|c| c.takes_new())
            .reduce(|least, c| if less(c, least) { c } else { least })?;
        self.turns
            .turn(candidates, |c| c.takes_new() && !less(least, c))
    }

    fn forget(&mut self, number: u16) {
        self.turns.forget(number);
    }
}
