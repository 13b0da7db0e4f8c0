//! The backends of the configuration as nodes: their slots in the kernel's map, their next hops,
//! what TCP they speak, and whether they may take clients.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lb_common::layout::{Backend, Hop, v4_mapped};

use super::moved::Moved;
use super::orders::{Duty, Order};
use crate::config::{self, Config};
use crate::net::PeerTcp;
use crate::select::{NodeState, slot};

/// Most slots that the backends map has.
pub const SLOTS: u16 = 1024;

/// What the health checks, or the connections that failed, say about one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checked {
    /// Nothing: it counts as up.
    #[default]
    No,
    Up,
    /// The node says that it is being evacuated.
    Evacuating,
    Down,
}

/// One address of a backend.
#[derive(Clone, Debug)]
pub struct Path {
    /// Index into the backends map.
    pub slot: u16,
    pub address: SocketAddr,
    /// Next hop; `None` while it isn't known, and then the address takes no clients.
    pub hop: Option<Hop>,
    /// Only the proxy sends clients there: the kernel finds the way.
    pub direct: bool,
    /// Moves with every change of `hop`.
    pub generation: u32,
    /// Largest TCP segment on the way to it, without options.
    pub mss: u16,
    /// Source addresses towards it, v4-mapped.
    pub snat: Arc<[[u8; 16]]>,
    /// Their place in the map `SNAT`, and how many.
    pub snat_range: (u16, u16),
    /// What it negotiates, once it was asked.
    pub tcp: Option<PeerTcp>,
    pub checked: Checked,
    /// What the last check said, in words.
    pub reason: Arc<str>,
}

/// A backend of a pool.
#[derive(Clone, Debug)]
pub struct Node {
    /// Number in the selector; its slots are 2n and 2n + 1.
    pub number: u16,
    /// Index into the configuration's pools; `None`: it is no longer in the configuration, and is
    /// remembered until its last connection is over.
    pub pool: Option<usize>,
    /// The pool's name; that of the last one if it is in none.
    pub pool_name: String,
    pub name: String,
    /// The configuration's.
    pub weight: u16,
    /// Most connections at a time.
    pub max_flows: Option<u32>,
    pub paths: Vec<Path>,
    pub order: Order,
    pub state: NodeState,
    /// When it came back, monotonic ns; `None` once it has its full share.
    pub warming: Option<u64>,
}

/// `address` as the maps have it.
#[must_use]
pub fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4_mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The reverse of [`mapped`].
#[must_use]
pub fn socket_address(address: [u8; 16], port: [u8; 2]) -> SocketAddr {
    let v6 = std::net::Ipv6Addr::from(address);
    let ip = v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4);
    SocketAddr::new(ip, u16::from_be_bytes(port))
}

/// Gives every backend of the configuration a number; `known` is the backends map. A backend that is
/// known by one of its addresses keeps the number that live flows and bindings name: first of all the one
/// that `earlier` says it had, by its pool's name, its own and its number. One that isn't known gets a free
/// number, if it can be none that `moved` remembers. What is known and no longer configured comes last, without
/// a pool.
///
/// # Errors
/// There are more backends than numbers.
pub fn number(
    config: &Config,
    known: &[Backend],
    earlier: &[(&str, &str, u16)],
    moved: &Moved,
) -> anyhow::Result<Vec<Node>> {
    let mut taken = vec![false; usize::from(SLOTS / 2)];
    let at = |n: usize, address: &SocketAddr| {
        let b = &known[usize::from(slot(u16::try_from(n).unwrap_or(0), address.is_ipv4()))];
        b.generation != 0 && socket_address(b.address, b.port) == *address
    };
    let backends = || {
        let pools = config.pools.iter().enumerate();
        pools.flat_map(|(i, pool)| pool.backends.iter().map(move |b| (i, pool, b)))
    };
    // Two pools may name the same address: each has a number of its own, and keeps it.
    let mut numbers: Vec<Option<usize>> = backends()
        .map(|(_, pool, b)| {
            let same = |e: &&(&str, &str, u16)| (e.0, e.1) == (pool.name.as_str(), b.name.as_str());
            let n = usize::from(earlier.iter().find(same)?.2);
            let there = b.addresses.iter().any(|a| at(n, &a.socket));
            (there && !std::mem::replace(&mut taken[n], true)).then_some(n)
        })
        .collect();
    for ((_, _, backend), number) in backends().zip(&mut numbers) {
        if number.is_none() {
            let free = |n: &usize| !taken[*n];
            let has = |n: &usize| backend.addresses.iter().any(|a| at(*n, &a.socket));
            *number = (0..taken.len()).filter(free).find(has);
            if let Some(n) = *number {
                taken[n] = true;
            }
        }
    }
    let used = |n: usize| known[2 * n].generation != 0 || known[2 * n + 1].generation != 0;
    let mut free: Vec<_> = (0..SLOTS / 2)
        .filter(|n| !taken[usize::from(*n)] && !used(usize::from(*n)))
        .collect();
    // What clients of a node may still be bound to comes last.
    free.sort_by_key(|n| moved.is_remembered(*n));
    let mut free = free.into_iter().map(usize::from);
    let mut nodes = Vec::new();
    for ((pool, p, backend), number) in backends().zip(numbers) {
        let number = number.or_else(|| free.next()).ok_or_else(|| {
            anyhow::anyhow!(
                "there are more than {} backends, those that were removed and still have connections included",
                SLOTS / 2
            )
        })?;
        let number = u16::try_from(number)?;
        nodes.push(Node::new(number, (pool, &p.name), backend, known));
    }
    for n in (0..taken.len()).filter(|n| !taken[*n] && used(*n)) {
        nodes.push(Node::leaving(u16::try_from(n)?, known));
    }
    Ok(nodes)
}

