//! Choices as clients see them.

mod consistent;
mod least_connections;
mod round;

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

#[derive(Default)]
struct Table(HashMap<u64, Binding>);

impl Bindings for Table {
    fn get(&mut self, client: u64) -> Option<Binding> {
        self.0.get(&client).copied()
    }
    fn put(&mut self, client: u64, binding: Binding) {
        self.0.insert(client, binding);
    }
    fn turn(&mut self, _pool: usize) -> Option<u16> {
        None
    }
}

const UP: Node = Node {
    key: 0,
    weight: 1,
    ramp: FULL,
    state: NodeState::Up,
    v4: true,
    v6: true,
};

/// One pool of up nodes, numbered from 0 and named after their numbers.
fn selector_with(weights: &[u16], policy: Box<dyn Policy + Send>) -> Selector {
    let mut s = Selector::default();
    for (number, &weight) in (0..).zip(weights) {
        let key = node_key(&format!("emqx{number}"));
        s.set_node(number, Node { key, weight, ..UP });
    }
    s.add_pool((0..).take(weights.len()).collect(), policy);
    s
}

/// The same with round robin.
fn selector(weights: &[u16]) -> Selector {
    selector_with(weights, Box::<RoundRobin>::default())
}

/// A client without an identifier.
const NOBODY: Client = Client {
    binding: 0,
    shared: 0,
};

/// A client that has a binding, or not yet.
const fn bound(binding: u64) -> Client {
    Client {
        binding,
        shared: binding,
    }
}

/// Where the policy sends a client that is bound to nothing.
fn place(s: &mut Selector, client: Client) -> u16 {
    let (slot, by) = s
        .choose(0, true, client, &[], &mut Table::default())
        .unwrap();
    assert_eq!(by, By::Policy);
    node_of(slot)
}

/// How often each node is chosen for `clients` clients without a binding.
fn share(s: &mut Selector, nodes: usize, clients: usize) -> Vec<usize> {
    let mut counts = vec![0; nodes];
    for _ in 0..clients {
        counts[usize::from(place(s, NOBODY))] += 1;
    }
    counts
}

#[test]
fn ten_clients_on_three_equal_nodes() {
    assert_eq!(share(&mut selector(&[1, 1, 1]), 3, 10), [4, 3, 3]);
    assert_eq!(share(&mut selector(&[7, 7, 7]), 3, 10), [4, 3, 3]);
}

#[test]
fn a_thousand_clients_at_five_two_three() {
    assert_eq!(share(&mut selector(&[5, 2, 3]), 3, 1000), [500, 200, 300]);
}

