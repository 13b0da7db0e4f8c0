//! A small world around `Setups`: clients, the XDP program's rules, backends, a wire that may lose,
//! repeat and reorder, and a clock that only the test moves.

use super::super::rng::Rng;
use super::super::*;
use super::backend::Backend;
use super::client::Client;
use super::kernel::Kernel;
use lb_common::cookie::{self, Check, MSS_CLASSES, NO_SCALE};
use lb_common::layout::{Hop, Pending, flags, ticks};
use lb_common::limits::repeat;
use lb_common::options::{Offered, Timestamps, offered};
use lb_common::window::rescale;
use lb_common::wire::{ETH_LEN, Emit, IPV4_LEN, SynOptions, emit};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;
/// Interfaces of the balancer.
pub const TO_CLIENTS: u32 = 11;
pub const TO_BACKENDS: u32 = 12;
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

pub const LISTENER: ListenerSettings = ListenerSettings {
    window_scale: 7,
    window: 16_384,
    mss: 1460,
    sack: true,
    source: Source::Snat,
    proxy_protocol: false,
    tls: false,
};

/// Builds a frame.
pub fn frame(hop: &Hop, segment: &Emit<'_>) -> Vec<u8> {
    let mut out = vec![0; 200 + segment.payload.len()];
    let len = emit(segment, hop, &mut out).unwrap();
    out.truncate(len);
    out
}

/// A segment without options and payload.
pub const fn segment(key: FlowKey, seq: u32, ack: u32, flags: u8) -> Emit<'static> {
    Emit {
        key,
        seq,
        ack,
        flags,
        window: 0,
        syn: SynOptions {
            mss: None,
            window_scale: None,
            sack: false,
        },
        timestamps: None,
        payload: &[],
    }
}

/// The flow map and the wire.
#[derive(Default)]
pub struct FakeDatapath {
    pub map: HashMap<FlowKey, Flow>,
    pub capacity: Option<usize>,
    pub sent: Vec<(Hop, Vec<u8>)>,
    pub counts: HashMap<&'static str, u64>,
    pub inserts: usize,
    pub pending: HashMap<u32, Pending>,
    /// The agent is at work; how much it still does before it dies, and whether it has.
    agent: bool,
    deeds: Option<u32>,
    died: bool,
}

impl FakeDatapath {
    /// Whether what the agent does is done: nothing is, once it is dead.
    fn is_done(&mut self) -> bool {
        match &mut self.deeds {
            Some(0) if self.agent => self.died = true,
            Some(left) if self.agent => *left -= 1,
            _ => {}
        }
        !self.died
    }

    fn room(&self, key: &FlowKey) -> Result<(), InsertError> {
        let full = self.capacity.is_some_and(|c| self.map.len() >= c);
        if full && !self.map.contains_key(key) {
            return Err(InsertError::Full);
        }
        Ok(())
    }
}

impl Datapath for FakeDatapath {
    fn insert_new(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), InsertError> {
        self.inserts += 1;
        if !self.is_done() {
            return Ok(());
        }
        if self.map.contains_key(key) {
            return Err(InsertError::Exists);
        }
        self.room(key)?;
        self.map.insert(*key, *flow);
        Ok(())
    }
    fn replace(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), InsertError> {
        if self.is_done() {
            self.room(key)?;
            self.map.insert(*key, *flow);
        }
        Ok(())
    }
    fn remove(&mut self, key: &FlowKey) {
        if self.is_done() {
            self.map.remove(key);
        }
    }
    fn get(&mut self, key: &FlowKey) -> Option<Flow> {
        self.map.get(key).copied()
    }
    fn pending(&mut self, ticket: u32) -> Option<Pending> {
        self.pending.get(&ticket).copied()
    }
    fn send(&mut self, hop: &Hop, frame: &[u8]) {
        if self.is_done() {
            self.sent.push((*hop, frame.to_vec()));
        }
    }
    fn count(&mut self, verdict: Verdict, _bytes: u64) {
        *self.counts.entry(verdict.name()).or_default() += 1;
    }
}

