//! The real [`Steering`]: pools, bindings in the kernel's map, and what is known of each backend.

use std::collections::HashMap;
use std::num::Wrapping;
use std::time::Duration;

use lb_common::layout::{Binding, Endpoint, ticks};
use lb_common::options::Offered;

use super::limits::Shared;
use super::moved::Moved;
use super::nodes::{Node, SLOTS};
use super::sweep::lifetime;
use super::turns::Told;
use crate::config::{self, Config, SetUp};
use crate::dataplane::{Credits, Table as Entries, Turns, clock};
use crate::select::{
    self, Client, Consistent, FULL, LeastConnections, RoundRobin, Selector, node_key, node_of, slot,
};
use crate::setup::{Choice, Denied, Failure, NoChoice, Request, Steering};
use lb_common::limits::client::ClientPace;
use lb_common::limits::credit::{ALL, of_backend};

/// How long a backend that failed is passed over while another one is left.
const AVOID: u64 = 2_000_000_000;

/// Bindings in the kernel's LRU map.
pub(super) struct Table {
    map: Entries<u64, Binding>,
    /// Ticks after which a binding of a client that left is void.
    linger: u32,
    /// State of the rate of CONNECTs that the next binding begins with.
    connects: u32,
    pub(super) moved: Moved,
    /// Those that the kernel takes too; `None` without XDP.
    pub(super) turns: Option<Turns>,
}

impl Table {
    /// Charges a CONNECT to a client that is bound; `false` if it is one too many.
    fn charge(&mut self, client: u64, pace: &ClientPace) -> bool {
        let Ok(binding) = self.map.get(&client, 0) else {
            return true;
        };
        let Some(connects) = pace.take(binding.connects, clock::now_ns()) else {
            return false;
        };
        let binding = Binding {
            connects,
            ..binding
        };
        if let Err(error) = self.map.insert(client, binding, 0) {
            tracing::warn!("a binding can't be written: {error}");
        }
        true
    }

    /// What a client was charged so far, the connection that it has now included.
    fn charged(&self, client: u64, pace: &ClientPace) -> u32 {
        match self.map.get(&client, 0) {
            Ok(binding) => binding.connects,
            Err(_) => pace.take(0, clock::now_ns()).unwrap_or(0),
        }
    }
}

impl select::Bindings for Table {
    fn get(&mut self, client: u64) -> Option<Binding> {
        let binding = self.map.get(&client, 0).ok()?;
        let age = ticks::since(ticks::from_ns(clock::now_ns()), binding.last_seen);
        let node = self.moved.now(node_of(binding.backend));
        (age <= self.linger).then_some(Binding {
            backend: slot(node, true),
            ..binding
        })
    }

    fn put(&mut self, client: u64, binding: Binding) {
        let connects = self.connects;
        let binding = Binding {
            connects,
            ..binding
        };
        if let Err(error) = self.map.insert(client, binding, 0) {
            tracing::warn!("a binding can't be written: {error}");
        }
    }

    fn turn(&mut self, pool: usize) -> Option<u16> {
        self.turns.as_ref()?.take(pool).map(node_of)
    }
}

/// Counts of one backend, since the agent started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Connections that were begun to it, by agent and kernel; those that failed included.
    pub assigned: u64,
    /// Attempts of the agent that failed.
    pub failures: u64,
}

/// Chooses backends.
pub struct Steerer {
    pub(super) selector: Selector,
    pub(super) bindings: Table,
    pub nodes: Vec<Node>,
    /// By the node's number: passed over until then, monotonic ns.
    pub(super) avoid: Vec<u64>,
    /// By the node's number: attempts that failed.
    failures: Vec<u64>,
    /// By the node's number: connections that were begun to it before this agent.
    begun: Vec<Wrapping<u32>>,
    /// Pool of each listener index.
    pools: HashMap<u8, usize>,
    /// Other pools of a listener, by the server that clients ask for.
    routes: HashMap<u8, Vec<(String, usize)>>,
    /// By pool: how long a backend that comes back takes to get its full share, ns.
    slow_start: Vec<u64>,
    /// Whom the kernel connects.
    pub(super) set_up: SetUp,
    pub(super) told: Told,
    /// Listeners whose promises must shrink, with what a backend offered.
    pub learnt: Vec<(u8, Offered)>,
    /// Slots of backends that refused or did not answer a connection.
    pub suspects: Vec<(u16, Failure)>,
    pub(super) limits: Shared,
    credits: Credits,
}

