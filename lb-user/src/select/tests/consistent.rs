//! `consistent`: whose client is whose, and what moves when.

use super::*;

/// Far more than any share: ranks alone decide.
const UNBOUNDED: u32 = 1_000_000;

fn selector(weights: &[u16], max_load: u32) -> Selector {
    selector_with(weights, Box::new(Consistent::new(max_load)))
}

fn client(id: usize) -> Client {
    Client {
        binding: 0,
        shared: shared_hash(format!("sensor-{id}").as_bytes()),
    }
}

/// The node of each of `clients` clients when none is connected.
fn homes(s: &mut Selector, nodes: u16, clients: usize) -> Vec<u16> {
    (0..clients)
        .map(|id| {
            let home = place(s, client(id));
            (0..nodes).for_each(|number| s.set_flows(number, 0));
            home
        })
        .collect()
}

#[test]
fn each_node_gets_its_weights_share_of_identifiers() {
    const CLIENTS: usize = 20_000;
    for weights in [
        &[1, 1, 1][..],
        &[5, 2, 3],
        &[1000, 1, 200, 30],
        &[65_535, 65_535],
    ] {
        let mut s = selector(weights, UNBOUNDED);
        let homes = homes(&mut s, weights.len() as u16, CLIENTS);
        let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        for (number, weight) in (0..).zip(weights) {
            let expected = f64::from(*weight) / sum;
            let got = homes.iter().filter(|home| **home == number).count() as f64;
            // Four standard deviations of what chance alone does.
            let allowed = 4.0 * (CLIENTS as f64 * expected * (1.0 - expected)).sqrt();
            let error = got - expected * CLIENTS as f64;
            assert!(
                error.abs() <= allowed,
                "{weights:?}: {got} of {number}, {error} too many"
            );
        }
    }
}

#[test]
fn two_balancers_agree_whatever_the_order_in_their_files() {
    let names = ["emqx1", "emqx2", "emqx3", "emqx4", "emqx5"];
    let balancer = |order: [usize; 5], first_number: u16| {
        let mut s = Selector::default();
        let numbers: Vec<u16> = (first_number..).take(5).collect();
        for (&number, &name) in numbers.iter().zip(&order) {
            let node = Node {
                key: node_key(names[name]),
                weight: 1 + name as u16,
                ..UP
            };
            s.set_node(number, node);
        }
        s.add_pool(numbers, Box::new(Consistent::new(UNBOUNDED)));
        move |id: usize, tried: &[usize]| {
            let slots: Vec<u16> = tried
                .iter()
                .map(|name| order.iter().position(|n| n == name).unwrap() as u16 + first_number)
                .map(|number| slot(number, true))
                .collect();
            let (chosen, _) = s.choose(0, true, client(id), &slots, &mut Table::default())?;
            Some(order[usize::from(node_of(chosen) - first_number)])
        }
    };
    let mut one = balancer([0, 1, 2, 3, 4], 0);
    let mut other = balancer([3, 1, 4, 0, 2], 40);
    for id in 0..2000 {
        let mut tried = Vec::new();
        while let Some(name) = one(id, &tried) {
            assert_eq!(other(id, &tried), Some(name), "sensor-{id} after {tried:?}");
            tried.push(name);
        }
        assert_eq!(tried.len(), 5);
    }
}

#[test]
fn clients_without_an_identifier_take_turns() {
    let mut s = selector(&[1, 1, 2], UNBOUNDED);
    assert_eq!(share(&mut s, 3, 400), [100, 100, 200]);
}

#[test]
fn one_identifier_over_and_over_spills_to_the_next_in_rank() {
    let mut s = selector(&[1, 1, 1, 1], 125);
    let mut order = Vec::new();
    for _ in 0..400 {
        let number = place(&mut s, client(7));
        if !order.contains(&number) {
            order.push(number);
        }
    }
    // In rank order the first three are at their bound, the last gets what is left over.
    let loads: Vec<u32> = order.iter().map(|number| s.load(*number)).collect();
    assert_eq!(loads, [125, 125, 125, 25]);
}

#[test]
fn a_full_share_is_of_those_that_take_clients() {
    let mut s = selector(&[1, 1, 1], 125);
    s.set_flows(0, 1000);
    s.node_mut(0).unwrap().state = NodeState::Draining;
    // What the draining one still has gives the others no room.
    for id in 0..100 {
        place(&mut s, client(id));
    }
    assert!(
        s.load(1) <= 63 && s.load(2) <= 63,
        "{} {}",
        s.load(1),
        s.load(2)
    );
}

proptest! {
    /// Without one node its clients go to others, and no other client moves; it gets all of them back.
    #[test]
    fn only_the_clients_of_a_lost_node_move(w in prop::collection::vec(1u16..20, 2..8), lost in 0usize..8) {
        let lost = (lost % w.len()) as u16;
        let nodes = w.len() as u16;
        let mut s = selector(&w, UNBOUNDED);
        let before = homes(&mut s, nodes, 300);
        s.node_mut(lost).unwrap().state = NodeState::Down;
        let without = homes(&mut s, nodes, 300);
        for (was, is) in before.iter().zip(&without) {
            prop_assert!(*is != lost);
            prop_assert!(*was == lost || was == is);
        }
        s.set_pool(0, (0..nodes).filter(|number| *number != lost).collect());
        prop_assert_eq!(homes(&mut s, nodes, 300), without);
        s.node_mut(lost).unwrap().state = NodeState::Up;
        s.set_pool(0, (0..nodes).rev().collect());
        prop_assert_eq!(homes(&mut s, nodes, 300), before);
    }

    /// More weight for one node takes clients from others, and moves none between those.
    #[test]
    fn more_weight_only_attracts(w in prop::collection::vec(1u16..20, 2..8), more in 1u16..50) {
        let nodes = w.len() as u16;
        let mut s = selector(&w, UNBOUNDED);
        let before = homes(&mut s, nodes, 300);
        s.node_mut(0).unwrap().weight += more;
        for (was, is) in before.iter().zip(homes(&mut s, nodes, 300)) {
            prop_assert!(*was == is || is == 0);
        }
    }

    /// No node that gets a client has more than its bound then, rounded up; some node always takes it.
    #[test]
    fn the_bound_holds(
        w in prop::collection::vec(1u16..20, 1..8),
        max_load in 101u32..300,
        start in prop::collection::vec(0u32..50, 8),
        ids in prop::collection::vec(0usize..20, 1..200),
    ) {
        let mut s = selector(&w, max_load);
        for (number, flows) in (0..).zip(&start[..w.len()]) {
            s.set_flows(number, *flows);
        }
        let sum: u64 = w.iter().map(|w| u64::from(*w)).sum();
        for id in ids {
            let number = place(&mut s, client(id));
            let all: u64 = (0..w.len()).map(|n| u64::from(s.load(n as u16))).sum();
            let weight = u64::from(w[usize::from(number)]);
            let bound = (u64::from(max_load) * all * weight).div_ceil(100 * sum);
            prop_assert!(u64::from(s.load(number)) <= bound, "{} of {all}, bound {bound}", s.load(number));
        }
    }
}
