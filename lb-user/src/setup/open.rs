//! The SYN-ACK came: both entries become recipes, and the backend gets what the client has sent.

use super::connect::Attempt;
use super::connection::{Connection, Context, Phase, distance};
use super::interface::{Datapath, Steering};
use super::prefix::Prefix;
use super::settings::{SECOND, Settings};
use super::splice::{Recipes, hop, via};
use lb_common::cookie::NO_SCALE;
use lb_common::layout::{Flow, FlowKey, State, Verdict, flags, ticks};
use lb_common::opening::Numbers;
use lb_common::options::{Offered, Timestamps, offered};
use lb_common::window::rescale;
use lb_common::wire::{Emit, Packet, SynOptions, flag};

/// How long a connection is remembered for packets that were punted before it was open.
const REMEMBER: u64 = SECOND;

/// What every segment that we send to one backend has in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToBackend {
    /// Our tuple → backend.
    pub key: FlowKey,
    pub ack: u32,
    /// As it stands in the header.
    pub window: u16,
    pub timestamps: Option<Timestamps>,
    /// Most bytes of payload in a segment.
    pub room: usize,
}

impl ToBackend {
    /// Sends `data`, whose first byte has sequence number `seq`, in as many segments as it takes.
    pub fn send<D: Datapath, S: Steering>(
        &self,
        cx: &mut Context<'_, D, S>,
        flow: &Flow,
        seq: u32,
        data: &[u8],
    ) {
        let mut at = 0;
        for payload in data.chunks(self.room) {
            let seq = seq.wrapping_add(distance(at));
            self.segment(cx, flow, seq, flag::ACK | flag::PSH, payload);
            at += payload.len();
        }
    }

    fn segment<D: Datapath, S: Steering>(
        &self,
        cx: &mut Context<'_, D, S>,
        flow: &Flow,
        seq: u32,
        flags: u8,
        payload: &[u8],
    ) {
        let segment = Emit {
            key: self.key,
            seq,
            ack: self.ack,
            flags,
            window: self.window,
            syn: SynOptions::default(),
            timestamps: self.timestamps,
            payload,
        };
        cx.send(&hop(flow), &segment);
    }
}

impl Connection {
    /// The backend's SYN-ACK, which acknowledges our SYN.
    pub fn open<D: Datapath, S: Steering>(
        &mut self,
        cx: &mut Context<'_, D, S>,
        packet: &Packet<'_>,
    ) {
        let Phase::Connect(attempt) = std::mem::replace(&mut self.phase, Phase::Done) else {
            return;
        };
        if !self.owns_entry(cx) {
            self.phase = Phase::Connect(attempt);
            return self.abandon(cx);
        }
        let offered = offered(packet.options);
        if self.differs(&offered) {
            let slot = attempt.choice.slot;
            cx.steering.capabilities(self.listener, slot, &offered);
        }
        // The client's timestamps can't be taken back: it would drop segments without them. (SACK can
        // be missing: the backend ignores the client's blocks, and the client just never gets any.
        // So can window scaling: `window_shifts` makes up for it.)
        if self.client.tsval.is_some() && offered.timestamps.is_none() {
            cx.count(Verdict::OptionMismatch);
            self.phase = Phase::Connect(attempt);
            return self.abandon(cx);
        }
        let (recipes, common) = self.recipes(cx, &attempt, packet, &offered);
        // The backend's first: a client entry that is open leads to where nothing is spliced yet.
        for (key, flow) in [
            (&recipes.backend_key, &recipes.to_client),
            (&recipes.client_key, &recipes.to_backend),
        ] {
            if let Err(error) = cx.datapath.replace(key, flow) {
                tracing::warn!(%error, "a connection was ready but could not be spliced: both sides reset");
                cx.count(Verdict::FlowsFull);
                cx.reset(
                    &self.client.hop,
                    self.key.reversed(),
                    self.cookie.wrapping_add(1),
                );
                cx.datapath.remove(&self.key);
                return attempt.withdraw(cx);
            }
        }
        self.deliver(cx, &recipes, &common);
        cx.datapath.count(Verdict::SteeredAgent, 0);
        cx.steering.opened(
            self.listener,
            attempt.choice.slot,
            recipes.to_backend.client,
        );
        self.settle(cx, recipes, common);
    }

    /// Whether SYN-ACKs promise something else than this backend offers to this client.
    fn differs(&self, offered: &Offered) -> bool {
        let scales = self.options.window_scale != NO_SCALE;
        (scales && offered.window_scale != Some(self.settings.window_scale))
            || (self.options.sack && !offered.sack)
            || (self.client.tsval.is_some() && offered.timestamps.is_none())
            || offered.mss.is_some_and(|mss| mss < self.settings.mss)
    }

