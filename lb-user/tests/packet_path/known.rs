//! Known clients: CONNECT to SYN, SYN-ACK to ACK and CONNECT, and all that is left to the agent.

use lb_common::cookie::{self, ClientOptions, NO_SCALE};
use lb_common::layout::{
    Backend, Binding, Connecting, Flow, FlowKey, Hop, IdleLimits, Listener, PENDING_SLOTS,
    Settings, State, Verdict, flags, source_mode, ticks,
};
use lb_common::limits::client::ClientPace;
use lb_common::limits::credit::{self, of_backend};
use lb_common::siphash;

use crate::clock;
use crate::frame::{ACK, FIN, PSH, RST, SYN, Segment, edit, timestamps};
use crate::place::{
    self, BACKEND_MAC, CLIENT_MAC, CURRENT_KEY, FROM_BACKEND, FROM_CLIENT, GENERATION, HOP,
    IFINDEX, LISTENER, OUR_MAC, OUR_OUT_MAC, POOL, SETTINGS,
};
use crate::world::{Action, Run, World};

pub const ISN: u32 = 0xffff_fff0;
pub const ID: &[u8] = b"device-0001-abcdef-23by";
/// Slot of the backend's IPv4 address; IPv6 is the next one.
pub const SLOT: u16 = 4;
pub const THEIRS: u32 = 0x7000_0000;

const IDLE: IdleLimits = IdleLimits {
    grace: 10_000_000_000,
    least: 0,
    zero: 3_600_000_000_000,
};

pub fn hash(id: &[u8]) -> u64 {
    siphash::bytes(&SETTINGS.client_key, id).max(1)
}

pub fn now() -> u32 {
    ticks::from_ns(clock::coarse_ns())
}

pub fn connect_with(id: &[u8], password: &[u8]) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04\xc2\0\x3c".to_vec();
    for field in [id, b"user", password] {
        body.extend(u16::try_from(field.len()).unwrap().to_be_bytes());
        body.extend(field);
    }
    let mut out = vec![0x10];
    if body.len() > 127 {
        out.push((body.len() % 128) as u8 | 0x80);
        out.push((body.len() / 128) as u8);
    } else {
        out.push(body.len() as u8);
    }
    out.extend(body);
    out
}

/// A client as its packets show it.
#[derive(Clone, Copy)]
pub struct Client {
    pub key: FlowKey,
    pub options: ClientOptions,
    pub stamps: bool,
}

pub const LINUX: ClientOptions = ClientOptions {
    mss_class: 7,
    window_scale: 7,
    sack: true,
};
/// lwIP: an MSS and nothing else.
pub const SMALL: ClientOptions = ClientOptions {
    mss_class: 2,
    window_scale: NO_SCALE,
    sack: false,
};

impl Client {
    pub fn v4() -> Self {
        Self {
            key: place::client_v4(),
            options: LINUX,
            stamps: true,
        }
    }

    pub fn v6() -> Self {
        Self {
            key: place::client_v6(),
            ..Self::v4()
        }
    }

    /// All kinds that make a difference.
    pub fn all() -> Vec<Self> {
        let mut all = vec![];
        for client in [Self::v4(), Self::v6()] {
            for stamps in [true, false] {
                for options in [LINUX, SMALL] {
                    all.push(Self {
                        options,
                        stamps,
                        ..client
                    });
                }
            }
        }
        all
    }

    pub fn cookie(&self) -> u32 {
        cookie::make(&CURRENT_KEY, &self.key, ISN, self.options.to_byte())
    }

    /// The CONNECT's segment.
    pub fn connect(&self, payload: &[u8]) -> Segment {
        let s = Segment::new(self.key, FROM_CLIENT)
            .seq(ISN.wrapping_add(1))
            .ack(self.cookie().wrapping_add(1))
            .flags(ACK | PSH)
            .payload(payload);
        if self.stamps {
            s.options(&timestamps(7000, 8000))
        } else {
            s
        }
    }

    fn slot(&self) -> u16 {
        SLOT + u16::from(!self.key.is_v4())
    }

    fn backend(&self) -> FlowKey {
        if self.key.is_v4() {
            place::backend_v4()
        } else {
            place::backend_v6()
        }
    }
}

