//! Connection set-up: from a client's first data to the splice. No socket, no map, no clock in here:
//! packets come in through [`Setups::on_punt`], time through [`Setups::on_time`], everything goes out
//! through the traits [`Datapath`] and [`Steering`].
//!
//! ```text
//!            first data            identifier read           SYN-ACK
//!   (none) ────────────▶ Sniff ───────────────────▶ Connect ─────────▶ Prefix ──▶ Settled ──▶ (none)
//!                          │ reject, time-out,         │ none left      bytes are    a moment for
//!                          ▼ closed                    ▼                ours         late punts
//!                         RST                        Refuse: CONNACK, FIN
//! ```
//! - [`sniff`]: the client's segments, in order ([`reassembly`]), read as far as the identifier
//! - [`connect`]: SYN to a backend, the next one if it fails; [`snat`]: a free source port
//! - [`open`]: the recipes of the splice, and the first bytes delivered
//! - [`prefix`]: the PROXY header and what we acknowledged, until the backend has it
//! - [`refusal`]: a CONNACK from us where no backend is left or a limit is reached
//! - [`sources`]: no client address may have too many connections half open
//! - [`splice`]: packets that were punted before the splice and handled after it
//! - [`takeover`]: connections that the XDP program began by itself and can't finish
//! - [`path_mtu`]: ICMP errors about spliced packets that are too large, passed on to their senders
//!
//! The flow map is the truth about who owns a tuple: an event about a connection that is unknown here
//! counts only if the client-side entry says `Sniff` with the same ISN (or `Connecting`: then it is taken over). So what the ring buffer
//! replays, and what it holds of connections that are over, is harmless.

mod connect;
mod connection;
pub(crate) mod hello;
mod icmp;
mod interface;
mod open;
mod path_mtu;
mod prefix;
mod reassembly;
mod refusal;
pub(crate) mod rng;
mod settings;
mod snat;
mod sniff;
mod sources;
mod splice;
mod takeover;
#[cfg(test)]
mod tests;
mod timers;

pub use interface::{Choice, Datapath, Denied, Failure, InsertError, NoChoice, Request, Steering};
pub use settings::{ListenerSettings, Settings, Source};
pub(crate) use sniff::verdict;
pub(crate) use splice::hop;

use connection::{Client, Connection, Context, Phase, sniffing_entry};
use lb_common::cookie::ClientOptions;
use lb_common::layout::{Flow, FlowKey, Punt, PuntKind, State, Verdict, flags};
use lb_common::wire::{ETH_LEN, Packet, TooBig, flag};
use reassembly::Reassembly;
use rng::Rng;
use sources::Sources;
use std::collections::{BTreeSet, HashMap};
use timers::Timers;

/// How many connections are in which phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Reading as far as the client identifier.
    pub sniffing: usize,
    /// Waiting for a backend's SYN-ACK.
    pub connecting: usize,
    /// Being refused.
    pub refusing: usize,
    /// Spliced; the backend hasn't acknowledged the owned prefix.
    pub prefix: usize,
    /// Spliced less than a second ago.
    pub settled: usize,
    /// Bytes kept for all of them.
    pub bytes: usize,
}

/// All connections in set-up.
#[derive(Debug)]
pub struct Setups {
    settings: Settings,
    listeners: HashMap<u8, ListenerSettings>,
    connections: HashMap<u64, Box<Connection>>,
    /// By the client's tuple.
    clients: HashMap<FlowKey, u64>,
    /// By the tuple of the backend's answers.
    backends: HashMap<FlowKey, u64>,
    timers: Timers,
    /// In the order in which they may be given up; numbers grow with time.
    order: BTreeSet<(Rank, u64)>,
    /// Connections that are being read.
    sources: Sources,
    bytes: usize,
    next: u64,
    rng: Rng,
    /// State of the rate of refusals.
    refusals: u64,
}

/// Timers that run at a time.
const TIMERS: usize = 1024;

/// What it costs to give a connection up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Nothing: it is spliced.
    Free,
    /// The client must begin anew.
    Sniffing,
    /// It is nearly done, or holds bytes that nobody else has.
    Keep,
}

fn rank(connection: &Connection) -> Rank {
    match connection.phase {
        Phase::Settled(_) | Phase::Done => Rank::Free,
        Phase::Sniff => Rank::Sniffing,
        Phase::Connect(_) | Phase::Refuse(_) | Phase::Prefix(_) => Rank::Keep,
    }
}

/// The outside world during one event.
struct World<'a, D, S> {
    now: u64,
    bytes: u64,
    datapath: &'a mut D,
    steering: &'a mut S,
}

