//! The real [`Datapath`]: the pinned flow map, a packet socket, and the agent's own counters.

use aya::maps::MapError;
use lb_common::layout::{Counter, Flow, FlowKey, Hop, Verdict};

use crate::dataplane::Maps;
use crate::net::PacketSocket;
use crate::setup::{Datapath, InsertError};

const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;

/// What set-up writes to.
pub struct Kernel {
    pub maps: Maps,
    socket: PacketSocket,
    counters: Vec<Counter>,
    /// Counters changed since they were last written to the map.
    dirty: bool,
}

impl Kernel {
    /// Takes over the counters of an earlier agent.
    pub fn new(maps: Maps, socket: PacketSocket) -> anyhow::Result<Self> {
        let counters = (0..Verdict::COUNT)
            .map(|i| maps.agent_counters.get(&i, 0))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            maps,
            socket,
            counters,
            dirty: false,
        })
    }

    /// Writes the counters to their map, where they outlive the agent.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.dirty) {
            for (i, counter) in (0..).zip(&self.counters) {
                if let Err(error) = self.maps.agent_counters.set(i, counter, BPF_ANY) {
                    tracing::warn!("the agent's counters can't be written to their map: {error}");
                    return;
                }
            }
        }
    }
}

fn insert_error(error: MapError) -> InsertError {
    if let MapError::SyscallError(e) = &error {
        match e.io_error.raw_os_error() {
            Some(libc::EEXIST) => return InsertError::Exists,
            Some(libc::E2BIG) => return InsertError::Full,
            _ => {}
        }
    }
    InsertError::Other(error.to_string())
}

impl Datapath for Kernel {
    fn insert_new(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), InsertError> {
        self.maps
            .flows
            .insert(key, flow, BPF_NOEXIST)
            .map_err(insert_error)
    }

    fn replace(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), InsertError> {
        self.maps
            .flows
            .insert(key, flow, BPF_ANY)
            .map_err(insert_error)
    }

    fn remove(&mut self, key: &FlowKey) {
        match self.maps.flows.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => tracing::warn!("a flow entry can't be removed: {error}"),
        }
    }

    fn get(&mut self, key: &FlowKey) -> Option<Flow> {
        self.maps.flows.get(key, 0).ok()
    }

    fn send(&mut self, hop: &Hop, frame: &[u8]) {
        if let Err(error) = self.socket.send(hop.ifindex, frame) {
            // Whoever waits for the frame will ask again; what the agent owns it sends again.
            tracing::debug!(
                "a frame of {} bytes can't be sent on interface {}: {error}",
                frame.len(),
                hop.ifindex
            );
            self.count(Verdict::InjectFailed, frame.len() as u64);
        }
    }

    fn count(&mut self, verdict: Verdict, bytes: u64) {
        let counter = &mut self.counters[verdict as usize];
        counter.packets += 1;
        counter.bytes += bytes;
        self.dirty = true;
    }
}
