//! The backend's side before the splice: a SYN that mirrors the client's, until a backend answers.

use super::connection::{Connection, Context, Phase, distance};
use super::interface::{Choice, Datapath, Failure, InsertError, NoChoice, Request, Steering};
use super::settings::{MS, Source};
use super::snat::{self, NoPort};
use super::splice::via;
use lb_common::cookie::NO_SCALE;
use lb_common::layout::{Flow, FlowKey, State, Verdict, ticks};
use lb_common::mqtt::Refused;
use lb_common::options::Timestamps;
use lb_common::wire::{Emit, Packet, SynOptions, flag};
use lb_common::{proxy_v2, tls};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// To the first retransmission of a SYN; doubles.
const FIRST_RETRANSMIT: u64 = 250 * MS;
/// Pause before a tuple that is still in use elsewhere is tried again.
const PAUSE: u64 = 100 * MS;
/// How often a backend may know our tuple from an older connection.
const MAX_TUPLES: u8 = 4;

/// One attempt to connect to one backend.
#[derive(Debug)]
pub(super) struct Attempt {
    pub choice: Choice,
    /// Of the backend's answers.
    pub key: FlowKey,
    /// The entry of `key` is in the map.
    pub held: bool,
    /// Our ISN: `Ic − P`.
    pub isn: u32,
    give_up: u64,
    /// To the next retransmission.
    interval: u64,
    /// Tuples that turned out to be in use.
    collisions: u8,
}

impl Attempt {
    /// An attempt that the XDP program has begun: the SYN is out, the entry is made.
    pub const fn taken(choice: Choice, key: FlowKey, isn: u32, give_up: u64) -> Self {
        Self {
            choice,
            key,
            held: true,
            isn,
            give_up,
            interval: FIRST_RETRANSMIT,
            collisions: 0,
        }
    }

    /// When its timer runs next.
    pub fn next(&self, now: u64) -> u64 {
        (now + self.interval).min(self.give_up).max(now + 1)
    }

    /// The backend-side key, once it is ours.
    pub const fn key(&self) -> Option<FlowKey> {
        if self.held { Some(self.key) } else { None }
    }

    /// Ends an attempt that the client has no more use for.
    pub fn withdraw<D: Datapath, S: Steering>(&self, cx: &mut Context<'_, D, S>) {
        if self.held {
            // Ends the half-open connection at once; where the SYN got lost it is ignored.
            cx.reset(
                &self.choice.hop,
                self.key.reversed(),
                self.isn.wrapping_add(1),
            );
            cx.datapath.remove(&self.key);
        }
    }
}

/// What beginning an attempt led to.
enum Begun {
    Yes(Attempt),
    /// No source port towards this backend.
    NoPort,
    /// The flow map takes no entry.
    MapFull,
    /// The way to the backend is tagged and the client's isn't: the splice adds no tag.
    Untaggable,
}

impl Connection {
    /// Tries the next backend with the same CONNECT, or refuses if none is left.
    pub fn next_backend<D: Datapath, S: Steering>(&mut self, cx: &mut Context<'_, D, S>) {
        if self.settings.proxy_protocol && self.proxy.is_empty() {
            self.proxy = proxy_header(&self.key);
        }
        let (client, shared) = self
            .connect
            .map_or((0, 0), |connect| (connect.client, connect.shared));
        let hello = tls::sniff(self.received.contiguous());
        let server = match hello {
            Ok(tls::Sniff::Hello(name)) if self.settings.tls => name,
            _ => None,
        };
        loop {
            let choice = cx.steering.choose(&Request {
                listener: self.listener,
                v4: self.key.is_v4(),
                client,
                shared,
                server: server.as_ref().map(tls::Name::as_str),
                tried: &self.tried,
            });
            let choice = match choice {
                // A slot that was tried already would be tried for ever.
                Ok(choice) if !self.tried.contains(&choice.slot) => choice,
                Err(NoChoice::Full) => {
                    return self.refuse(cx, Verdict::BackendsFull, Refused::Quota);
                }
                _ if self.no_port => {
                    return self.refuse(cx, Verdict::NoPort, Refused::Unavailable);
                }
                _ => return self.refuse(cx, Verdict::NoBackend, Refused::Unavailable),
            };
            let slot = choice.slot;
            match self.begin(cx, choice) {
                Begun::Yes(attempt) => {
                    self.phase = Phase::Connect(attempt);
                    return self.syn(cx);
                }
                // Ports are counted per backend: another may have some.
                Begun::NoPort => {
                    self.no_port = true;
                    self.tried.push(slot);
                }
                Begun::MapFull => {
                    return self.refuse(cx, Verdict::FlowsFull, Refused::Unavailable);
                }
                Begun::Untaggable => {
                    cx.count(Verdict::VlanMismatch);
                    self.tried.push(slot);
                }
            }
        }
    }

    /// Our ISN towards a backend: what the PROXY header takes lies in front of the client's first byte.
    pub(super) fn first_isn(&self) -> u32 {
        self.isn.wrapping_sub(distance(self.proxy.len()))
    }