impl Setups {
    /// Nothing in set-up. `seed` spreads the search for source ports and should differ with every start.
    #[must_use]
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            listeners: HashMap::new(),
            connections: HashMap::new(),
            clients: HashMap::new(),
            backends: HashMap::new(),
            timers: Timers::default(),
            order: BTreeSet::new(),
            sources: Sources::default(),
            bytes: 0,
            next: 0,
            rng: Rng::new(seed),
            refusals: 0,
        }
    }

    /// Other settings from now on.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Settings of a listener for connections that begin from now on; `None`: there is no such listener.
    pub fn set_listener(&mut self, listener: u8, settings: Option<ListenerSettings>) {
        match settings {
            Some(settings) => self.listeners.insert(listener, settings),
            None => self.listeners.remove(&listener),
        };
    }

    /// When [`Self::on_time`] is due, monotonic ns.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.next()
    }

    /// What there is.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            bytes: self.bytes,
            ..Stats::default()
        };
        for connection in self.connections.values() {
            *match connection.phase {
                Phase::Sniff => &mut stats.sniffing,
                Phase::Connect(_) => &mut stats.connecting,
                Phase::Refuse(_) => &mut stats.refusing,
                Phase::Prefix(_) => &mut stats.prefix,
                Phase::Settled(_) | Phase::Done => &mut stats.settled,
            } += 1;
        }
        stats
    }

    /// Runs timers that are due, at most [`TIMERS`] of them: packets shall not wait for long.
    pub fn on_time(
        &mut self,
        now_ns: u64,
        datapath: &mut impl Datapath,
        steering: &mut impl Steering,
    ) {
        let mut world = World {
            now: now_ns,
            bytes: 0,
            datapath,
            steering,
        };
        for _ in 0..TIMERS {
            let Some(id) = self.timers.due(now_ns) else {
                return;
            };
            self.with(id, &mut world, |connection, cx| {
                match connection.phase {
                    Phase::Sniff => {
                        cx.count(Verdict::SniffTimeout);
                        connection.reset_client(cx);
                    }
                    Phase::Connect(_) => connection.connect_timer(cx),
                    Phase::Refuse(_) => connection.refusal_timer(cx),
                    Phase::Prefix(_) => connection.prefix_timer(cx),
                    Phase::Settled(_) | Phase::Done => connection.phase = Phase::Done,
                }
                // Whatever a timer did, it may not run again at once.
                connection.deadline = connection.deadline.max(cx.now + 1);
            });
        }
    }

    /// A record of the ring buffer: `frame` are the bytes that follow its head.
    pub fn on_punt(
        &mut self,
        now_ns: u64,
        punt: &Punt,
        frame: &[u8],
        datapath: &mut impl Datapath,
        steering: &mut impl Steering,
    ) {
        let frame = &frame[..frame.len().min(usize::from(punt.captured))];
        let mut world = World {
            now: now_ns,
            bytes: u64::from(punt.length).saturating_sub(ETH_LEN as u64),
            datapath,
            steering,
        };
        if punt.kind == PuntKind::Icmp as u8 {
            return self.on_icmp(frame, &mut world);
        }
        let Ok(packet) = Packet::parse(frame) else {
            return world.datapath.count(Verdict::Malformed, world.bytes);
        };
        // We write fresh checksums over what we forward: damage must not get past here.
        if !packet.checksum_ok() {
            return world.datapath.count(Verdict::BadChecksum, world.bytes);
        }
        if punt.kind == PuntKind::Deliver as u8 {
            self.deliver(&packet, punt.isn, &mut world);
        } else if punt.kind == PuntKind::Client as u8 {
            self.on_client(punt, &packet, &mut world);
        } else if punt.kind == PuntKind::Backend as u8 {
            self.on_backend(&packet, punt.ifindex, &mut world);
        }
    }

    fn on_client<D: Datapath, S: Steering>(
        &mut self,
        punt: &Punt,
        packet: &Packet<'_>,
        world: &mut World<'_, D, S>,
    ) {
        if let Some(&id) = self.clients.get(&packet.key) {
            if self.connections.get(&id).is_some_and(|c| c.isn == punt.isn) {
                self.with(id, world, |connection, cx| match &connection.phase {
                    Phase::Prefix(prefix) => prefix.recipes.forward(cx, packet, true),
                    Phase::Settled(recipes) => recipes.forward(cx, packet, true),
                    _ => connection.on_client(cx, packet, punt.ifindex),
                });
                return self.keep_within(world);
            }
            if sniffing_entry(world.datapath, &packet.key, punt.isn).is_none() {
                return;
            }
            // The client began anew on the same tuple; its entry is the new connection's already.
            self.with(id, world, |connection, cx| {
                if let Phase::Connect(attempt) = &connection.phase {
                    attempt.withdraw(cx);
                }
                connection.phase = Phase::Done;
            });
        }
        takeover::read_again(world.datapath, &packet.key);
        if let Some(entry) = sniffing_entry(world.datapath, &packet.key, punt.isn) {
            self.begin(punt, packet, &entry, world);
        } else if let Some(id) = self.take_over(&packet.key, world) {
            self.with(id, world, |connection, cx| {
                connection.on_client(cx, packet, punt.ifindex);
                // The client's patience was the timer so far.
                connection.connect_timer(cx);
            });
            self.keep_within(world);
        }
    }

    /// The first packet of a connection that is new here.
    fn begin<D: Datapath, S: Steering>(
        &mut self,
        punt: &Punt,
        packet: &Packet<'_>,
        entry: &Flow,
        world: &mut World<'_, D, S>,
    ) {
        // The XDP program has checked the cookie of the segment that made the entry, and noted its
        // acknowledgement; what comes here may be another segment.
        let cookie = entry.last_ack.wrapping_sub(1);
        let offset = packet.tcp.seq().wrapping_sub(punt.isn).wrapping_sub(1) as usize;
        if offset > self.settings.sniff_bytes || packet.tcp.has(flag::SYN) {
            return;
        }
        if packet.tcp.has(flag::RST) {
            world.datapath.count(Verdict::ClosedEarly, world.bytes);
            return world.datapath.remove(&packet.key);
        }
        if !packet.tcp.has(flag::ACK) || packet.tcp.ack() != entry.last_ack {
            return;
        }
        let listener = self.listeners.get(&punt.listener).copied();
        let full = self.connections.len() >= self.settings.connections && !self.make_room(world);
        let (hop, ingress) = sniff::way_back(packet, punt.ifindex);
        // An agent that died has acknowledged bytes of it: they are gone, so it begins anew.
        let lost = entry.flags & flags::OWNED != 0;
        let Some(settings) = listener.filter(|_| !full && !lost) else {
            let verdict = if full || lost {
                Verdict::SetupEvicted
            } else {
                Verdict::ResetUnknown
            };
            world.datapath.count(verdict, world.bytes);
            world.datapath.remove(&packet.key);
            let mut cx = world.context(&self.settings, &mut self.rng, &mut self.refusals);
            return cx.reset(&hop, packet.key.reversed(), entry.last_ack);
        };
        self.make_room_for(&packet.key, world);
        let timestamps = packet.timestamps();
        let id = self.next;
        self.next += 1;
        let connection = Connection {
            key: packet.key,
            listener: punt.listener,
            settings,
            isn: punt.isn,
            cookie,
            options: ClientOptions::from_byte(cookie.to_be_bytes()[3]),
            client: Client {
                hop,
                ingress,
                window: u16::from_be_bytes(packet.tcp.window),
                tsval: timestamps.map(|t| t.value),
            },
            tsval: timestamps.map_or(0, |t| t.echo),
            received: Reassembly::default(),
            acknowledged: 0,
            connect: None,
            proxy: Vec::new(),
            tried: Vec::new(),
            no_port: false,
            deadline: world.now + self.settings.sniff_timeout,
            phase: Phase::Sniff,
        };
        self.file(id, Box::new(connection));
        self.with(id, world, |connection, cx| {
            connection.on_client(cx, packet, punt.ifindex);
        });
        self.keep_within(world);
    }

    /// Gives connections up until the rest keeps no more bytes than it may.
    fn keep_within<D: Datapath, S: Steering>(&mut self, world: &mut World<'_, D, S>) {
        while self.bytes > self.settings.total_bytes && self.make_room(world) {}
    }

    fn on_backend<D: Datapath, S: Steering>(
        &mut self,
        packet: &Packet<'_>,
        ifindex: u32,
        world: &mut World<'_, D, S>,
    ) {
        if let Some(id) = self.of_backend(&packet.key, world) {
            return self.with(id, world, |connection, cx| match &connection.phase {
                Phase::Prefix(prefix) => prefix.recipes.forward(cx, packet, false),
                Phase::Settled(recipes) => recipes.forward(cx, packet, false),
                _ => connection.on_backend(cx, packet),
            });
        }
        // An entry that nobody works on: its agent died. The client sends its CONNECT again; this
        // half-open connection is in nobody's interest.
        let entry = world.datapath.get(&packet.key);
        if entry.is_some_and(|flow| flow.state == State::Setup as u8) {
            world.datapath.remove(&packet.key);
            if packet.tcp.has(flag::ACK) && !packet.tcp.has(flag::RST) {
                let mut cx = world.context(&self.settings, &mut self.rng, &mut self.refusals);
                let (hop, _) = sniff::way_back(packet, ifindex);
                cx.reset(&hop, packet.key.reversed(), packet.tcp.ack());
            }
        }
    }

    /// The connection whose backend answers with `key`; one that the XDP program has begun is taken over.
    fn of_backend<D: Datapath, S: Steering>(
        &mut self,
        key: &FlowKey,
        world: &mut World<'_, D, S>,
    ) -> Option<u64> {
        if let Some(&id) = self.backends.get(key) {
            return Some(id);
        }
        let entry = world.datapath.get(key)?;
        let begun = entry.state == State::Connecting as u8 && entry.flags & flags::FROM_CLIENT == 0;
        if begun {
            self.take_over(&entry.pair(), world)
        } else {
            None
        }
    }

    fn on_icmp<D: Datapath, S: Steering>(&mut self, frame: &[u8], world: &mut World<'_, D, S>) {
        if let Some(error) = TooBig::parse(frame) {
            if path_mtu::pass_on(&error, world.datapath) {
                world.datapath.count(Verdict::PathMtu, world.bytes);
            }
            return;
        }
        let Some(error) = icmp::unreachable(frame) else {
            return;
        };
        let key = error.key.reversed();
        if let Some(id) = self.of_backend(&key, world) {
            self.with(id, world, |connection, cx| {
                connection.on_unreachable(cx, &key, error.seq);
            });
        }
    }

    /// Gives up the connection that costs least; `false` if none may be given up.
    fn make_room<D: Datapath, S: Steering>(&mut self, world: &mut World<'_, D, S>) -> bool {
        let Some(&(rank, id)) = self.order.first().filter(|(rank, _)| *rank < Rank::Keep) else {
            return false;
        };
        self.give_up(id, rank, world);
        true
    }

    /// Gives up the oldest connection that is being read of a client's source, if that has its share.
    fn make_room_for<D: Datapath, S: Steering>(
        &mut self,
        client: &FlowKey,
        world: &mut World<'_, D, S>,
    ) {
        if let Some(oldest) = self.sources.oldest(client, self.settings.per_source) {
            self.give_up(oldest, Rank::Sniffing, world);
        }
    }

    fn give_up<D: Datapath, S: Steering>(
        &mut self,
        id: u64,
        rank: Rank,
        world: &mut World<'_, D, S>,
    ) {
        self.with(id, world, |connection, cx| {
            if rank == Rank::Sniffing {
                cx.datapath.count(Verdict::SetupEvicted, 0);
                connection.reset_client(cx);
            }
            connection.phase = Phase::Done;
        });
    }

    /// Lets `f` work on a connection and keeps the indices right.
    fn with<D: Datapath, S: Steering>(
        &mut self,
        id: u64,
        world: &mut World<'_, D, S>,
        f: impl FnOnce(&mut Connection, &mut Context<'_, D, S>),
    ) {
        let Some(mut connection) = self.unfile(id) else {
            return;
        };
        f(
            &mut connection,
            &mut world.context(&self.settings, &mut self.rng, &mut self.refusals),
        );
        if !matches!(connection.phase, Phase::Done) {
            self.file(id, connection);
        }
    }

    fn file(&mut self, id: u64, connection: Box<Connection>) {
        self.timers.start(connection.deadline, id);
        self.order.insert((rank(&connection), id));
        self.bytes += connection.bytes();
        if matches!(connection.phase, Phase::Sniff) {
            self.sources.insert(&connection.key, id);
        }
        self.clients.insert(connection.key, id);
        if let Some(key) = connection.backend_key() {
            self.backends.insert(key, id);
        }
        self.connections.insert(id, connection);
    }

    fn unfile(&mut self, id: u64) -> Option<Box<Connection>> {
        let connection = self.connections.remove(&id)?;
        self.timers.stop(connection.deadline, id);
        self.order.remove(&(rank(&connection), id));
        self.bytes -= connection.bytes();
        if matches!(connection.phase, Phase::Sniff) {
            self.sources.remove(&connection.key, id);
        }
        self.clients.remove(&connection.key);
        if let Some(key) = connection.backend_key() {
            self.backends.remove(&key);
        }
        Some(connection)
    }
}

impl<D, S> World<'_, D, S> {
    fn context<'b>(
        &'b mut self,
        settings: &'b Settings,
        rng: &'b mut Rng,
        refusals: &'b mut u64,
    ) -> Context<'b, D, S> {
        Context {
            now: self.now,
            settings,
            datapath: self.datapath,
            steering: self.steering,
            rng,
            refusals,
            bytes: self.bytes,
        }
    }
}