impl Steerer {
    /// No backends yet: [`Self::configure`] follows.
    pub fn new(
        bindings: Entries<u64, Binding>,
        turns: Option<Turns>,
        limits: Shared,
        credits: Credits,
    ) -> Self {
        let numbers = usize::from(SLOTS / 2);
        let begun = (0..SLOTS / 2).map(|number| begun(&credits, number));
        Self {
            begun: begun.collect(),
            selector: Selector::default(),
            bindings: Table {
                map: bindings,
                linger: 0,
                connects: 0,
                moved: Moved::default(),
                turns,
            },
            nodes: Vec::new(),
            avoid: vec![0; numbers],
            failures: vec![0; numbers],
            pools: HashMap::new(),
            routes: HashMap::new(),
            slow_start: Vec::new(),
            set_up: SetUp::All,
            told: Told::default(),
            learnt: Vec::new(),
            suspects: Vec::new(),
            limits,
            credits,
        }
    }

    /// Takes a configuration over; `pools` and `routes` map the data path's listener indices to its pools.
    pub fn configure(
        &mut self,
        config: &Config,
        nodes: Vec<Node>,
        pools: HashMap<u8, usize>,
        routes: HashMap<u8, Vec<(String, usize)>>,
    ) {
        self.selector = Selector::default();
        for (pool, settings) in config.pools.iter().enumerate() {
            let members = nodes
                .iter()
                .filter(|n| n.pool == Some(pool))
                .map(|n| n.number)
                .collect();
            self.selector.add_pool(members, policy(settings.policy));
        }
        self.bindings.linger = ticks::span(nanos(lifetime(config.bindings.linger)));
        self.slow_start = config.pools.iter().map(|p| nanos(p.slow_start)).collect();
        self.set_up = config.xdp.set_up;
        self.pools = pools;
        self.routes = routes;
        self.bindings.moved.note(&self.nodes, &nodes);
        self.nodes = nodes;
        for i in 0..self.nodes.len() {
            self.refresh(i);
        }
    }

    /// The pool that serves a request: by the server's name, by a `*` in place of its first label, or the
    /// listener's own.
    fn pool(&self, request: &Request<'_>) -> Option<usize> {
        let own = self.pools.get(&request.listener).copied();
        let (Some(routes), Some(server)) = (self.routes.get(&request.listener), request.server)
        else {
            return own;
        };
        let exact = routes.iter().find(|(name, _)| name == server);
        let wild = || {
            let (_, domain) = server.split_once('.')?;
            let is = |name: &str| name.strip_prefix("*.") == Some(domain);
            routes.iter().find(|(name, _)| is(name))
        };
        exact.or_else(wild).map_or(own, |(_, pool)| Some(*pool))
    }

    /// Slots of the nodes that have as many connections as they may.
    fn full(&self, v4: bool) -> Vec<u16> {
        self.nodes
            .iter()
            .map(|n| slot(n.number, v4))
            .filter(|slot| self.credits.get(of_backend(*slot)).left() == 0)
            .collect()
    }

    /// Chooses among those that are not full; one that failed a moment ago only for want of others.
    fn choose_from(&mut self, request: &Request<'_>, full: &[u16]) -> Option<Choice> {
        let pool = self.pool(request)?;
        let now = clock::now_ns();
        let mut tried = request.tried.to_vec();
        tried.extend_from_slice(full);
        let usable = tried.clone();
        tried.extend(
            (0..)
                .zip(&self.avoid)
                .filter(|(_, until)| **until > now)
                .map(|(number, _)| slot(number, request.v4)),
        );
        let client = Client {
            binding: request.client,
            shared: request.shared,
        };
        let mut choose = |tried: &[u16]| {
            self.selector
                .choose(pool, request.v4, client, tried, &mut self.bindings)
        };
        // A backend that failed a moment ago is better than none.
        let (chosen, _) = choose(&tried).or_else(|| choose(&usable))?;
        self.choice(chosen)
    }

    /// The backend in a slot.
    fn choice(&self, slot: u16) -> Option<Choice> {
        let node = self.nodes.iter().find(|n| n.number == node_of(slot))?;
        let path = node.paths.iter().find(|p| p.slot == slot)?;
        Some(Choice {
            slot,
            address: super::nodes::mapped(path.address.ip()),
            port: path.address.port().to_be_bytes(),
            hop: path.hop.or_else(|| path.direct.then(Default::default))?,
            hop_generation: path.generation,
            mss: path.mss,
            snat: path.snat.clone(),
        })
    }

