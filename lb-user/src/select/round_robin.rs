//! Smooth weighted round robin, as in nginx (`ngx_http_upstream_get_peer`) and LVS: every node gains its
//! weight, the richest is chosen and pays the sum of all.

use super::policy::{Candidate, Policy};

/// The accounts of a pool's nodes.
#[derive(Debug, Default)]
pub struct RoundRobin {
    accounts: Vec<i64>,
}

impl Policy for RoundRobin {
    fn choose(&mut self, _client: u64, candidates: &[Candidate]) -> Option<usize> {
        self.accounts.resize(candidates.len(), 0);
        let mut total = 0;
        let mut richest: Option<usize> = None;
        for (i, candidate) in candidates.iter().enumerate() {
            // Those that can't be chosen neither gain nor pay: what the others owe each other, and the
            // sum of all accounts (0), stays as it was.
            if !candidate.takes_new() {
                continue;
            }
            let weight = i64::from(candidate.weight);
            total += weight;
            self.accounts[i] += weight;
            if richest.is_none_or(|r| self.accounts[i] > self.accounts[r]) {
                richest = Some(i);
            }
        }
        let chosen = richest?;
        self.accounts[chosen] -= total;
        Some(chosen)
    }
}
