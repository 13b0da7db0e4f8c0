//! The choice of a backend: the one that the client is bound to, else the pool's policy.
//!
//! A *node* is one broker with up to one address of each family. The backends map has one slot for each
//! address, `2 × node` for IPv4 and `2 × node + 1` for IPv6; a binding stores the even one, so that a
//! client that comes back over the other family comes back to the same broker.

mod consistent;
mod least_connections;
mod policy;
mod round_robin;

pub use consistent::{Consistent, node_key, shared_hash};
pub use least_connections::LeastConnections;
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

impl NodeState {
    /// In logs and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}

/// A broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// [`node_key`] of its name.
    pub key: u64,
    /// Share of new clients; 0: none, only those bound to it.
    pub weight: u16,
    /// How much of its weight counts, in 1/256: less than [`FULL`] during slow start.
    pub ramp: u16,
    /// Whether it takes clients.
    pub state: NodeState,
    /// It has an IPv4 address.
    pub v4: bool,
    /// It has an IPv6 address.
    pub v6: bool,
}

/// [`Node::ramp`] of a node that gets its whole share.
pub const FULL: u16 = 256;

/// A node and its connections.
#[derive(Clone, Copy, Debug)]
struct Seat {
    node: Node,
    /// As last counted.
    flows: u32,
    /// Choices since then.
    since: u32,
}

impl Seat {
    const fn load(&self) -> u32 {
        self.flows.saturating_add(self.since)
    }

    /// Weight with slow start. A node that has a weight takes part, however small its part is.
    fn weight(&self) -> u32 {
        u32::from(self.node.weight) * u32::from(self.node.ramp.clamp(1, FULL))
    }
}

/// A node as policies see it.
fn candidate(number: u16, seat: Option<&Seat>, usable: bool) -> Candidate {
    Candidate {
        number,
        key: seat.map_or(0, |seat| seat.node.key),
        weight: seat.map_or(0, Seat::weight),
        usable,
        flows: seat.map_or(0, Seat::load),
    }
}

/// A client, by the hashes of its identifier; both are 0 for the empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Under a secret key of this host; names its binding.
    pub binding: u64,
    /// [`shared_hash`]: the same on all balancers.
    pub shared: u64,
}

/// Which client identifier belongs to which node, by keyed hash.
pub trait Bindings {
    /// The client's binding.
    fn get(&mut self, client: u64) -> Option<Binding>;
    /// Creates or overwrites it.
    fn put(&mut self, client: u64, binding: Binding);
    /// The node of a pool whose turn it is, where turns are shared with others who choose ([`Selector::round`]).
    fn turn(&mut self, pool: usize) -> Option<u16>;
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
    /// By number.
    seats: Vec<Option<Seat>>,
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
    /// Adds or changes a node; its number is the caller's, below 32,768. Its connections stay as counted.
    pub fn set_node(&mut self, number: u16, node: Node) {
        let at = usize::from(number);
        if self.seats.len() <= at {
            self.seats.resize(at + 1, None);
        }
        let seat = self.seats[at].get_or_insert(Seat {
            node,
            flows: 0,
            since: 0,
        });
        seat.node = node;
    }

    /// Removes a node, and what is known of its connections.
    pub fn remove_node(&mut self, number: u16) {
        if let Some(seat) = self.seats.get_mut(usize::from(number)) {
            *seat = None;
        }
    }

    /// A node.
    #[must_use]
    pub fn node(&self, number: u16) -> Option<&Node> {
        Some(&self.seat(number)?.node)
    }

    /// A node, to change its state or its weight.
    pub fn node_mut(&mut self, number: u16) -> Option<&mut Node> {
        let seat = self.seats.get_mut(usize::from(number))?.as_mut()?;
        Some(&mut seat.node)
    }

    fn seat(&self, number: u16) -> Option<&Seat> {
        self.seats.get(usize::from(number))?.as_ref()
    }

    /// Takes over how many connections a node has: what the flow map says. Until the next call each
    /// choice counts as one more. To be called after every count, and at once when many connections
    /// ended together: those that are gone count until then.
    pub fn set_flows(&mut self, number: u16, flows: u32) {
        if let Some(Some(seat)) = self.seats.get_mut(usize::from(number)) {
            (seat.flows, seat.since) = (flows, 0);
        }
    }

