//! Backends that fail, and ports that run out: the client notices nothing as long as one is left.

use super::super::*;
use super::backend::Mode;
use super::client::State as ClientState;
use super::world::{LISTENER, MS, SECOND, World};
use super::{Backend, Client, connect, connect_v5};
use lb_common::layout::v4_mapped;
use lb_common::wire::{ETH_LEN, IPV4_LEN};

/// A world with these backends, the second of which answers.
fn world(listener: ListenerSettings, modes: &[Mode]) -> World {
    let mut world = World::new(listener);
    for (number, mode) in (1..).zip(modes) {
        let mut backend = Backend::v4(number);
        backend.mode = *mode;
        backend.reply_after = 1;
        world.add_backend(backend);
    }
    world
}

fn client() -> Client {
    Client::v4(40_000, connect("sensor-1", 60, b""))
}

fn answered(w: &World) -> bool {
    w.clients[0].received == b"\x20\x02\x00\x00"
}

#[test]
fn refused_then_the_next() {
    let mut world = world(LISTENER, &[Mode::Refuses, Mode::Normal]);
    world.connect(client());
    let start = world.now;
    world.run_until("the answer", answered);
    assert!(world.now - start < 20 * MS, "at once");
    assert_eq!(world.steering.failed, [(0, Failure::Refused)]);
    assert_eq!(world.steering.opened.len(), 1);
    assert_eq!(world.steering.opened[0].1, 1);
    assert_eq!(world.count(Verdict::BackendFailed), 1);
    assert_eq!(
        world.datapath.map.len(),
        2,
        "nothing left of the first attempt"
    );
    assert_eq!(world.backends[1].only().stream(), world.clients[0].stream);
}

#[test]
fn silent_then_the_next() {
    let mut world = world(LISTENER, &[Mode::Silent, Mode::Normal]);
    world.connect(client());
    let start = world.now;
    world.run_until("the answer", answered);
    let took = world.now - start;
    assert!((3 * SECOND..3 * SECOND + 50 * MS).contains(&took), "{took}");
    assert_eq!(world.steering.failed, [(0, Failure::Silent)]);
    let sent: Vec<u64> = world.backends[0]
        .syns
        .iter()
        .map(|s| (s.0 - world.backends[0].syns[0].0) / MS)
        .collect();
    assert_eq!(sent, [0, 250, 750, 1750]);
    assert!(
        world.backends[0].syns.windows(2).all(|s| s[0].1 == s[1].1),
        "one tuple"
    );
    assert_eq!(world.backends[1].only().stream(), world.clients[0].stream);
}

#[test]
fn a_reset_that_does_not_acknowledge_our_syn_is_ignored() {
    let mut world = world(LISTENER, &[Mode::Silent]);
    world.connect(client());
    world.run(20 * MS);
    let key = *world.setups.backends.keys().next().unwrap();
    for (ack, flags) in [(12345, flag::RST | flag::ACK), (0, flag::RST)] {
        let e = world::segment(key, 0, ack, flags);
        let hop = lb_common::layout::Hop {
            src_mac: world.backends[0].mac(),
            ..Default::default()
        };
        world.xdp(world::TO_BACKENDS, &world::frame(&hop, &e));
    }
    world.run(20 * MS);
    assert_eq!(world.steering.failed, []);
    assert_eq!(world.setups.stats().connecting, 1);
}

use super::world;

#[test]
fn unreachable_then_the_next() {
    let mut world = world(LISTENER, &[Mode::Silent, Mode::Normal]);
    world.connect(client());
    world.run(20 * MS);
    let syn = world.to_backends[0].clone();
    // A quote with another sequence number is somebody's guess.
    for seq_changed in [true, false] {
        let mut quoted = syn.clone();
        if seq_changed {
            quoted[ETH_LEN + IPV4_LEN + 7] ^= 1;
        }
        world.unreachable(&quoted);
        world.run(MS);
        assert_eq!(world.steering.failed.len(), usize::from(!seq_changed));
    }
    world.run_until("the answer", answered);
    assert_eq!(world.steering.failed, [(0, Failure::Unreachable)]);
}