#[test]
fn the_order_of_nginx() {
    // The example of nginx's commit 52327e0: weights 5, 1, 1.
    let mut s = selector(&[5, 1, 1]);
    let order: Vec<u16> = (0..7).map(|_| place(&mut s, NOBODY)).collect();
    assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn weight_zero_takes_only_those_bound_to_it() {
    let mut s = selector(&[1, 0]);
    assert_eq!(share(&mut s, 2, 20), [20, 0]);
    let mut table = Table::default();
    Selector::opened(77, slot(1, true), 5, &mut table);
    assert_eq!(
        s.choose(0, true, bound(77), &[], &mut table),
        Some((slot(1, true), By::Binding))
    );
    s.node_mut(0).unwrap().weight = 0;
    assert_eq!(s.choose(0, true, NOBODY, &[], &mut table), None);
}

#[test]
fn a_client_comes_back_over_the_other_family() {
    let mut s = selector(&[1, 1, 1]);
    let mut table = Table::default();
    Selector::opened(9, slot(2, false), 1234, &mut table);
    assert_eq!(
        table.0[&9],
        Binding {
            backend: slot(2, true),
            last_seen: 1234,
            ..Binding::default()
        }
    );
    for v4 in [true, false] {
        assert_eq!(
            s.choose(0, v4, bound(9), &[], &mut table),
            Some((slot(2, v4), By::Binding))
        );
    }
}

#[test]
fn no_identifier_no_binding() {
    let mut table = Table::default();
    Selector::opened(0, slot(2, true), 1, &mut table);
    assert!(table.0.is_empty());
}

#[test]
fn only_up_nodes_get_clients() {
    for state in [NodeState::Down, NodeState::Draining, NodeState::Disabled] {
        let mut s = selector(&[1, 1, 1]);
        s.node_mut(1).unwrap().state = state;
        let mut table = Table::default();
        Selector::opened(9, slot(1, true), 0, &mut table);
        let (chosen, by) = s.choose(0, true, bound(9), &[], &mut table).unwrap();
        assert_eq!(by, By::Policy, "{state:?}: bound clients go elsewhere");
        assert_ne!(node_of(chosen), 1);
        assert_eq!(share(&mut selector_like(&s, 3), 3, 10)[1], 0, "{state:?}");
    }
}

fn selector_like(s: &Selector, nodes: u16) -> Selector {
    let mut copy = selector(&vec![1; usize::from(nodes)]);
    for n in 0..nodes {
        copy.set_node(n, *s.node(n).unwrap());
    }
    copy
}

#[test]
fn a_binding_to_a_node_of_another_pool_or_of_none() {
    let mut s = selector(&[1, 1]);
    s.set_node(5, UP);
    let mut table = Table::default();
    Selector::opened(9, slot(5, true), 0, &mut table);
    assert_eq!(
        s.choose(0, true, bound(9), &[], &mut table).unwrap().1,
        By::Policy
    );
    s.remove_node(5);
    Selector::opened(9, slot(500, true), 0, &mut table);
    assert_eq!(
        s.choose(0, true, bound(9), &[], &mut table).unwrap().1,
        By::Policy
    );
    assert_eq!(
        s.choose(3, true, bound(9), &[], &mut table),
        None,
        "no such pool"
    );
}

#[test]
fn a_node_without_an_address_of_the_family() {
    let mut s = selector(&[1, 1]);
    s.node_mut(0).unwrap().v6 = false;
    for _ in 0..4 {
        assert_eq!(
            s.choose(0, false, NOBODY, &[], &mut Table::default()),
            Some((slot(1, false), By::Policy))
        );
    }
    assert_eq!(
        s.choose(0, false, NOBODY, &[slot(1, false)], &mut Table::default()),
        None
    );
}

#[test]
fn tried_ones_are_left_out_bound_or_not() {
    let mut s = selector(&[1, 1, 1]);
    let mut table = Table::default();
    Selector::opened(9, slot(1, true), 0, &mut table);
    let mut tried = vec![slot(1, true)];
    while let Some((chosen, by)) = s.choose(0, true, bound(9), &tried, &mut table) {
        assert_eq!(by, By::Policy);
        assert!(!tried.contains(&chosen));
        tried.push(chosen);
    }
    tried.sort_unstable();
    assert_eq!(tried, [0, 2, 4]);
}

fn weights() -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(0u16..30, 1..9).prop_filter("someone", |w| w.iter().any(|w| *w > 0))
}

