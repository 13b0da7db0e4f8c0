//! What the agent does when it hears something of a backend: a way to it, a check's result, a connection
//! that failed, an operator's order.

use lb_common::layout::Backend;

use super::core::Core;
use super::evict::{Task, Why};
use super::nodes::{Checked, Node};
use super::orders::{Duty, Order};
use super::paths::News;
use super::sweep::Found;
use super::{proxied, vips};
use crate::admin::control::{Command, Refusal, Reply};
use crate::config::{Datapath, Listener};
use crate::dataplane::clock;
use crate::health::{Cause, Event, State, Target};
use crate::select::NodeState;
use crate::setup::Failure;

impl Core {
    /// Takes other nodes over, with what is ordered of them and what is known of them.
    ///
    /// # Errors
    /// The kernel refused the limits.
    pub(super) fn man(&mut self, mut nodes: Vec<Node>) -> anyhow::Result<()> {
        for node in &mut nodes {
            if let Some(earlier) = self.steerer.nodes.iter().find(|n| n.number == node.number) {
                node.inherit(earlier);
            }
            let checked = node
                .pool
                .is_some_and(|pool| self.config.pools[pool].health.is_some());
            if !checked {
                node.paths.iter_mut().for_each(|p| p.checked = Checked::No);
            }
            let listeners = &self.config.listeners;
            let forwarded = |pool| {
                let of =
                    |l: &&Listener| self.config.leads(l, pool) && l.datapath != Datapath::Proxy;
                listeners.iter().find(of).is_some()
            };
            if let Some(pool) = node.pool {
                for path in &mut node.paths {
                    path.direct = !self.xdp || !forwarded(pool);
                    if path.direct {
                        // 0 marks a free slot.
                        path.generation = path.generation.max(1);
                    }
                }
                node.order = self.orders.get(&node.pool_name, &node.name);
            }
        }
        let limited =
            self.limits
                .configure(&self.config, &self.vips, &nodes, &mut self.kernel.maps);
        let listeners = &self.config.listeners;
        let pools = self
            .vips
            .iter()
            .map(|v| (v.index, listeners[v.listener].pool.0));
        let routes = self
            .vips
            .iter()
            .map(|v| (v.index, vips::routes(&self.config, &listeners[v.listener])));
        let (pools, routes) = (pools.collect(), routes.collect());
        self.steerer.configure(&self.config, nodes, pools, routes);
        let addresses = self.steerer.nodes.iter().flat_map(|n| &n.paths);
        self.addresses
            .send_replace(addresses.map(|p| p.address).collect());
        self.checks.update(self.targets());
        for i in 0..self.steerer.nodes.len() {
            self.carry_out(i);
            self.settle(i);
        }
        // Connections of clients that are blocked now end, and limits count, with the next sweep.
        self.sweep_now();
        Ok(limited?)
    }

