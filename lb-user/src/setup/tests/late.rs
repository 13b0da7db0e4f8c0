//! Packets that were punted before the splice and come to the agent after it.

use super::super::*;
use super::world::{LISTENER, MS, SECOND};
use super::{Backend, Client, World, connect, packet, world};
use lb_common::layout::flags;

/// A spliced connection whose client has more to say.
fn spliced() -> World {
    let mut world = World::new(LISTENER);
    let mut backend = Backend::v4(1);
    backend.reply_after = 1;
    world.add_backend(backend);
    world.connect(Client::v4(40_000, connect("sensor-1", 60, b"")));
    world.run_until("the answer", |w| w.clients[0].received.len() == 4);
    world
}

fn punt_late(world: &mut World, flags: u8, payload: &[u8]) {
    let len = world.clients[0].stream.len();
    let frame = world.clients[0].make(world.now, len, flags | flag::ACK, payload);
    let isn = world.clients[0].isn;
    world.clients[0].highest = len + payload.len() + usize::from(flags & flag::FIN != 0);
    world.punt(PuntKind::Client, world::TO_CLIENTS, isn, &frame);
}

#[test]
fn data_is_forwarded() {
    let mut world = spliced();
    let subscribe = packet(0x82, b"\x00\x01\x00\x01#\x00");
    punt_late(&mut world, flag::PSH, &subscribe);
    world.run(10 * MS);
    let want = [&world.clients[0].stream[..], &subscribe].concat();
    assert_eq!(world.backends[0].only().stream(), want);
    assert_eq!(world.clients[0].una, want.len());
}

#[test]
fn a_fin_is_forwarded_and_noted() {
    let mut world = spliced();
    punt_late(&mut world, flag::FIN, b"bye");
    world.run(10 * MS);
    assert_eq!(
        world.backends[0].only().fin,
        Some(world.clients[0].stream.len() + 3)
    );
    let flow = world.datapath.map[&world.clients[0].key];
    assert_eq!(
        flow.flags,
        flags::FROM_CLIENT | flags::FIN_SELF | flags::FIN_FIRST
    );
    assert_eq!(world.datapath.map[&flow.pair()].flags, flags::FIN_PEER);
}

#[test]
fn a_reset_is_forwarded_both_ways() {
    let mut world = spliced();
    punt_late(&mut world, flag::RST, b"");
    world.run(10 * MS);
    assert!(world.backends[0].only().reset);
    let flow = world.datapath.map[&world.clients[0].key];
    assert!(flow.closed() && world.datapath.map[&flow.pair()].closed());

    let mut world = spliced();
    let key = *world.setups.backends.keys().next().unwrap();
    let flow = world.datapath.map[&key];
    let e = world::segment(key, flow.next_seq, flow.last_ack, flag::RST | flag::ACK);
    let rst = world::frame(&Default::default(), &e);
    world.punt(PuntKind::Backend, world::TO_BACKENDS, 0, &rst);
    world.run(10 * MS);
    assert_eq!(world.clients[0].state, super::client::State::Reset);
}

#[test]
fn of_a_cut_frame_the_beginning() {
    let mut world = spliced();
    world.capture = 300;
    punt_late(&mut world, flag::FIN, &super::noise(1000));
    world.run(10 * MS);
    let stream = world.backends[0].only().stream();
    let len = world.clients[0].stream.len();
    assert_eq!(stream[len..], super::noise(1000)[..300 - 14 - 20 - 32]);
    assert_eq!(world.backends[0].only().fin, None);
}

#[test]
fn nothing_after_a_second() {
    let mut world = spliced();
    world.run(2 * SECOND);
    let sent = world.to_backends.len();
    punt_late(&mut world, flag::PSH, b"hello");
    world.run(10 * MS);
    assert_eq!(world.to_backends.len(), sent);
    assert_eq!(world.setups.stats(), Stats::default());
    assert_eq!(world.datapath.map.len(), 2, "the splice is untouched");
}

#[test]
fn nothing_of_an_older_connection() {
    let mut world = spliced();
    world.run(100 * MS);
    let (sent, frame) = (
        world.to_backends.len(),
        world.clients[0].make(world.now, 0, flag::ACK, b"old"),
    );
    world.punt(
        PuntKind::Client,
        world::TO_CLIENTS,
        world.clients[0].isn ^ 1,
        &frame,
    );
    world.run(10 * MS);
    assert_eq!(world.to_backends.len(), sent);
}

#[test]
fn a_slow_ring_buffer() {
    let mut world = World::new(LISTENER);
    world.add_backend(Backend::v4(1));
    world.ring_delay = 30 * MS;
    let mut client = Client::v4(40_000, connect("sensor-1", 60, &super::noise(9000)));
    client.cuts = vec![100];
    world.backends[0].reply_after = client.stream.len();
    world.connect(client);
    world.run_until("the answer", |w| w.clients[0].received.len() == 4);
    assert_eq!(world.backends[0].only().stream(), world.clients[0].stream);
}