    /// Tells the selector what a node can do now.
    pub fn refresh(&mut self, index: usize) {
        let slow_start = self.nodes[index]
            .pool
            .map_or(0, |pool| self.slow_start[pool]);
        let n = &mut self.nodes[index];
        let reachable = |v4| {
            n.paths
                .iter()
                .any(|p| p.address.is_ipv4() == v4 && p.usable())
        };
        let (v4, v6) = (reachable(true), reachable(false));
        let now = clock::now_ns();
        if n.warming.is_some_and(|since| now >= since + slow_start) {
            n.warming = None;
        }
        let node = select::Node {
            key: node_key(&n.name),
            weight: n.share(),
            ramp: ramp(n.warming.map(|since| now - since), slow_start),
            state: n.state,
            v4,
            v6,
        };
        self.selector.set_node(n.number, node);
        self.told.stale = true;
    }

    /// Those that come back get a little more.
    pub fn warm(&mut self) {
        for i in 0..self.nodes.len() {
            if self.nodes[i].warming.is_some() {
                self.refresh(i);
            }
        }
    }

    /// Takes over how many connections each backend has, by slot.
    pub fn counted(&mut self, by_slot: &HashMap<u16, u64>) {
        for n in &self.nodes {
            let of = |v4| by_slot.get(&slot(n.number, v4)).copied().unwrap_or(0);
            let flows = u32::try_from(of(true) + of(false)).unwrap_or(u32::MAX);
            self.selector.set_flows(n.number, flows);
        }
    }

    /// Counts by the node's number.
    pub fn tally(&self) -> Vec<Tally> {
        let before = (0..).zip(&self.begun);
        let assigned = before.map(|(number, before)| (begun(&self.credits, number) - *before).0);
        let both = assigned.zip(&self.failures);
        both.map(|(assigned, failures)| Tally {
            assigned: assigned.into(),
            failures: *failures,
        })
        .collect()
    }

    /// The node with this slot.
    pub fn index_of(&self, slot: u16) -> Option<usize> {
        self.nodes.iter().position(|n| n.number == node_of(slot))
    }
}

/// Connections that were ever begun to a node; wraps around.
fn begun(credits: &Credits, number: u16) -> Wrapping<u32> {
    Wrapping(credits.get(of_backend(slot(number, true))).opened)
}

/// The rule that the configuration names.
fn policy(configured: config::Policy) -> Box<dyn select::Policy + Send> {
    match configured {
        config::Policy::RoundRobin => Box::<RoundRobin>::default(),
        config::Policy::LeastConnections => Box::<LeastConnections>::default(),
        config::Policy::Consistent { max_load } => Box::new(Consistent::new(max_load)),
    }
}

