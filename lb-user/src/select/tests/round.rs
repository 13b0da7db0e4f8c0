//! Rounds that others choose by.

use super::*;

const ALL: fn(u16) -> bool = |_| false;

#[test]
fn a_round_is_what_the_policy_would_choose_until_it_begins_anew() {
    for (weights, len) in [
        (vec![5, 2, 3], 10),
        (vec![1, 1, 1], 3),
        (vec![1000, 500], 3),
        (vec![7], 1),
        (vec![5, 0, 1], 6),
        (vec![1, 1023], 1024),
    ] {
        let mut s = selector(&weights);
        let round = s.round(0, 1024, ALL).unwrap();
        assert_eq!(round.len(), len, "{weights:?}");
        for _ in 0..2 {
            let chosen: Vec<_> = (0..len).map(|_| place(&mut s, NOBODY)).collect();
            assert_eq!(chosen, round, "{weights:?}");
        }
    }
}

#[test]
fn a_round_is_only_of_those_that_take_new_clients() {
    let mut s = selector(&[1, 1, 1, 1]);
    s.node_mut(1).unwrap().state = NodeState::Draining;
    assert_eq!(s.round(0, 9, |number| number == 2), Some(vec![0, 3]));
    assert_eq!(s.round(0, 9, |_| true), None);
    assert_eq!(s.round(1, 9, ALL), None, "there is no such pool");
}

#[test]
fn long_rounds_and_those_of_other_policies_are_none() {
    assert_eq!(selector(&[1, 1024]).round(0, 1024, ALL), None);
    // Slow start: 256ths of a weight.
    let mut s = selector(&[5, 5]);
    s.node_mut(0).unwrap().ramp = 255;
    assert_eq!(s.round(0, 510, ALL), None);
    assert_eq!(s.round(0, 511, ALL).unwrap().len(), 511);
    let policies: [Box<dyn Policy + Send>; 2] = [
        Box::<LeastConnections>::default(),
        Box::new(Consistent::new(125)),
    ];
    for policy in policies {
        assert_eq!(selector_with(&[1, 1], policy).round(0, 9, ALL), None);
    }
}

/// Bindings of someone whose turns are shared.
struct Sharing(Table, Vec<u16>);

impl Bindings for Sharing {
    fn get(&mut self, client: u64) -> Option<Binding> {
        self.0.get(client)
    }
    fn put(&mut self, client: u64, binding: Binding) {
        self.0.put(client, binding);
    }
    fn turn(&mut self, _pool: usize) -> Option<u16> {
        (!self.1.is_empty()).then(|| self.1.remove(0))
    }
}

#[test]
fn shared_turns_come_before_the_policy_where_they_can_be_taken() {
    let mut s = selector(&[1, 0, 1]);
    let mut shared = Sharing(Table::default(), vec![2, 2, 1, 9, 2]);
    let mut choose = |client, tried: &[u16]| {
        let (slot, by) = s.choose(0, true, client, tried, &mut shared).unwrap();
        assert_eq!(by, By::Policy);
        node_of(slot)
    };
    assert_eq!([choose(NOBODY, &[]), choose(bound(7), &[])], [2, 2]);
    // Who has no weight, is in another pool, or was tried: the policy goes on by itself.
    assert_eq!([choose(NOBODY, &[]), choose(NOBODY, &[])], [0, 2]);
    assert_eq!(choose(NOBODY, &[slot(2, true)]), 0);
    let binding = Binding {
        backend: slot(0, true),
        ..Binding::default()
    };
    shared.put(7, binding);
    shared.1.push(2);
    let bound = s.choose(0, true, bound(7), &[], &mut shared);
    assert_eq!(bound, Some((slot(0, true), By::Binding)));
    assert_eq!(shared.1, [2], "who is bound takes no turn");
}
