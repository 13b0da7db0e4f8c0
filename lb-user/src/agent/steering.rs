//! The real [`Steering`]: pools, bindings in the kernel's map, and what is known of each backend.

use aya::maps::{HashMap, MapData};
use lb_common::layout::{Binding, Endpoint, ticks};
use lb_common::options::Offered;

use super::nodes::Node;
use crate::config::Config;
use crate::dataplane::clock;
use crate::select::{self, NodeState, RoundRobin, Selector, node_of, slot};
use crate::setup::{Choice, Failure, Request, Steering};

/// How long a backend that failed is passed over while another one is left.
const AVOID: u64 = 2_000_000_000;

/// Bindings in the kernel's LRU map.
struct Table {
    map: HashMap<MapData, u64, Binding>,
    /// Ticks after which a binding of a client that left is void.
    linger: u32,
}

impl select::Bindings for Table {
    fn get(&mut self, client: u64) -> Option<Binding> {
        let binding = self.map.get(&client, 0).ok()?;
        let age = ticks::since(ticks::from_ns(clock::now_ns()), binding.last_seen);
        (age <= self.linger).then_some(binding)
    }

    fn put(&mut self, client: u64, binding: Binding) {
        if let Err(error) = self.map.insert(client, binding, 0) {
            tracing::warn!("a binding can't be written: {error}");
        }
    }
}

/// Counts of one backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub assigned: u64,
    pub failures: u64,
}

/// Chooses backends.
pub struct Steerer {
    selector: Selector,
    bindings: Table,
    pub nodes: Vec<Node>,
    /// By the node's number: passed over until then, monotonic ns.
    avoid: Vec<u64>,
    /// By the node's number.
    pub tally: Vec<Tally>,
    /// Pool of each listener index.
    pools: Vec<usize>,
    /// Listeners whose promises must shrink, with what a backend offered.
    pub learnt: Vec<(u8, Offered)>,
}

impl Steerer {
    /// `pools` maps the data path's listener indices to pools.
    pub fn new(
        config: &Config,
        nodes: Vec<Node>,
        pools: Vec<usize>,
        bindings: HashMap<MapData, u64, Binding>,
    ) -> Self {
        let count = nodes
            .iter()
            .map(|n| usize::from(n.number) + 1)
            .max()
            .unwrap_or(0);
        let mut selector = Selector::default();
        for pool in 0..config.pools.len() {
            let members = nodes
                .iter()
                .filter(|n| n.pool == pool)
                .map(|n| n.number)
                .collect();
            selector.add_pool(members, Box::new(RoundRobin::default()));
        }
        let mut steerer = Self {
            selector,
            bindings: Table {
                map: bindings,
                linger: ticks::span(
                    u64::try_from(config.bindings.linger.as_nanos()).unwrap_or(u64::MAX),
                ),
            },
            nodes,
            avoid: vec![0; count],
            tally: vec![Tally::default(); count],
            pools,
            learnt: Vec::new(),
        };
        for i in 0..steerer.nodes.len() {
            steerer.refresh(i);
        }
        steerer
    }

    /// The backend in a slot.
    fn choice(&self, slot: u16) -> Option<Choice> {
        let node = self.nodes.iter().find(|n| n.number == node_of(slot))?;
        let path = node.paths.iter().find(|p| p.slot == slot)?;
        Some(Choice {
            slot,
            address: super::nodes::mapped(path.address.ip()),
            port: path.address.port().to_be_bytes(),
            hop: path.hop?,
            hop_generation: path.generation,
            mss: path.mss,
            snat: path.snat.clone(),
        })
    }

    /// Tells the selector what a node can do now.
    pub fn refresh(&mut self, index: usize) {
        let n = &self.nodes[index];
        let reachable = |v4| {
            n.paths
                .iter()
                .any(|p| p.address.is_ipv4() == v4 && p.hop.is_some())
        };
        let node = select::Node {
            weight: n.weight,
            state: NodeState::Up,
            v4: reachable(true),
            v6: reachable(false),
            flows: 0,
        };
        self.selector.set_node(n.number, node);
    }
}

impl Steering for Steerer {
    fn choose(&mut self, request: &Request<'_>) -> Option<Choice> {
        let pool = *self.pools.get(usize::from(request.listener))?;
        let now = clock::now_ns();
        let mut tried = request.tried.to_vec();
        tried.extend(
            (0..)
                .zip(&self.avoid)
                .filter(|(_, until)| **until > now)
                .map(|(number, _)| slot(number, request.v4)),
        );
        let mut choose = |tried: &[u16]| {
            self.selector
                .choose(pool, request.v4, request.client, tried, &mut self.bindings)
        };
        // A backend that failed a moment ago is better than none.
        let (chosen, _) = choose(&tried).or_else(|| choose(request.tried))?;
        self.choice(chosen)
    }