/// What an agent has told the program: one backend, a listener that steers, a bound client.
pub fn prepare(w: &mut World) {
    w.reset();
    w.set_settings(&settings());
    w.set_listener(&listener(source_mode::SNAT));
    for (n, client) in (0u16..).zip([Client::v4(), Client::v6()]) {
        w.snat.set(n.into(), client.backend().dst, 0).unwrap();
        w.backends
            .set(client.slot().into(), backend(&client, n), 0)
            .unwrap();
    }
    w.set_credit(of_backend(SLOT), 1000);
    bind(w, now());
}

pub fn settings() -> Settings {
    Settings {
        idle: IDLE,
        linger: ticks::span(1_800_000_000_000),
        connect_timeout: ticks::span(3_000_000_000),
        client_id: 65_535,
        ..SETTINGS
    }
}

pub fn listener(source: u8) -> Listener {
    Listener {
        steer: 1,
        source,
        window_scale: place::VIP.window_scale,
        answers: place::VIP.answers,
        pool: POOL,
        mss: place::VIP.mss,
        ..place::UNLIMITED
    }
}

pub fn backend(client: &Client, snat: u16) -> Backend {
    Backend {
        address: client.backend().src,
        port: client.backend().src_port,
        state: 1,
        hop: HOP,
        generation: GENERATION,
        pool: POOL,
        mss: 1400,
        snat_first: snat,
        snat_count: 1,
        ..Backend::default()
    }
}

pub fn bind(w: &mut World, last_seen: u32) {
    let binding = Binding {
        backend: SLOT,
        last_seen,
        ..Binding::default()
    };
    w.bindings.insert(hash(ID), binding, 0).unwrap();
}

pub fn verdicts(run: &Run) -> Vec<Verdict> {
    run.counted.iter().map(|(v, _)| *v).collect()
}

/// Runs a frame that must be dropped under this verdict alone.
pub fn dropped(w: &mut World, s: &Segment, verdict: Verdict) -> Run {
    let run = w.run(&s.bytes());
    assert_eq!(
        (run.action, verdicts(&run)),
        (Action::Drop, vec![verdict]),
        "{s:?}"
    );
    run
}

/// The CONNECT becomes a SYN; gives it.
pub fn begin(w: &mut World, client: &Client, payload: &[u8]) -> Segment {
    let run = w.run(&client.connect(payload).bytes());
    assert_eq!(
        (run.action, verdicts(&run)),
        (Action::Redirect, vec![Verdict::KernelSyn])
    );
    assert!(run.punts.is_empty());
    Segment::read(&run.frame)
}

/// A Linux backend's answer to a SYN.
pub fn syn_ack(syn: &Segment, client: &Client) -> Segment {
    let mut options = vec![2, 4, 5, 0xb4, 1, 1];
    options.extend(if client.options.sack { [4, 2] } else { [1, 1] });
    if client.stamps {
        options.extend([1, 1, 8, 10]);
        options.extend(90_000u32.to_be_bytes());
        options.extend(7000u32.to_be_bytes());
    }
    if client.options.window_scale != NO_SCALE {
        options.extend([1, 3, 3, 6]);
    }
    Segment::new(syn.key.reversed(), FROM_BACKEND)
        .flags(SYN | ACK)
        .seq(THEIRS)
        .ack(syn.seq.wrapping_add(1))
        .options(&options)
}

pub fn both(w: &World, client: &Client) -> (Flow, Flow) {
    let of_client = w.flow(&client.key).expect("the client's entry");
    let of_backend = w.flow(&of_client.pair()).expect("the backend's entry");
    (of_client, of_backend)
}

pub fn entries(w: &World) -> usize {
    w.flows.keys().count()
}

pub fn world(name: &str) -> Option<World> {
    let mut w = World::new(name)?;
    prepare(&mut w);
    Some(w)
}

