//! Where the agent's tables are: pinned maps of the kernel's, or memory where XDP doesn't run. In both cases
//! with the connections that go through the proxy, which no XDP program may see.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use lb_common::layout::{
    Backend, Binding, Counter, Endpoint, EndpointKey, Listener, SNAT_ADDRESSES, Settings, Source,
    SourceKey, Verdict,
};
use lb_common::limits::credit::LISTENERS;

use super::credits::MemoryCells;
use super::proxied::Proxied;
use super::table::Recent;
use crate::config::Config;

/// Places of the backends map; as the XDP program's.
const BACKENDS: usize = 1024;
/// Sources remembered; as the XDP program's map.
const SOURCES: usize = 65_536;

/// Cheap to clone.
#[derive(Clone)]
pub struct Home {
    pub(super) at: At,
    pub proxied: Arc<Proxied>,
}

#[derive(Clone)]
pub(super) enum At {
    /// Pinned in this directory (see [`super::version_dir`]).
    Pinned(PathBuf),
    Memory(Arc<Memory>),
}

type Shared<T> = Arc<Mutex<T>>;

/// The tables of an agent without XDP.
pub(super) struct Memory {
    pub endpoints: Shared<Recent<EndpointKey, Endpoint>>,
    pub backends: Shared<Vec<Backend>>,
    pub listeners: Shared<Vec<Listener>>,
    pub snat: Shared<Vec<[u8; 16]>>,
    pub bindings: Shared<Recent<u64, Binding>>,
    pub settings: Shared<Vec<Settings>>,
    pub agent_counters: Shared<Vec<Counter>>,
    pub sources: Shared<Recent<SourceKey, Source>>,
    pub credits: MemoryCells,
    pub max_flows: u32,
    pub max_bindings: u32,
}

fn cells<T: Copy + Default>(len: usize) -> Shared<Vec<T>> {
    Arc::new(Mutex::new(vec![T::default(); len]))
}

fn table<K: std::hash::Hash + Eq + Copy, V: Copy>(capacity: usize) -> Shared<Recent<K, V>> {
    Arc::new(Mutex::new(Recent::new(capacity)))
}

impl Home {
    /// What is pinned in `dir`.
    #[must_use]
    pub fn pinned(dir: &Path) -> Self {
        Self {
            at: At::Pinned(dir.to_owned()),
            proxied: Arc::default(),
        }
    }

    /// Nothing yet, in memory.
    #[must_use]
    pub fn memory(config: &Config) -> Self {
        let max_bindings = config.bindings.capacity;
        let memory = Memory {
            endpoints: table(usize::MAX),
            backends: cells(BACKENDS),
            listeners: cells(LISTENERS as usize),
            snat: cells(SNAT_ADDRESSES as usize),
            bindings: table(max_bindings as usize),
            settings: cells(1),
            agent_counters: cells(Verdict::COUNT as usize),
            sources: table(SOURCES),
            credits: MemoryCells::default(),
            max_flows: config.xdp.max_flows,
            max_bindings,
        };
        Self {
            at: At::Memory(Arc::new(memory)),
            proxied: Arc::default(),
        }
    }

    /// Whether XDP programs share the tables.
    #[must_use]
    pub const fn has_xdp(&self) -> bool {
        matches!(self.at, At::Pinned(_))
    }
}
