//! Typed handles to the pinned maps. Each thread that needs one opens its own.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use aya::maps::{LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray, RingBuf};
use lb_common::layout::{
    Backend, Binding, Counter, Endpoint, EndpointKey, Flow, FlowKey, Listener, Pending, Settings,
    Source, SourceKey, Verdict,
};

use super::home::{At, Home, Memory};
use super::proxied::Proxied;
use super::table::{Cells, Recent, Table};
use super::{Batches, RESERVE};

/// All maps but the ring buffer.
pub struct Maps {
    /// Connections that XDP programs forward; [`Self::each_flow`] shows the proxy's too.
    pub flows: Table<FlowKey, Flow>,
    pub endpoints: Table<EndpointKey, Endpoint>,
    pub backends: Cells<Backend>,
    pub listeners: Cells<Listener>,
    pub snat: Cells<[u8; 16]>,
    pub pending: Cells<Pending>,
    pub bindings: Table<u64, Binding>,
    pub settings: Cells<Settings>,
    pub agent_counters: Cells<Counter>,
    pub sources: Table<SourceKey, Source>,
    /// Sources that the XDP program drops; `None` without one.
    pub blocked: Option<LpmTrie<MapData, [u8; 16], u32>>,
    pub proxied: Arc<Proxied>,
    /// What only XDP programs write.
    kernel: Option<KernelMaps>,
}

struct KernelMaps {
    counters: PerCpuArray<MapData, Counter>,
    flows: MapData,
    sources: MapData,
}

fn open(dir: &Path, name: &str) -> anyhow::Result<(MapData, MapInfo)> {
    let path = dir.join(name);
    let data = MapData::from_pin(&path)
        .with_context(|| format!("cannot open the map {}", path.display()))?;
    let info = data
        .info()
        .with_context(|| format!("cannot read about the map {}", path.display()))?;
    Ok((data, info))
}

fn data(dir: &Path, name: &str) -> anyhow::Result<Map> {
    Ok(Map::from_map_data(open(dir, name)?.0)?)
}

impl Maps {
    /// Opens the maps.
    ///
    /// # Errors
    /// One that should be pinned can't be opened.
    pub fn open(home: &Home) -> anyhow::Result<Self> {
        let proxied = home.proxied.clone();
        match &home.at {
            At::Pinned(dir) => Self::pinned(dir, proxied),
            At::Memory(memory) => Ok(Self::memory(memory, proxied)),
        }
    }

    fn pinned(dir: &Path, proxied: Arc<Proxied>) -> anyhow::Result<Self> {
        Ok(Self {
            flows: data(dir, "FLOWS")?.try_into()?,
            endpoints: data(dir, "ENDPOINTS")?.try_into()?,
            backends: data(dir, "BACKENDS")?.try_into()?,
            listeners: data(dir, "LISTENERS")?.try_into()?,
            snat: data(dir, "SNAT")?.try_into()?,
            pending: data(dir, "PENDING")?.try_into()?,
            bindings: data(dir, "BINDINGS")?.try_into()?,
            settings: data(dir, "SETTINGS")?.try_into()?,
            agent_counters: data(dir, "AGENT_COUNTERS")?.try_into()?,
            sources: data(dir, "SOURCES")?.try_into()?,
            blocked: Some(data(dir, "BLOCKED")?.try_into()?),
            proxied,
            kernel: Some(KernelMaps {
                counters: data(dir, "COUNTERS")?.try_into()?,
                flows: open(dir, "FLOWS")?.0,
                sources: open(dir, "SOURCES")?.0,
            }),
        })
    }