    /// Takes a tuple towards a backend.
    fn begin<D: Datapath, S: Steering>(
        &self,
        cx: &mut Context<'_, D, S>,
        mut choice: Choice,
    ) -> Begun {
        // Frames keep their tag, unless the way to the backend has one of its own.
        if choice.hop.tagged == 0 {
            choice.hop.tagged = self.client.hop.tagged;
            choice.hop.vlan = self.client.hop.vlan;
        } else if self.client.hop.tagged == 0 {
            return Begun::Untaggable;
        }
        let mut attempt = Attempt {
            key: FlowKey {
                src: choice.address,
                dst: self.key.src,
                src_port: choice.port,
                dst_port: self.key.src_port,
            },
            held: false,
            isn: self.first_isn(),
            give_up: cx.now + cx.settings.connect_timeout,
            interval: FIRST_RETRANSMIT,
            collisions: 0,
            choice,
        };
        match self.take_tuple(cx, &mut attempt) {
            Ok(()) => Begun::Yes(attempt),
            // Another VIP's connection of the same client, perhaps a closing one: worth a pause.
            Err(NoPort::Exhausted) if self.settings.source == Source::Client => Begun::Yes(attempt),
            Err(NoPort::Exhausted) => Begun::NoPort,
            Err(NoPort::Map(InsertError::Full)) => Begun::MapFull,
            Err(NoPort::Map(error)) => {
                tracing::warn!(%error, "no entry for a connection to a backend: client refused");
                Begun::MapFull
            }
        }
    }

    /// Creates the backend-side entry, and so makes the tuple ours.
    fn take_tuple<D: Datapath, S: Steering>(
        &self,
        cx: &mut Context<'_, D, S>,
        attempt: &mut Attempt,
    ) -> Result<(), NoPort> {
        let now = cx.now;
        let idle_limit = self.idle_limit(cx.settings);
        let choice = &attempt.choice;
        let flow_for = |key: &FlowKey| {
            let flow = Flow {
                state: State::Setup as u8,
                backend: choice.slot,
                listener: self.listener,
                client: self.connect.map_or(0, |connect| connect.client),
                idle_limit,
                last_seen: ticks::from_ns(now),
                ..Flow::ZERO
            };
            via(flow, &self.client.hop).towards(key, &self.key.reversed())
        };
        match self.settings.source {
            Source::Snat => {
                attempt.key = snat::allocate(
                    cx.datapath,
                    cx.rng,
                    &choice.snat,
                    cx.settings.ports,
                    (&choice.address, choice.port),
                    flow_for,
                )?;
            }
            Source::Client => match cx
                .datapath
                .insert_new(&attempt.key, &flow_for(&attempt.key))
            {
                Ok(()) => {}
                Err(InsertError::Exists) if self.may_take_over(cx, &attempt.key) => cx
                    .datapath
                    .replace(&attempt.key, &flow_for(&attempt.key))
                    .map_err(NoPort::Map)?,
                Err(InsertError::Exists) => return Err(NoPort::Exhausted),
                Err(error) => return Err(NoPort::Map(error)),
            },
        }
        attempt.held = true;
        Ok(())
    }

    /// Whether the entry of a tuple that the client's source port dictates is in nobody's use: the
    /// connection on it is over (the backend decides by its own TIME_WAIT rules), or it is this client's,
    /// left by an agent that died or by a connection that the client gave up: its own entry says `Sniff`.
    fn may_take_over<D: Datapath, S: Steering>(
        &self,
        cx: &mut Context<'_, D, S>,
        key: &FlowKey,
    ) -> bool {
        cx.datapath
            .get(key)
            .is_some_and(|flow| flow.closed() || flow.pair() == self.key)
    }

    /// Sends the SYN (again) and sets the timer; without a tuple only the timer.
    fn syn<D: Datapath, S: Steering>(&mut self, cx: &mut Context<'_, D, S>) {
        let Phase::Connect(attempt) = &mut self.phase else {
            return;
        };
        if !attempt.held {
            self.deadline = cx.now + PAUSE;
            return;
        }
        self.deadline = (cx.now + attempt.interval).min(attempt.give_up);
        attempt.interval *= 2;
        let options = self.options;
        let scales = options.window_scale != NO_SCALE;
        // The window of a SYN is never scaled (RFC 7323, section 2.2).
        let shift = if scales { options.window_scale } else { 0 };
        let window = (u32::from(self.client.window) << shift).min(0xffff);
        let segment = Emit {
            key: attempt.key.reversed(),
            seq: attempt.isn,
            ack: 0,
            flags: flag::SYN,
            window: u16::try_from(window).unwrap_or(u16::MAX),
            syn: SynOptions {
                mss: Some(options.mss().min(attempt.choice.mss)),
                window_scale: scales.then_some(options.window_scale),
                sack: options.sack,
            },
            timestamps: self.client.tsval.map(|value| Timestamps { value, echo: 0 }),
            payload: &[],
        };
        let hop = attempt.choice.hop;
        cx.send(&hop, &segment);
    }