/// Takes backends in order.
#[derive(Default)]
pub struct FakeSteering {
    pub choices: Vec<Choice>,
    pub clients: Vec<u64>,
    pub shared: Vec<u64>,
    pub servers: Vec<Option<String>>,
    pub opened: Vec<(u8, u16, u64)>,
    pub failed: Vec<(u16, Failure)>,
    pub capabilities: Vec<(u16, Offered)>,
    /// What clients are told.
    pub denied: Option<Denied>,
    /// Why there is no choice where there is none.
    pub full: bool,
    pub out_of_service: Vec<u16>,
}

impl Steering for FakeSteering {
    fn admit(&mut self, _listener: u8, _client: u64) -> Result<(), Denied> {
        self.denied.map_or(Ok(()), Err)
    }
    fn choose(&mut self, request: &Request<'_>) -> Result<Choice, NoChoice> {
        self.clients.push(request.client);
        self.shared.push(request.shared);
        self.servers.push(request.server.map(str::to_owned));
        let fits = |c: &&Choice| {
            !self.out_of_service.contains(&c.slot)
                && (c.address[..12] == lb_common::layout::V4_MAPPED) == request.v4
                && !request.tried.contains(&c.slot)
        };
        let none = if self.full {
            NoChoice::Full
        } else {
            NoChoice::NoneLeft
        };
        self.choices.iter().find(fits).cloned().ok_or(none)
    }
    fn known(&mut self, slot: u16, _v4: bool) -> Option<Choice> {
        let choice = self.choices.iter().find(|c| c.slot == slot);
        choice
            .filter(|_| !self.out_of_service.contains(&slot))
            .cloned()
    }
    fn opened(&mut self, listener: u8, slot: u16, client: u64) {
        self.opened.push((listener, slot, client));
    }
    fn failed(&mut self, slot: u16, reason: Failure) {
        self.failed.push((slot, reason));
    }
    fn capabilities(&mut self, _listener: u8, slot: u16, offered: &Offered) {
        self.capabilities.push((slot, *offered));
    }
}

/// What the wire does to frames, in percent and ns.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire {
    pub loss: u32,
    pub repeat: u32,
    /// Frames are late by up to this much, and so overtake each other.
    pub jitter: u64,
    /// Records of the ring buffer that come twice, and how late.
    pub replay: u32,
}

enum Event {
    Frame(u32, Vec<u8>),
    Client(usize, Vec<u8>),
    Backend(usize, Vec<u8>),
    Punt(Punt, Vec<u8>),
    ClientTimer(usize),
    BackendTimer(usize),
}

pub struct World {
    pub now: u64,
    pub setups: Setups,
    pub datapath: FakeDatapath,
    pub steering: FakeSteering,
    pub clients: Vec<Client>,
    pub backends: Vec<Backend>,
    pub wire: Wire,
    /// What the XDP program promises.
    pub listener: ListenerSettings,
    /// Punted frames are cut to this length.
    pub capture: usize,
    /// Frames that left towards a backend, in order.
    pub to_backends: Vec<Vec<u8>>,
    /// Delay of records in the ring buffer.
    pub ring_delay: u64,
    pub kernel: Kernel,
    /// How often the agent dies yet, each time within so many deeds: writes to the map, frames.
    pub deaths: u32,
    pub deeds: u32,
    rng: Rng,
    queue: BTreeMap<(u64, u64), Event>,
    events: u64,
}

const KEYS: [[u64; 2]; 2] = [[1, 2], [3, 4]];

impl World {
    pub fn new(listener: ListenerSettings) -> Self {
        Self::with_settings(listener, Settings::default())
    }

    pub fn with_settings(listener: ListenerSettings, settings: Settings) -> Self {
        let settings = Settings {
            client_key: [5, 6],
            timestamp_offset: 0xffff_f000,
            ..settings
        };
        let mut setups = Setups::new(settings, 42);
        setups.set_listener(3, Some(listener));
        Self {
            now: 1_000 * SECOND,
            setups,
            datapath: FakeDatapath::default(),
            steering: FakeSteering::default(),
            clients: Vec::new(),
            backends: Vec::new(),
            wire: Wire::default(),
            listener,
            capture: 2048,
            to_backends: Vec::new(),
            ring_delay: 0,
            kernel: Kernel::Off,
            deaths: 0,
            deeds: 1,
            rng: Rng::new(1),
            queue: BTreeMap::new(),
            events: 0,
        }
    }