    fn memory(memory: &Memory, proxied: Arc<Proxied>) -> Self {
        Self {
            flows: Table::Memory(Arc::new(Mutex::new(Recent::new(0)))),
            endpoints: Table::memory(&memory.endpoints),
            backends: Cells::Memory(memory.backends.clone()),
            listeners: Cells::Memory(memory.listeners.clone()),
            snat: Cells::Memory(memory.snat.clone()),
            pending: Cells::Memory(Arc::default()),
            bindings: Table::memory(&memory.bindings),
            settings: Cells::Memory(memory.settings.clone()),
            agent_counters: Cells::Memory(memory.agent_counters.clone()),
            sources: Table::memory(&memory.sources),
            blocked: None,
            proxied,
            kernel: None,
        }
    }

    /// Most connections and most bindings that the tables are made for.
    ///
    /// # Errors
    /// A map can't be opened.
    pub fn capacities(home: &Home) -> anyhow::Result<(u32, u32)> {
        match &home.at {
            At::Pinned(dir) => Ok((Self::most_flows(dir)?, Self::capacity(dir, "BINDINGS")?)),
            At::Memory(memory) => Ok((memory.max_flows, memory.max_bindings)),
        }
    }

    /// A flow entry, of either data path.
    #[must_use]
    pub fn flow(&self, key: &FlowKey) -> Option<Flow> {
        let here = self.flows.get(key, 0).ok();
        here.or_else(|| self.proxied.get(key))
    }

    /// The ring buffer of punted packets. Only one reader may use it.
    pub fn open_punts(dir: &Path) -> anyhow::Result<RingBuf<MapData>> {
        Ok(data(dir, "PUNTS")?.try_into()?)
    }

    /// Most entries of a map, as it was created.
    pub fn capacity(dir: &Path, name: &str) -> anyhow::Result<u32> {
        Ok(open(dir, name)?.1.max_entries())
    }

    /// Most connections that the flow map is made for: what `[xdp] max_flows` was when it was created.
    ///
    /// # Errors
    /// The map can't be opened.
    pub fn most_flows(dir: &Path) -> anyhow::Result<u32> {
        Ok(Self::capacity(dir, "FLOWS")?.saturating_sub(RESERVE) / 2)
    }

    /// Calls `f` with every flow entry, those of proxied connections included.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn each_flow(&self, mut f: impl FnMut(&FlowKey, &Flow)) -> io::Result<()> {
        self.proxied.each(&mut f);
        let Some(kernel) = &self.kernel else {
            return Ok(());
        };
        let mut batches = Batches::<FlowKey, Flow>::new(kernel.flows.fd().as_fd());
        while let Some(batch) = batches.next_batch()? {
            for (key, flow) in batch {
                f(key, flow);
            }
        }
        Ok(())
    }

    /// Calls `f` with every source.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn each_source(&self, mut f: impl FnMut(&SourceKey, &Source)) -> io::Result<()> {
        let Some(kernel) = &self.kernel else {
            for (key, source) in self.sources.iter().flatten() {
                f(&key, &source);
            }
            return Ok(());
        };
        let mut batches = Batches::<SourceKey, Source>::new(kernel.sources.fd().as_fd());
        while let Some(batch) = batches.next_batch()? {
            for (key, source) in batch {
                f(key, source);
            }
        }
        Ok(())
    }

    /// What the programs counted under one verdict; 0 if the map can't be read.
    pub fn counter(&self, verdict: Verdict) -> Counter {
        let mut sum = Counter::default();
        if let Some(kernel) = &self.kernel
            && let Ok(per_cpu) = kernel.counters.get(&(verdict as u32), 0)
        {
            for c in per_cpu.iter() {
                sum.packets += c.packets;
                sum.bytes += c.bytes;
            }
        }
        sum
    }

    /// What the programs counted, by verdict, summed over the CPUs.
    pub fn counters(&self) -> Result<Vec<Counter>, MapError> {
        Verdict::ALL
            .iter()
            .map(|v| {
                let mut sum = Counter::default();
                let Some(kernel) = &self.kernel else {
                    return Ok(sum);
                };
                for c in kernel.counters.get(&(*v as u32), 0)?.iter() {
                    sum.packets += c.packets;
                    sum.bytes += c.bytes;
                }
                Ok(sum)
            })
            .collect()
    }
}
