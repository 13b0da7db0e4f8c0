//! The real [`Datapath`]: the pinned flow map, a packet socket, and the agent's own counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use aya::maps::MapError;
use lb_common::layout::{Backend, Counter, Flow, FlowKey, Hop, PENDING_SLOTS, Pending, Verdict};

use super::nodes::SLOTS;
use crate::dataplane::{Home, Maps};
use crate::net::PacketSocket;
use crate::setup::{Datapath, InsertError};

const BPF_ANY: u64 = 0;
const BPF_NOEXIST: u64 = 1;

/// What the agent counted, by verdict. Written by the agent's loop, read by the admin interface.
#[derive(Debug)]
pub struct Tallies(Vec<(AtomicU64, AtomicU64)>);

impl Tallies {
    /// The counter of a verdict.
    pub fn get(&self, verdict: Verdict) -> Counter {
        let (packets, bytes) = &self.0[verdict as usize];
        Counter {
            packets: packets.load(Relaxed),
            bytes: bytes.load(Relaxed),
        }
    }
}

/// What set-up writes to.
pub struct Kernel {
    pub maps: Maps,
    /// `None` without XDP: there is nothing to send then.
    socket: Option<PacketSocket>,
    tallies: Arc<Tallies>,
    /// Counters changed since they were last written to the map.
    dirty: bool,
}

impl Kernel {
    /// Opens the maps and takes over the counters of an earlier agent.
    pub fn open(home: &Home) -> anyhow::Result<Self> {
        let maps = Maps::open(home)?;
        let socket = home.has_xdp().then(PacketSocket::open).transpose()?;
        let tallies = (0..Verdict::COUNT)
            .map(|i| {
                let counter = maps.agent_counters.get(&i, 0)?;
                Ok((counter.packets.into(), counter.bytes.into()))
            })
            .collect::<Result<_, MapError>>()?;
        Ok(Self {
            maps,
            socket,
            tallies: Arc::new(Tallies(tallies)),
            dirty: false,
        })
    }

    /// The backends map.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn backends(&self) -> Result<Vec<Backend>, MapError> {
        (0..u32::from(SLOTS))
            .map(|slot| self.maps.backends.get(&slot, 0))
            .collect()
    }

    /// What was counted so far.
    pub fn tallies(&self) -> Arc<Tallies> {
        self.tallies.clone()
    }

    /// Writes the counters to their map, where they outlive the agent.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.dirty) {
            for verdict in Verdict::ALL {
                let counter = self.tallies.get(*verdict);
                if let Err(error) = self
                    .maps
                    .agent_counters
                    .set(*verdict as u32, counter, BPF_ANY)
                {
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
        // Only to leave something of a connection that ends: its sockets say the rest here too.
        if self.maps.proxied.cut(key) {
            return Ok(());
        }
        self.maps
            .flows
            .insert(key, flow, BPF_ANY)
            .map_err(insert_error)
    }

    fn remove(&mut self, key: &FlowKey) {
        if self.maps.proxied.cut(key) {
            return;
        }
        match self.maps.flows.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => tracing::warn!("a flow entry can't be removed: {error}"),
        }
    }

    fn get(&mut self, key: &FlowKey) -> Option<Flow> {
        self.maps.flow(key)
    }

    fn pending(&mut self, ticket: u32) -> Option<Pending> {
        self.maps.pending.get(&(ticket % PENDING_SLOTS), 0).ok()
    }

    fn send(&mut self, hop: &Hop, frame: &[u8]) {
        // What ends a connection of the proxy goes by no interface: its sockets say the rest.
        let Some(socket) = self.socket.as_mut().filter(|_| hop.ifindex != 0) else {
            return;
        };
        if let Err(error) = socket.send(hop.ifindex, frame) {
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
        let (packets, total) = &self.tallies.0[verdict as usize];
        packets.fetch_add(1, Relaxed);
        total.fetch_add(bytes, Relaxed);
        self.dirty = true;
    }
}
