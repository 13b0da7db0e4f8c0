//! Bytes that only the balancer has: PROXY header, and what it acknowledged.

use super::super::*;
use super::client::State as ClientState;
use super::world::{LISTENER, MS, SECOND};
use super::{Backend, Client, World, connect};

const HEADER: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x05\x0a\x4d\0\x02\x9c\x40\x07\x5b";

fn world(proxy_protocol: bool) -> World {
    let mut world = World::new(ListenerSettings {
        proxy_protocol,
        ..LISTENER
    });
    let mut backend = Backend::v4(1);
    backend.reply_after = 40;
    world.add_backend(backend);
    world
}

fn client(cut: usize) -> Client {
    let mut client = Client::v4(40_000, connect("sensor-1-with-a-name", 60, b"password"));
    client.cuts = vec![cut];
    client.waits = cut < 100;
    client
}

fn check(world: &World, proxy: bool) {
    let mut want = if proxy { HEADER.to_vec() } else { vec![] };
    want.extend(&world.clients[0].stream);
    assert_eq!(world.backends[0].only().stream(), want);
    assert_eq!(world.clients[0].una, world.clients[0].stream.len());
}

#[test]
fn proxy_header_in_a_segment_of_its_own() {
    let mut world = world(true);
    world.connect(client(1400));
    world.run_until("the answer", |w| w.clients[0].received.len() == 4);
    world.run(2 * SECOND);
    check(&world, true);
    let payloads: Vec<_> = world
        .to_backends
        .iter()
        .map(|f| Packet::parse(f).unwrap().payload.to_vec())
        .filter(|p| !p.is_empty())
        .collect();
    assert_eq!(payloads, [HEADER, &world.clients[0].stream[..]]);
    let syn = Packet::parse(&world.to_backends[0]).unwrap().tcp.seq();
    assert_eq!(syn, world.clients[0].isn.wrapping_sub(28));
    assert_eq!(world.setups.stats(), Stats::default());
}

#[test]
fn proxy_header_and_acknowledged_bytes() {
    let mut world = world(true);
    world.connect(client(1));
    world.run_until("the answer", |w| w.clients[0].received.len() == 4);
    world.run(2 * SECOND);
    check(&world, true);
}

#[test]
fn proxy_header_of_ipv6() {
    let mut world = World::new(ListenerSettings {
        proxy_protocol: true,
        ..LISTENER
    });
    world.add_backend(Backend::v6(1));
    world.backends[0].reply_after = 60;
    world.connect(Client::v6(40_000, connect("sensor-1", 60, b"")));
    world.run_until("the answer", |w| w.clients[0].received.len() == 4);
    let stream = world.backends[0].only().stream();
    assert_eq!(
        (stream.len(), stream[13]),
        (52 + world.clients[0].stream.len(), 0x21)
    );
    assert_eq!((stream[16], stream[32], stream[48]), (0x20, 0xfd, 0x9c));
}

#[test]
fn repeated_until_acknowledged() {
    for (proxy, cut) in [(true, 1400), (true, 2), (false, 2)] {
        let mut world = world(proxy);
        world.backends[0].deaf_until = world.now + 5 * SECOND;
        world.connect(client(cut));
        world.run_until("the splice", |w| w.steering.opened.len() == 1);
        let (from, opened) = (world.to_backends.len(), world.now);
        world.run(3 * SECOND);
        assert_eq!(world.setups.stats().prefix, 1);
        assert!(world.setups.stats().bytes > 0);
        // After 200, 600, 1400, 3000 ms; the client's own repetitions are among them, and start behind
        // the prefix.
        let prefix_start =
            world.clients[0]
                .isn
                .wrapping_add(1)
                .wrapping_sub(if proxy { 28 } else { 0 });
        let again = world.to_backends[from..]
            .iter()
            .filter(|f| Packet::parse(f).unwrap().tcp.seq() == prefix_start)
            .count();
        assert_eq!(
            again,
            3 + usize::from(world.now >= opened + 3 * SECOND),
            "{proxy} {cut}"
        );
        world.run_until("the answer", |w| w.clients[0].received.len() == 4);
        world.run(4 * SECOND);
        check(&world, proxy);
        assert_eq!(
            (world.setups.stats(), world.setups.next_deadline()),
            (Stats::default(), None)
        );
    }
}

#[test]
fn a_part_of_it_was_acknowledged() {
    let mut world = world(true);
    world.connect(client(2));
    world.run_until("the splice", |w| w.steering.opened.len() == 1);
    world.backends[0].deaf_until = u64::MAX;
    world.run(50 * MS);
    // As if the header and two bytes had arrived.
    let key = *world.setups.backends.keys().next().unwrap();
    let flow = world.datapath.map.get_mut(&key).unwrap();
    flow.last_ack = world.clients[0].isn.wrapping_add(1 + 2);
    // And as if the client had got four bytes of the backend.
    let client_entry = world.datapath.map.get_mut(&world.clients[0].key).unwrap();
    client_entry.last_ack = client_entry.last_ack.wrapping_add(4);
    let ack = client_entry.last_ack.wrapping_add(client_entry.ack_add);
    let from = world.to_backends.len();
    world.backends[0].mode = super::backend::Mode::Silent;
    world.run(200 * MS);
    let sent = Packet::parse(
        world.to_backends[from..]
            .iter()
            .find(|f| {
                let p = Packet::parse(f).unwrap();
                p.payload_len > 2
            })
            .unwrap(),
    )
    .unwrap();
    assert_eq!(sent.tcp.seq(), world.clients[0].isn.wrapping_add(3));
    assert_eq!(sent.tcp.ack(), ack);
    assert_eq!(
        sent.payload,
        &world.clients[0].stream[2..2 + sent.payload_len]
    );
}

#[test]
fn given_up_after_half_a_minute() {
    let mut world = world(true);
    world.backends[0].deaf_until = u64::MAX;
    world.connect(client(2));
    let start = world.now;
    world.run_until("the RST", |w| w.clients[0].state == ClientState::Reset);
    assert!((30 * SECOND..31 * SECOND).contains(&(world.now - start)));
    world.run(100 * MS);
    assert!(
        world.backends[0].only().reset,
        "a RST that the backend accepts"
    );
    assert_eq!(world.steering.failed, [(0, Failure::Stalled)]);
    world.assert_forgotten();
}

#[test]
fn forgotten_when_the_flow_ends() {
    let mut world = world(true);
    world.backends[0].deaf_until = u64::MAX;
    world.connect(client(2));
    world.run_until("the splice", |w| w.steering.opened.len() == 1);
    world.datapath.map.clear();
    let from = world.to_backends.len();
    world.run(300 * MS);
    assert_eq!(world.setups.stats(), Stats::default());
    assert_eq!(
        world.to_backends[from..]
            .iter()
            .filter(|f| Packet::parse(f).unwrap().payload_len > 20)
            .count(),
        0
    );
}
