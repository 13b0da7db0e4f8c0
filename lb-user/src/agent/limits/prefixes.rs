//! A set of prefixes that is asked about many addresses.

use std::collections::{BTreeMap, HashSet};

use lb_common::limits::source::masked;

/// Prefixes (v4-mapped) by their length: as many look-ups as there are lengths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes(BTreeMap<u8, HashSet<[u8; 16]>>);

impl Prefixes {
    /// Whether one of them holds the address.
    #[must_use]
    pub fn hold(&self, address: &[u8; 16]) -> bool {
        self.0
            .iter()
            .any(|(bits, of)| of.contains(&masked(address, *bits)))
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<([u8; 16], u8)> for Prefixes {
    fn from_iter<I: IntoIterator<Item = ([u8; 16], u8)>>(prefixes: I) -> Self {
        let mut set: BTreeMap<u8, HashSet<_>> = BTreeMap::new();
        for (address, bits) in prefixes {
            set.entry(bits).or_default().insert(masked(&address, bits));
        }
        Self(set)
    }
}
