//! One client's connection in set-up, and the segments that we send for it.

use super::connect::Attempt;
use super::interface::{Datapath, Steering};
use super::prefix::Prefix;
use super::reassembly::Reassembly;
use super::refusal::Refusal;
use super::rng::Rng;
use super::settings::{ListenerSettings, Settings};
use super::splice::Recipes;
use lb_common::cookie::{ClientOptions, NO_SCALE};
use lb_common::layout::{Flow, FlowKey, Hop, State, Verdict};
use lb_common::mqtt::Protocol;
use lb_common::options::Timestamps;
use lb_common::wire::{Emit, SynOptions, emit, flag};

/// What an event is handled with.
pub(super) struct Context<'a, D, S> {
    /// Monotonic ns.
    pub now: u64,
    pub settings: &'a Settings,
    pub datapath: &'a mut D,
    pub steering: &'a mut S,
    pub rng: &'a mut Rng,
    /// Bytes of the packet that is being handled, from the IP header on; 0 on a timer.
    pub bytes: u64,
}

impl<D: Datapath, S: Steering> Context<'_, D, S> {
    /// Counts the packet, or the timer's connection, under a verdict.
    pub fn count(&mut self, verdict: Verdict) {
        self.datapath.count(verdict, self.bytes);
    }

    /// Builds and sends a segment.
    pub fn send(&mut self, hop: &Hop, segment: &Emit<'_>) {
        // Ethernet with a tag 18, IPv6 40, TCP with all options 60.
        let mut frame = vec![0; 118 + segment.payload.len()];
        match emit(segment, hop, &mut frame) {
            Some(len) => self.datapath.send(hop, &frame[..len]),
            None => self.datapath.count(Verdict::InjectFailed, 0),
        }
    }

    /// Sends a RST with a sequence number that the receiver expects (RFC 5961, section 3.2).
    pub fn reset(&mut self, hop: &Hop, key: FlowKey, seq: u32) {
        self.send(
            hop,
            &Emit {
                key,
                seq,
                ack: 0,
                flags: flag::RST,
                window: 0,
                syn: SynOptions::default(),
                timestamps: None,
                payload: &[],
            },
        );
    }
}

/// What the client's packets tell about the client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    /// Where frames for it go.
    pub hop: Hop,
    /// [`Hop::signature`] of where its frames come in.
    pub ingress: u32,
    /// Its latest window, as it stands in the header.
    pub window: u16,
    /// Its latest TSval, if it uses timestamps.
    pub tsval: Option<u32>,
}

/// What the CONNECT says, as far as we need it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connect {
    pub protocol: Protocol,
    /// Seconds, 0 for none.
    pub keep_alive: u16,
    /// Keyed hash of the client identifier, 0 for none.
    pub client: u64,
    /// [`shared_hash`](crate::select::shared_hash) of it, 0 for none.
    pub shared: u64,
    /// All of it has come and is sound.
    pub complete: bool,
}

/// How far the set-up is.
#[derive(Debug)]
pub(super) enum Phase {
    /// Reading as far as the client identifier.
    Sniff,
    /// A SYN is out to a backend.
    Connect(Attempt),
    /// No backend was left; the client was told.
    Refuse(Refusal),
    /// Spliced, but the backend hasn't acknowledged the bytes that only we have.
    Prefix(Prefix),
    /// Spliced; remembered for a moment for packets that were punted before.
    Settled(Recipes),
    /// To be forgotten.
    Done,
}

/// A connection in set-up. Numbers are in the client's view: `isn` is `Ic`, `cookie` is `K`.
#[derive(Debug)]
pub(super) struct Connection {
    /// The client's tuple: client → VIP.
    pub key: FlowKey,
    /// Listener's index.
    pub listener: u8,
    pub settings: ListenerSettings,
    pub isn: u32,
    pub cookie: u32,
    /// From the cookie: what the client's SYN said.
    pub options: ClientOptions,
    pub client: Client,
    /// Our last TSval: sent by us, or by the XDP program and echoed.
    pub tsval: u32,
    pub received: Reassembly,
    /// Bytes that we acknowledged ourselves: `k`.
    pub acknowledged: usize,
    /// Known from the client identifier on.
    pub connect: Option<Connect>,
    /// The PROXY header, once there is need for it: `P` bytes.
    pub proxy: Vec<u8>,
    /// Slots of backends that failed.
    pub tried: Vec<u16>,
    /// One of them had no source port left for us.
    pub no_port: bool,
    /// When the next timer runs, ns.
    pub deadline: u64,
    pub phase: Phase,
}

/// `a` or `b`, whichever is later; both wrap (RFC 7323, section 5.2).
pub(super) const fn later(a: u32, b: u32) -> u32 {
    if b.wrapping_sub(a) < 1 << 31 { b } else { a }
}

