//! Smooth weighted round robin, as in nginx (`ngx_http_upstream_get_peer`) and LVS: every node gains its
//! weight, the richest is chosen and pays the sum of all.

use super::policy::{Candidate, Policy};

/// The accounts of a pool's nodes.
#[derive(Debug, Default)]
pub struct RoundRobin {
    /// By the node's number.
    accounts: Vec<i64>,
    /// Sum of the weights that the accounts are kept in.
    total: i64,
}

impl RoundRobin {
    /// The next one of those that are `eligible`. The others neither gain nor pay: what they owe each
    /// other, and the sum of all accounts (0), stays as it was.
    pub(super) fn turn(
        &mut self,
        candidates: &[Candidate],
        eligible: impl Fn(&Candidate) -> bool,
    ) -> Option<usize> {
        self.convert(candidates);
        let mut total = 0;
        let mut richest: Option<(usize, i64)> = None;
        for (i, candidate) in candidates.iter().enumerate().filter(|(_, c)| eligible(c)) {
            let weight = i64::from(candidate.weight);
            total += weight;
            let account = &mut self.accounts[usize::from(candidate.number)];
            *account += weight;
            if richest.is_none_or(|(_, most)| *account > most) {
                richest = Some((i, *account));
            }
        }
        let (chosen, _) = richest?;
        self.accounts[usize::from(candidates[chosen].number)] -= total;
        Some(chosen)
    }

    /// Makes room for every node, and keeps accounts in proportion when weights change: what was saved
    /// up at a weight of 1000 would be a long time's income at a weight of 1.
    fn convert(&mut self, candidates: &[Candidate]) {
        let numbers = candidates.iter().map(|c| usize::from(c.number) + 1);
        let len = numbers.max().unwrap_or(0).max(self.accounts.len());
        self.accounts.resize(len, 0);
        let total = candidates.iter().map(|c| i64::from(c.weight)).sum();
        if total == self.total || total == 0 {
            return;
        }
        if self.total != 0 {
            for account in &mut self.accounts {
                // An account is at most a few totals, a total below 2^48.
                let scaled = i128::from(*account) * i128::from(total) / i128::from(self.total);
                *account = i64::try_from(scaled).unwrap_or(0);
            }
        }
        self.total = total;
    }
}

/// The turns until all accounts are what they were at the start, by the nodes' numbers: each node as often as
/// its weight says, in smooth order. `None` if these are more than `most`, or if nobody takes clients.
fn round(candidates: &[Candidate], most: usize) -> Option<Vec<u16>> {
    let weights = || {
        let takers = candidates.iter().filter(|c| c.takes_new());
        takers.map(|c| u64::from(c.weight))
    };
    let divisor = weights().fold(0, gcd);
    let len = usize::try_from(weights().sum::<u64>().checked_div(divisor)?).ok()?;
    if len > most {
        return None;
    }
    let mut turns = RoundRobin::default();
    let mut next = |_| {
        let chosen = turns.turn(candidates, Candidate::takes_new)?;
        Some(candidates[chosen].number)
    };
    (0..len).map(&mut next).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Policy for RoundRobin {
    fn round(&self, candidates: &[Candidate], most: usize) -> Option<Vec<u16>> {
        round(candidates, most)
    }

    fn choose(&mut self, _client: u64, candidates: &[Candidate]) -> Option<usize> {
        self.turn(candidates, Candidate::takes_new)
    }

    fn forget(&mut self, number: u16) {
        if let Some(account) = self.accounts.get_mut(usize::from(number)) {
            *account = 0;
        }
    }
}
