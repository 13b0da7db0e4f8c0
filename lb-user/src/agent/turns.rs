//! Whose turn it is: what lets the kernel connect clients that are bound to no backend.
//!
//! A pool has a round where its policy is round robin and nothing else is to be looked at: no client is
//! blocked by its identifier, no backend counts its connections, and the weights, slow start included,
//! make a round that isn't too long. Otherwise the agent chooses.

use lb_common::layout::{self, TURN_POOLS, TURNS};

use super::nodes::Node;
use super::steering::Steerer;
use crate::config::SetUp;
use crate::dataplane::clock;
use crate::select::slot;

/// What the kernel was told last, and what it depends on.
#[derive(Default)]
pub struct Told {
    /// By pool: families and round.
    rounds: Vec<(u32, Vec<u16>)>,
    /// Nodes or pools have changed since.
    pub stale: bool,
    /// Some clients were blocked.
    blocked: bool,
    /// When a backend that failed gets clients again, monotonic ns; 0 for none.
    relents: u64,
}

impl Steerer {
    /// Tells the kernel if anything has changed. Cheap if nothing has.
    pub fn share_turns(&mut self) {
        if self.bindings.turns.is_none() {
            return;
        }
        let now = clock::now_ns();
        let blocked = !self.limits.get().clients.is_empty();
        let relents = self.told.relents;
        if !self.told.stale && blocked == self.told.blocked && (relents == 0 || now < relents) {
            return;
        }
        // Of pools that there are no more, too: an earlier agent may have written rounds of theirs.
        let rounds: Vec<_> = (0..TURN_POOLS as usize)
            .map(|pool| self.round(pool, blocked, now))
            .collect();
        if let Some(turns) = &self.bindings.turns {
            for (pool, wanted) in rounds.iter().enumerate() {
                if self.told.rounds.get(pool) != Some(wanted) {
                    turns.set(pool, wanted.0, &wanted.1);
                }
            }
        }
        let avoided = self.avoid.iter().filter(|until| **until > now);
        self.told = Told {
            rounds,
            stale: false,
            blocked,
            relents: avoided.min().copied().unwrap_or(0),
        };
    }

    /// Families and round of a pool.
    fn round(&self, pool: usize, blocked: bool, now: u64) -> (u32, Vec<u16>) {
        let nothing = (0, Vec::new());
        if blocked || self.set_up != SetUp::All {
            return nothing;
        }
        let failed = |number: u16| {
            let until = self.avoid.get(usize::from(number));
            until.is_some_and(|until| *until > now)
        };
        // One that failed a moment ago is better than none.
        let round = self.selector.round(pool, TURNS, failed);
        let Some(round) = round.or_else(|| self.selector.round(pool, TURNS, |_| false)) else {
            return nothing;
        };
        let members = || {
            let nodes = self.nodes.iter();
            nodes.filter(|node| round.contains(&node.number))
        };
        let mut families = 0;
        for v4 in [true, false] {
            if members().all(|node| takes(node, v4)) {
                families |= layout::Turns::family(v4);
            }
        }
        if families == 0 {
            return nothing;
        }
        let slots = round.iter().map(|number| slot(*number, true)).collect();
        (families, slots)
    }
}

/// Whether the kernel may open connections to a node over this family.
fn takes(node: &Node, v4: bool) -> bool {
    let mut paths = node.paths.iter();
    let reached = paths.any(|p| p.address.is_ipv4() == v4 && p.usable() && !p.direct);
    reached && node.max_flows.is_none()
}
