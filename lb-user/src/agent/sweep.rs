//! Walks the flow map now and then: ends idle connections, removes what is over, refreshes the
//! bindings of clients that are there. Runs on a thread of its own, with handles of its own.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::time::Duration;

use lb_common::layout::{Binding, Flow, FlowKey, Hop, State, flags, ticks};
use lb_common::wire::{Emit, SynOptions, emit, flag};

use super::kernel::Kernel;
use super::limits::quota::Quota;
use super::limits::{Rules, Shared};
use crate::config::Timeouts;
use crate::dataplane::{Credits, Maps, clock};
use crate::net::PacketSocket;
use crate::select::{node_of, slot};
use crate::setup::Datapath as _;

/// How long entries of a closed connection stay for retransmissions of the last segments; the
/// backend's entry stays for all of TIME_WAIT if the backend closed first.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// A live client's binding is refreshed in one sweep out of so many.
const REFRESH: u64 = 16;

/// What a sweep found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Connections by the backend's slot; closed ones don't count.
    pub by_slot: HashMap<u16, u64>,
    /// Entries in the map.
    pub entries: u64,
    /// Connections ended because they were silent too long, since the agent started.
    pub expired: u64,
    /// How long it took.
    pub took: Duration,
}

/// The sweeper.
pub struct Sweeper {
    /// Its counters are never flushed: the agent's own handle writes them.
    kernel: Kernel,
    /// In ticks.
    closed: u32,
    last_words: u32,
    /// Entries of a set-up that nobody works on any more.
    abandoned: u32,
    round: u64,
    expired: u64,
    limits: Shared,
    credits: Credits,
    hasher: RandomState,
}

