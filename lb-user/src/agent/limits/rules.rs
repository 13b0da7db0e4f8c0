//! The limits in numbers, as the maps and the sweeper have them.

use std::collections::HashSet;

use lb_common::layout::Listener;
use lb_common::limits::client::ClientPace;
use lb_common::limits::credit::{ALL, CELLS, LISTENERS, UNLIMITED, of_backend};
use lb_common::limits::rate::Pace;

use super::prefixes::Prefixes;
use crate::agent::nodes::Node;
use crate::agent::vips::Vip;
use crate::config::Config;

/// What is limited to what.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// By the data path's index of the VIP.
    pub listeners: Vec<Listener>,
    /// Most connections, by cell of the credits map.
    pub most: Vec<u32>,
    /// Sources that are blocked.
    pub sources: Prefixes,
    /// Hashes of client identifiers that are blocked.
    pub clients: HashSet<u64>,
}

impl Rules {
    /// Whether nobody is blocked.
    #[must_use]
    pub fn block_nobody(&self) -> bool {
        self.sources.is_empty() && self.clients.is_empty()
    }

    /// Whether connections are counted by their source.
    #[must_use]
    pub fn count_sources(&self) -> bool {
        self.listeners.iter().any(|l| l.source_flows != 0)
    }
}

/// An index that stands for no VIP, or for one that is served no more: its connections are not those of
/// another listener.
pub(super) fn unserved() -> Listener {
    Listener {
        credit: u16::MAX,
        ..Listener::default()
    }
}

/// The limits in the listeners map.
#[must_use]
pub fn listeners(config: &Config, vips: &[Vip]) -> Vec<Listener> {
    let mut all = vec![unserved(); LISTENERS as usize];
    for vip in vips {
        all[usize::from(vip.index)] = listener(config, vips, vip);
    }
    all
}

/// The limits in a VIP's entry of the listeners map; [`crate::agent`]'s kernel_setup adds the rest.
fn listener(config: &Config, vips: &[Vip], vip: &Vip) -> Listener {
    let of = &config.listeners[vip.listener];
    let pool = config.pool(of.pool);
    let sources = &pool.sources;
    Listener {
        pool: u16::try_from(of.pool.0).unwrap_or(u16::MAX),
        credit: cell(vips, vip.listener),
        source_flows: sources.max_flows.unwrap_or(0),
        v4_bits: 96 + sources.v4_prefix.min(32),
        v6_bits: sources.v6_prefix.min(128),
        source_pace: sources
            .connects
            .map_or(Pace::NONE, |r| Pace::new(r.per_second, r.burst)),
        client_pace: pool.client_connects.map_or(ClientPace::default(), |r| {
            ClientPace::new(r.per_second, r.burst)
        }),
        ..Listener::default()
    }
}

/// The cell of a listener of the configuration: the index of its first VIP.
fn cell(vips: &[Vip], listener: usize) -> u16 {
    let first = vips.iter().find(|v| v.listener == listener);
    first.map_or(0, |vip| vip.index.into())
}

/// Most connections by cell of the credits map; `flows` is what the flow map is made for.
#[must_use]
pub fn most(config: &Config, vips: &[Vip], nodes: &[Node], flows: u32) -> Vec<u32> {
    let mut most = vec![UNLIMITED; CELLS as usize];
    most[ALL as usize] = flows.min(UNLIMITED);
    for (n, listener) in config.listeners.iter().enumerate() {
        if let Some(limit) = listener.max_flows {
            most[usize::from(cell(vips, n))] = limit.min(UNLIMITED);
        }
    }
    for node in nodes {
        if let Some(limit) = node.max_flows {
            most[of_backend(node.number * 2) as usize] = limit.min(UNLIMITED);
        }
    }
    most
}
