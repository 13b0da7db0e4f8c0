//! What the XDP program began and can't finish.

use super::super::connect::proxy_header;
use super::super::*;
use super::backend::Mode;
use super::kernel::Kernel;
use super::world::{LISTENER, MS, SECOND, World};
use super::{Backend, Client, connect};

/// A world in which the XDP program begins connections to the first of these backends.
fn world(kernel: Kernel, modes: &[Mode]) -> World {
    world_of(LISTENER, kernel, modes)
}

/// The same, with a PROXY header.
fn proxied(kernel: Kernel, modes: &[Mode]) -> World {
    let listener = ListenerSettings {
        proxy_protocol: true,
        ..LISTENER
    };
    world_of(listener, kernel, modes)
}

fn world_of(listener: ListenerSettings, kernel: Kernel, modes: &[Mode]) -> World {
    let mut world = World::new(listener);
    world.kernel = kernel;
    for (number, mode) in (1..).zip(modes) {
        let mut backend = Backend::v4(number);
        backend.mode = *mode;
        // To the CONNECT, not to the header.
        backend.reply_after = if listener.proxy_protocol { 29 } else { 1 };
        world.add_backend(backend);
    }
    world
}

fn client() -> Client {
    Client::v4(40_000, connect("sensor-1", 60, b"secret"))
}

fn answered(w: &World) -> bool {
    w.clients[0].received == b"\x20\x02\x00\x00"
}

/// What the backend has to get.
fn stream(world: &World) -> Vec<u8> {
    let client = &world.clients[0];
    let mut stream = Vec::new();
    if world.listener.proxy_protocol {
        stream = proxy_header(&client.key);
    }
    stream.extend(&client.stream);
    stream
}

/// The CONNECT is with backend `n`, once, and nothing is left of other attempts.
fn served_by(world: &World, n: usize) {
    assert_eq!(world.backends[n].only().stream(), stream(world));
    assert_eq!(world.datapath.map.len(), 2);
    for flow in world.datapath.map.values() {
        assert_eq!((flow.state, flow.backend), (State::Open as u8, n as u16));
    }
}

#[test]
fn refused_then_the_next_at_once() {
    let mut world = world(Kernel::Begins, &[Mode::Refuses, Mode::Normal]);
    world.connect(client());
    let start = world.now;
    world.run_until("the answer", answered);
    assert!(world.now - start < 20 * MS, "at once");
    assert_eq!(world.steering.failed, [(0, Failure::Refused)]);
    assert_eq!(world.clients[0].segments, 1, "the CONNECT was sent once");
    served_by(&world, 1);
}

#[test]
fn silent_then_the_next_when_the_client_repeats_after_the_time_out() {
    let mut world = world(Kernel::Begins, &[Mode::Silent, Mode::Normal]);
    world.connect(client());
    let start = world.now;
    world.run_until("the answer", answered);
    let took = world.now - start;
    assert!(took > 3 * SECOND, "{took}");
    assert_eq!(world.steering.failed, [(0, Failure::Silent)]);
    let syns = &world.backends[0].syns;
    assert!(syns.len() > 1, "each repetition was a SYN");
    assert!(syns.windows(2).all(|s| s[0].1 == s[1].1), "one tuple");
    served_by(&world, 1);
}

#[test]
fn no_other_backend_is_a_refusal_in_mqtt() {
    let mut world = world(Kernel::Begins, &[Mode::Refuses]);
    world.connect(client());
    world.run_until("the refusal", |w| {
        w.clients[0].received == b"\x20\x02\x00\x03"
    });
    assert_eq!(world.count(Verdict::NoBackend), 1);
}

#[test]
fn a_syn_ack_that_must_be_looked_at_opens_in_the_agent() {
    let mut world = world(Kernel::Begins, &[Mode::Normal]);
    world.backends[0].sack = false;
    world.connect(client());
    world.run_until("the answer", answered);
    assert_eq!(world.count(Verdict::SteeredAgent), 1);
    assert_eq!(world.steering.capabilities.len(), 1);
    assert_eq!(world.backends[0].syns.len(), 1, "the SYN that was out");
    served_by(&world, 0);
}

#[test]
fn a_tuple_in_use_is_changed() {
    let mut world = world(Kernel::Begins, &[Mode::Challenges(1)]);
    world.connect(client());
    world.run_until("the answer", answered);
    let syns = &world.backends[0].syns;
    assert_ne!(syns.first().unwrap().1, syns.last().unwrap().1);
    served_by(&world, 0);
}

#[test]
fn a_connect_that_was_overwritten_comes_again() {
    let mut world = world(Kernel::Begins, &[Mode::Refuses, Mode::Normal]);
    world.connect(client());
    world.run_until("the first SYN", |w| !w.backends[0].syns.is_empty());
    for pending in world.datapath.pending.values_mut() {
        pending.ticket += 8192;
    }
    world.run_until("the answer", answered);
    served_by(&world, 1);
}

