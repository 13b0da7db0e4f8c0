//! Nodes that came back under their name with another address, as containers do. Connections to the earlier address
//! keep its number until they are over, so the node has another one; its clients are bound to the earlier.

use std::collections::BTreeMap;

use super::nodes::Node;

/// From numbers that nodes had to those that they have.
#[derive(Debug, Default)]
pub(super) struct Moved(BTreeMap<u16, u16>);

impl Moved {
    /// Takes note of nodes that have other numbers `now` than they had `earlier`.
    pub fn note(&mut self, earlier: &[Node], now: &[Node]) {
        for node in now.iter().filter(|n| n.pool.is_some()) {
            let same = |n: &&Node| {
                n.pool.is_some() && (&n.pool_name, &n.name) == (&node.pool_name, &node.name)
            };
            if let Some(old) = earlier.iter().find(same)
                && old.number != node.number
            {
                self.0.insert(old.number, node.number);
                for to in self.0.values_mut().filter(|to| **to == old.number) {
                    *to = node.number;
                }
            }
        }
        let there = |number: u16| {
            let mut configured = now.iter().filter(|n| n.pool.is_some());
            configured.any(|n| n.number == number)
        };
        // A number that is a node's again is that node's alone.
        self.0.retain(|from, to| !there(*from) && there(*to));
    }

    /// The number that a node has now.
    pub fn now(&self, number: u16) -> u16 {
        *self.0.get(&number).unwrap_or(&number)
    }

    /// Whether clients may be bound to the number for a node that has another now.
    pub fn is_remembered(&self, number: u16) -> bool {
        self.0.contains_key(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::nodes::number;
    use crate::agent::nodes::tests::{TWO_POOLS, config, map};

    /// The node `emqx1` of pool `a` at these addresses one after the other, and its number each time; connections to
    /// the earlier one are over at once, or not.
    fn numbers(addresses: &[&str], over: bool) -> (Moved, Vec<u16>) {
        let (mut moved, mut earlier) = (Moved::default(), Vec::<Node>::new());
        let mut numbers = Vec::new();
        for address in addresses {
            let text = TWO_POOLS.replacen("10.77.1.2", address, 1);
            let configured = earlier.iter().filter(|n| n.pool.is_some());
            let names: Vec<_> = configured
                .clone()
                .map(|n| (n.pool_name.as_str(), n.name.as_str(), n.number))
                .collect();
            let known = match over {
                true => map(&configured.cloned().collect::<Vec<_>>()),
                false => map(&earlier),
            };
            let nodes = number(&config(&text), &known, &names, &moved).unwrap();
            moved.note(&earlier, &nodes);
            numbers.push(nodes[0].number);
            earlier = nodes;
        }
        (moved, numbers)
    }

    #[test]
    fn clients_of_every_earlier_number_find_their_node() {
        for over in [false, true] {
            let (moved, numbers) = numbers(&["10.77.1.5", "10.77.1.6", "10.77.1.7"], over);
            assert_eq!(numbers, [0, 2, 3]);
            assert_eq!([0, 1, 2, 3].map(|n| moved.now(n)), [3, 1, 3, 3]);
        }
    }

    #[test]
    fn a_node_at_its_first_address_again_is_the_first_number() {
        let (moved, numbers) = numbers(&["10.77.1.5", "10.77.1.6", "10.77.1.5"], false);
        assert_eq!(numbers, [0, 2, 0]);
        assert_eq!([0, 1, 2].map(|n| moved.now(n)), [0, 1, 0]);
    }

    #[test]
    fn a_number_is_forgotten_with_its_node() {
        let (mut moved, _) = numbers(&["10.77.1.5", "10.77.1.6"], false);
        assert!(moved.is_remembered(0));
        moved.note(&[], &[]);
        assert!(!moved.is_remembered(0));
    }
}