#[test]
fn connect_to_syn() {
    let Some(mut w) = world("connect-to-syn") else {
        return;
    };
    for client in Client::all() {
        prepare(&mut w);
        let payload = connect_with(ID, b"secret");
        let syn = begin(&mut w, &client, &payload);
        let scaled = client.options.window_scale != NO_SCALE;
        let mut options = vec![2, 4];
        let mss: u16 = if scaled { 1400 } else { 536 };
        options.extend(mss.to_be_bytes());
        options.extend(if client.options.sack {
            [1, 1, 4, 2]
        } else {
            [1; 4]
        });
        options.extend(if scaled { [1, 3, 3, 7] } else { [1; 4] });
        if client.stamps {
            options.extend(timestamps(7000, 0));
        }
        let port = u16::from_be_bytes(syn.key.src_port);
        assert!((20_000..=29_999).contains(&port), "{port}");
        let backend = client.backend();
        let expected = Segment {
            key: FlowKey {
                src_port: syn.key.src_port,
                ..backend.reversed()
            },
            flags: SYN,
            seq: ISN,
            ack: 0,
            window: if scaled { 501 << 7 } else { 501 },
            options,
            payload: vec![],
            ..Segment::new(backend, (OUR_OUT_MAC, BACKEND_MAC)).but(|s| (s.id, s.ttl) = (0, 64))
        };
        assert_eq!(syn, expected);

        let (of_client, of_backend) = both(&w, &client);
        let seen = Connecting {
            ticket: Connecting::load(&of_client).ticket,
            tsval: if client.stamps { 7000 } else { 0 },
            echo: if client.stamps { 8000 } else { 0 },
            timestamps: client.stamps,
            window: 501,
            promised: place::VIP.window_scale,
        };
        let common = Flow {
            state: State::Connecting as u8,
            listener: LISTENER,
            backend: client.slot(),
            client: hash(ID),
            idle_limit: ticks::span(100_000_000_000),
            last_seen: of_client.last_seen,
            ..Flow::ZERO
        };
        let mut expected = Flow {
            flags: flags::FROM_CLIENT,
            ifindex: HOP.ifindex,
            dst_mac: BACKEND_MAC,
            src_mac: OUR_OUT_MAC,
            ingress: Hop::signature(IFINDEX, &CLIENT_MAC, 0),
            hop_generation: GENERATION,
            next_seq: ISN,
            last_ack: client.cookie().wrapping_add(1),
            ..common
        }
        .towards(&client.key, &syn.key);
        seen.store(&mut expected);
        assert_eq!(of_client, expected);
        let expected = Flow {
            ifindex: IFINDEX,
            dst_mac: CLIENT_MAC,
            src_mac: OUR_MAC,
            ..common
        }
        .towards(&syn.key.reversed(), &client.key.reversed());
        assert_eq!(of_backend, expected);
        assert!(ticks::since(now(), of_client.last_seen) < 60);

        let kept = w.pending.get(&(seen.ticket % PENDING_SLOTS), 0).unwrap();
        assert_eq!(kept.payload(seen.ticket, &client.key), Some(&payload[..]));
        assert_eq!((kept.tsval, kept.window), (seen.tsval, 501));
    }
}

#[test]
fn every_length_of_connect() {
    let Some(mut w) = world("connect-lengths") else {
        return;
    };
    let client = Client::v4();
    for password in (0..64).chain([447, 448, 449, 500, 959, 960, 1000, 1380, 1408]) {
        prepare(&mut w);
        let payload = connect_with(ID, &vec![b'p'; password]);
        let syn = begin(&mut w, &client, &payload);
        let run = w.run(&syn_ack(&syn, &client).bytes());
        assert_eq!(verdicts(&run), [Verdict::SteeredKernel]);
        assert_eq!(Segment::read(&run.frame).payload, payload);
    }
    let too_long = connect_with(ID, &[b'p'; 1450]);
    prepare(&mut w);
    dropped(&mut w, &client.connect(&too_long), Verdict::PuntedOversized);
}