    pub fn seed(&mut self, seed: u64) {
        self.rng = Rng::new(seed);
    }

    pub fn add_backend(&mut self, backend: Backend) {
        let slot = u16::try_from(self.backends.len()).unwrap();
        let v4 = backend.address[..12] == lb_common::layout::V4_MAPPED;
        let snat = if v4 {
            lb_common::layout::v4_mapped([10, 0, 1, 1])
        } else {
            let mut a = [0; 16];
            (a[0], a[15]) = (0xfd, 0x99);
            a
        };
        self.steering.choices.push(Choice {
            slot,
            address: backend.address,
            port: 1883u16.to_be_bytes(),
            hop: Hop {
                ifindex: TO_BACKENDS,
                dst_mac: backend.mac(),
                src_mac: OUR_MAC,
                ..backend.tag
            },
            hop_generation: 9,
            mss: 1460,
            snat: Arc::from([snat]),
        });
        self.backends.push(backend);
        self.later(100 * MS, Event::BackendTimer(usize::from(slot)));
    }

    /// Adds a client and lets it send its SYN.
    pub fn connect(&mut self, client: Client) -> usize {
        self.clients.push(client);
        let i = self.clients.len() - 1;
        let now = self.now;
        let out = self.clients[i].start(now);
        self.arrive(TO_CLIENTS, out);
        self.later(100 * MS, Event::ClientTimer(i));
        i
    }

    fn later(&mut self, delay: u64, event: Event) {
        self.events += 1;
        self.queue.insert((self.now + delay, self.events), event);
    }

    /// Over the wire: lost, repeated, late.
    fn over_wire(&mut self, frame: Vec<u8>, event: impl Fn(Vec<u8>) -> Event) {
        let copies = 1 + u32::from(self.rng.below(100) < self.wire.repeat);
        for _ in 0..copies {
            if self.rng.below(100) < self.wire.loss {
                continue;
            }
            let jitter = u32::try_from(self.wire.jitter / 1000).unwrap();
            let delay = MS + u64::from(self.rng.below(jitter)) * 1000;
            self.later(delay, event(frame.clone()));
        }
    }

    pub fn arrive(&mut self, ifindex: u32, frames: Vec<Vec<u8>>) {
        for frame in frames {
            self.over_wire(frame, |f| Event::Frame(ifindex, f));
        }
    }

    /// Delivers what the balancer sent.
    fn flush(&mut self) {
        for (hop, frame) in std::mem::take(&mut self.datapath.sent) {
            let p = Packet::parse(&frame).unwrap();
            assert!(p.checksum_ok());
            assert_eq!(frame[..6], hop.dst_mac);
            assert_eq!((p.reply.vlan, p.reply.tagged), (hop.vlan, hop.tagged));
            let client = self.clients.iter().position(|c| c.key.reversed() == p.key);
            if let Some(i) = client
                && hop.ifindex == TO_CLIENTS
            {
                assert_eq!(hop.dst_mac, self.clients[i].hop.src_mac);
                assert_eq!(hop.tagged, self.clients[i].hop.tagged);
                self.over_wire(frame, |f| Event::Client(i, f));
                continue;
            }
            assert_eq!(hop.ifindex, TO_BACKENDS, "{:?}", p.key);
            let found = self.backends.iter().position(|b| b.address == p.key.dst);
            let i = found.expect("a frame for nobody");
            assert_eq!(hop.dst_mac, self.backends[i].mac());
            assert_eq!(hop.tagged, self.backends[i].tag.tagged);
            self.to_backends.push(frame.clone());
            self.over_wire(frame, |f| Event::Backend(i, f));
        }
    }

