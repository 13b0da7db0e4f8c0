//! The owned prefix: bytes that only the balancer can repeat, kept until the backend has them.
//!
//! These are the PROXY header and what was acknowledged to the client before there was a backend.
//! The agent sees no packet of a spliced connection; the backend's last acknowledgement is in its
//! flow entry, where the XDP program notes it.

use super::connection::{Connection, Context, Phase, distance, reached};
use super::interface::{Datapath, Failure, Steering};
use super::open::ToBackend;
use super::settings::{MS, SECOND};
use super::splice::{Recipes, hop};
use lb_common::layout::{Flow, State, Verdict, flags};

const FIRST_RETRANSMIT: u64 = 200 * MS;
const LONGEST_RETRANSMIT: u64 = 2 * SECOND;
const GIVE_UP: u64 = 30 * SECOND;

/// What the backend may not have yet.
#[derive(Debug)]
pub(super) struct Prefix {
    pub recipes: Recipes,
    common: ToBackend,
    proxy: Vec<u8>,
    /// The client's first bytes.
    bytes: Vec<u8>,
    /// Sequence number of the first of them.
    seq: u32,
    interval: u64,
    next: u64,
    give_up: u64,
}

impl Prefix {
    pub const fn new(
        recipes: Recipes,
        common: ToBackend,
        proxy: Vec<u8>,
        bytes: Vec<u8>,
        seq: u32,
        now: u64,
    ) -> Self {
        Self {
            recipes,
            common,
            proxy,
            bytes,
            seq,
            interval: FIRST_RETRANSMIT,
            next: now + FIRST_RETRANSMIT,
            give_up: now + GIVE_UP,
        }
    }

    /// Bytes kept.
    pub const fn len(&self) -> usize {
        self.proxy.len() + self.bytes.len()
    }

    /// When its timer runs.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Sends again what lies behind the backend's acknowledgement.
    fn retransmit<D: Datapath, S: Steering>(&self, cx: &mut Context<'_, D, S>, acknowledged: u32) {
        let start = self.seq.wrapping_sub(distance(self.proxy.len()));
        // An acknowledgement outside of the prefix is none of it: all is sent.
        let done = acknowledged.wrapping_sub(start) as usize;
        let done = if done > self.len() { 0 } else { done };
        let flow = &self.recipes.to_backend;
        if let Some(rest) = self.proxy.get(done..) {
            self.common
                .send(cx, flow, start.wrapping_add(distance(done)), rest);
        }
        let done = done.saturating_sub(self.proxy.len());
        if let Some(rest) = self.bytes.get(done..) {
            self.common
                .send(cx, flow, self.seq.wrapping_add(distance(done)), rest);
        }
    }
}

impl Connection {
    /// The timer, while bytes are ours.
    pub fn prefix_timer<D: Datapath, S: Steering>(&mut self, cx: &mut Context<'_, D, S>) {
        let Phase::Prefix(mut prefix) = std::mem::replace(&mut self.phase, Phase::Done) else {
            return;
        };
        let recipes = &prefix.recipes;
        // Gone, or the tuple belongs to another connection by now: nothing left to do.
        let open = |flow: &Flow| flow.state == State::Open as u8;
        let from_backend = cx.datapath.get(&recipes.backend_key).filter(open);
        let from_client = cx.datapath.get(&recipes.client_key).filter(open);
        let (Some(from_backend), Some(from_client)) = (from_backend, from_client) else {
            return;
        };
        if from_backend.pair() != recipes.client_key || from_client.pair() != recipes.backend_key {
            return;
        }
        let end = prefix.seq.wrapping_add(distance(prefix.bytes.len()));
        if reached(from_backend.last_ack, end) {
            if cx.now < recipes.until {
                self.deadline = recipes.until;
                self.phase = Phase::Settled(prefix.recipes);
            }
            return;
        }
        // Whoever got the RST may still say that it was none (RFC 5961): then it goes on.
        let reset = from_backend.flags & flags::RST != 0;
        if cx.now >= prefix.give_up {
            if reset {
                return;
            }
            let (to_backend, to_client) = (hop(&from_client), hop(&from_backend));
            cx.reset(
                &to_backend,
                recipes.backend_key.reversed(),
                from_backend.last_ack,
            );
            cx.reset(
                &to_client,
                recipes.client_key.reversed(),
                from_client.last_ack,
            );
            cx.datapath.remove(&recipes.client_key);
            cx.datapath.remove(&recipes.backend_key);
            cx.count(Verdict::BackendFailed);
            cx.steering
                .failed(recipes.to_backend.backend, Failure::Stalled);
            return;
        }
        // What the client has acknowledged of the backend's data meanwhile.
        prefix.common.ack = from_client
            .last_ack
            .wrapping_add(recipes.to_backend.ack_add);
        if !reset {
            prefix.retransmit(cx, from_backend.last_ack);
        }
        prefix.interval = (prefix.interval * 2).min(LONGEST_RETRANSMIT);
        prefix.next = (cx.now + prefix.interval).min(prefix.give_up);
        self.deadline = prefix.next;
        self.phase = Phase::Prefix(prefix);
    }
}