/// Whether sequence number `a` is at or behind `b`.
pub(super) const fn reached(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) < 1 << 31
}

/// A length as a distance in sequence space.
#[expect(
    clippy::cast_possible_truncation,
    reason = "nothing kept is as long as 4 GiB"
)]
pub(super) const fn distance(len: usize) -> u32 {
    len as u32
}

/// The client-side entry, if it says `Sniff` with this ISN.
pub(super) fn sniffing_entry(
    datapath: &mut impl Datapath,
    key: &FlowKey,
    isn: u32,
) -> Option<Flow> {
    datapath
        .get(key)
        .filter(|flow| flow.state == State::Sniff as u8 && flow.next_seq == isn)
}

impl Connection {
    /// Sequence number of the client's byte at `offset`.
    pub const fn seq_of(&self, offset: usize) -> u32 {
        self.isn.wrapping_add(1).wrapping_add(distance(offset))
    }

    /// Offset of a sequence number of the client's; negative before its first byte.
    #[expect(
        clippy::cast_possible_wrap,
        reason = "sequence numbers are compared modulo 2^32"
    )]
    pub fn offset_of(&self, seq: u32) -> i64 {
        i64::from(seq.wrapping_sub(self.isn).wrapping_sub(1) as i32)
    }

    /// What acknowledges all that has come without a gap, the FIN included.
    pub fn ack_of_all(&self) -> u32 {
        self.seq_of(self.received.contiguous().len())
            .wrapping_add(u32::from(self.received.ended()))
    }

    /// Sends a segment to the client, from us.
    pub fn send_to_client<D: Datapath, S: Steering>(
        &mut self,
        cx: &mut Context<'_, D, S>,
        seq: u32,
        ack: u32,
        flags: u8,
        payload: &[u8],
    ) {
        // Only clients that offered scaling are promised ours (RFC 7323, section 2.2).
        let window = if self.options.window_scale == NO_SCALE {
            self.settings.window
        } else {
            (self.settings.window >> (self.settings.window_scale & 15)).max(1)
        };
        let timestamps = self.client.tsval.map(|echo| {
            // Never backwards: the client drops older ones (PAWS).
            self.tsval = later(self.tsval, cx.settings.clock(cx.now));
            Timestamps {
                value: self.tsval,
                echo,
            }
        });
        cx.send(
            &self.client.hop,
            &Emit {
                key: self.key.reversed(),
                seq,
                ack,
                flags,
                window,
                syn: SynOptions::default(),
                timestamps,
                payload,
            },
        );
    }

    /// Whether the client's entry is still this connection's. It isn't once the client began anew with
    /// the same port: the XDP program replaces the entry before we hear of it.
    pub fn owns_entry<D: Datapath, S: Steering>(&self, cx: &mut Context<'_, D, S>) -> bool {
        sniffing_entry(cx.datapath, &self.key, self.isn).is_some()
    }

    /// Forgets the connection, here and in the flow map.
    pub fn forget<D: Datapath, S: Steering>(&mut self, cx: &mut Context<'_, D, S>) {
        if self.owns_entry(cx) {
            cx.datapath.remove(&self.key);
        }
        self.phase = Phase::Done;
    }

    /// Gives up a connection that no backend data has reached yet: RST to the client.
    pub fn reset_client<D: Datapath, S: Steering>(&mut self, cx: &mut Context<'_, D, S>) {
        if self.owns_entry(cx) {
            let seq = self.cookie.wrapping_add(1);
            cx.reset(&self.client.hop, self.key.reversed(), seq);
        }
        self.forget(cx);
    }

    /// Gives up in any phase before the splice: also what was begun towards a backend.
    pub fn abandon<D: Datapath, S: Steering>(&mut self, cx: &mut Context<'_, D, S>) {
        // A backend that answers the SYN later gets its RST from the XDP program: no entry.
        if let Phase::Connect(attempt) = &self.phase {
            attempt.withdraw(cx);
        }
        self.reset_client(cx);
    }

    /// Key of the backend-side entry that is ours.
    pub fn backend_key(&self) -> Option<FlowKey> {
        match &self.phase {
            Phase::Connect(attempt) => attempt.key(),
            Phase::Prefix(prefix) => Some(prefix.recipes.backend_key),
            Phase::Settled(recipes) => Some(recipes.backend_key),
            Phase::Sniff | Phase::Refuse(_) | Phase::Done => None,
        }
    }

    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        let prefix = match &self.phase {
            Phase::Prefix(prefix) => prefix.len(),
            _ => 0,
        };
        self.received.len() + self.proxy.len() + prefix
    }
}