#[test]
fn syn_ack_to_ack_and_connect() {
    let Some(mut w) = world("syn-ack-to-connect") else {
        return;
    };
    for client in Client::all() {
        prepare(&mut w);
        let pipelined = [
            connect_with(ID, b"secret"),
            b"\x82\x08\0\x07\0\x03a/b\0".to_vec(),
        ]
        .concat();
        // Well aged, but not void.
        let old = now().wrapping_sub(ticks::span(1_000_000_000_000));
        bind(&mut w, old);
        let syn = begin(&mut w, &client, &pipelined);
        let answer = syn_ack(&syn, &client);
        let run = w.run(&answer.bytes());
        assert_eq!(
            (run.action, verdicts(&run)),
            (Action::Redirect, vec![Verdict::SteeredKernel])
        );
        let got = Segment::read(&run.frame);
        let expected = Segment {
            key: syn.key,
            flags: ACK | PSH,
            seq: ISN.wrapping_add(1),
            ack: THEIRS + 1,
            window: 501,
            options: if client.stamps {
                timestamps(7000, 90_000)
            } else {
                vec![]
            },
            payload: pipelined,
            ..syn.clone()
        };
        assert_eq!(got, expected);

        let (of_client, of_backend) = both(&w, &client);
        let delta = client.cookie().wrapping_sub(THEIRS);
        let ts_delta = if client.stamps {
            8000u32.wrapping_sub(90_000)
        } else {
            0
        };
        let shift = if client.options.window_scale == NO_SCALE {
            0
        } else {
            6 - 9
        };
        for (flow, numbers) in [
            (
                &of_client,
                (0, delta.wrapping_neg(), 0, ts_delta.wrapping_neg(), 0),
            ),
            (&of_backend, (delta, 0, ts_delta, 0, shift)),
        ] {
            assert_eq!(
                (
                    flow.seq_add,
                    flow.ack_add,
                    flow.tsval_add,
                    flow.tsecr_add,
                    flow.window_shift
                ),
                numbers
            );
            assert_eq!(flow.state, State::Open as u8);
            assert_eq!(flow.client, hash(ID));
        }
        assert_eq!(of_client.flags, flags::FROM_CLIENT);
        assert_eq!(of_client.last_ack, client.cookie().wrapping_add(1));
        assert_eq!(of_backend.last_ack, ISN.wrapping_add(1));
        let binding = w.bindings.get(&hash(ID), 0).unwrap();
        assert_eq!(binding.backend, SLOT);
        assert!(ticks::since(now(), binding.last_seen) < 60, "refreshed");

        // And now they are spliced: the broker's CONNACK.
        let connack = Segment::new(syn.key.reversed(), FROM_BACKEND)
            .seq(THEIRS + 1)
            .ack(ISN.wrapping_add(1).wrapping_add(expected_len(&got)))
            .flags(ACK | PSH)
            .payload(b"\x20\x02\0\0");
        let run = w.run(&connack.bytes());
        assert_eq!(verdicts(&run), [Verdict::Spliced]);
        let got = Segment::read(&run.frame);
        assert_eq!(
            (got.key, got.seq, got.ack),
            (
                client.key.reversed(),
                client.cookie().wrapping_add(1),
                connack.ack
            )
        );
    }
}

fn expected_len(s: &Segment) -> u32 {
    u32::try_from(s.payload.len()).unwrap()
}

/// The CONNECT that was kept of a client is lost to another's.
pub fn overwrite(w: &mut World, client: &Client) {
    let ticket = Connecting::load(&both(w, client).0).ticket;
    let mut gone = w.pending.get(&(ticket % PENDING_SLOTS), 0).unwrap();
    gone.ticket += 1;
    w.pending.set(ticket % PENDING_SLOTS, gone, 0).unwrap();
}

#[test]
fn without_the_connect_a_bare_ack() {
    let Some(mut w) = world("bare-ack") else {
        return;
    };
    for client in Client::all() {
        prepare(&mut w);
        let syn = begin(&mut w, &client, &connect_with(ID, b"secret"));
        overwrite(&mut w, &client);
        let run = w.run(&syn_ack(&syn, &client).bytes());
        assert_eq!(run.action, Action::Redirect);
        assert_eq!(verdicts(&run), [Verdict::SteeredKernel, Verdict::KernelAck]);
        let got = Segment::read(&run.frame);
        assert_eq!(
            (got.flags, got.seq, got.ack, &got.payload[..]),
            (ACK, ISN.wrapping_add(1), THEIRS + 1, &b""[..])
        );
        // The client's repetition is spliced.
        let again = w.run(&client.connect(&connect_with(ID, b"secret")).bytes());
        assert_eq!(verdicts(&again), [Verdict::Spliced]);
    }
}