fn span(d: Duration) -> u32 {
    ticks::span(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

impl Sweeper {
    /// Opens its own handles; must be called in the agent's network namespace.
    pub fn new(dir: &Path, timeouts: &Timeouts, limits: Shared) -> anyhow::Result<Self> {
        let abandoned = timeouts.sniff + timeouts.connect * 8 + Duration::from_secs(30);
        Ok(Self {
            kernel: Kernel::new(Maps::open(dir)?, PacketSocket::open()?)?,
            closed: span(timeouts.closed.max(LAST_WORDS)),
            last_words: span(LAST_WORDS),
            abandoned: span(abandoned),
            round: 0,
            expired: 0,
            limits,
            credits: Credits::open(dir)?,
            hasher: RandomState::new(),
        })
    }

    /// One sweep: the clients' entries first, then the backends' with what is known of the clients'.
    ///
    /// # Errors
    /// What the kernel said; the next sweep begins anew.
    pub fn sweep(&mut self) -> anyhow::Result<Found> {
        self.round += 1;
        let now = ticks::from_ns(clock::now_ns());
        let mut found = Found::default();
        let mut paired = HashSet::new();
        let mut suspects = Vec::new();
        let mut refresh = Vec::new();
        let mut blocked = Vec::new();
        let rules = self.limits.get();
        let mut quota = Quota::begin(rules.clone(), &self.credits, &self.kernel.maps)?;
        self.kernel.maps.each_flow(|key, flow| {
            found.entries += 1;
            quota.see(key, flow);
            let age = ticks::since(now, flow.last_seen);
            if flow.flags & flags::FROM_CLIENT == 0 {
                return;
            }
            if is_blocked(&rules, key, flow) {
                blocked.push((*key, *flow));
                return;
            }
            if flow.state == State::Open as u8 {
                paired.insert(self.hasher.hash_one(flow.pair()));
                if !flow.closed() {
                    *found.by_slot.entry(flow.backend).or_default() += 1;
                    if flow.client != 0 && flow.client % REFRESH == self.round % REFRESH {
                        refresh.push((flow.client, flow.backend));
                    }
                }
            }
            if self.suspicious(flow, age) {
                suspects.push((*key, *flow));
            }
        })?;
        quota.finish(&self.credits, &mut self.kernel.maps);
        if !blocked.is_empty() {
            tracing::info!("{} connections of blocked clients end", blocked.len());
        }
        for (key, flow) in blocked {
            self.end_blocked(&key, &flow);
        }
        for (key, flow) in suspects.drain(..) {
            self.client_entry(now, &key, &flow);
        }
        self.kernel.maps.each_flow(|key, flow| {
            let age = ticks::since(now, flow.last_seen);
            let orphan =
                flow.state == State::Open as u8 && !paired.contains(&self.hasher.hash_one(key));
            if flow.flags & flags::FROM_CLIENT == 0
                && age > self.last_words
                && (orphan || self.suspicious(flow, age))
            {
                suspects.push((*key, *flow));
            }
        })?;
        for (key, flow) in suspects {
            self.backend_entry(now, &key, &flow);
        }
        for (client, backend) in refresh {
            let backend = slot(node_of(backend), true);
            // What is left of an earlier connection must not take back where the client went since.
            let bound = self.kernel.maps.bindings.get(&client, 0);
            let bound = bound.unwrap_or(Binding {
                backend,
                ..Binding::default()
            });
            if bound.backend != backend {
                continue;
            }
            let binding = Binding {
                last_seen: now,
                ..bound
            };
            self.kernel.maps.bindings.insert(client, binding, 0)?;
        }
        found.expired = self.expired;
        Ok(found)
    }

    /// Whether an entry is worth a closer look.
    fn suspicious(&self, flow: &Flow, age: u32) -> bool {
        if flow.state != State::Open as u8 {
            return age > self.abandoned;
        }
        if flow.closed() {
            return age > self.last_words;
        }
        flow.idle_limit != 0 && age > flow.idle_limit
    }

    /// The entry as it is now, if it hasn't moved on since the batch was read. One of an abandoned
    /// set-up is removed.
    fn still_open(&mut self, key: &FlowKey, seen: &Flow) -> Option<Flow> {
        let unchanged = |f: &Flow| f.state == seen.state && f.last_seen == seen.last_seen;
        let flow = self.kernel.get(key).filter(unchanged)?;
        if flow.state != State::Open as u8 {
            self.kernel.remove(key);
            return None;
        }
        Some(flow)
    }

    fn client_entry(&mut self, now: u32, key: &FlowKey, seen: &Flow) {
        let Some(flow) = self.still_open(key, seen) else {
            return;
        };
        let pair_key = flow.pair();
        let pair = self.kernel.get(&pair_key).filter(|pair| pair.leads_to(key));
        let age = |f: &Flow| ticks::since(now, f.last_seen);
        let quiet = pair.as_ref().map_or(age(&flow), |p| age(p).min(age(&flow)));
        if flow.closed() {
            if quiet > self.last_words {
                self.kernel.remove(key);
            }
        } else if flow.idle_limit != 0 && quiet > flow.idle_limit {
            self.expire(key, &flow, pair.as_ref());
            self.kernel.remove(key);
            if pair.is_some() {
                self.kernel.remove(&pair_key);
            }
        }
    }

    /// Ends a connection of a client that was blocked while it was there: its packets would go on, as
    /// those of open connections meet no block list.
    fn end_blocked(&mut self, key: &FlowKey, seen: &Flow) {
        let Some(flow) = self.kernel.get(key).filter(|f| f.pair() == seen.pair()) else {
            return;
        };
        let pair_key = flow.pair();
        let pair = self.kernel.get(&pair_key).filter(|pair| pair.leads_to(key));
        self.kernel.remove(key);
        // While it is set up, set-up withdraws it when it finds the client's entry gone.
        if let Some(pair) = pair.filter(|_| flow.state == State::Open as u8) {
            self.kernel.remove(&pair_key);
            self.reset_both(key, &flow, &pair);
        }
    }

    fn backend_entry(&mut self, now: u32, key: &FlowKey, seen: &Flow) {
        let Some(flow) = self.still_open(key, seen) else {
            return;
        };
        // With its client's entry, that one decides; it goes first. One that the client made with the
        // same port since then is another connection's.
        let client = self.kernel.get(&flow.pair());
        if client.is_some_and(|c| c.state == State::Open as u8 && c.leads_to(key)) {
            return;
        }
        let limit = if flow.flags & (flags::FIN_FIRST | flags::RST) == flags::FIN_FIRST {
            self.closed
        } else {
            self.last_words
        };
        if ticks::since(now, flow.last_seen) > limit {
            self.kernel.remove(key);
        }
    }

    /// Ends a connection that was silent too long: a RST to both sides, at the sequence number that
    /// each has acknowledged last, which is the one that it accepts (RFC 5961, section 3.2).
    fn expire(&mut self, key: &FlowKey, client: &Flow, backend: Option<&Flow>) {
        self.expired += 1;
        tracing::debug!(
            "connection of client hash {:016x} was silent too long",
            client.client
        );
        if let Some(backend) = backend {
            self.reset_both(key, client, backend);
        }
    }

    fn reset_both(&mut self, key: &FlowKey, client: &Flow, backend: &Flow) {
        // To the client: as the VIP, by the way that the backend's packets go.
        self.reset(key.reversed(), client.last_ack, backend);
        // To the backend: as the client is known there.
        self.reset(client.outgoing(), backend.last_ack, client);
    }

    fn reset(&mut self, key: FlowKey, seq: u32, way: &Flow) {
        let hop = Hop {
            ifindex: way.ifindex,
            dst_mac: way.dst_mac,
            src_mac: way.src_mac,
            vlan: way.vlan,
            tagged: u16::from(way.flags & flags::TAGGED != 0),
        };
        let mut frame = [0; 128];
        let rst = Emit {
            key,
            seq,
            ack: 0,
            flags: flag::RST,
            window: 0,
            syn: SynOptions::default(),
            timestamps: None,
            payload: &[],
        };
        if let Some(n) = emit(&rst, &hop, &mut frame) {
            self.kernel.send(&hop, &frame[..n]);
        }
    }
}

/// Whether the client of an entry is blocked.
fn is_blocked(rules: &Rules, client: &FlowKey, flow: &Flow) -> bool {
    !rules.block_nobody()
        && (rules.sources.hold(&client.src)
            || flow.client != 0 && rules.clients.contains(&flow.client))
}