#[test]
fn a_backend_out_of_service_gets_no_client_back() {
    let mut world = world(Kernel::Begins, &[Mode::Silent, Mode::Normal]);
    world.connect(client());
    world.run_until("the first SYN", |w| !w.backends[0].syns.is_empty());
    world.steering.out_of_service.push(0);
    world.run_until("the answer", answered);
    assert_eq!(world.steering.failed, [], "it has not failed");
    assert_eq!(world.backends[0].resets, 1);
    served_by(&world, 1);
}

#[test]
fn the_refusal_of_a_backend_out_of_service_is_not_the_next_ones() {
    let mut world = world(Kernel::Begins, &[Mode::Refuses, Mode::Normal]);
    world.connect(client());
    world.run_until("the first SYN", |w| !w.backends[0].syns.is_empty());
    world.steering.out_of_service.push(0);
    world.run_until("the answer", answered);
    assert_eq!(world.steering.failed, []);
    served_by(&world, 1);
}

#[test]
fn unreachable_is_who_the_error_names() {
    let mut world = world(Kernel::Begins, &[Mode::Silent, Mode::Normal]);
    world.connect(client());
    world.run_until("the first SYN", |w| !w.to_backends.is_empty());
    let syn = world.to_backends[0].clone();
    world.steering.out_of_service.push(0);
    // It makes the agent take the connection over: the next SYN has the sequence number that it quotes.
    world.unreachable(&syn);
    world.run_until("the answer", answered);
    assert_eq!(world.steering.failed, []);
    served_by(&world, 1);
}

#[test]
fn an_unreachable_backend_is_left() {
    let mut world = world(Kernel::Begins, &[Mode::Silent, Mode::Normal]);
    world.connect(client());
    world.run_until("the first SYN", |w| !w.to_backends.is_empty());
    let syn = world.to_backends[0].clone();
    world.unreachable(&syn);
    world.run_until("the answer", answered);
    assert_eq!(world.steering.failed, [(0, Failure::Unreachable)]);
    served_by(&world, 1);
}

#[test]
fn the_agent_delivers_what_had_no_room() {
    let mut world = world(Kernel::Opens, &[Mode::Normal]);
    world.connect(client());
    let start = world.now;
    world.run_until("the answer", answered);
    assert!(world.now - start < 20 * MS, "no retransmission");
    assert_eq!(world.clients[0].segments, 1);
    assert_eq!(world.count(Verdict::SteeredAgent), 0);
    served_by(&world, 0);
}

#[test]
fn a_delivery_without_a_connect_is_left_to_the_client() {
    is_left_to_the_client(world(Kernel::Opens, &[Mode::Normal]));
}

/// Of a connection, nobody has kept the CONNECT.
fn is_left_to_the_client(mut world: World) {
    world.connect(client());
    world.run_until("the first SYN", |w| !w.backends[0].syns.is_empty());
    world.datapath.pending.clear();
    world.run_until("the answer", answered);
    assert!(world.clients[0].segments > 1);
    served_by(&world, 0);
}

#[test]
fn loss_and_repetition_on_all_sides() {
    for seed in 0..40 {
        for (kernel, header) in [
            (Kernel::Begins, false),
            (Kernel::Begins, true),
            (Kernel::Opens, false),
            (Kernel::Opens, true),
        ] {
            let modes = [Mode::Normal, Mode::Normal];
            let mut world = if header {
                proxied(kernel, &modes)
            } else {
                world(kernel, &modes)
            };
            world.seed(seed);
            world.wire.loss = 20;
            world.wire.repeat = 10;
            world.wire.jitter = 3 * MS;
            world.wire.replay = 20;
            world.connect(client());
            world.run_until("the answer", answered);
            let streams = world.backends.iter().flat_map(|b| b.connections.values());
            let whole = streams.filter(|c| c.stream() == stream(&world));
            assert!(whole.count() >= 1, "seed {seed} {kernel:?}");
        }
    }
}

#[test]
fn a_header_goes_along() {
    type Case = (Kernel, &'static [Mode], usize);
    let cases: [Case; 5] = [
        (Kernel::Begins, &[Mode::Refuses, Mode::Normal], 1),
        (Kernel::Begins, &[Mode::Silent, Mode::Normal], 1),
        (Kernel::Begins, &[Mode::Normal], 0),
        (Kernel::Begins, &[Mode::Challenges(1)], 0),
        (Kernel::Opens, &[Mode::Normal], 0),
    ];
    for (kernel, modes, serves) in cases {
        let mut world = proxied(kernel, modes);
        world.connect(client());
        world.run_until("the answer", answered);
        served_by(&world, serves);
        let first = world.clients[0].isn.wrapping_sub(28);
        let syn = Packet::parse(&world.to_backends[0]).unwrap().tcp.seq();
        assert_eq!(syn, first, "{kernel:?}, {modes:?}");
    }
}

#[test]
fn a_header_without_a_connect_waits_for_the_client() {
    is_left_to_the_client(proxied(Kernel::Opens, &[Mode::Normal]));
}