#[test]
fn icmp_that_is_no_verdict() {
    // Fragmentation needed; time exceeded; another protocol quoted; cut off; not ICMP.
    let key = lb_common::layout::FlowKey::v4([10, 0, 1, 1], 10_000, [10, 77, 1, 1], 1883);
    let syn = world::frame(&Default::default(), &world::segment(key, 7, 0, flag::SYN));
    let quote = &syn[ETH_LEN..ETH_LEN + IPV4_LEN + 8];
    let build = |kind: u8, code: u8, quote: &[u8]| {
        let mut icmp = vec![0; ETH_LEN];
        icmp[12] = 8;
        let mut ip = [0; IPV4_LEN];
        (ip[0], ip[9]) = (0x45, 1);
        icmp.extend(ip);
        icmp.extend([kind, code, 0, 0, 0, 0, 0, 0]);
        icmp.extend(quote);
        icmp
    };
    let good = icmp::unreachable(&build(3, 1, quote)).unwrap();
    assert_eq!((good.key, good.seq), (key, 7));
    assert_eq!(icmp::unreachable(&build(3, 4, quote)), None);
    assert_eq!(icmp::unreachable(&build(11, 0, quote)), None);
    let mut udp = quote.to_vec();
    udp[9] = 17;
    assert_eq!(icmp::unreachable(&build(3, 1, &udp)), None);
    for cut in 0..ETH_LEN + IPV4_LEN + 8 + IPV4_LEN + 8 {
        assert_eq!(icmp::unreachable(&build(3, 1, quote)[..cut]), None);
    }
    assert_eq!(icmp::unreachable(&syn), None);
}

#[test]
fn icmp_over_ipv6() {
    let key = lb_common::layout::FlowKey {
        src: [0xfd; 16],
        dst: [0xfe; 16],
        src_port: [1, 2],
        dst_port: [3, 4],
    };
    let syn = world::frame(&Default::default(), &world::segment(key, 9, 0, flag::SYN));
    let mut icmp = vec![0; ETH_LEN];
    (icmp[12], icmp[13]) = (0x86, 0xdd);
    let mut ip = [0; 40];
    (ip[0], ip[6]) = (0x60, 58);
    icmp.extend(ip);
    icmp.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    icmp.extend(&syn[ETH_LEN..ETH_LEN + 48]);
    let error = icmp::unreachable(&icmp).unwrap();
    assert_eq!((error.key, error.seq), (key, 9));
}

#[test]
fn a_tuple_that_the_backend_remembers() {
    let mut world = world(LISTENER, &[Mode::Challenges(2)]);
    world.connect(client());
    world.run_until("the answer", answered);
    let tuples: std::collections::HashSet<_> = world.backends[0].syns.iter().map(|s| s.1).collect();
    assert_eq!(tuples.len(), 3, "another port each time");
    assert_eq!(world.backends[0].resets, 2, "the old connections are ended");
    assert_eq!(world.steering.failed, []);
    assert_eq!(world.datapath.map.len(), 2);
}

#[test]
fn the_same_with_the_clients_own_port() {
    let listener = ListenerSettings {
        source: Source::Client,
        ..LISTENER
    };
    let mut world = world(listener, &[Mode::Challenges(2)]);
    world.connect(client());
    let start = world.now;
    world.run_until("the answer", answered);
    assert!((200 * MS..300 * MS).contains(&(world.now - start)));
    let tuples: std::collections::HashSet<_> = world.backends[0].syns.iter().map(|s| s.1).collect();
    assert_eq!((tuples.len(), world.backends[0].syns.len()), (1, 3));
    assert_eq!(world.backends[0].resets, 2);
}

#[test]
fn a_backend_that_remembers_every_tuple() {
    let mut world = world(LISTENER, &[Mode::Challenges(1000), Mode::Normal]);
    world.connect(client());
    world.run_until("the answer", answered);
    assert_eq!(world.steering.failed, [(0, Failure::TupleInUse)]);
    assert_eq!(world.datapath.map.len(), 2);
}

