//! Whatever the wire does, a backend sees one consistent TCP connection with the client's bytes behind
//! the PROXY header, or, for what is no CONNECT, nothing. The checks of every number are in the two
//! TCPs (`backend.rs`, `client.rs`).

use super::super::*;
use super::client::State as ClientState;
use super::world::{LISTENER, MS, SECOND, Wire};
use super::{Backend, Client, World, connect, connect_v5, noise, packet};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    isn: u32,
    cuts: Vec<usize>,
    waits: bool,
    wire: Wire,
    capture: usize,
    listener: ListenerSettings,
    mss: u16,
    client: (Option<u8>, bool, Option<u32>),
    backend: (Option<u8>, bool, Option<u32>, u16),
    password: usize,
    v5: bool,
    v6: bool,
    extra: usize,
    closes: bool,
    ring_delay: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let wire =
        (0u32..25, 0u32..30, 0u64..40, 0u32..30).prop_map(|(loss, repeat, jitter, replay)| Wire {
            loss,
            repeat,
            jitter: jitter * MS,
            replay,
        });
    let listener = (any::<bool>(), any::<bool>(), 0u8..12).prop_map(
        |(proxy_protocol, client, window_scale)| ListenerSettings {
            proxy_protocol,
            source: if client { Source::Client } else { Source::Snat },
            window_scale,
            ..LISTENER
        },
    );
    let scale = || prop::option::of(0u8..=14);
    let stamps = prop::option::of((any::<u32>(), any::<u32>()));
    (
        (
            any::<u64>(),
            any::<u32>(),
            prop::collection::vec(prop_oneof![1usize..20, 20usize..1400], 1..6),
            any::<bool>(),
            wire,
        ),
        (
            prop_oneof![Just(2048usize), 200usize..1500],
            listener,
            100u16..1500,
        ),
        (
            scale(),
            any::<bool>(),
            scale(),
            any::<bool>(),
            stamps,
            100u16..1460,
        ),
        (
            prop_oneof![Just(0usize), 1usize..3000],
            any::<bool>(),
            any::<bool>(),
            0usize..300,
            any::<bool>(),
            0u64..30,
        ),
    )
        .prop_map(
            |(
                (seed, isn, cuts, waits, wire),
                (capture, listener, mss),
                (cs, csack, bs, bsack, ts, bmss),
                (password, v5, v6, extra, closes, ring),
            )| Case {
                seed,
                isn,
                cuts,
                waits,
                wire,
                capture,
                listener,
                mss,
                client: (cs, csack, ts.map(|t| t.0)),
                backend: (bs, bsack, ts.map(|t| t.1), bmss),
                password,
                v5,
                v6,
                extra,
                closes,
                ring_delay: ring * MS,
            },
        )
}

fn build(case: &Case, stream: Vec<u8>) -> World {
    // There is one backend, and many a SYN is lost.
    let settings = Settings {
        connect_timeout: 60 * SECOND,
        ..Settings::default()
    };
    let mut world = World::with_settings(case.listener, settings);
    world.seed(case.seed);
    world.wire = case.wire;
    world.capture = case.capture;
    world.ring_delay = case.ring_delay;
    let mut backend = if case.v6 {
        Backend::v6(1)
    } else {
        Backend::v4(1)
    };
    (backend.scale, backend.sack, backend.timestamps, backend.mss) = case.backend;
    // Segments of the client are as large as we promised, not as large as this backend likes.
    backend.mss = backend.mss.max(88);
    backend.checks_mss = false;
    backend.reply_after = stream.len() + proxy_len(case);
    world.add_backend(backend);
    let mut client = if case.v6 {
        Client::v6(40_000, stream)
    } else {
        Client::v4(40_000, stream)
    };
    client.isn = case.isn;
    client.cuts.clone_from(&case.cuts);
    client.waits = case.waits;
    client.mss = case.mss;
    client.closes = case.closes;
    (client.scale, client.sack, client.timestamps) = case.client;
    world.connect(client);
    world
}

fn proxy_len(case: &Case) -> usize {
    match (case.listener.proxy_protocol, case.v6) {
        (false, _) => 0,
        (true, false) => 28,
        (true, true) => 52,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_backend_gets_the_clients_bytes(case in case()) {
        let mut stream = if case.v5 { connect_v5("sensor-1") } else { connect("sensor-1", 60, &noise(case.password)) };
        stream.extend(packet(0x30, &noise(case.extra + 10)));
        let mut world = build(&case, stream.clone());
        world.run_until_within("the answer", 3000 * SECOND, |w| w.clients[0].received.len() == 4);
        world.run(3 * SECOND);
        let seen: Vec<_> = world.backends[0].connections.values().filter(|c| c.established && !c.reset).collect();
        prop_assert_eq!(seen.len(), 1);
        let got = seen[0].stream();
        let p = proxy_len(&case);
        prop_assert_eq!(&got[p..], &stream[..]);
        if p > 0 {
            prop_assert_eq!(&got[..12], b"\r\n\r\n\0\r\nQUIT\n");
        }
        if case.closes {
            prop_assert!(seen[0].fin.is_none_or(|f| f == p + stream.len()));
        }
        prop_assert_eq!(&world.clients[0].received[..], b"\x20\x02\x00\x00");
        prop_assert_eq!(world.count(Verdict::SteeredAgent), 1);
        world.wire.replay = 0;
        world.run(40 * SECOND);
        prop_assert_eq!(world.setups.stats(), Stats::default());
        prop_assert_eq!(world.setups.next_deadline(), None);
        prop_assert_eq!(world.datapath.map.len(), 2);
    }

    #[test]
    fn nothing_of_what_is_rejected(case in case(), bad in 0usize..4) {
        let mut stream = connect("sensor-1", 60, &noise(case.password));
        match bad {
            0 => stream[0] = 0x30,
            1 => { let at = stream.windows(4).position(|w| w == b"MQTT").unwrap(); stream[at] = b'X'; }
            2 => { let at = stream.windows(5).position(|w| w == b"MQTT\x04").unwrap(); stream[at + 5] |= 1; }
            _ => { let at = stream.windows(8).position(|w| w == b"sensor-1").unwrap(); stream[at + 3] = 0; }
        }
        let mut world = build(&case, stream);
        world.run(60 * SECOND);
        prop_assert_eq!(world.to_backends.len(), 0);
        prop_assert_eq!(world.setups.stats(), Stats::default());
        prop_assert!(world.datapath.map.is_empty());
        prop_assert!(world.clients[0].state != ClientState::Established || case.wire.loss > 0 || case.wire.jitter > 0);
    }
}