/// How much of its weight a backend gets that has been back for `back` of `slow_start` ns.
fn ramp(back: Option<u64>, slow_start: u64) -> u16 {
    let Some(back) = back.filter(|back| *back < slow_start) else {
        return FULL;
    };
    let part = u128::from(FULL) * u128::from(back) / u128::from(slow_start);
    u16::try_from(part).unwrap_or(FULL)
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl Steering for Steerer {
    fn admit(&mut self, listener: u8, client: u64) -> Result<(), Denied> {
        let rules = self.limits.get();
        if rules.clients.contains(&client) {
            return Err(Denied::Blocked);
        }
        let Some(limits) = rules.listeners.get(usize::from(listener)) else {
            return Ok(());
        };
        let cell = u32::from(limits.credit);
        if self.credits.get(cell).left() == 0 {
            return Err(Denied::ListenerFull);
        }
        if self.credits.get(ALL).left() == 0 {
            return Err(Denied::FlowsFull);
        }
        if client != 0
            && limits.client_pace.interval != 0
            && !self.bindings.charge(client, &limits.client_pace)
        {
            return Err(Denied::TooOften);
        }
        self.credits.open_one(cell);
        self.credits.open_one(ALL);
        Ok(())
    }

    fn known(&mut self, slot: u16, v4: bool) -> Option<Choice> {
        let up =
            |n: &select::Node| n.state == select::NodeState::Up && if v4 { n.v4 } else { n.v6 };
        let node = self.selector.node(node_of(slot));
        node.filter(|n| up(n)).and_then(|_| self.choice(slot))
    }

    fn choose(&mut self, request: &Request<'_>) -> Result<Choice, NoChoice> {
        let full = self.full(request.v4);
        let pool = self.pool(request);
        let in_pool = |slot: &u16| {
            let node = self.nodes.iter().find(|n| n.number == node_of(*slot));
            node.is_some_and(|n| n.pool == pool) && !request.tried.contains(slot)
        };
        let why = if full.iter().any(in_pool) {
            NoChoice::Full
        } else {
            NoChoice::NoneLeft
        };
        let choice = self.choose_from(request, &full).ok_or(why)?;
        self.credits.open_one(of_backend(choice.slot));
        Ok(choice)
    }

    fn opened(&mut self, listener: u8, chosen: u16, client: u64) {
        let number = usize::from(node_of(chosen));
        if let Some(avoid) = self.avoid.get_mut(number)
            && *avoid != 0
        {
            *avoid = 0;
            self.told.stale = true;
        }
        let rules = self.limits.get();
        // Blocked since it was admitted: the kernel must not steer it, and the sweeper ends it.
        if rules.clients.contains(&client) {
            return;
        }
        self.bindings.connects = match rules.listeners.get(usize::from(listener)) {
            Some(l) if l.client_pace.interval != 0 => self.bindings.charged(client, &l.client_pace),
            _ => 0,
        };
        Selector::opened(
            client,
            chosen,
            ticks::from_ns(clock::now_ns()),
            &mut self.bindings,
        );
    }

    fn failed(&mut self, chosen: u16, reason: Failure) {
        self.selector.failed(chosen);
        let number = usize::from(node_of(chosen));
        if let Some(failures) = self.failures.get_mut(number) {
            *failures += 1;
        }
        // A tuple in use says nothing about the backend, nor does a port for something else.
        if !matches!(reason, Failure::TupleInUse | Failure::OtherPort)
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
            self.told.stale = true;
        }
        if matches!(
            reason,
            Failure::Refused | Failure::Unreachable | Failure::Silent
        ) {
            self.suspects.push((chosen, reason));
        }
    }

    fn capabilities(&mut self, listener: u8, _slot: u16, offered: &Offered) {
        self.learnt.push((listener, *offered));
    }
}

/// What SYN-ACKs may promise so that every backend of some pools can keep it: the options that all have,
/// the largest window scale (windows are re-scaled for the others), the smallest segment.
#[must_use]
pub fn promise(nodes: &[Node], pools: &[usize], v4: bool) -> Endpoint {
    /// What stock Linux speaks; for backends that couldn't be asked yet.
    const DEFAULT_SCALE: u8 = 7;
    let paths: Vec<_> = nodes
        .iter()
        .filter(|n| n.pool.is_some_and(|pool| pools.contains(&pool)))
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
    use crate::agent::nodes::{Checked, Path};
    use crate::agent::orders::Order;
    use crate::net::PeerTcp;
    use crate::select::NodeState;
    use std::sync::Arc;

    fn node(mss: u16, tcp: Option<u16>) -> Node {
        let path = Path {
            slot: 0,
            address: "10.0.0.1:1883".parse().unwrap(),
            direct: false,
            hop: Some(lb_common::layout::Hop::default()),
            generation: 1,
            mss,
            snat: Arc::new([]),
            snat_range: (0, 0),
            tcp: tcp.map(|mss| PeerTcp {
                window_scale: Some(7),
                timestamps: true,
                sack: true,
                mss,
                rtt: None,
            }),
            checked: Checked::No,
            reason: Arc::from(""),
        };
        Node {
            number: 0,
            pool: Some(0),
            pool_name: "p".to_owned(),
            name: "a".to_owned(),
            weight: 1,
            max_flows: None,
            paths: vec![path],
            order: Order::default(),
            state: NodeState::Up,
            warming: None,
        }
    }

    #[test]
    fn a_backend_that_comes_back_gets_its_share_by_and_by() {
        assert_eq!(ramp(None, 30), FULL);
        assert_eq!(ramp(Some(0), 30), 0);
        assert_eq!(ramp(Some(15), 30), FULL / 2);
        assert_eq!(ramp(Some(30), 30), FULL);
        assert_eq!(ramp(Some(7), 0), FULL);
        assert_eq!(ramp(Some(u64::MAX - 1), u64::MAX), FULL - 1);
    }

    #[test]
    fn segments_fit_the_way_to_every_backend_and_the_backend() {
        for (nodes, want) in [
            (vec![node(1460, None)], 1460),
            (vec![node(1460, Some(1360))], 1360),
            (vec![node(1360, Some(1460))], 1360),
            (vec![node(1460, Some(1460)), node(1460, Some(1240))], 1240),
        ] {
            assert_eq!(promise(&nodes, &[0], true).mss, want);
        }
    }
}
