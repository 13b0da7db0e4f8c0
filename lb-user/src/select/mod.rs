//! The choice of a backend: the one that the client is bound to, else the pool's policy.
//!
//! A *node* is one broker with up to one address of each family. The backends map has one slot for each
//! address, `2 × node` for IPv4 and `2 × node + 1` for IPv6; a binding stores the even one, so that a
//! client that comes back over the other family comes back to the same broker.

mod policy;
mod round_robin;

pub use policy::{Candidate, Policy};
pub use round_robin::RoundRobin;

use lb_common::layout::Binding;

/// Whether a node takes clients. The numbers are those of `layout::Backend::state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NodeState {
    /// Takes everything.
    Up = 1,
    /// Failed its health checks.
    Down = 2,
    /// Keeps the connections that it has; even clients bound to it go elsewhere.
    Draining = 3,
    /// Taken out by hand.
    Disabled = 4,
}

/// A broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Share of new clients; 0: none, only those bound to it.
    pub weight: u16,
    /// Whether it takes clients.
    pub state: NodeState,
    /// It has an IPv4 address.
    pub v4: bool,
    /// It has an IPv6 address.
    pub v6: bool,
    /// Connections that it has now.
    pub flows: u32,
}

/// Which client identifier belongs to which node, by keyed hash.
pub trait Bindings {
    /// The client's binding.
    fn get(&mut self, client: u64) -> Option<Binding>;
    /// Creates or overwrites it.
    fn put(&mut self, client: u64, binding: Binding);
}

/// How a backend was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The client is bound to it.
    Binding,
    /// The pool's policy.
    Policy,
}

/// Nodes that serve the same clients, and the policy among them.
struct Pool {
    nodes: Vec<u16>,
    policy: Box<dyn Policy + Send>,
}

/// Chooses nodes.
#[derive(Default)]
pub struct Selector {
    nodes: Vec<Option<Node>>,
    pools: Vec<Pool>,
    /// Scratch, so that a choice allocates nothing.
    candidates: Vec<Candidate>,
}

/// Slot of a node's address of one family in the backends map.
#[must_use]
pub const fn slot(node: u16, v4: bool) -> u16 {
    node * 2 + !v4 as u16
}

/// The node of a slot.
#[must_use]
pub const fn node_of(slot: u16) -> u16 {
    slot / 2
}

impl Selector {
    /// Adds or changes a node; its number is the caller's, below 32,768.
    pub fn set_node(&mut self, number: u16, node: Node) {
        let at = usize::from(number);
        if self.nodes.len() <= at {
            self.nodes.resize(at + 1, None);
        }
        self.nodes[at] = Some(node);
    }

    /// Removes a node.
    pub fn remove_node(&mut self, number: u16) {
        if let Some(node) = self.nodes.get_mut(usize::from(number)) {
            *node = None;
        }
    }

    /// A node.
    #[must_use]
    pub fn node(&self, number: u16) -> Option<&Node> {
        self.nodes.get(usize::from(number))?.as_ref()
    }

    /// A node, to change its state or its weight.
    pub fn node_mut(&mut self, number: u16) -> Option<&mut Node> {
        self.nodes.get_mut(usize::from(number))?.as_mut()
    }

    /// Adds a pool; gives its number.
    pub fn add_pool(&mut self, nodes: Vec<u16>, policy: Box<dyn Policy + Send>) -> usize {
        self.pools.push(Pool { nodes, policy });
        self.pools.len() - 1
    }

    /// Other nodes for a pool. The policy goes on with those that stay only if they keep their places.
    pub fn set_pool(&mut self, pool: usize, nodes: Vec<u16>) {
        if let Some(pool) = self.pools.get_mut(pool) {
            pool.nodes = nodes;
        }
    }

    /// The slot of a node of `pool` for a client with identifier hash `client` (0: no binding) that
    /// comes over IPv4 or IPv6; none of the slots in `tried`.
    pub fn choose(
        &mut self,
        pool: usize,
        v4: bool,
        client: u64,
        tried: &[u16],
        bindings: &mut impl Bindings,
    ) -> Option<(u16, By)> {
        let Self {
            nodes,
            pools,
            candidates,
        } = self;
        let pool = pools.get_mut(pool)?;
        let node = |number: u16| nodes.get(usize::from(number)).and_then(Option::as_ref);
        let usable = |number: u16| {
            node(number).is_some_and(|node| {
                let reachable = if v4 { node.v4 } else { node.v6 };
                node.state == NodeState::Up && reachable && !tried.contains(&slot(number, v4))
            })
        };
        if client != 0
            && let Some(binding) = bindings.get(client)
        {
            let bound = node_of(binding.backend);
            if pool.nodes.contains(&bound) && usable(bound) {
                return Some((slot(bound, v4), By::Binding));
            }
        }
        candidates.clear();
        candidates.extend(pool.nodes.iter().map(|&number| Candidate {
            weight: node(number).map_or(0, |node| node.weight),
            usable: usable(number),
            flows: node(number).map_or(0, |node| node.flows),
        }));
        let chosen = pool.policy.choose(client, candidates)?;
        let number = *pool.nodes.get(chosen)?;
        Some((slot(number, v4), By::Policy))
    }

    /// Notes that `client` has a connection to `slot`; `now` in ticks.
    pub fn opened(client: u64, chosen: u16, now: u32, bindings: &mut impl Bindings) {
        if client != 0 {
            let binding = Binding {
                backend: slot(node_of(chosen), true),
                last_seen: now,
                ..Binding::default()
            };
            bindings.put(client, binding);
        }
    }
}

#[cfg(test)]
mod tests;
