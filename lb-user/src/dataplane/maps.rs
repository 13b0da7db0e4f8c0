//! Typed handles to the pinned maps. Each thread that needs one opens its own.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::Context as _;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray, RingBuf};
use lb_common::layout::{
    Backend, Binding, Counter, Endpoint, EndpointKey, Flow, FlowKey, Listener, Pending, Settings,
    Source, SourceKey, Verdict,
};

use super::{Batches, RESERVE};

/// All maps but the ring buffer.
pub struct Maps {
    pub flows: HashMap<MapData, FlowKey, Flow>,
    pub endpoints: HashMap<MapData, EndpointKey, Endpoint>,
    pub backends: Array<MapData, Backend>,
    pub listeners: Array<MapData, Listener>,
    pub snat: Array<MapData, [u8; 16]>,
    pub pending: Array<MapData, Pending>,
    pub bindings: HashMap<MapData, u64, Binding>,
    pub settings: Array<MapData, Settings>,
    pub counters: PerCpuArray<MapData, Counter>,
    pub agent_counters: Array<MapData, Counter>,
    pub sources: HashMap<MapData, SourceKey, Source>,
    pub blocked: LpmTrie<MapData, [u8; 16], u32>,
    flows_fd: MapData,
    sources_fd: MapData,
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
    /// Opens the maps that are pinned in `dir` (see [`super::version_dir`]).
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            flows: data(dir, "FLOWS")?.try_into()?,
            endpoints: data(dir, "ENDPOINTS")?.try_into()?,
            backends: data(dir, "BACKENDS")?.try_into()?,
            listeners: data(dir, "LISTENERS")?.try_into()?,
            snat: data(dir, "SNAT")?.try_into()?,
            pending: data(dir, "PENDING")?.try_into()?,
            bindings: data(dir, "BINDINGS")?.try_into()?,
            settings: data(dir, "SETTINGS")?.try_into()?,
            counters: data(dir, "COUNTERS")?.try_into()?,
            agent_counters: data(dir, "AGENT_COUNTERS")?.try_into()?,
            sources: data(dir, "SOURCES")?.try_into()?,
            blocked: data(dir, "BLOCKED")?.try_into()?,
            flows_fd: open(dir, "FLOWS")?.0,
            sources_fd: open(dir, "SOURCES")?.0,
        })
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

    /// Calls `f` with every flow entry.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn each_flow(&self, mut f: impl FnMut(&FlowKey, &Flow)) -> io::Result<()> {
        let mut batches = Batches::<FlowKey, Flow>::new(self.flows_fd.fd().as_fd());
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
        let mut batches = Batches::<SourceKey, Source>::new(self.sources_fd.fd().as_fd());
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
        if let Ok(per_cpu) = self.counters.get(&(verdict as u32), 0) {
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
                for c in self.counters.get(&(*v as u32), 0)?.iter() {
                    sum.packets += c.packets;
                    sum.bytes += c.bytes;
                }
                Ok(sum)
            })
            .collect()
    }
}