/// What is first data to the agent, and why.
#[test]
fn reasons_to_punt() {
    let Some(mut w) = world("punt-reasons") else {
        return;
    };
    type Before = Box<dyn Fn(&mut World)>;
    let client = Client::v4();
    let plain = || client.connect(&connect_with(ID, b"secret"));
    let nothing = || -> Before { Box::new(|_| {}) };
    let backend_with = |change: fn(&mut Backend)| -> Before {
        Box::new(move |w| {
            let mut it = backend(&Client::v4(), 0);
            change(&mut it);
            w.backends.set(SLOT.into(), it, 0).unwrap();
        })
    };
    let listener_with = |change: fn(&mut Listener)| -> Before {
        Box::new(move |w| {
            let mut it = listener(source_mode::SNAT);
            change(&mut it);
            w.set_listener(&it);
        })
    };
    let settings_with = |change: fn(&mut Settings)| -> Before {
        Box::new(move |w| {
            let mut it = settings();
            change(&mut it);
            w.set_settings(&it);
        })
    };
    let aged: Before = Box::new(|w| {
        let old = now().wrapping_sub(ticks::span(1_801_000_000_000));
        bind(w, old);
    });
    let anonymous = b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0";
    let longest = connect_with(&[b'x'; 257], b"p");
    let rows: Vec<(&str, Segment, Before, Verdict)> = vec![
        (
            "a listener that doesn't steer",
            plain(),
            listener_with(|l| l.steer = 0),
            Verdict::PuntedNew,
        ),
        (
            "an unknown client",
            client.connect(&connect_with(b"other", b"p")),
            nothing(),
            Verdict::PuntedUnbound,
        ),
        (
            "no identifier",
            client.connect(anonymous),
            nothing(),
            Verdict::PuntedUnbound,
        ),
        ("a void binding", plain(), aged, Verdict::PuntedUnbound),
        (
            "backend down",
            plain(),
            backend_with(|b| b.state = 2),
            Verdict::PuntedBackend,
        ),
        (
            "backend draining",
            plain(),
            backend_with(|b| b.state = 3),
            Verdict::PuntedBackend,
        ),
        (
            "a slot in nobody's use",
            plain(),
            backend_with(|b| *b = Backend::default()),
            Verdict::PuntedBackend,
        ),
        (
            "another pool's backend",
            plain(),
            backend_with(|b| b.pool += 1),
            Verdict::PuntedBackend,
        ),
        (
            "no source address",
            plain(),
            backend_with(|b| b.snat_count = 0),
            Verdict::PuntedBackend,
        ),
        (
            "a tagged way for an untagged client",
            plain(),
            backend_with(|b| (b.hop.tagged, b.hop.vlan) = (1, 9)),
            Verdict::PuntedBackend,
        ),
        (
            "a flow map that is full",
            plain(),
            Box::new(|w| w.set_credit(credit::ALL, 0)),
            Verdict::PuntedFull,
        ),
        (
            "a listener that is full",
            plain(),
            Box::new(|w| w.set_credit(place::UNLIMITED.credit.into(), 0)),
            Verdict::PuntedFull,
        ),
        (
            "a backend that is full",
            plain(),
            Box::new(|w| w.set_credit(of_backend(SLOT), 0)),
            Verdict::PuntedFull,
        ),
        (
            "a client that connects too often",
            plain(),
            Box::new(|w| {
                let pace = ClientPace::new(1, 1);
                w.set_listener(&Listener {
                    client_pace: pace,
                    ..listener(source_mode::SNAT)
                });
                let mut binding = w.bindings.get(&hash(ID), 0).unwrap();
                binding.connects = pace.take(0, clock::coarse_ns()).unwrap();
                w.bindings.insert(hash(ID), binding, 0).unwrap();
            }),
            Verdict::PuntedFull,
        ),
        (
            "half a CONNECT",
            client.connect(&connect_with(ID, b"secret")[..30]),
            nothing(),
            Verdict::PuntedSplit,
        ),
        (
            "one byte",
            client.connect(b"\x10"),
            nothing(),
            Verdict::PuntedSplit,
        ),
        (
            "no CONNECT",
            client.connect(b"GET / HTTP/1.1\r\n\r\n"),
            nothing(),
            Verdict::PuntedUnusual,
        ),
        (
            "an identifier in Greek",
            client.connect(&connect_with("αβγ".as_bytes(), b"p")),
            nothing(),
            Verdict::PuntedUnusual,
        ),
        (
            "FIN behind it",
            plain().flags(ACK | PSH | FIN),
            nothing(),
            Verdict::PuntedUnusual,
        ),
        (
            "other options",
            plain().options(&[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2]),
            nothing(),
            Verdict::PuntedUnusual,
        ),
        (
            "two tags",
            plain().tag(0x88a8, 3).tag(0x8100, 4),
            nothing(),
            Verdict::PuntedUnusual,
        ),
        (
            "a long identifier",
            client.connect(&longest),
            nothing(),
            Verdict::PuntedOversized,
        ),
        (
            "an identifier above the limit",
            plain(),
            settings_with(|s| s.client_id = 22),
            Verdict::PuntedOversized,
        ),
        (
            "the only port taken",
            plain(),
            Box::new(|w| {
                w.set_settings(&Settings {
                    snat_first: 23_456,
                    snat_last: 23_456,
                    ..settings()
                });
                w.flows.insert(place::backend_v4(), Flow::ZERO, 0).unwrap();
            }),
            Verdict::PuntedNoPort,
        ),
        (
            "the client's own tuple taken",
            plain(),
            Box::new(|w| {
                w.set_listener(&listener(source_mode::CLIENT));
                let key = FlowKey {
                    dst: Client::v4().key.src,
                    dst_port: Client::v4().key.src_port,
                    ..place::backend_v4()
                };
                w.flows.insert(key, Flow::ZERO, 0).unwrap();
            }),
            Verdict::PuntedNoPort,
        ),
    ];
    for (name, segment, before, verdict) in rows {
        prepare(&mut w);
        before(&mut w);
        let there = entries(&w);
        let run = w.run(&segment.bytes());
        assert_eq!(
            (run.action, verdicts(&run)),
            (Action::Drop, vec![verdict]),
            "{name}"
        );
        assert_eq!(run.punts.len(), 1, "{name}");
        assert_eq!((run.punts[0].kind, run.punts[0].isn), (1, ISN), "{name}");
        assert_eq!(run.punts[0].frame, segment.bytes(), "{name}");
        let flow = w.flow(&client.key).expect(name);
        assert_eq!(flow.state, State::Sniff as u8, "{name}");
        assert_eq!(entries(&w), there + 1, "{name}: only the client's entry");
    }

    prepare(&mut w);
    let damaged = plain().bytes();
    let last = damaged.len() - 1;
    let run = w.run(&edit(damaged, last, b"x"));
    assert_eq!(
        (run.action, verdicts(&run), run.punts.len(), entries(&w)),
        (Action::Drop, vec![Verdict::BadChecksum], 0, 0)
    );
}

