//! Health checks: whether backends can take clients, found out by asking them.
//!
//! The unit is an address: a broker with an IPv4 and an IPv6 address is checked at both, and they may differ.
//!
//! - [`judge`]: rise and fall, without I/O
//! - [`check`]: one check within its time; [`http`], [`tcp`] and [`mqtt`]: the kinds of it
//! - [`watch`]: the task that checks one address again and again
//! - [`descriptors`]: room for many of them at a time
//!
//! A task for each address runs its checks one after the other, so no check of an address overlaps with
//! the next, and no backend that hangs holds up the checks of others. Verdicts that change are [`Event`]s.

mod check;
mod descriptors;
mod http;
mod judge;
mod mqtt;
mod tcp;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, watch as channel};

pub use self::descriptors::raise_descriptor_limit;
pub use self::judge::State;
use self::watch::Watched;
use crate::config::Health;

/// An address to check.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The caller's number for it, which comes back in events. An address that belongs to two pools has two.
    pub id: u32,
    /// Where clients are sent.
    pub address: SocketAddr,
    pub health: Health,
    /// Connections to `address` begin with a PROXY header.
    pub proxy_protocol: bool,
}

/// A verdict that changed; or, from down to down, checks that confirm what a failed connection said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The target's number.
    pub id: u32,
    pub address: SocketAddr,
    /// `None`: it was not judged before.
    pub from: Option<State>,
    pub to: State,
    pub cause: Cause,
    /// For people: `GET :18083/api/v5/status answered 500`.
    pub reason: String,
}

/// What a verdict follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// As many checks in a row as it takes.
    Checks,
    /// One client's connection could not be set up.
    Connection,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address, reason, ..
        } = self;
        write!(f, "{address} is {}", self.to.as_str())?;
        match self.from {
            Some(from) => write!(f, ", was {}: {reason}", from.as_str()),
            None => write!(f, ": {reason}"),
        }
    }
}

/// The checks of all targets. Dropping it ends them.
#[derive(Debug)]
pub struct Checks {
    seed: u64,
    watched: HashMap<u32, Watched>,
    events: mpsc::UnboundedSender<Event>,
    /// Targets whose first check has not ended yet.
    unjudged: Arc<channel::Sender<usize>>,
}

impl Checks {
    /// Starts to check; to be called in a tokio runtime. `seed` should be random: it spreads the checks in time
    /// and tells this balancer's MQTT client identifiers from another's.
    ///
    /// The channel of the events has no limit, but a target has at most one for each check and each call of
    /// [`Self::passive`].
    pub fn start(
        seed: u64,
        targets: impl IntoIterator<Item = Target>,
    ) -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let mut checks = Self {
            seed,
            watched: HashMap::new(),
            events,
            unjudged: Arc::new(channel::Sender::new(0)),
        };
        checks.update(targets);
        (checks, receiver)
    }

    /// Checks these targets from now on; to be called in a tokio runtime. One with the number and address of one
    /// that was checked before keeps its verdict, and if nothing else changed either, its rhythm. Of
    /// targets that are gone no event comes after this.
    pub fn update(&mut self, targets: impl IntoIterator<Item = Target>) {
        let mut before = std::mem::take(&mut self.watched);
        for (place, target) in targets.into_iter().enumerate() {
            let id = target.id;
            let watched = match before.remove(&id) {
                Some(watched) if *watched.target() == target => watched,
                Some(mut watched) if watched.target().address == target.address => {
                    watched.change(target, place, self.seed);
                    watched
                }
                _ => Watched::start(
                    target,
                    place,
                    self.seed,
                    self.events.clone(),
                    self.unjudged.clone(),
                ),
            };
            self.watched.insert(id, watched);
        }
    }

    /// A client's connection to `address` could not be set up for a reason that is the backend's: its targets are
    /// down at once, and the event is in the channel when this returns. Good checks that begin
    /// later bring them up again.
    pub fn passive(&self, address: SocketAddr, reason: &str) {
        for watched in self.watched.values() {
            if watched.target().address == address {
                watched.connection_failed(reason);
            }
        }
    }

    /// The verdict about a target, `None` before the first.
    pub fn state(&self, id: u32) -> Option<State> {
        self.watched.get(&id)?.state()
    }

    /// Ends when every target has been checked once, so after the longest time-out and a second at the latest.
    /// Its events are in the channel then.
    pub fn first_round(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut unjudged = self.unjudged.subscribe();
        async move {
            // Fails if the checks are over, and so is the waiting.
            let _ = unjudged.wait_for(|&number| number == 0).await;
        }
    }
}