#[test]
fn none_left() {
    for (stream, connack) in [
        (connect("sensor-1", 60, b""), &b"\x20\x02\x00\x03"[..]),
        (connect_v5("sensor-1"), &b"\x20\x03\x00\x88\x00"[..]),
    ] {
        let mut world = world(LISTENER, &[Mode::Refuses, Mode::Refuses]);
        world.wire.loss = 0;
        world.connect(Client::v4(40_000, stream.clone()));
        world.run_until("the refusal", |w| w.clients[0].their_fin);
        assert_eq!(world.clients[0].received, connack);
        assert_eq!(world.clients[0].una, stream.len());
        // The client closes too.
        let fin = world.clients[0].make(world.now, stream.len(), flag::FIN | flag::ACK, &[]);
        world.clients[0].highest += 1;
        world.arrive(world::TO_CLIENTS, vec![fin]);
        world.run(10 * MS);
        assert_eq!(world.clients[0].una, stream.len() + 1);
        world.run(5 * SECOND);
        assert_eq!(world.clients[0].state, ClientState::Established, "no RST");
        assert_eq!(
            (
                world.count(Verdict::NoBackend),
                world.count(Verdict::BackendFailed)
            ),
            (1, 2)
        );
        world.assert_forgotten();
    }
}

#[test]
fn a_refusal_survives_loss() {
    let mut told = 0;
    for seed in 0..40 {
        let mut world = world(LISTENER, &[Mode::Refuses]);
        world.seed(seed);
        world.wire.loss = 20;
        world.connect(client());
        world.run(30 * SECOND);
        told += usize::from(world.clients[0].their_fin);
        assert_eq!(world.setups.stats(), Stats::default());
        assert!(world.datapath.map.is_empty());
    }
    // All four copies are lost once in 625 times.
    assert!(told >= 39, "{told} of 40");
}

#[test]
fn ports_that_are_taken_are_left_alone() {
    let settings = Settings {
        ports: (10_000, 10_009),
        ..Settings::default()
    };
    let mut world = World::with_settings(LISTENER, settings);
    let mut backend = Backend::v4(1);
    backend.reply_after = 1;
    world.add_backend(backend);
    let taken = |port: u16| lb_common::layout::FlowKey {
        src: v4_mapped([10, 77, 1, 1]),
        dst: v4_mapped([10, 0, 1, 1]),
        src_port: 1883u16.to_be_bytes(),
        dst_port: port.to_be_bytes(),
    };
    let theirs = Flow {
        state: 3,
        client: 4711,
        ..Flow::ZERO
    };
    for port in (10_000..=10_009).filter(|p| *p != 10_004) {
        world.datapath.map.insert(taken(port), theirs);
    }
    world.connect(client());
    world.run_until("the answer", answered);
    assert_eq!(world.backends[0].syns[0].1, taken(10_004).reversed());
    for port in (10_000..=10_009).filter(|p| *p != 10_004) {
        assert_eq!(world.datapath.map[&taken(port)], theirs);
    }
    // Now there is none.
    world.connect(Client::v4(40_001, connect("sensor-2", 60, b"")));
    world.run_until("the refusal", |w| w.clients[1].their_fin);
    assert_eq!(world.count(Verdict::NoPort), 1);
    assert_eq!(world.steering.failed, [], "it is not the backend's fault");
    assert!(world.datapath.inserts < 100);
}

#[test]
fn a_large_range_is_not_searched_for_ever() {
    struct Full(usize);
    impl Datapath for Full {
        fn insert_new(&mut self, _: &FlowKey, _: &Flow) -> Result<(), InsertError> {
            self.0 += 1;
            Err(InsertError::Exists)
        }
        fn replace(&mut self, _: &FlowKey, _: &Flow) -> Result<(), InsertError> {
            unreachable!()
        }
        fn remove(&mut self, _: &FlowKey) {}
        fn get(&mut self, _: &FlowKey) -> Option<Flow> {
            None
        }
        fn pending(&mut self, _: u32) -> Option<lb_common::layout::Pending> {
            None
        }
        fn send(&mut self, _: &lb_common::layout::Hop, _: &[u8]) {}
        fn count(&mut self, _: Verdict, _: u64) {}
    }
    let mut full = Full(0);
    let addresses = [[1; 16], [2; 16]];
    let r = snat::allocate(
        &mut full,
        &mut Rng::new(1),
        &addresses,
        (1024, 65_535),
        (&[3; 16], [7, 91]),
        |_| Flow::ZERO,
    );
    assert_eq!((r, full.0), (Err(snat::NoPort::Exhausted), 4096));
    assert!(matches!(
        snat::allocate(
            &mut full,
            &mut Rng::new(1),
            &[],
            (1, 2),
            (&[3; 16], [7, 91]),
            |_| Flow::ZERO
        ),
        Err(snat::NoPort::Exhausted)
    ));
}