#[test]
fn a_free_port_is_found_among_taken_ones() {
    let Some(mut w) = world("ports") else {
        return;
    };
    let client = Client::v4();
    for free in 23_456..23_460u16 {
        prepare(&mut w);
        w.set_settings(&Settings {
            snat_first: 23_456,
            snat_last: 23_459,
            ..settings()
        });
        for port in (23_456..23_460u16).filter(|port| *port != free) {
            let key = FlowKey {
                dst_port: port.to_be_bytes(),
                ..place::backend_v4()
            };
            w.flows.insert(key, Flow::ZERO, 0).unwrap();
        }
        let syn = begin(&mut w, &client, &connect_with(ID, b"p"));
        assert_eq!(syn.key.src_port, free.to_be_bytes());
    }
}

#[test]
fn several_source_addresses_are_all_used() {
    let Some(mut w) = world("addresses") else {
        return;
    };
    let addresses: Vec<[u8; 16]> = (1..=3)
        .map(|n| FlowKey::v4([10, 77, 1, 100 + n], 0, [0; 4], 0).src)
        .collect();
    let mut used = std::collections::HashSet::new();
    for _ in 0..200 {
        prepare(&mut w);
        for (n, address) in (10..).zip(&addresses) {
            w.snat.set(n, *address, 0).unwrap();
        }
        let mut it = backend(&Client::v4(), 10);
        it.snat_count = 3;
        w.backends.set(SLOT.into(), it, 0).unwrap();
        used.insert(
            begin(&mut w, &Client::v4(), &connect_with(ID, b"p"))
                .key
                .src,
        );
    }
    assert_eq!(used, addresses.into_iter().collect());
}

#[test]
fn the_clients_own_address() {
    let Some(mut w) = world("transparent") else {
        return;
    };
    for client in [Client::v4(), Client::v6()] {
        prepare(&mut w);
        w.set_listener(&listener(source_mode::CLIENT));
        let syn = begin(&mut w, &client, &connect_with(ID, b"p"));
        let backend = client.backend();
        let expected = FlowKey {
            src: client.key.src,
            src_port: client.key.src_port,
            dst: backend.src,
            dst_port: backend.src_port,
        };
        assert_eq!(syn.key, expected);
        let run = w.run(&syn_ack(&syn, &client).bytes());
        assert_eq!(verdicts(&run), [Verdict::SteeredKernel]);
    }
}