    /// What the health checks ask. Their numbers are slots.
    pub(super) fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for node in &self.steerer.nodes {
            let Some(pool) = node.pool else { continue };
            let Some(health) = &self.config.pools[pool].health else {
                continue;
            };
            let mut listeners = self.config.listeners.iter();
            let proxy_protocol =
                listeners.any(|l| self.config.leads(l, pool) && l.proxy_protocol.is_sent());
            targets.extend(node.paths.iter().map(|path| Target {
                id: path.slot.into(),
                address: path.address,
                health: health.clone(),
                proxy_protocol,
            }));
        }
        targets
    }

    /// All that is known at the start is: from now on the kernel is told.
    pub fn go(&mut self) -> anyhow::Result<()> {
        for i in 0..self.steerer.nodes.len() {
            self.tell(i);
        }
        self.ready = true;
        self.publish()?;
        if let Some(bound) = self.bound.take() {
            let served = proxied::vips(&self.config, &self.vips);
            self.front.serve(&served, bound);
        }
        Ok(())
    }

    /// Takes news of a backend's address over; [`Self::publish`] tells the rest.
    pub fn learn(&mut self, news: &News) {
        for i in 0..self.steerer.nodes.len() {
            let node = &mut self.steerer.nodes[i];
            for path in node.paths.iter_mut().filter(|p| p.address == news.address) {
                match &news.hop {
                    Ok(hop) => {
                        let other = path.set_hop(hop, &self.config.snat.addresses);
                        match self.snat.range(&mut self.kernel.maps, &path.snat) {
                            Ok(range) => path.snat_range = range,
                            Err(error) => tracing::warn!(
                                "{error:#}; the agent opens all connections to backend {}",
                                node.name
                            ),
                        }
                        if other {
                            tracing::info!(
                                "backend {} {} is reached by interface {}",
                                node.name,
                                path.address,
                                hop.ifindex
                            );
                        }
                    }
                    // Live flows keep the hop that they have; new ones don't go there.
                    Err(error) => {
                        if path.hop.take().is_some() || path.generation == 0 {
                            tracing::warn!(
                                "backend {} {} can't be reached: {error}",
                                node.name,
                                path.address
                            );
                        }
                    }
                }
                // What connections taught since then is better.
                path.tcp = path.tcp.or(news.tcp);
            }
            self.settle(i);
        }
    }

    /// Judges a node anew, unless not even the first judgement was made.
    pub(super) fn settle(&mut self, index: usize) {
        if !self.ready {
            return;
        }
        let before = self.steerer.nodes[index].state;
        self.tell(index);
        let node = &mut self.steerer.nodes[index];
        if before != node.state {
            let came_back = node.state == NodeState::Up;
            node.warming = came_back.then(clock::now_ns);
            self.steerer.refresh(index);
        }
    }

    /// Judges a node and tells the kernel, before anybody else, and the selector.
    fn tell(&mut self, index: usize) {
        let node = &mut self.steerer.nodes[index];
        let (before, now) = (node.state, node.judge());
        node.state = now;
        for path in node.paths.iter().filter(|p| p.generation != 0) {
            let mut entry = node.entry(path);
            let there = self.kernel.maps.backends.get(&u32::from(path.slot), 0);
            if path.hop.is_none() {
                // Live flows keep the hop that they have.
                entry.hop = there.as_ref().map_or(entry.hop, |there| there.hop);
            }
            if there.is_ok_and(|there| there == entry) {
                continue;
            }
            if let Err(error) = self
                .kernel
                .maps
                .backends
                .set(u32::from(path.slot), entry, 0)
            {
                tracing::error!("backend {} can't be written to its map: {error}", node.name);
            }
        }
        if before != now {
            tracing::info!("backend {} is {}", node.name, now.as_str());
        }
        self.steerer.refresh(index);
    }

    /// What the last failures of connections say of their backends.
    pub(super) fn suspect(&mut self) {
        for (slot, failure) in std::mem::take(&mut self.steerer.suspects) {
            let Some(i) = self.steerer.index_of(slot) else {
                continue;
            };
            let why = match failure {
                Failure::Refused => "it refused a connection",
                Failure::Unreachable => "a connection could not reach it",
                _ => "it did not answer a connection",
            };
            let node = &self.steerer.nodes[i];
            if let Some(path) = node.paths.iter().find(|p| p.slot == slot) {
                self.checks.passive(path.address, why);
            }
        }
    }

    /// Carries out an operator's command.
    pub(super) fn order(&mut self, command: &Command) -> Result<Reply, Refusal> {
        let (name, change): (_, Box<dyn Fn(Order) -> Order>) = match command {
            Command::Drain { backend, rate } => {
                let duty = Duty::Drain { rate: *rate };
                (backend, Box::new(move |o| Order { duty, ..o }))
            }
            Command::Ready { backend } => {
                let duty = Duty::Ready;
                (backend, Box::new(move |o| Order { duty, ..o }))
            }
            Command::Disable { backend } => {
                let duty = Duty::Disabled;
                (backend, Box::new(move |o| Order { duty, ..o }))
            }
            Command::Weight { backend, weight } => {
                let weight = *weight;
                (backend, Box::new(move |o| Order { weight, ..o }))
            }
            Command::Block { .. }
            | Command::Unblock { .. }
            | Command::Blocked
            | Command::Reload
            | Command::Stop => {
                return Err(Refusal::Failed(
                    "the agent doesn't take this here".to_owned(),
                ));
            }
        };
        let index = self.find(name)?;
        let node = &self.steerer.nodes[index];
        let (pool, backend) = (node.pool_name.clone(), node.name.clone());
        let mut order = change(node.order);
        if order.weight == Some(node.weight) {
            order.weight = None;
        }
        self.orders
            .set(&pool, &backend, order)
            .map_err(|error| Refusal::Failed(format!("{error:#}; nothing was changed")))?;
        let before = std::mem::replace(&mut self.steerer.nodes[index].order, order);
        self.settle(index);
        if before.duty != order.duty || matches!(order.duty, Duty::Drain { .. }) {
            self.carry_out(index);
        }
        let node = &self.steerer.nodes[index];
        let line = format!(
            "{pool}/{backend} is {}, weight {}{}",
            node.state.as_str(),
            node.share(),
            match order.duty {
                Duty::Drain { rate: Some(rate) } =>
                    format!("; its connections end at {rate} a second"),
                Duty::Drain { rate: None } =>
                    "; its connections stay until they end by themselves".to_owned(),
                Duty::Disabled => "; its connections end".to_owned(),
                Duty::Ready => String::new(),
            }
        );
        tracing::info!("ordered: {line}");
        Ok(Reply { done: vec![line] })
    }

    /// Ends connections as a node's duty demands, or lets them live.
    fn carry_out(&self, index: usize) {
        let node = &self.steerer.nodes[index];
        let slots = node.slots();
        let reset_rate = node
            .pool
            .and_then(|pool| self.config.pools[pool].reset_rate);
        let rate = match node.order.duty {
            Duty::Drain { rate: Some(rate) } => Some(rate),
            Duty::Disabled => reset_rate,
            Duty::Drain { rate: None } | Duty::Ready => {
                return self.evictor.tell(Task::Cease { slots });
            }
        };
        let why = Why::Drained;
        self.evictor.tell(Task::Begin { slots, rate, why });
    }

    /// A verdict of the health checks.
    pub fn checked(&mut self, event: &Event) {
        let Some(i) = u16::try_from(event.id)
            .ok()
            .and_then(|slot| self.steerer.index_of(slot))
        else {
            return;
        };
        let node = &mut self.steerer.nodes[i];
        let Some(path) = node.paths.iter_mut().find(|p| p.address == event.address) else {
            return;
        };
        let now = match event.to {
            State::Up => Checked::Up,
            State::Evacuating => Checked::Evacuating,
            State::Down => Checked::Down,
        };
        path.reason = event.reason.as_str().into();
        let slots = vec![path.slot];
        let before = std::mem::replace(&mut path.checked, now);
        tracing::info!("backend {} {event}", node.name);
        let rate = node
            .pool
            .and_then(|pool| self.config.pools[pool].reset_rate);
        self.settle(i);
        // One connection that failed, perhaps for want of a place in a queue, must not end all others: as many
        // checks as ever have to say so too. A node under too much load fails one of them as well, and
        // resetting its clients would hand the load on to the next.
        if now == Checked::Down && event.cause == Cause::Checks {
            let why = Why::Down;
            self.evictor.tell(Task::Begin { slots, rate, why });
        } else if before == Checked::Down && now != Checked::Down {
            self.carry_out(i);
        }
    }

    /// Forgets nodes that are in the configuration no more, once they have no connection left.
    pub(super) fn let_go(&mut self, found: &Found) -> anyhow::Result<()> {
        let gone =
            |n: &Node| n.pool.is_none() && n.slots().iter().all(|s| !found.used[usize::from(*s)]);
        let mut i = 0;
        while i < self.steerer.nodes.len() {
            if !gone(&self.steerer.nodes[i]) {
                i += 1;
                continue;
            }
            let node = self.steerer.nodes.remove(i);
            for slot in node.slots() {
                self.kernel
                    .maps
                    .backends
                    .set(u32::from(slot), Backend::default(), 0)?;
            }
            tracing::info!(
                "backend {} has no connections left and is forgotten",
                node.name
            );
        }
        Ok(())
    }

    /// The node that a command names.
    fn find(&self, name: &str) -> Result<usize, Refusal> {
        let configured = self
            .steerer
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, n)| n.pool.is_some());
        let full = |n: &Node| format!("{}/{}", n.pool_name, n.name);
        let meant: Vec<_> = configured
            .filter(|(_, n)| n.name == name || full(n) == name)
            .collect();
        match meant[..] {
            [(index, _)] => Ok(index),
            [] => {
                let all: Vec<_> = self
                    .steerer
                    .nodes
                    .iter()
                    .filter(|n| n.pool.is_some())
                    .map(full)
                    .collect();
                Err(Refusal::Wrong(format!(
                    "no backend is named {name:?}; there are {}",
                    all.join(", ")
                )))
            }
            _ => {
                let all: Vec<_> = meant.iter().map(|(_, n)| full(n)).collect();
                Err(Refusal::Wrong(format!(
                    "{name:?} is in several pools: write one of {}",
                    all.join(", ")
                )))
            }
        }
    }
}