    /// One step; `false` when the next one would be behind `until`.
    fn step(&mut self, until: u64) -> bool {
        let event = self.queue.first_key_value().map(|((at, _), _)| *at);
        let timer = self.setups.next_deadline();
        let next = event.into_iter().chain(timer).min();
        let Some(next) = next.filter(|n| *n <= until) else {
            self.now = self.now.max(until);
            return false;
        };
        self.now = self.now.max(next);
        if timer.is_some_and(|t| t <= self.now) {
            self.agent(|setups, now, datapath, steering| setups.on_time(now, datapath, steering));
        } else if let Some((_, event)) = self.queue.pop_first() {
            self.handle(event);
        }
        self.flush();
        true
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Frame(ifindex, frame) => self.xdp(ifindex, &frame),
            Event::Client(i, frame) => {
                let out = self.clients[i].on_frame(now, &frame);
                self.arrive(TO_CLIENTS, out);
            }
            Event::Backend(i, frame) => {
                let out = self.backends[i].on_frame(now, &frame);
                self.arrive(TO_BACKENDS, out);
            }
            Event::ClientTimer(i) => {
                let out = self.clients[i].on_timer(now);
                self.arrive(TO_CLIENTS, out);
                self.later(100 * MS, Event::ClientTimer(i));
            }
            Event::BackendTimer(i) => {
                let out = self.backends[i].on_timer(now);
                self.arrive(TO_BACKENDS, out);
                self.later(100 * MS, Event::BackendTimer(i));
            }
            Event::Punt(punt, frame) => self.agent(|setups, now, datapath, steering| {
                setups.on_punt(now, &punt, &frame, datapath, steering);
            }),
        }
    }

    /// The agent at work. If it dies of it, the next one knows nothing; the maps are as they are.
    fn agent(&mut self, work: impl FnOnce(&mut Setups, u64, &mut FakeDatapath, &mut FakeSteering)) {
        let datapath = &mut self.datapath;
        datapath.agent = true;
        if self.deaths > 0 && datapath.deeds.is_none() {
            datapath.deeds = Some(self.rng.below(self.deeds));
        }
        work(&mut self.setups, self.now, datapath, &mut self.steering);
        datapath.agent = false;
        if std::mem::take(&mut datapath.died) {
            datapath.deeds = None;
            self.deaths -= 1;
            let mut settings = self.setups.settings;
            settings.agent += 1;
            self.setups = Setups::new(settings, u64::from(self.rng.below(u32::MAX)));
            self.setups.set_listener(3, Some(self.listener));
        }
    }

    /// Runs for `span` ns.
    pub fn run(&mut self, span: u64) {
        let until = self.now + span;
        while self.step(until) {}
    }

    /// Runs until `done`, for at most 60 s.
    pub fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        self.run_until_within(what, 60 * SECOND, done);
    }

    pub fn run_until_within(&mut self, what: &str, span: u64, done: impl Fn(&Self) -> bool) {
        let until = self.now + span;
        while !done(self) {
            let going = self.step(until);
            assert!(
                going,
                "{what} didn't happen: {:?} {:?}",
                self.datapath.counts,
                self.setups.stats()
            );
        }
    }

    pub fn punt(&mut self, kind: PuntKind, ifindex: u32, isn: u32, frame: &[u8]) {
        let captured = frame.len().min(self.capture);
        let punt = Punt {
            time: self.now,
            ifindex,
            captured: u16::try_from(captured).unwrap(),
            length: u16::try_from(frame.len()).unwrap(),
            isn,
            kind: kind as u8,
            listener: 3,
            _pad: [0; 2],
        };
        let frame = &frame[..captured];
        self.later(self.ring_delay, Event::Punt(punt, frame.to_vec()));
        if self.rng.below(100) < self.wire.replay {
            let delay = u64::from(self.rng.below(300)) * MS;
            self.later(delay, Event::Punt(punt, frame.to_vec()));
        }
    }

    /// An ICMP "host unreachable" that quotes an IPv4 packet of ours.
    pub fn unreachable(&mut self, frame: &[u8]) {
        let mut icmp = vec![0; ETH_LEN];
        icmp[12] = 8;
        let mut ip = [0; IPV4_LEN];
        (ip[0], ip[9]) = (0x45, 1);
        icmp.extend(ip);
        icmp.extend([3, 1, 0, 0, 0, 0, 0, 0]);
        icmp.extend(&frame[ETH_LEN..ETH_LEN + IPV4_LEN + 8]);
        self.punt(PuntKind::Icmp, TO_BACKENDS, 0, &icmp);
    }

    /// The XDP program's rules for a frame.
    pub fn xdp(&mut self, ifindex: u32, frame: &[u8]) {
        let p = Packet::parse(frame).unwrap();
        let entry = self.datapath.map.get(&p.key).copied();
        let bare = p.payload_len == 0 && !p.tcp.has(flag::FIN) && !p.tcp.has(flag::RST);
        match entry.and_then(|f| State::from_u8(f.state)) {
            Some(State::Open) => self.splice(&p),
            Some(State::Connecting) => {
                self.kernel_connecting(ifindex, &p, frame, entry.unwrap());
            }
            Some(State::Setup) => self.punt(PuntKind::Backend, ifindex, 0, frame),
            Some(State::Sniff) if p.tcp.has(flag::SYN) => {
                if entry.unwrap().next_seq != p.tcp.seq() {
                    self.datapath.map.remove(&p.key);
                    self.syn_ack(ifindex, &p);
                }
            }
            Some(State::Sniff) if bare => {}
            Some(State::Sniff) if self.is_repeated(&p) => {}
            Some(State::Sniff) => {
                self.punt(PuntKind::Client, ifindex, entry.unwrap().next_seq, frame);
            }
            Some(State::Cut) if p.tcp.has(flag::SYN) => {
                self.datapath.map.remove(&p.key);
                self.syn_ack(ifindex, &p);
            }
            Some(State::Cut) | None if p.tcp.has(flag::RST) => {}
            Some(State::Cut) => self.reset(ifindex, &p),
            None if p.tcp.has(flag::SYN) && ifindex == TO_CLIENTS => self.syn_ack(ifindex, &p),
            None if ifindex == TO_CLIENTS && bare => {
                let seq = p.tcp.seq();
                if cookie::check(&KEYS, 0, &p.key, seq, p.tcp.ack()) == Check::Wrong {
                    self.reset(ifindex, &p);
                }
            }
            None if ifindex == TO_CLIENTS => self.first_data(ifindex, &p, frame),
            None => self.reset(ifindex, &p),
        }
    }

    /// Notes what the agent gets; `true` if it has just got the same.
    fn is_repeated(&mut self, p: &Packet<'_>) -> bool {
        let segment = repeat::Segment {
            seq: p.tcp.seq(),
            payload: u32::try_from(p.payload_len).unwrap(),
            flags: p.tcp.flags,
        };
        let now = ticks::from_ns(self.now);
        let entry = self.datapath.map.get_mut(&p.key).unwrap();
        let repeated = repeat::is_repeated(entry, segment, now);
        if !repeated {
            repeat::note(entry, segment, now);
        }
        repeated
    }

    fn first_data(&mut self, ifindex: u32, p: &Packet<'_>, frame: &[u8]) {
        match cookie::check(&KEYS, 0, &p.key, p.tcp.seq(), p.tcp.ack()) {
            // A segment that overtook the first passes for it once in 2^15 times: 16 bits of the cookie
            // depend on the ISN, and there are two keys. Such a client gets a RST. Long runs of the
            // property tests meet it; it is the cookie's affair, not that of set-up.
            Check::First
                if self
                    .clients
                    .iter()
                    .all(|c| c.key != p.key || c.isn != p.tcp.seq().wrapping_sub(1)) => {}
            Check::First if self.kernel_begins(ifindex, p) => {}
            Check::First => {
                let isn = p.tcp.seq().wrapping_sub(1);
                let flow = Flow {
                    state: State::Sniff as u8,
                    flags: flags::FROM_CLIENT,
                    next_seq: isn,
                    last_ack: p.tcp.ack(),
                    listener: 3,
                    ..Flow::ZERO
                };
                if self.datapath.insert_new(&p.key, &flow).is_ok() {
                    self.is_repeated(p);
                    self.punt(PuntKind::Client, ifindex, isn, frame);
                }
            }
            Check::Perhaps => {}
            Check::Wrong => self.reset(ifindex, p),
        }
    }

    fn reset(&mut self, ifindex: u32, p: &Packet<'_>) {
        let seq = p.tcp.ack();
        let hop = Hop { ifindex, ..p.reply };
        let out = frame(&hop, &segment(p.key.reversed(), seq, 0, flag::RST));
        self.datapath.sent.push((hop, out));
    }

    fn syn_ack(&mut self, ifindex: u32, p: &Packet<'_>) {
        let o = offered(p.options);
        let options = ClientOptions {
            mss_class: cookie::mss_class(o.mss.unwrap_or(536)),
            window_scale: o.window_scale.unwrap_or(NO_SCALE),
            sack: o.sack && self.listener.sack,
        };
        assert!(MSS_CLASSES.contains(&options.mss()));
        let k = cookie::make(&KEYS[0], &p.key, p.tcp.seq(), options.to_byte());
        let clock = self.setups.settings.clock(self.now);
        let hop = Hop { ifindex, ..p.reply };
        let reply = Emit {
            window: self.listener.window,
            syn: SynOptions {
                mss: Some(self.listener.mss),
                window_scale: o.window_scale.map(|_| self.listener.window_scale),
                sack: options.sack,
            },
            timestamps: o.timestamps.map(|t| Timestamps {
                value: clock,
                echo: t.value,
            }),
            ..segment(
                p.key.reversed(),
                k,
                p.tcp.seq().wrapping_add(1),
                flag::SYN | flag::ACK,
            )
        };
        let out = frame(&hop, &reply);
        self.datapath.sent.push((hop, out));
    }

    /// The PROXY header that the program writes before this payload.
    fn header(&mut self, p: &Packet<'_>) -> Vec<u8> {
        const HEADED: u8 = flags::FROM_CLIENT | flags::HEADED;
        let flow = self.datapath.map[&p.key];
        if flow.flags & HEADED != HEADED {
            return Vec::new();
        }
        let acknowledged = self.datapath.map.get(&flow.pair()).map(|f| f.last_ack);
        if acknowledged.is_none_or(|a| a.wrapping_sub(flow.next_seq) < 1 << 31) {
            self.datapath.map.get_mut(&p.key).unwrap().flags &= !flags::HEADED;
            return Vec::new();
        }
        if p.tcp.seq() != flow.next_seq || p.payload.is_empty() {
            return Vec::new();
        }
        super::super::connect::proxy_header(&p.key)
    }

    fn splice(&mut self, p: &Packet<'_>) {
        let header = self.header(p);
        let flow = self.datapath.map.get_mut(&p.key).unwrap();
        if p.tcp.has(flag::ACK) && p.tcp.ack().wrapping_sub(flow.last_ack) < 1 << 31 {
            flow.last_ack = p.tcp.ack();
        }
        if flow.flags & flags::FROM_CLIENT == 0 || flow.flags & flags::HEADED == 0 {
            flow.next_seq = p.tcp.seq().wrapping_add(p.seq_len());
        }
        if p.tcp.has(flag::RST) {
            flow.flags |= flags::RST | flags::RST_SELF;
        }
        if p.tcp.has(flag::FIN) {
            flow.flags |= flags::FIN_SELF;
        }
        let flow = *flow;
        let syn = offered(p.options);
        let out = Emit {
            key: flow.outgoing(),
            seq: p
                .tcp
                .seq()
                .wrapping_add(flow.seq_add)
                .wrapping_sub(u32::try_from(header.len()).unwrap()),
            ack: p.tcp.ack().wrapping_add(flow.ack_add),
            flags: p.tcp.flags,
            window: rescale(u16::from_be_bytes(p.tcp.window), flow.window_shift),
            syn: if p.tcp.has(flag::SYN) {
                SynOptions {
                    mss: syn.mss,
                    window_scale: syn.window_scale,
                    sack: syn.sack,
                }
            } else {
                SynOptions::default()
            },
            timestamps: p.timestamps().map(|t| Timestamps {
                value: t.value.wrapping_add(flow.tsval_add),
                echo: t.echo.wrapping_add(flow.tsecr_add),
            }),
            payload: &[&header, p.payload].concat(),
        };
        let hop = super::super::splice::hop(&flow);
        let out = frame(&hop, &out);
        self.datapath.sent.push((hop, out));
    }

    pub fn count(&self, verdict: Verdict) -> u64 {
        self.datapath
            .counts
            .get(verdict.name())
            .copied()
            .unwrap_or(0)
    }

    /// Nothing of a connection is left anywhere.
    pub fn assert_forgotten(&self) {
        assert_eq!(self.setups.stats(), Stats::default());
        assert!(self.setups.clients.is_empty() && self.setups.backends.is_empty());
        assert!(self.setups.sources.is_empty());
        assert_eq!(self.setups.next_deadline(), None);
        assert!(self.datapath.map.is_empty(), "{:?}", self.datapath.map);
    }
}