    fn known(&mut self, slot: u16, v4: bool) -> Option<Choice> {
        let up = |n: &select::Node| n.state == NodeState::Up && if v4 { n.v4 } else { n.v6 };
        let node = self.selector.node(node_of(slot));
        node.filter(|n| up(n)).and_then(|_| self.choice(slot))
    }

    fn opened(&mut self, _listener: u8, chosen: u16, client: u64) {
        let number = usize::from(node_of(chosen));
        if let Some(tally) = self.tally.get_mut(number) {
            tally.assigned += 1;
        }
        if let Some(avoid) = self.avoid.get_mut(number) {
            *avoid = 0;
        }
        Selector::opened(
            client,
            chosen,
            ticks::from_ns(clock::now_ns()),
            &mut self.bindings,
        );
    }

    fn failed(&mut self, chosen: u16, reason: Failure) {
        let number = usize::from(node_of(chosen));
        if let Some(tally) = self.tally.get_mut(number) {
            tally.failures += 1;
        }
        // A tuple in use says nothing about the backend.
        if reason != Failure::TupleInUse
            && let Some(avoid) = self.avoid.get_mut(number)
        {
            if *avoid == 0 {
                let name = self
                    .nodes
                    .iter()
                    .find(|n| usize::from(n.number) == number)
                    .map_or("?", |n| n.name.as_str());
                tracing::warn!(
                    "backend {name} failed ({reason:?}); its clients go to the next one"
                );
            }
            *avoid = clock::now_ns() + AVOID;
        }
    }

    fn capabilities(&mut self, listener: u8, _slot: u16, offered: &Offered) {
        self.learnt.push((listener, *offered));
    }
}

/// What SYN-ACKs may promise so that every backend of a pool can keep it: the options that all have,
/// the largest window scale (windows are re-scaled for the others), the smallest segment.
#[must_use]
pub fn promise(nodes: &[Node], pool: usize, v4: bool) -> Endpoint {
    /// What stock Linux speaks; for backends that couldn't be asked yet.
    const DEFAULT_SCALE: u8 = 7;
    let paths: Vec<_> = nodes
        .iter()
        .filter(|n| n.pool == pool)
        .flat_map(|n| &n.paths)
        .filter(|p| p.address.is_ipv4() == v4)
        .collect();
    let asked: Vec<_> = paths.iter().filter_map(|p| p.tcp.as_ref()).collect();
    let mut answers = Endpoint::WINDOW_SCALE;
    if asked.iter().all(|t| t.timestamps) {
        answers |= Endpoint::TIMESTAMPS;
    }
    if asked.iter().all(|t| t.sack) {
        answers |= Endpoint::SACK;
    }
    if !asked.is_empty() && asked.iter().any(|t| t.window_scale.is_none()) {
        answers &= !Endpoint::WINDOW_SCALE;
    }
    let scale = asked
        .iter()
        .filter_map(|t| t.window_scale)
        .max()
        .unwrap_or(DEFAULT_SCALE);
    let default_mss = if v4 { 1460 } else { 1440 };
    let mss = paths
        .iter()
        .filter(|p| p.hop.is_some())
        // The backend's own interface may take less than ours sends.
        .map(|p| p.tcp.map_or(p.mss, |t| t.mss.min(p.mss)))
        .min()
        .unwrap_or(default_mss);
    Endpoint {
        window_scale: scale,
        answers,
        mss,
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::nodes::Path;
    use crate::net::PeerTcp;
    use std::sync::Arc;

    fn node(mss: u16, tcp: Option<u16>) -> Node {
        let path = Path {
            slot: 0,
            address: "10.0.0.1:1883".parse().unwrap(),
            hop: Some(lb_common::layout::Hop::default()),
            generation: 1,
            mss,
            snat: Arc::new([]),
            snat_range: (0, 0),
            pool: 0,
            tcp: tcp.map(|mss| PeerTcp {
                window_scale: Some(7),
                timestamps: true,
                sack: true,
                mss,
                rtt: None,
            }),
        };
        Node {
            number: 0,
            pool: 0,
            name: "a".to_owned(),
            weight: 1,
            paths: vec![path],
        }
    }

    #[test]
    fn segments_fit_the_way_to_every_backend_and_the_backend() {
        for (nodes, want) in [
            (vec![node(1460, None)], 1460),
            (vec![node(1460, Some(1360))], 1360),
            (vec![node(1360, Some(1460))], 1360),
            (vec![node(1460, Some(1460)), node(1460, Some(1240))], 1240),
        ] {
            assert_eq!(promise(&nodes, 0, true).mss, want);
        }
    }
}