#[test]
fn every_port_of_every_address_is_found() {
    let mut datapath = world::FakeDatapath::default();
    let mut rng = Rng::new(3);
    let addresses = [v4_mapped([10, 0, 1, 1]), v4_mapped([10, 0, 1, 2])];
    let mut allocate = || {
        snat::allocate(
            &mut datapath,
            &mut rng,
            &addresses,
            (65_000, 65_535),
            (&v4_mapped([10, 77, 1, 1]), [7, 91]),
            |_| Flow::ZERO,
        )
    };
    for _ in 0..2 * 536 {
        allocate().unwrap();
    }
    assert_eq!(allocate(), Err(snat::NoPort::Exhausted));
}

#[test]
fn flow_map_full() {
    let mut world = world(LISTENER, &[Mode::Normal]);
    world.datapath.capacity = Some(1);
    world.connect(client());
    world.run_until("the refusal", |w| w.clients[0].their_fin);
    assert_eq!(world.count(Verdict::FlowsFull), 1);
    world.run(5 * SECOND);
    world.assert_forgotten();
    assert_eq!(world.backends[0].syns.len(), 0);
}

#[test]
fn the_clients_own_port_is_in_use_over_another_vip() {
    let listener = ListenerSettings {
        source: Source::Client,
        ..LISTENER
    };
    let mut world = world(listener, &[Mode::Normal, Mode::Normal]);
    let client = client();
    let tuple = FlowKey {
        src: world.backends[0].address,
        dst: client.key.src,
        src_port: client.key.dst_port,
        dst_port: client.key.src_port,
    };
    // Alive: left alone.
    world.datapath.map.insert(
        tuple,
        Flow {
            state: 3,
            ..Flow::ZERO
        },
    );
    world.connect(client);
    world.run_until("the answer", answered);
    assert_eq!(world.steering.failed, [(0, Failure::TupleInUse)]);
    assert_eq!(world.backends[1].syns.len(), 1);
    assert_eq!(world.datapath.map[&tuple].state, 3);
}

#[test]
fn the_clients_own_port_is_free_again() {
    let listener = ListenerSettings {
        source: Source::Client,
        ..LISTENER
    };
    let mut world = world(listener, &[Mode::Normal]);
    let client = client();
    let tuple = FlowKey {
        src: world.backends[0].address,
        dst: client.key.src,
        src_port: client.key.dst_port,
        dst_port: client.key.src_port,
    };
    let both = lb_common::layout::flags::FIN_SELF | lb_common::layout::flags::FIN_PEER;
    world.datapath.map.insert(
        tuple,
        Flow {
            state: 3,
            flags: both,
            ..Flow::ZERO
        },
    );
    world.connect(client);
    let start = world.now;
    world.run_until("the answer", answered);
    assert!(world.now - start < 20 * MS);
}

#[test]
fn what_an_agent_that_died_left_behind() {
    let mut world = world(LISTENER, &[Mode::Normal]);
    world.connect(client());
    world.run_until("the SYN", |w| w.to_backends.len() == 1);
    // A new agent: it knows nothing, the maps are as they were.
    let settings = world.setups.settings;
    world.setups = Setups::new(settings, 43);
    world.setups.set_listener(3, Some(LISTENER));
    world.run_until("the answer", answered);
    world.run(2 * SECOND);
    assert_eq!(
        world.datapath.map.len(),
        2,
        "the half-open connection is gone"
    );
    assert_eq!(world.backends[0].resets, 1);
}