proptest! {
    #[test]
    fn weights_are_exact_over_every_multiple_of_their_sum(w in weights(), rounds in 1usize..4) {
        let sum: usize = w.iter().map(|w| usize::from(*w)).sum();
        let want: Vec<usize> = w.iter().map(|w| usize::from(*w) * rounds).collect();
        prop_assert_eq!(share(&mut selector(&w), w.len(), sum * rounds), want);
    }

    #[test]
    /// A node is never a whole client above its share. Below it can be a little more than one (weights
    /// 29, 2, 29, 6, 15, 2: 1.06): smooth round robin pays the richest, not the one whose time runs out.
    fn never_far_from_the_share(w in weights()) {
        let sum: usize = w.iter().map(|w| usize::from(*w)).sum();
        let mut s = selector(&w);
        let mut counts = vec![0u32; w.len()];
        for n in 1..=sum {
            counts[usize::from(place(&mut s, NOBODY))] += 1;
            for (count, weight) in counts.iter().zip(&w) {
                let above = *count as f64 - n as f64 * f64::from(*weight) / sum as f64;
                prop_assert!(above < 1.0 && above > -1.5, "{counts:?} after {n} of {w:?}");
            }
        }
    }

    #[test]
    fn leaving_some_out_does_not_change_the_shares_of_the_others(w in weights(), out: u8, back in 0usize..50) {
        let sum: usize = w.iter().map(|w| usize::from(*w)).sum();
        let left_out = |i: usize| out >> i & 1 == 1;
        let rest: usize = w.iter().enumerate().filter(|(i, _)| !left_out(*i)).map(|(_, w)| usize::from(*w)).sum();
        prop_assume!(rest > 0);
        let mut s = selector(&w);
        for number in (0..w.len()).filter(|i| left_out(*i)) {
            s.node_mut(number as u16).unwrap().state = NodeState::Down;
        }
        let want: Vec<usize> = w.iter().enumerate().map(|(i, w)| if left_out(i) { 0 } else { usize::from(*w) * 2 }).collect();
        prop_assert_eq!(share(&mut s, w.len(), rest * 2), want);
        // Back again: no node makes up for the time that it was out.
        for number in 0..w.len() {
            s.node_mut(number as u16).unwrap().state = NodeState::Up;
        }
        let counts = share(&mut s, w.len(), sum + back);
        let fresh = share(&mut selector(&w), w.len(), sum + back);
        prop_assert_eq!(counts, fresh);
    }
}

#[test]
fn accounts_follow_the_nodes_that_stay() {
    let mut s = selector(&[1, 1, 1]);
    assert_eq!([place(&mut s, NOBODY), place(&mut s, NOBODY)], [0, 1]);
    // It is 2's turn, wherever it stands; then the round begins anew.
    s.set_node(7, UP);
    s.set_pool(0, vec![2, 7, 0]);
    assert_eq!(place(&mut s, NOBODY), 2);
    assert_eq!(share(&mut s, 8, 30), [10, 0, 10, 0, 0, 0, 0, 10]);
}

#[test]
fn a_number_that_comes_back_begins_without_debts() {
    let mut s = selector(&[1, 1000]);
    for _ in 0..500 {
        place(&mut s, NOBODY);
    }
    s.set_pool(0, vec![0]);
    s.set_pool(0, vec![0, 1]);
    s.node_mut(0).unwrap().weight = 1000;
    let counts = share(&mut s, 2, 20);
    assert!(counts.iter().all(|n| (9..=11).contains(n)), "{counts:?}");
}

#[test]
fn a_smaller_weight_ends_no_long_queue() {
    let mut s = selector(&[1000, 1000]);
    place(&mut s, NOBODY);
    for number in 0..2 {
        s.node_mut(number).unwrap().weight = 1;
    }
    assert_eq!([place(&mut s, NOBODY), place(&mut s, NOBODY)], [1, 0]);
    assert_eq!(share(&mut s, 2, 10), [5, 5]);
}

#[test]
fn a_node_in_slow_start_gets_part_of_its_share() {
    let mut s = selector(&[1, 1]);
    s.node_mut(1).unwrap().ramp = FULL / 8;
    assert_eq!(share(&mut s, 2, 90), [80, 10]);
    // Not even at the very beginning it is left out for good.
    s.node_mut(1).unwrap().ramp = 0;
    assert_eq!(share(&mut s, 2, 257 * 2), [512, 2]);
}

/// A ramp that moves with every client leaves everybody their part.
#[test]
fn a_ramp_that_moves_all_the_time() {
    let mut s = selector(&[1, 1]);
    let mut counts = [0; 2];
    for step in 0..FULL {
        s.node_mut(1).unwrap().ramp = step;
        counts[usize::from(place(&mut s, NOBODY))] += 1;
    }
    // The integral of r / (1 + r) from 0 to 1 is 1 − ln 2: 78.6 of 256.
    assert!((76..=81).contains(&counts[1]), "{counts:?}");
}

#[test]
fn another_policy_for_a_pool() {
    let mut s = selector(&[1, 1]);
    s.set_flows(0, 5);
    assert_eq!(share(&mut s, 2, 2), [1, 1]);
    s.set_policy(0, Box::<LeastConnections>::default());
    assert_eq!(share(&mut s, 2, 5), [0, 5]);
}