#[test]
fn tags_stay_or_become_the_backends() {
    let Some(mut w) = world("known-tags") else {
        return;
    };
    for (of_hop, expected) in [(None, 7), (Some(9), 9)] {
        prepare(&mut w);
        let client = Client::v4();
        let mut it = backend(&client, 0);
        if let Some(vlan) = of_hop {
            (it.hop.tagged, it.hop.vlan) = (1, vlan);
        }
        w.backends.set(SLOT.into(), it, 0).unwrap();
        let run = w.run(
            &client
                .connect(&connect_with(ID, b"p"))
                .tag(0x8100, 7)
                .bytes(),
        );
        assert_eq!(verdicts(&run), [Verdict::KernelSyn]);
        let syn = Segment::read(&run.frame);
        assert_eq!(syn.tags, [(0x8100, expected)]);
        let answer = syn_ack(&syn, &client);
        let untagged = w.run(&answer.bytes());
        assert_eq!(verdicts(&untagged), [Verdict::VlanMismatch]);
        let run = w.run(&answer.tag(0x8100, expected).bytes());
        assert_eq!(verdicts(&run), [Verdict::SteeredKernel]);
        assert_eq!(Segment::read(&run.frame).tags, [(0x8100, expected)]);
        let (_, of_backend) = both(&w, &client);
        assert_eq!(
            (of_backend.vlan, of_backend.flags & flags::TAGGED),
            (7, flags::TAGGED)
        );
    }
}

/// While connecting: the client's packets.
#[test]
fn the_client_meanwhile() {
    let Some(mut w) = world("client-meanwhile") else {
        return;
    };
    for client in [Client::v4(), Client::v6()] {
        prepare(&mut w);
        let payload = connect_with(ID, b"secret");
        let syn = begin(&mut w, &client, &payload);
        let segment = || client.connect(&payload);
        dropped(&mut w, &segment().payload(b""), Verdict::BareAck);
        let later = segment().but(|s| s.seq = s.seq.wrapping_add(40));
        dropped(&mut w, &later, Verdict::EarlySegment);
        let fin = segment().payload(b"").flags(ACK | FIN);
        dropped(&mut w, &fin, Verdict::EarlySegment);
        let same = segment().payload(b"").flags(SYN).seq(ISN).ack(0);
        dropped(&mut w, &same, Verdict::DuplicateSyn);
        let far = segment()
            .payload(b"")
            .flags(RST)
            .but(|s| s.seq = s.seq.wrapping_add(0x2_0000));
        dropped(&mut w, &far, Verdict::ClosedEarly);
        assert_eq!(entries(&w), 2);

        // The CONNECT again, by now with more behind it.
        let before = both(&w, &client);
        let longer = [&payload[..], b"\xc0\0"].concat();
        let mut again = client.connect(&longer);
        if client.stamps {
            again = again.options(&timestamps(7300, 8000));
        }
        let run = w.run(&again.bytes());
        assert_eq!(
            (run.action, verdicts(&run)),
            (Action::Redirect, vec![Verdict::KernelSynAgain])
        );
        assert_eq!(Segment::read(&run.frame), syn);
        assert_eq!(both(&w, &client), before, "nothing is written");
        let run = w.run(&syn_ack(&syn, &client).bytes());
        let got = Segment::read(&run.frame);
        assert_eq!(got.payload, payload, "the first is the one that is sent");
        assert_eq!(got.options, timestamps(7000, 90_000));
    }
}