    /// Connections of a node: those counted last, and choices since.
    #[must_use]
    pub fn load(&self, number: u16) -> u32 {
        self.seat(number).map_or(0, Seat::load)
    }

    /// No connection came of the choice of `slot`.
    pub fn failed(&mut self, slot: u16) {
        if let Some(Some(seat)) = self.seats.get_mut(usize::from(node_of(slot))) {
            seat.since = seat.since.saturating_sub(1);
        }
    }

    /// Adds a pool; gives its number.
    pub fn add_pool(&mut self, nodes: Vec<u16>, policy: Box<dyn Policy + Send>) -> usize {
        self.pools.push(Pool { nodes, policy });
        self.pools.len() - 1
    }

    /// Other nodes for a pool. Its policy goes on with those that stay.
    pub fn set_pool(&mut self, pool: usize, nodes: Vec<u16>) {
        let Some(pool) = self.pools.get_mut(pool) else {
            return;
        };
        for gone in pool.nodes.iter().filter(|number| !nodes.contains(number)) {
            pool.policy.forget(*gone);
        }
        pool.nodes = nodes;
    }

    /// Another policy for a pool; it begins anew.
    pub fn set_policy(&mut self, pool: usize, policy: Box<dyn Policy + Send>) {
        if let Some(pool) = self.pools.get_mut(pool) {
            pool.policy = policy;
        }
    }

    /// The slot of a node of `pool` for a client that comes over IPv4 or IPv6; none of the slots in
    /// `tried`.
    pub fn choose(
        &mut self,
        pool: usize,
        v4: bool,
        client: Client,
        tried: &[u16],
        bindings: &mut impl Bindings,
    ) -> Option<(u16, By)> {
        let (number, by) = self.choose_node(pool, v4, client, tried, bindings)?;
        if let Some(Some(seat)) = self.seats.get_mut(usize::from(number)) {
            seat.since = seat.since.saturating_add(1);
        }
        Some((slot(number, v4), by))
    }

    fn choose_node(
        &mut self,
        pool: usize,
        v4: bool,
        client: Client,
        tried: &[u16],
        bindings: &mut impl Bindings,
    ) -> Option<(u16, By)> {
        let Self {
            seats,
            pools,
            candidates,
        } = self;
        let index = pool;
        let pool = pools.get_mut(index)?;
        let seat = |number: u16| seats.get(usize::from(number)).and_then(Option::as_ref);
        let usable = |number: u16| {
            seat(number).is_some_and(|seat| {
                let node = &seat.node;
                let reachable = if v4 { node.v4 } else { node.v6 };
                let usable = node.state == NodeState::Up && reachable;
                usable && !tried.contains(&slot(number, v4))
            })
        };
        if client.binding != 0
            && let Some(binding) = bindings.get(client.binding)
        {
            let bound = node_of(binding.backend);
            if pool.nodes.contains(&bound) && usable(bound) {
                return Some((bound, By::Binding));
            }
        }
        if let Some(next) = bindings.turn(index) {
            let takes_new = seat(next).is_some_and(|seat| seat.weight() > 0);
            if pool.nodes.contains(&next) && takes_new && usable(next) {
                return Some((next, By::Policy));
            }
        }
        candidates.clear();
        let all = pool.nodes.iter();
        candidates.extend(all.map(|&n| candidate(n, seat(n), usable(n))));
        let chosen = pool.policy.choose(client.shared, candidates)?;
        Some((*pool.nodes.get(chosen)?, By::Policy))
    }

    /// The nodes of a pool in the order in which they get clients that are bound to none, if that order is all
    /// there is to it: until something changes, others may choose by it. Without nodes that `but` names.
    #[must_use]
    pub fn round(&self, pool: usize, most: usize, but: impl Fn(u16) -> bool) -> Option<Vec<u16>> {
        let pool = self.pools.get(pool)?;
        let of = |&number: &u16| {
            let seat = self.seat(number);
            let up = seat.is_some_and(|seat| seat.node.state == NodeState::Up);
            candidate(number, seat, up && !but(number))
        };
        let candidates: Vec<_> = pool.nodes.iter().map(of).collect();
        pool.policy.round(&candidates, most)
    }

    /// Notes that the client with the identifier hash `client` ([`Client::binding`]) has a connection to
    /// `chosen`; `now` in ticks.
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