    /// The timer, while connecting.
    pub fn connect_timer<D: Datapath, S: Steering>(&mut self, cx: &mut Context<'_, D, S>) {
        let Phase::Connect(attempt) = &self.phase else {
            return;
        };
        if !attempt.held {
            return self.take_again(cx);
        }
        if cx.now >= attempt.give_up {
            return self.failed(cx, Failure::Silent);
        }
        self.syn(cx);
    }

    /// A packet of the backend, checksum verified.
    pub fn on_backend<D: Datapath, S: Steering>(
        &mut self,
        cx: &mut Context<'_, D, S>,
        packet: &Packet<'_>,
    ) {
        let Phase::Connect(attempt) = &self.phase else {
            return;
        };
        // All attempts of a client share their ISN: what answers an earlier one says nothing of this one.
        if attempt.key() != Some(packet.key) {
            return;
        }
        let tcp = &packet.tcp;
        let for_our_syn = tcp.has(flag::ACK) && tcp.ack() == attempt.isn.wrapping_add(1);
        if tcp.has(flag::RST) {
            // RFC 9293, section 3.10.7.3: in SYN-SENT a RST must acknowledge the SYN.
            if for_our_syn {
                self.failed(cx, Failure::Refused);
            }
        } else if tcp.has(flag::SYN | flag::ACK) && for_our_syn {
            self.open(cx, packet);
        } else if tcp.has(flag::ACK) {
            // The backend knows the tuple from an older connection (RFC 5961, section 4). A RST with
            // the number that it expects ends that one.
            let (hop, key) = (attempt.choice.hop, attempt.key.reversed());
            cx.reset(&hop, key, tcp.ack());
            self.collided(cx);
        }
    }

    /// An ICMP error says that our SYN with sequence number `seq` can't reach the backend that answers with
    /// `key`.
    pub fn on_unreachable<D: Datapath, S: Steering>(
        &mut self,
        cx: &mut Context<'_, D, S>,
        key: &FlowKey,
        seq: u32,
    ) {
        let Phase::Connect(attempt) = &self.phase else {
            return;
        };
        // RFC 5927, section 4.1: believed only with a number that we have in flight.
        if attempt.key() == Some(*key) && attempt.isn == seq {
            self.failed(cx, Failure::Unreachable);
        }
    }

    /// The backend knows our tuple from before: tries the same backend with another tuple, or, where
    /// there is only one, with the same a little later (behind the RST that was just sent).
    fn collided<D: Datapath, S: Steering>(&mut self, cx: &mut Context<'_, D, S>) {
        let Phase::Connect(mut attempt) = std::mem::replace(&mut self.phase, Phase::Done) else {
            return;
        };
        attempt.collisions += 1;
        attempt.interval = FIRST_RETRANSMIT;
        let mut usable = attempt.collisions < MAX_TUPLES;
        if usable && self.settings.source == Source::Snat {
            // The new one first: else the search could give back the old one.
            let old = attempt.key;
            usable = self.take_tuple(cx, &mut attempt).is_ok();
            if usable {
                cx.datapath.remove(&old);
            }
        }
        self.phase = Phase::Connect(attempt);
        if !usable {
            self.failed(cx, Failure::TupleInUse);
        } else if self.settings.source == Source::Snat {
            self.syn(cx);
        } else {
            self.deadline = cx.now + PAUSE;
        }
    }

    /// After a pause: takes the only tuple that there is, if it is free by now.
    fn take_again<D: Datapath, S: Steering>(&mut self, cx: &mut Context<'_, D, S>) {
        let Phase::Connect(mut attempt) = std::mem::replace(&mut self.phase, Phase::Done) else {
            return;
        };
        attempt.collisions += 1;
        let taken = self.take_tuple(cx, &mut attempt);
        let usable = match taken {
            Ok(()) => true,
            Err(NoPort::Exhausted) => attempt.collisions < MAX_TUPLES,
            Err(NoPort::Map(_)) => false,
        };
        self.phase = Phase::Connect(attempt);
        if usable {
            self.syn(cx);
        } else {
            self.no_port = true;
            self.failed(cx, Failure::TupleInUse);
        }
    }

    /// Gives up on a backend and goes on with the next.
    fn failed<D: Datapath, S: Steering>(&mut self, cx: &mut Context<'_, D, S>, reason: Failure) {
        let Phase::Connect(attempt) = std::mem::replace(&mut self.phase, Phase::Done) else {
            return;
        };
        if attempt.held {
            cx.datapath.remove(&attempt.key);
        }
        cx.count(Verdict::BackendFailed);
        cx.steering.failed(attempt.choice.slot, reason);
        self.tried.push(attempt.choice.slot);
        self.next_backend(cx);
    }
}

/// The PROXY header for a client's tuple.
pub(super) fn proxy_header(key: &FlowKey) -> Vec<u8> {
    let socket = |address: [u8; 16], port: [u8; 2]| {
        let ip = IpAddr::V6(Ipv6Addr::from(address)).to_canonical();
        SocketAddr::new(ip, u16::from_be_bytes(port))
    };
    let mut out = [0; proxy_v2::MAX_LEN];
    let len = proxy_v2::encode(
        socket(key.src, key.src_port),
        socket(key.dst, key.dst_port),
        &mut out,
    );
    out[..len].to_vec()
}