#[test]
fn the_client_gives_up() {
    let Some(mut w) = world("client-gives-up") else {
        return;
    };
    for client in [Client::v4(), Client::v6()] {
        prepare(&mut w);
        let payload = connect_with(ID, b"secret");
        let syn = begin(&mut w, &client, &payload);
        let rst = client.connect(b"").flags(RST);
        dropped(&mut w, &rst, Verdict::ClosedEarly);
        assert_eq!(entries(&w), 0);
        let run = w.run(&syn_ack(&syn, &client).bytes());
        assert_eq!(
            (run.action, verdicts(&run)),
            (Action::Tx, vec![Verdict::ResetUnknown])
        );

        prepare(&mut w);
        begin(&mut w, &client, &payload);
        let anew = client.connect(b"").flags(SYN).seq(77).ack(0);
        let run = w.run(&anew.bytes());
        assert_eq!(
            (run.action, verdicts(&run)),
            (Action::Tx, vec![Verdict::SynAck])
        );
        assert_eq!(entries(&w), 0);

        // The client's entry is another connection's by now.
        prepare(&mut w);
        let syn = begin(&mut w, &client, &payload);
        let sniff = Flow {
            state: State::Sniff as u8,
            flags: flags::FROM_CLIENT,
            ..Flow::ZERO
        };
        w.flows.insert(client.key, sniff, 0).unwrap();
        let run = w.run(&syn_ack(&syn, &client).bytes());
        assert_eq!(verdicts(&run), [Verdict::ResetUnknown]);
        assert_eq!(entries(&w), 1);
    }
}

/// What the kernel can't finish goes to the agent, with both entries as they are.
#[test]
fn handed_over() {
    let Some(mut w) = world("handed-over") else {
        return;
    };
    let client = Client::v4();
    let payload = connect_with(ID, b"secret");
    type Change = fn(&mut Segment);
    let backend: [(&str, Change); 9] = [
        ("RST", |s| s.flags = RST | ACK),
        ("RST without ACK", |s| (s.flags, s.ack) = (RST, 0)),
        ("a challenge ACK", |s| s.flags = ACK),
        ("an acknowledgement of something else", |s| s.ack += 1),
        ("no SACK", |s| s.options[6..8].copy_from_slice(&[1, 1])),
        ("no timestamps", |s| {
            s.options[8..20].copy_from_slice(&[1; 12])
        }),
        ("no window scale", |s| {
            s.options[20..].copy_from_slice(&[1; 4])
        }),
        ("a small MSS", |s| s.options[2] = 4),
        ("malformed options", |s| s.options[1] = 41),
    ];
    for (name, change) in backend {
        prepare(&mut w);
        let syn = begin(&mut w, &client, &payload);
        let answer = syn_ack(&syn, &client).but(change);
        let run = w.run(&answer.bytes());
        assert_eq!(
            (run.action, verdicts(&run)),
            (Action::Drop, vec![Verdict::PuntedTakeover]),
            "{name}"
        );
        assert_eq!((run.punts.len(), run.punts[0].kind), (1, 2), "{name}");
        let (of_client, of_backend) = both(&w, &client);
        let connecting = State::Connecting as u8;
        assert_eq!(
            (of_client.state, of_backend.state),
            (connecting, connecting)
        );
    }

    type Meanwhile = fn(&mut World);
    let meanwhile: [(&str, Meanwhile); 2] = [
        ("late", |w| {
            let key = Client::v4().key;
            let mut flow = w.flow(&key).unwrap();
            flow.last_seen = flow.last_seen.wrapping_sub(ticks::span(3_100_000_000));
            w.flows.insert(key, flow, 0).unwrap();
        }),
        ("the backend went down", |w| {
            let mut it = self::backend(&Client::v4(), 0);
            it.state = 2;
            w.backends.set(SLOT.into(), it, 0).unwrap();
        }),
    ];
    for (name, change) in meanwhile {
        prepare(&mut w);
        begin(&mut w, &client, &payload);
        change(&mut w);
        let run = dropped(&mut w, &client.connect(&payload), Verdict::PuntedTakeover);
        assert_eq!((run.punts[0].kind, run.punts[0].isn), (1, ISN), "{name}");
        assert_eq!(entries(&w), 2, "{name}");
    }
}

/// An entry that was made meanwhile, as by a copy of the CONNECT on another CPU, is left alone.
#[test]
fn a_full_map() {
    let Some(mut w) = World::with_flows("known-full", 1) else {
        return;
    };
    prepare(&mut w);
    let run = w.run(&Client::v4().connect(&connect_with(ID, b"p")).bytes());
    // Room for one entry: the backend's is taken back, and the client's is the agent's.
    assert_eq!(verdicts(&run), [Verdict::PuntedNoPort]);
    assert_eq!(entries(&w), 1);
    assert!(w.flow(&Client::v4().key).is_some());
}
