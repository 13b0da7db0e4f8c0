//! `least-connections`.

use super::*;

fn selector(weights: &[u16]) -> Selector {
    selector_with(weights, Box::<LeastConnections>::default())
}

#[test]
fn the_emptiest_in_proportion_to_its_weight() {
    for (weights, flows, want) in [
        ([1, 1, 1], [3, 2, 3], 1),
        ([1, 1, 1], [0, 9, 9], 0),
        // (flows + 1) / weight: 11/10, 2/1, 21/20.
        ([10, 1, 20], [10, 1, 20], 2),
        // One connection more on an empty node of weight 1 would be as many per weight as 4 on one of 4.
        ([4, 4, 1], [4, 4, 0], 2),
        ([4, 0, 1], [40, 0, 30], 0),
    ] {
        let mut s = selector(&weights);
        for (number, flows) in (0..).zip(flows) {
            s.set_flows(number, flows);
        }
        assert_eq!(place(&mut s, NOBODY), want, "{weights:?} {flows:?}");
    }
}

#[test]
fn a_burst_between_two_counts_spreads() {
    let mut s = selector(&[1, 1, 2]);
    for (number, flows) in [(0, 100), (1, 96), (2, 200)] {
        s.set_flows(number, flows);
    }
    // Four to the one that lacks four, then all by weight.
    assert_eq!(share(&mut s, 3, 4), [0, 4, 0]);
    assert_eq!(share(&mut s, 3, 400), [100, 100, 200]);
    assert_eq!((s.load(0), s.load(1), s.load(2)), (200, 200, 400));
    // The next count replaces what was added.
    s.set_flows(0, 150);
    assert_eq!(s.load(0), 150);
    assert_eq!(share(&mut s, 3, 50), [50, 0, 0]);
}

#[test]
fn what_came_to_nothing_does_not_count() {
    let mut s = selector(&[1, 1]);
    for _ in 0..10 {
        let (slot, _) = s
            .choose(0, true, NOBODY, &[slot(1, true)], &mut Table::default())
            .unwrap();
        s.failed(slot);
    }
    assert_eq!(s.load(0), 0);
    assert_eq!(share(&mut s, 2, 10), [5, 5]);
}

#[test]
fn a_node_in_slow_start_gets_its_part() {
    let mut s = selector(&[1, 1]);
    s.node_mut(1).unwrap().ramp = FULL / 4;
    assert_eq!(share(&mut s, 2, 100), [80, 20]);
    s.node_mut(1).unwrap().ramp = FULL;
    assert_eq!(share(&mut s, 2, 60), [0, 60]);
}

proptest! {
    /// From any start, a node gets clients only while no other has less per weight, so that after enough
    /// of them all have their share, to one client.
    #[test]
    fn fills_up_to_the_shares(w in prop::collection::vec(1u16..20, 2..6), start in prop::collection::vec(0u32..30, 6)) {
        let mut s = selector(&w);
        for (number, flows) in (0..).zip(&start[..w.len()]) {
            s.set_flows(number, *flows);
        }
        let sum: u32 = w.iter().map(|w| u32::from(*w)).sum();
        let all = 60 * sum;
        let begun: u32 = start[..w.len()].iter().sum();
        share(&mut s, w.len(), (all - begun) as usize);
        for (number, weight) in (0..).zip(&w) {
            prop_assert_eq!(s.load(number), 60 * u32::from(*weight));
        }
    }

    /// Nodes that tie take turns, also while nobody stays.
    #[test]
    fn equal_nodes_take_turns(nodes in 1usize..9, rounds in 1usize..5) {
        let mut s = selector(&vec![3; nodes]);
        let mut counts = vec![0; nodes];
        for _ in 0..nodes * rounds {
            let number = place(&mut s, NOBODY);
            counts[usize::from(number)] += 1;
            s.set_flows(number, 0);
        }
        prop_assert_eq!(counts, vec![rounds; nodes]);
    }
}
