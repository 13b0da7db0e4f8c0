//! Walks the flow map now and then: ends idle connections, removes what is over, refreshes the
//! bindings of clients that are there. Runs on a thread of its own, with handles of its own.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use lb_common::layout::{Binding, Flow, FlowKey, State, flags, ticks};

use tokio::sync::watch;

use super::ending::{Traffic, cut, end};
use super::kernel::Kernel;
use super::limits::quota::Quota;
use super::limits::{Rules, Shared};
use super::nodes::SLOTS;
use crate::config::{Config, Timeouts};
use crate::dataplane::{Credits, Home, clock};
use crate::select::{node_of, slot};
use crate::setup::Datapath as _;

/// Least pause between two sweeps.
const PAUSE: Duration = Duration::from_secs(2);
/// How long entries of a closed connection stay for retransmissions of the last segments; the
/// backend's entry stays for all of TIME_WAIT if the backend closed first.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// A live client's binding is refreshed in one sweep out of so many, or more often if it lives for less than
/// four such rounds.
const REFRESH: u64 = 16;
/// Orphans are looked for in one sweep out of so many …
const ORPHANS: u64 = 16;
/// … but in each one that costs no more than this.
const CHEAP: Duration = Duration::from_millis(200);

/// How long things live.
#[derive(Clone, Debug)]
pub struct Spans {
    pub timeouts: Timeouts,
    /// A binding that isn't refreshed.
    pub linger: Duration,
}

impl Spans {
    /// As the configuration says.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            timeouts: config.timeouts.clone(),
            linger: config.bindings.linger,
        }
    }
}

/// How long a binding lives that nobody refreshes, if it is to live for `linger` after its client left: the
/// sweep that refreshes it may be late by a pause.
#[must_use]
pub fn lifetime(linger: Duration) -> Duration {
    linger + Duration::from_secs(15)
}

/// Of how many sweeps, `pause` apart, one refreshes a binding that lives for `linger`.
fn refresh_round(linger: Duration, pause: Duration) -> u64 {
    let rounds = linger.as_nanos() / (4 * pause.as_nanos()).max(1);
    u64::try_from(rounds).unwrap_or(REFRESH).clamp(1, REFRESH)
}

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
    spans: watch::Receiver<Spans>,
    /// In ticks.
    closed: u32,
    last_words: u32,
    /// Entries of a set-up that nobody works on any more.
    abandoned: u32,
    linger: Duration,
    round: u64,
    /// The last sweep's.
    took: Duration,
    expired: u64,
    limits: Shared,
    /// The agent's number ([`crate::setup::Settings::agent`]).
    agent: u32,
    credits: Credits,
    hasher: RandomState,
}

/// The pause behind a sweep that took so long: it costs less than a tenth of a core.
#[must_use]
pub fn pause_after(took: Duration) -> Duration {
    PAUSE.max(took * 10)
}

fn span(d: Duration) -> u32 {
    ticks::span(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

impl Sweeper {
    /// Opens its own handles; must be called in the agent's network namespace.
    pub fn new(
        home: &Home,
        spans: watch::Receiver<Spans>,
        limits: Shared,
        agent: u32,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            kernel: Kernel::open(home)?,
            spans,
            linger: Duration::ZERO,
            closed: 0,
            last_words: span(LAST_WORDS),
            abandoned: 0,
            round: 0,
            took: Duration::ZERO,
            expired: 0,
            limits,
            agent,
            credits: Credits::open(home)?,
            hasher: RandomState::new(),
        })
    }

    /// Takes over what the configuration says by now.
    fn take_spans(&mut self) {
        let spans = self.spans.borrow();
        let timeouts = &spans.timeouts;
        self.closed = span(timeouts.closed.max(LAST_WORDS));
        self.abandoned = span(timeouts.sniff + timeouts.connect * 8 + Duration::from_secs(30));
        self.linger = spans.linger;
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
        self.take_spans();
        let refresh_round = refresh_round(self.linger, pause_after(self.took));
        let mut found = Found {
            used: vec![false; usize::from(SLOTS)],
            ..Found::default()
        };
        let mut by_slot = vec![0; usize::from(SLOTS)];
        let mut paired = HashSet::new();
        let (mut suspects, mut of_backends) = (Vec::new(), Vec::new());
        let mut refresh = Vec::new();
        let (mut blocked, mut stranded) = (Vec::new(), Vec::new());
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
                    && flow.state != State::Cut as u8
                    && (from_client || flow.state != State::Open as u8);
            }
            if !from_client {
                if flow.is_stranded(self.agent) {
                    stranded.push((*key, *flow));
                }
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
                    if flow.client != 0 && flow.client % refresh_round == self.round % refresh_round
                    {
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
            self.end_blocked(now, &key, &flow);
        }
        if !stranded.is_empty() {
            tracing::warn!(
                "{} connections end: an agent that died had bytes of theirs that their backend still waits for",
                stranded.len()
            );
        }
        for (key, flow) in stranded {
            let same = |client: &Flow| client.pair() == key;
            end(&mut self.kernel, &flow.pair(), Traffic::Live(now), same);
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
        if flow.closed() {
            return age > self.last_words;
        }
        if flow.state != State::Open as u8 {
            return age > self.abandoned;
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
        let age = |f: &Flow| ticks::since(now, f.last_seen);
        if flow.closed() {
            let pair = self.kernel.get(&flow.pair());
            let pair = pair.filter(|pair| pair.leads_to(key));
            let quiet = pair.as_ref().map_or(age(&flow), |p| age(p).min(age(&flow)));
            if quiet > self.last_words {
                self.kernel.remove(key);
            }
        } else if flow.idle_limit != 0 && age(&flow) > flow.idle_limit {
            // The client's silence alone: one that is there acknowledges what its backend says, and what a
            // backend repeats to one that isn't must not keep the connection.
            self.expired += u64::from(end(&mut self.kernel, key, Traffic::Silent, |_| true));
        }
    }

    /// Ends a connection of a client that was blocked while it was there: its packets would go on, as
    /// those of open connections meet no block list.
    fn end_blocked(&mut self, now: u32, key: &FlowKey, seen: &Flow) {
        let same = |flow: &Flow| flow.pair() == seen.pair();
        if end(&mut self.kernel, key, Traffic::Live(now), same) {
            return;
        }
        // While it is set up, set-up withdraws it when it finds the client's entry gone.
        if self.kernel.get(key).is_some_and(|flow| same(&flow)) {
            cut(&mut self.kernel, key, seen, now);
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
    flow.state != State::Cut as u8
        && !rules.block_nobody()
        && (rules.sources.hold(&client.src)
            || flow.client != 0 && rules.clients.contains(&flow.client))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_is_refreshed_before_it_is_too_old() {
        let pauses = [PAUSE, Duration::from_millis(2500), Duration::from_secs(11)];
        for linger in [1, 10, 60, 300, 1800, 31_536_000].map(Duration::from_secs) {
            for pause in pauses {
                let round = refresh_round(linger, pause);
                let between = pause * u32::try_from(round).unwrap();
                let late = between.saturating_sub(linger / 4);
                assert!(late <= pause, "{linger:?} {pause:?}: {round}");
                assert!(round == 1 || round == REFRESH || between + pause > linger / 4);
            }
        }
    }
}