impl Node {
    fn new(number: u16, pool: (usize, &str), backend: &config::Backend, known: &[Backend]) -> Self {
        let path = |a: &config::BackendAddress| {
            let slot = slot(number, a.socket.is_ipv4());
            Path::new(slot, a.socket, known[usize::from(slot)].generation)
        };
        Self {
            number,
            pool: Some(pool.0),
            pool_name: pool.1.to_owned(),
            name: backend.name.clone(),
            weight: backend.weight,
            max_flows: backend.max_flows,
            paths: backend.addresses.iter().map(path).collect(),
            order: Order::default(),
            state: NodeState::Down,
            warming: None,
        }
    }

    /// One that only the map knows.
    fn leaving(number: u16, known: &[Backend]) -> Self {
        let paths: Vec<_> = [2 * number, 2 * number + 1]
            .into_iter()
            .filter_map(|slot| {
                let b = known[usize::from(slot)];
                let mut path = Path::new(slot, socket_address(b.address, b.port), b.generation);
                path.hop = Some(b.hop);
                (b.generation != 0).then_some(path)
            })
            .collect();
        Self {
            number,
            pool: None,
            pool_name: String::new(),
            name: paths
                .first()
                .map_or(String::new(), |p| p.address.to_string()),
            weight: 0,
            max_flows: None,
            paths,
            order: Order::default(),
            state: NodeState::Draining,
            warming: None,
        }
    }

    /// Takes over what is known of the same node under an earlier configuration.
    pub fn inherit(&mut self, earlier: &Self) {
        self.state = earlier.state;
        self.warming = earlier.warming;
        if self.pool.is_none() {
            self.pool_name.clone_from(&earlier.pool_name);
            self.name.clone_from(&earlier.name);
        }
        for path in &mut self.paths {
            if let Some(old) = earlier.paths.iter().find(|p| p.address == path.address) {
                *path = old.clone();
            }
        }
    }

    /// The share of new clients that an operator or the configuration gives it.
    #[must_use]
    pub fn share(&self) -> u16 {
        self.order.weight.unwrap_or(self.weight)
    }

    /// Whether it may take clients, by all that is known.
    #[must_use]
    pub fn judge(&self) -> NodeState {
        let usable = || self.paths.iter().filter(|p| p.usable());
        if self.order.duty == Duty::Disabled {
            NodeState::Disabled
        } else if usable().next().is_none() {
            NodeState::Down
        } else if self.pool.is_none()
            || self.order.duty != Duty::Ready
            || usable().any(|p| p.checked == Checked::Evacuating)
        {
            NodeState::Draining
        } else {
            NodeState::Up
        }
    }

    /// What the kernel is told of one of its addresses.
    #[must_use]
    pub fn entry(&self, path: &Path) -> Backend {
        let state = if path.usable() || self.state == NodeState::Disabled {
            self.state
        } else {
            NodeState::Down
        };
        Backend {
            address: mapped(path.address.ip()),
            port: path.address.port().to_be_bytes(),
            state: state as u8,
            hop: path.hop.unwrap_or_default(),
            generation: path.generation,
            // The program doesn't count connections.
            by_agent: u8::from(self.max_flows.is_some()),
            pool: self
                .pool
                .map_or(u16::MAX, |pool| u16::try_from(pool).unwrap_or(u16::MAX)),
            mss: path.mss,
            snat_first: path.snat_range.0,
            snat_count: path.snat_range.1,
        }
    }

    /// Slots of its addresses.
    #[must_use]
    pub fn slots(&self) -> Vec<u16> {
        self.paths.iter().map(|p| p.slot).collect()
    }
}

impl Path {
    fn new(slot: u16, address: SocketAddr, generation: u32) -> Self {
        Self {
            slot,
            address,
            hop: None,
            direct: false,
            generation,
            mss: 0,
            snat: Arc::new([]),
            snat_range: (0, 0),
            tcp: None,
            checked: Checked::No,
            reason: Arc::from(""),
        }
    }

    /// Whether clients can be sent there.
    #[must_use]
    pub fn usable(&self) -> bool {
        (self.direct || self.hop.is_some()) && self.checked != Checked::Down
    }

