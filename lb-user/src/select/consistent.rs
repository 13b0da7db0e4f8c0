//! Weighted rendezvous hashing with bounded load.
//!
//! Each pair of a client identifier and a node has a score that follows from the two alone: −log2 of
//! their hash, read as a number between 0 and 1, divided by the node's weight. The least score wins; with
//! that, each node gets its weight's share of all identifiers, and each identifier has an order of all
//! nodes. A client whose node is gone, down or tried already takes the next one in that order, and
//! nobody else moves (Thaler and Ravishankar, 1998; weights by Schindelhauer and Schomaker, 2005).
//!
//! **Bounded load** (Mirrokni, Thorup and Zadimoghaddam, 2018): a node with more connections than
//! `max_load` percent of its fair share is passed over. The share is that of the connections of all nodes
//! that take new clients, the one to come included, so one of them always has room.
//!
//! **Agreement.** Balancers with the same configuration rank the nodes alike for every identifier, without
//! talking: hash keys are constants, a node's key is its name's hash and not its place in the file, and
//! the logarithm is computed in integers, because that of floating-point libraries may differ in its last
//! bit from machine to machine. Whether a node is over its bound depends on the connections through one's
//! own balancer: while one is, two balancers may differ about the clients that it would have got.

use super::policy::{Candidate, Policy};
use super::round_robin::RoundRobin;
use lb_common::siphash::{self, Key};

/// Keys of the hashes; never to be changed, since balancers of different versions must agree. They are no
/// secret: someone who makes up identifiers that all want the same node meets the bound.
const CLIENT: Key = [0x6d71_6c62_2063_6c69, 0x656e_7420_6861_7368];
const NODE: Key = [0x6d71_6c62_206e_6f64, 0x6520_6e61_6d65_2e2e];
const PAIR: Key = [0x6d71_6c62_2070_6169, 0x7220_7363_6f72_652e];

/// Bits of a score behind the point.
const FRACTION: u32 = 48;

/// Hash of a client identifier that all balancers agree on; 0 only for the empty one.
#[must_use]
pub fn shared_hash(identifier: &[u8]) -> u64 {
    if identifier.is_empty() {
        0
    } else {
        siphash::bytes(&CLIENT, identifier).max(1)
    }
}

/// Hash of a node's name.
#[must_use]
pub fn node_key(name: &str) -> u64 {
    siphash::bytes(&NODE, name.as_bytes())
}

/// Ranks nodes by client identifier.
#[derive(Debug)]
pub struct Consistent {
    /// Most connections of a node, in percent of its fair share; above 100.
    max_load: u32,
    /// For clients without an identifier.
    turns: RoundRobin,
}

impl Consistent {
    /// With a bound in percent of the fair share; what is below 100 counts as 100.
    #[must_use]
    pub fn new(max_load: u32) -> Self {
        Self {
            max_load: max_load.max(100),
            turns: RoundRobin::default(),
        }
    }
}

impl Policy for Consistent {
    fn choose(&mut self, client: u64, candidates: &[Candidate]) -> Option<usize> {
        let (mut weights, mut flows) = (0u128, 1u128);
        for candidate in candidates.iter().filter(|c| c.takes_new()) {
            weights += u128::from(candidate.weight);
            flows += u128::from(candidate.flows);
        }
        let most = u128::from(self.max_load) * flows;
        // flows of it < ceil(max_load / 100 × flows of all × weight / weights of all). For a whole number
        // on the left that is the same without ceil, and all factors can be moved to where they multiply.
        let has_room = |c: &Candidate| {
            c.takes_new() && u128::from(c.flows) * 100 * weights < most * u128::from(c.weight)
        };
        if client == 0 {
            return self.turns.turn(candidates, has_room);
        }
        let mut best: Option<(usize, u64)> = None;
        for (i, candidate) in candidates.iter().enumerate().filter(|(_, c)| has_room(c)) {
            let score = score(client, candidate.key);
            if best.is_none_or(|(b, least)| precedes((score, candidate), (least, &candidates[b]))) {
                best = Some((i, score));
            }
        }
        best.map(|(i, _)| i)
    }

    fn forget(&mut self, number: u16) {
        self.turns.forget(number);
    }
}

/// Whether `a` comes before `b` in a client's order: the lower score per weight; should they be equal,
/// the lower key.
fn precedes(a: (u64, &Candidate), b: (u64, &Candidate)) -> bool {
    let scaled = |score: u64, by: u32| u128::from(score) * u128::from(by);
    let (of_a, of_b) = (scaled(a.0, b.1.weight), scaled(b.0, a.1.weight));
    (of_a, a.1.key) < (of_b, b.1.key)
}

/// −log2 of the pair's hash as a number between 0 and 1, in 2^-48.
fn score(client: u64, node: u64) -> u64 {
    let hash = siphash::words(&PAIR, &[client, node]).max(1);
    (64 << FRACTION) - log2(hash)
}

/// The logarithm of `x` ≥ 1 to base 2, in 2^-48, rounded down: the mantissa is squared again and again,
/// and each time that it passes 2 is a bit of the result (Knuth, TAOCP 1, section 1.2.2, exercise 25).
fn log2(x: u64) -> u64 {
    let zeros = x.leading_zeros();
    let mut out = u64::from(63 - zeros) << FRACTION;
    // In 2^-63, from 1 to below 2.
    let mut mantissa = u128::from(x << zeros);
    for bit in (0..FRACTION).rev() {
        mantissa = (mantissa * mantissa) >> 63;
        if mantissa >> 64 != 0 {
            mantissa >>= 1;
            out |= 1 << bit;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Balancers of all versions and machines must agree with these. Computed apart from this program, with
    /// 60 decimal places.
    #[test]
    fn the_numbers_of_every_version() {
        for (identifier, node, want) in PINNED {
            let got = score(shared_hash(identifier.as_bytes()), node_key(node));
            assert_eq!(got, want, "{identifier:?} {node:?}");
        }
    }

    const PINNED: [(&str, &str, u64); 4] = [
        ("sensor-1", "emqx1", 480_143_966_733_924),
        ("sensor-1", "emqx2", 27_284_478_467_925),
        ("ü", "emqx1", 301_172_356_118_385),
        ("a", "a", 58_144_466_773_623),
    ];

    #[test]
    fn logarithms_of_powers_of_two() {
        for exponent in 0..64 {
            assert_eq!(log2(1 << exponent), exponent << FRACTION);
        }
        assert_eq!(log2(u64::MAX), (64 << FRACTION) - 1);
    }

    #[test]
    fn only_the_empty_identifier_has_no_hash() {
        assert_eq!(shared_hash(b""), 0);
        assert_ne!(shared_hash(b"\0"), 0);
    }

    proptest! {
        #[test]
        fn logarithms_are_those_of_the_library(x in 1u64..) {
            let scale = (1u64 << FRACTION) as f64;
            let error = log2(x) as f64 / scale - (x as f64).log2();
            prop_assert!(error.abs() < 1e-12, "{error}");
        }
    }
}
