//! CONNECTs of all shapes come through.

use super::super::*;
use super::world::{LISTENER, MS, SECOND};
use super::{Backend, Client, World, connect, noise, packet};
use crate::select::shared_hash;
use lb_common::layout::{Hop, flags, ticks};

/// Runs a client to the backend's answer and checks that the backend saw the client's bytes.
fn through(world: &mut World, client: Client) -> usize {
    let stream = client.stream.clone();
    let proxy = if world.listener.proxy_protocol { 28 } else { 0 };
    for backend in &mut world.backends {
        backend.reply_after = stream.len() + proxy;
    }
    let i = world.connect(client);
    world.run_until("the answer", |w| {
        w.clients[i].received == b"\x20\x02\x00\x00"
    });
    // Until everything is acknowledged and nothing is remembered.
    world.run(3 * SECOND);
    assert_eq!(world.clients[i].una, stream.len());
    assert_eq!(world.setups.stats(), Stats::default());
    assert_eq!(world.count(Verdict::SteeredAgent), 1);
    assert_eq!(world.backends[0].only().stream()[proxy..], stream);
    assert_eq!(world.backends[0].only().old_timestamps, 0);
    assert_eq!(world.clients[i].old_timestamps, 0);
    i
}

fn world() -> World {
    let mut world = World::new(LISTENER);
    world.add_backend(Backend::v4(1));
    world
}

#[test]
fn one_segment() {
    let mut world = world();
    let i = through(&mut world, Client::v4(40_000, connect("sensor-1", 60, b"")));
    let hash = world.setups.settings.client_hash(b"sensor-1");
    assert_eq!(world.steering.clients, [hash]);
    assert_eq!(world.steering.shared, [shared_hash(b"sensor-1")]);
    assert_eq!(world.steering.opened, [(3, 0, hash)]);
    assert_eq!(world.steering.capabilities, []);
    // SYN and the CONNECT, nothing else came from us before the splice took over.
    let client = &world.clients[i];
    let flow = world.datapath.map[&client.key];
    let pair = world.datapath.map[&flow.pair()];
    assert_eq!(pair.pair(), client.key);
    assert_eq!((flow.state, pair.state), (3, 3));
    assert_eq!((flow.flags, pair.flags), (flags::FROM_CLIENT, 0));
    assert_eq!((flow.client, pair.client), (hash, hash));
    assert_eq!(
        (flow.listener, flow.backend, flow.hop_generation),
        (3, 0, 9)
    );
    assert_eq!(
        flow.ingress,
        Hop::signature(world::TO_CLIENTS, &client.hop.src_mac, 0)
    );
    assert_eq!(flow.idle_limit, ticks::span(100 * SECOND));
    assert_eq!(
        (flow.seq_add, flow.tsval_add, pair.ack_add, pair.tsecr_add),
        (0, 0, 0, 0)
    );
    assert_eq!(flow.ack_add, pair.seq_add.wrapping_neg());
    let port = u16::from_be_bytes(flow.new_src_port);
    assert!((10_000..=60_999).contains(&port));
}

use super::world;

#[test]
fn byte_by_byte() {
    let mut world = world();
    let mut client = Client::v4(40_000, connect("sensor-1", 60, b""));
    client.cuts = vec![1];
    client.waits = true;
    through(&mut world, client);
}

#[test]
fn byte_by_byte_without_waiting() {
    let mut world = world();
    let mut client = Client::v4(40_000, connect("sensor-1", 60, b"secret"));
    client.cuts = vec![1, 2];
    through(&mut world, client);
}

#[test]
fn long_password_in_any_order_with_duplicates() {
    for seed in 0..10 {
        let mut world = world();
        world.seed(seed);
        world.wire.jitter = 20 * MS;
        world.wire.repeat = 30;
        world.backends[0].timestamps = None;
        let mut client = Client::v4(40_000, connect("sensor-1", 60, &noise(20_000)));
        client.timestamps = None;
        through(&mut world, client);
    }
}

#[test]
fn pipelined_packets() {
    let mut world = world();
    let mut stream = connect("sensor-1", 60, b"");
    stream.extend(packet(0x82, b"\x00\x01\x00\x01#\x00"));
    stream.extend(packet(0x30, b"\x00\x01thello"));
    through(&mut world, Client::v4(40_000, stream));
}

#[test]
fn ipv6() {
    let mut world = World::new(LISTENER);
    world.add_backend(Backend::v6(1));
    let mut client = Client::v6(40_000, connect("sensor-1", 60, b""));
    client.cuts = vec![5];
    client.waits = true;
    through(&mut world, client);
}

#[test]
fn tags_of_both_sides_are_their_own() {
    let mut world = World::new(LISTENER);
    let mut backend = Backend::v4(1);
    backend.tag = Hop {
        vlan: 20,
        tagged: 1,
        ..Hop::default()
    };
    world.add_backend(backend);
    let mut client = Client::v4(40_000, connect("sensor-1", 60, b""));
    client.hop.vlan = 10;
    client.hop.tagged = 1;
    let i = through(&mut world, client);
    let client = &world.clients[i];
    let flow = world.datapath.map[&client.key];
    let pair = world.datapath.map[&flow.pair()];
    assert_eq!((flow.vlan, flow.flags & flags::TAGGED), (20, flags::TAGGED));
    assert_eq!((pair.vlan, pair.flags & flags::TAGGED), (10, flags::TAGGED));
    assert_eq!(
        flow.ingress,
        Hop::signature(world::TO_CLIENTS, &client.hop.src_mac, 10)
    );
}

#[test]
fn transparent_source() {
    let listener = ListenerSettings {
        source: Source::Client,
        ..LISTENER
    };
    let mut world = World::new(listener);
    world.add_backend(Backend::v4(1));
    let i = through(&mut world, Client::v4(40_000, connect("sensor-1", 60, b"")));
    let flow = world.datapath.map[&world.clients[i].key];
    assert_eq!(
        (flow.new_src, flow.new_src_port),
        (world.clients[i].key.src, world.clients[i].key.src_port)
    );
}

#[test]
fn frames_cut_by_the_ring_buffer() {
    let mut world = world();
    world.capture = 256;
    let mut client = Client::v4(40_000, connect("sensor-1", 60, &noise(5_000)));
    client.closes = false;
    through(&mut world, client);
}

#[test]
fn no_keep_alive_and_no_identifier() {
    let mut world = world();
    let i = through(&mut world, Client::v4(40_000, connect("", 0, b"")));
    let flow = world.datapath.map[&world.clients[i].key];
    assert_eq!(
        (flow.client, flow.idle_limit),
        (0, ticks::span(3600 * SECOND))
    );
    assert_eq!(world.steering.opened, [(3, 0, 0)]);
}

#[test]
fn half_close_behind_the_connect() {
    let mut world = world();
    let mut client = Client::v4(40_000, connect("sensor-1", 60, b""));
    client.closes = true;
    let len = client.stream.len();
    world.backends[0].reply_after = len;
    let i = world.connect(client);
    world.run_until("the answer", |w| w.clients[i].received.len() == 4);
    world.run(2 * SECOND);
    assert_eq!(world.backends[0].only().fin, Some(len));
    assert_eq!(world.clients[i].una, len + 1);
    let flow = world.datapath.map[&world.clients[i].key];
    let pair = world.datapath.map[&flow.pair()];
    assert_eq!(
        flow.flags,
        flags::FROM_CLIENT | flags::FIN_SELF | flags::FIN_FIRST
    );
    assert_eq!(pair.flags, flags::FIN_PEER);
}