    /// Takes a next hop over; `true` if something is another than before.
    pub fn set_hop(&mut self, found: &crate::net::Hop, snat: &[IpAddr]) -> bool {
        let hop = Hop {
            ifindex: found.ifindex,
            dst_mac: found.dst_mac,
            src_mac: found.src_mac,
            vlan: found.vlan.unwrap_or(0),
            tagged: u16::from(found.vlan.is_some()),
        };
        let headers = if self.address.is_ipv4() { 40 } else { 60 };
        let mss = u16::try_from(found.mtu.saturating_sub(headers)).unwrap_or(u16::MAX);
        let ours: Vec<_> = snat
            .iter()
            .filter(|a| a.is_ipv4() == self.address.is_ipv4())
            .copied()
            .collect();
        let sources = if ours.is_empty() {
            vec![found.source]
        } else {
            ours
        };
        let snat: Arc<[_]> = sources.into_iter().map(mapped).collect();
        let as_before = (self.mss, &self.snat) == (mss, &snat);
        (self.mss, self.snat) = (mss, snat);
        if self.hop == Some(hop) {
            return !as_before;
        }
        self.hop = Some(hop);
        // 0 marks a free slot.
        self.generation = self.generation.wrapping_add(1).max(1);
        true
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub const TWO_POOLS: &str = r#"
[xdp]
interfaces = ["eth0"]
[[listener]]
name = "a"
bind = ["10.77.0.2:1883"]
pool = "a"
[[listener]]
name = "b"
bind = ["10.77.0.2:1884"]
pool = "b"
[[pool.a.backend]]
name = "emqx1"
address = "10.77.1.2:1883"
[[pool.b.backend]]
name = "emqx1"
address = "10.77.1.2:1883"
"#;

    pub fn config(text: &str) -> Config {
        config::parse(text, &|_| Err(std::env::VarError::NotPresent), &|_, _| {
            Ok(Vec::new())
        })
        .unwrap()
    }

    /// The map after these nodes were told to the kernel.
    pub fn map(nodes: &[Node]) -> Vec<Backend> {
        let mut known = vec![Backend::default(); usize::from(SLOTS)];
        for node in nodes {
            for path in &node.paths {
                known[usize::from(path.slot)] = Backend {
                    generation: 1,
                    ..node.entry(path)
                };
            }
        }
        known
    }

    fn numbers(nodes: &[Node]) -> Vec<u16> {
        nodes.iter().map(|n| n.number).collect()
    }

    #[test]
    fn an_address_in_two_pools_keeps_both_numbers() {
        let config = config(TWO_POOLS);
        let first = number(&config, &map(&[]), &[], &Moved::default()).unwrap();
        let again = number(&config, &map(&first), &[], &Moved::default()).unwrap();
        assert_eq!(numbers(&first), [0, 1]);
        assert_eq!(numbers(&again), [0, 1]);
    }

    #[test]
    fn what_is_removed_leaves_and_keeps_its_number_until_then() {
        let first = number(&config(TWO_POOLS), &map(&[]), &[], &Moved::default()).unwrap();
        let other = config(&TWO_POOLS.replacen("10.77.1.2", "10.77.1.3", 1));
        let names = [("a", "emqx1", 0), ("b", "emqx1", 1)];
        let second = number(&other, &map(&first), &names, &Moved::default()).unwrap();
        assert_eq!(numbers(&second), [2, 1, 0]);
        assert_eq!(
            (second[2].pool, second[2].judge()),
            (None, NodeState::Draining)
        );
        assert_eq!(second[2].paths[0].address, first[0].paths[0].address);
    }

    #[test]
    fn orders_and_checks_decide_together() {
        let nodes = number(&config(TWO_POOLS), &map(&[]), &[], &Moved::default()).unwrap();
        let judged = |reachable: bool, checked, duty| {
            let mut node = nodes[0].clone();
            node.paths[0].hop = reachable.then(Hop::default);
            node.paths[0].checked = checked;
            node.order.duty = duty;
            node.state = node.judge();
            let told = node.entry(&node.paths[0]).state;
            assert_eq!(told, node.state as u8);
            node.state
        };
        let drain = Duty::Drain { rate: None };
        for (reachable, checked, duty, want) in [
            (true, Checked::No, Duty::Ready, NodeState::Up),
            (true, Checked::Up, Duty::Ready, NodeState::Up),
            (true, Checked::Down, Duty::Ready, NodeState::Down),
            (true, Checked::Down, drain, NodeState::Down),
            (true, Checked::Up, drain, NodeState::Draining),
            (true, Checked::Evacuating, Duty::Ready, NodeState::Draining),
            (true, Checked::Up, Duty::Disabled, NodeState::Disabled),
            (true, Checked::Down, Duty::Disabled, NodeState::Disabled),
            (false, Checked::Up, Duty::Ready, NodeState::Down),
        ] {
            assert_eq!(
                judged(reachable, checked, duty),
                want,
                "{reachable} {checked:?} {duty:?}"
            );
        }
    }
}
