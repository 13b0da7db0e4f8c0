//! Walks the flow map now and then: ends idle connections, removes what is over, refreshes the
//! bindings of clients that are there. Runs on a thread of its own, with handles of its own.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use lb_common::layout::{Binding, Flow, FlowKey, State, flags, ticks};

use tokio::sync::watch;

use super::ending::{Traffic, end};
use super::kernel::Kernel;
use super::limits::quota::Quota;
use super::limits::{Rules, Shared};
use super::nodes::SLOTS;
use crate::config::Timeouts;
use crate::dataplane::{Credits, Home, clock};
use crate::select::{node_of, slot};
use crate::setup::Datapath as _;

/// How long entries of a closed connection stay for retransmissions of the last segments; the
/// backend's entry stays for all of TIME_WAIT if the backend closed first.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// A live client's binding is refreshed in one sweep out of so many.
const REFRESH: u64 = 16;
/// Orphans are looked for in one sweep out of so many …
const ORPHANS: u64 = 16;
/// … but in each one that costs no more than this.
const CHEAP: Duration = Duration::from_millis(200);

/// What a sweep found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Connections by the backend's slot; closed ones don't count.
    pub by_slot: HashMap<u16, u64>,
    /// By slot: whether a packet may still be sent there, a closed connection's too.
    pub used: Vec<bool>,
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
    timeouts: watch::Receiver<Timeouts>,
    /// In ticks.
    closed: u32,
    last_words: u32,
    /// Entries of a set-up that nobody works on any more.
    abandoned: u32,
    round: u64,
    /// The last sweep's.
    took: Duration,
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
    pub fn new(
        home: &Home,
        timeouts: watch::Receiver<Timeouts>,
        limits: Shared,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            kernel: Kernel::open(home)?,
            timeouts,
            closed: 0,
            last_words: span(LAST_WORDS),
            abandoned: 0,
            round: 0,
            took: Duration::ZERO,
            expired: 0,
            limits,
            credits: Credits::open(home)?,
            hasher: RandomState::new(),
        })
    }

    /// Takes over what the configuration says by now.
    fn take_timeouts(&mut self) {
        let timeouts = self.timeouts.borrow();
        self.closed = span(timeouts.closed.max(LAST_WORDS));
        self.abandoned = span(timeouts.sniff + timeouts.connect * 8 + Duration::from_secs(30));
    }

    /// One sweep: the clients' entries first, then the backends' with what is known of the clients'.
    ///
    /// It reads each entry once. Only to find orphans, backends' entries whose client's is missing (an agent
    /// died between the two), they are read twice.
    ///
    /// # Errors
    /// What the kernel said; the next sweep begins anew.
    pub fn sweep(&mut self) -> anyhow::Result<Found> {
        let begun = Instant::now();
        self.round += 1;
        let orphans = self.took < CHEAP || self.round.is_multiple_of(ORPHANS);
        let now = ticks::from_ns(clock::now_ns());
        self.take_timeouts();
        let mut found = Found {
            used: vec![false; usize::from(SLOTS)],
            ..Found::default()
        };
        let mut by_slot = vec![0; usize::from(SLOTS)];
        let mut paired = HashSet::new();
        let (mut suspects, mut of_backends) = (Vec::new(), Vec::new());
        let mut refresh = Vec::new();
        let mut blocked = Vec::new();
        let rules = self.limits.get();
        let mut quota = Quota::begin(rules.clone(), &self.credits, &self.kernel.maps)?;
        self.kernel.maps.each_flow(|key, flow| {
            found.entries += 1;
            quota.see(key, flow);
            let age = ticks::since(now, flow.last_seen);
            let from_client = flow.flags & flags::FROM_CLIENT != 0;
            if let Some(used) = found.used.get_mut(usize::from(flow.backend)) {
                // The backend's entry of a connection that is over only keeps the port.
                *used |= flow.state != State::Sniff as u8
                    && (from_client || flow.state != State::Open as u8);
            }
            if !from_client {
                if age > self.last_words && self.suspicious(flow, age) {
                    of_backends.push((*key, *flow));
                }
                return;
            }
            if is_blocked(&rules, key, flow) {
                blocked.push((*key, *flow));
                return;
            }
            if flow.state == State::Open as u8 {
                if orphans {
                    paired.insert(self.hasher.hash_one(flow.pair()));
                }
                if !flow.closed() {
                    if let Some(count) = by_slot.get_mut(usize::from(flow.backend)) {
                        *count += 1;
                    }
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
        for (key, flow) in suspects {
            self.client_entry(now, &key, &flow);
        }
        if orphans {
            self.kernel.maps.each_flow(|key, flow| {
                if flow.flags & flags::FROM_CLIENT == 0
                    && flow.state == State::Open as u8
                    && ticks::since(now, flow.last_seen) > self.last_words
                    && !paired.contains(&self.hasher.hash_one(key))
                {
                    of_backends.push((*key, *flow));
                }
            })?;
        }
        for (key, flow) in of_backends {
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
            // Blocked since the walk began: the binding is gone, and must not be there again.
            if self.limits.get().clients.contains(&client) {
                let _ = self.kernel.maps.bindings.remove(&client);
            }
        }
        found.by_slot = (0..)
            .zip(by_slot)
            .filter(|(_, count)| *count != 0)
            .collect();
        found.expired = self.expired;
        self.took = begun.elapsed();
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
        let pair = self
            .kernel
            .get(&flow.pair())
            .filter(|pair| pair.leads_to(key));
        let age = |f: &Flow| ticks::since(now, f.last_seen);
        let quiet = pair.as_ref().map_or(age(&flow), |p| age(p).min(age(&flow)));
        if flow.closed() {
            if quiet > self.last_words {
                self.kernel.remove(key);
            }
        } else if flow.idle_limit != 0 && quiet > flow.idle_limit {
            self.expired += u64::from(end(&mut self.kernel, key, Traffic::Silent, |_| true));
        }
    }

    /// Ends a connection of a client that was blocked while it was there: its packets would go on, as
    /// those of open connections meet no block list.
    fn end_blocked(&mut self, key: &FlowKey, seen: &Flow) {
        let same = |flow: &Flow| flow.pair() == seen.pair();
        if end(&mut self.kernel, key, Traffic::Live, same) {
            return;
        }
        // While it is set up, set-up withdraws it when it finds the client's entry gone.
        if self.kernel.get(key).is_some_and(|flow| same(&flow)) {
            self.kernel.remove(key);
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
}

/// Whether the client of an entry is blocked.
fn is_blocked(rules: &Rules, client: &FlowKey, flow: &Flow) -> bool {
    !rules.block_nobody()
        && (rules.sources.hold(&client.src)
            || flow.client != 0 && rules.clients.contains(&flow.client))
}
