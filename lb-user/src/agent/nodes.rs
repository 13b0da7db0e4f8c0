//! The backends of the configuration as nodes: their slots in the kernel's map, their next hops,
//! what TCP they speak.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lb_common::layout::{Backend, Hop, v4_mapped};

use crate::config::Config;
use crate::dataplane::Maps;
use crate::net::PeerTcp;
use crate::select::slot;

/// Most slots that the backends map has.
const SLOTS: u16 = 1024;

/// One address of a backend.
#[derive(Clone, Debug)]
pub struct Path {
    /// Index into the backends map.
    pub slot: u16,
    pub address: SocketAddr,
    /// Next hop; `None` while it isn't known, and then the address takes no clients.
    pub hop: Option<Hop>,
    /// Moves with every change of `hop`.
    pub generation: u32,
    /// Largest TCP segment on the way to it, without options.
    pub mss: u16,
    /// Source addresses towards it, v4-mapped.
    pub snat: Arc<[[u8; 16]]>,
    /// Their place in the map `SNAT`, and how many.
    pub snat_range: (u16, u16),
    /// Number of its pool.
    pub pool: u16,
    /// What it negotiates, once it was asked.
    pub tcp: Option<PeerTcp>,
}

/// A backend of a pool.
#[derive(Clone, Debug)]
pub struct Node {
    /// Number in the selector; its slots are 2n and 2n + 1.
    pub number: u16,
    pub pool: usize,
    pub name: String,
    pub weight: u16,
    pub paths: Vec<Path>,
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

/// Gives every backend of the configuration a number. A backend that an earlier agent knew by one of
/// its addresses keeps the one that live flows and bindings name.
pub fn number(config: &Config, maps: &Maps) -> anyhow::Result<Vec<Node>> {
    let known: Vec<Backend> = (0..u32::from(SLOTS))
        .map(|i| maps.backends.get(&i, 0))
        .collect::<Result<_, _>>()?;
    assign(config, &known)
}

/// The same with the backends map as it is in `known`.
fn assign(config: &Config, known: &[Backend]) -> anyhow::Result<Vec<Node>> {
    let mut taken = vec![false; usize::from(SLOTS / 2)];
    let of = |address: &SocketAddr, taken: &[bool]| {
        let (ip, port) = (mapped(address.ip()), address.port().to_be_bytes());
        known
            .iter()
            .enumerate()
            // Two pools may name the same address: each has a number of its own.
            .filter(|(i, _)| !taken[i / 2])
            .find(|(_, b)| b.generation != 0 && b.address == ip && b.port == port)
            .map(|(i, _)| i / 2)
    };
    let mut nodes = Vec::new();
    for (pool, p) in config.pools.iter().enumerate() {
        for backend in &p.backends {
            let earlier = backend.addresses.iter().find_map(|a| of(&a.socket, &taken));
            if let Some(n) = earlier {
                taken[n] = true;
            }
            nodes.push((pool, backend, earlier));
        }
    }
    let mut free = 0..usize::from(SLOTS / 2);
    nodes
        .into_iter()
        .map(|(pool, backend, earlier)| {
            let mut unused = || free.find(|n| !taken[*n] && known[2 * n].generation == 0 && known[2 * n + 1].generation == 0);
            let number = earlier
                .or_else(&mut unused)
                .ok_or_else(|| anyhow::anyhow!("there are more than {} backends, past ones included; `mqlb unload` forgets those", SLOTS / 2))?;
            let number = u16::try_from(number)?;
            let paths = backend
                .addresses
                .iter()
                .map(|a| {
                    let slot = slot(number, a.socket.is_ipv4());
                    let generation = known[usize::from(slot)].generation;
                    let pool = u16::try_from(pool).unwrap_or(u16::MAX);
                    Path { slot, address: a.socket, hop: None, generation, mss: 0, snat: Arc::new([]), snat_range: (0, 0), pool, tcp: None }
                })
                .collect();
            Ok(Node { number, pool, name: backend.name.clone(), weight: backend.weight, paths })
        })
        .collect()
}

impl Path {
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

    /// The entry of the backends map.
    #[must_use]
    pub fn entry(&self, state: u8) -> Backend {
        Backend {
            address: mapped(self.address.ip()),
            port: self.address.port().to_be_bytes(),
            state,
            hop: self.hop.unwrap_or_default(),
            generation: self.generation,
            pool: self.pool,
            mss: self.mss,
            snat_first: self.snat_range.0,
            snat_count: self.snat_range.1,
            ..Backend::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const TWO_POOLS: &str = r#"
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

    #[test]
    fn an_address_in_two_pools_keeps_both_numbers() {
        let config = config::parse(
            TWO_POOLS,
            &|_| Err(std::env::VarError::NotPresent),
            &|_, _| Ok(Vec::new()),
        )
        .unwrap();
        let mut known = vec![Backend::default(); usize::from(SLOTS)];
        let first = assign(&config, &known).unwrap();
        for path in first.iter().flat_map(|n| &n.paths) {
            known[usize::from(path.slot)] = Backend {
                generation: 1,
                ..path.entry(1)
            };
        }
        let again = assign(&config, &known).unwrap();
        let numbers = |nodes: &[Node]| nodes.iter().map(|n| n.number).collect::<Vec<_>>();
        assert_eq!(numbers(&first), [0, 1]);
        assert_eq!(numbers(&again), [0, 1]);
    }
}