    /// Both entries, and what segments to the backend have in common.
    fn recipes<D: Datapath, S: Steering>(
        &self,
        cx: &Context<'_, D, S>,
        attempt: &Attempt,
        packet: &Packet<'_>,
        offered: &Offered,
    ) -> (Recipes, ToBackend) {
        let theirs = packet.tcp.seq();
        let timestamps = self.client.tsval.zip(offered.timestamps);
        let numbers = Numbers::new(
            self.cookie,
            theirs,
            timestamps.map(|(_, t)| (self.tsval, t.value)),
            (
                self.options.window_scale,
                self.settings.window_scale,
                offered.window_scale,
            ),
        );
        let (mut of_client, mut of_backend) = (flags::FROM_CLIENT, 0);
        let fin = self.received.fin().is_some();
        if fin {
            of_client |= flags::FIN_SELF | flags::FIN_FIRST;
            of_backend |= flags::FIN_PEER;
        }
        let common = Flow {
            backend: attempt.choice.slot,
            state: State::Open as u8,
            listener: self.listener,
            client: self.connect.map_or(0, |connect| connect.client),
            last_seen: ticks::from_ns(cx.now),
            idle_limit: self.idle_limit(cx.settings),
            ..Flow::ZERO
        };
        let mut to_backend = Flow {
            ingress: self.client.ingress,
            hop_generation: attempt.choice.hop_generation,
            flags: of_client,
            next_seq: self
                .seq_of(self.received.highest())
                .wrapping_add(u32::from(fin)),
            last_ack: self.cookie.wrapping_add(1),
            ..common
        };
        let owned = if self.proxy.is_empty() && self.acknowledged == 0 {
            common
        } else {
            of_backend |= flags::OWNED;
            Flow {
                ingress: self.seq_of(self.acknowledged),
                hop_generation: cx.settings.agent,
                ..common
            }
        };
        let mut to_client = Flow {
            flags: of_backend,
            next_seq: theirs.wrapping_add(1),
            last_ack: packet.tcp.ack(),
            ..owned
        };
        numbers.from_client(&mut to_backend);
        numbers.from_backend(&mut to_client);
        let window = rescale(self.client.window, numbers.client_shift);
        let recipes = Recipes {
            client_key: self.key,
            backend_key: attempt.key,
            to_backend: via(to_backend, &attempt.choice.hop)
                .towards(&self.key, &attempt.key.reversed()),
            to_client: via(to_client, &self.client.hop).towards(&attempt.key, &self.key.reversed()),
            window,
            until: cx.now + REMEMBER,
        };
        // An absent option means the minimum (RFC 9293, section 3.7.1).
        let default_mss = if self.key.is_v4() { 536 } else { 1220 };
        let mss = offered
            .mss
            .unwrap_or(default_mss)
            .min(attempt.choice.mss)
            .max(88);
        let options_len = if timestamps.is_some() { 12 } else { 0 };
        let to_backend = ToBackend {
            key: attempt.key.reversed(),
            ack: theirs.wrapping_add(1),
            window,
            timestamps: timestamps.map(|(value, t)| Timestamps {
                value,
                echo: t.value,
            }),
            room: usize::from(mss) - options_len,
        };
        (recipes, to_backend)
    }

    /// Sends all that the client has sent so far, behind the PROXY header.
    fn deliver<D: Datapath, S: Steering>(
        &self,
        cx: &mut Context<'_, D, S>,
        recipes: &Recipes,
        common: &ToBackend,
    ) {
        let flow = &recipes.to_backend;
        let proxy_seq = self.seq_of(0).wrapping_sub(distance(self.proxy.len()));
        common.send(cx, flow, proxy_seq, &self.proxy);
        common.send(cx, flow, self.seq_of(0), self.received.contiguous());
        for (offset, data) in self.received.ahead() {
            common.send(cx, flow, self.seq_of(offset), data);
        }
        if let Some(fin) = self.received.fin() {
            common.segment(cx, flow, self.seq_of(fin), flag::FIN | flag::ACK, &[]);
        }
    }

    /// Lets go of everything but the bytes that only we have.
    fn settle<D: Datapath, S: Steering>(
        &mut self,
        cx: &mut Context<'_, D, S>,
        recipes: Recipes,
        common: ToBackend,
    ) {
        let received = std::mem::take(&mut self.received);
        let proxy = std::mem::take(&mut self.proxy);
        if proxy.is_empty() && self.acknowledged == 0 {
            self.deadline = recipes.until;
            self.phase = Phase::Settled(recipes);
            return;
        }
        let bytes = received.into_first(self.acknowledged);
        let seq = self.seq_of(0);
        let prefix = Prefix::new(recipes, common, proxy, bytes, seq, cx.now);
        self.deadline = prefix.next();
        self.phase = Phase::Prefix(prefix);
    }

    /// Silence after which the connection ends, in ticks.
    pub fn idle_limit(&self, settings: &Settings) -> u32 {
        settings
            .idle
            .limit(self.connect.map_or(0, |connect| connect.keep_alive))
    }
}
