//! The client's side: what is not a CONNECT never reaches a backend.

use super::super::*;
use super::backend::Mode;
use super::client::State as ClientState;
use super::world::{LISTENER, MS, SECOND};
use super::{Backend, Client, World, connect, noise, packet, world};

fn world() -> World {
    let mut world = World::new(LISTENER);
    let mut backend = Backend::v4(1);
    backend.reply_after = 1;
    world.add_backend(backend);
    world
}

#[test]
fn rejected_by_reason() {
    let good = connect("sensor-1", 60, b"");
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        bad
    };
    let long_id = "x".repeat(1001);
    let rows: Vec<(Verdict, Vec<u8>)> = vec![
        (
            Verdict::RejectNotConnect,
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ),
        (Verdict::RejectNotConnect, b"\x16\x03\x01\x00\xa5".to_vec()),
        (
            Verdict::RejectRemainingLength,
            b"\x10\xff\xff\xff\xff\x01".to_vec(),
        ),
        (Verdict::RejectProtocolName, with(4, b'X')),
        (Verdict::RejectProtocolLevel, with(8, 9)),
        (Verdict::RejectFlags, with(9, 3)),
        (Verdict::RejectClientId, with(14, 0xff)),
        (
            Verdict::RejectEmptyClientId,
            packet(0x10, b"\x00\x04MQTT\x04\x00\x00\x3c\x00\x00"),
        ),
        (
            Verdict::RejectOversizedPacket,
            b"\x10\xff\xff\xff\x7f".to_vec(),
        ),
        (
            Verdict::RejectProperties,
            packet(0x10, b"\x00\x04MQTT\x05\x02\x00\x3c\x02\x01\x01\x00\x00"),
        ),
        (
            Verdict::RejectPayload,
            packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x01axx"),
        ),
        (Verdict::RejectOversizedClientId, connect(&long_id, 60, b"")),
    ];
    for (verdict, stream) in rows {
        let settings = Settings {
            mqtt: lb_common::mqtt::Limits {
                client_id: 1000,
                ..Default::default()
            },
            ..Settings::default()
        };
        let mut world = World::with_settings(LISTENER, settings);
        world.add_backend(Backend::v4(1));
        world.connect(Client::v4(40_000, stream));
        world.run_until("the RST", |w| w.clients[0].state == ClientState::Reset);
        assert_eq!(
            world.count(verdict),
            1,
            "{}: {:?}",
            verdict.name(),
            world.datapath.counts
        );
        world.run(SECOND);
        world.assert_forgotten();
        assert_eq!(world.to_backends.len(), 0, "{}", verdict.name());
    }
}

#[test]
fn wrong_behind_the_identifier_while_a_backend_is_asked() {
    let mut world = world();
    world.backends[0].mode = Mode::Silent;
    // A user name that isn't UTF-8.
    let stream = packet(
        0x10,
        b"\x00\x04MQTT\x04\x82\x00\x3c\x00\x01a\x00\x02\xff\xff",
    );
    let mut client = Client::v4(40_000, stream);
    client.cuts = vec![15, 100];
    world.connect(client);
    world.run_until("the RST", |w| w.clients[0].state == ClientState::Reset);
    assert_eq!(world.count(Verdict::RejectPayload), 1);
    world.run(SECOND);
    world.assert_forgotten();
    assert_eq!(world.backends[0].syns.len(), 1);
    for frame in &world.to_backends {
        let sent = Packet::parse(frame).unwrap();
        assert_eq!(sent.payload_len, 0, "a SYN and its RST, no data");
    }
}

#[test]
fn only_what_the_cookie_was_checked_for_begins_a_connection() {
    let mut world = world();
    let stream = connect("sensor-1", 60, b"");
    let i = world.connect(Client::v4(40_000, stream.clone()));
    world.run_until("the handshake", |w| {
        w.clients[i].state == ClientState::Established
    });
    // The first punt is lost; the next packet on the tuple is somebody else's guess.
    let (key, isn) = (world.clients[i].key, world.clients[i].isn);
    let entry = Flow {
        state: 1,
        next_seq: isn,
        last_ack: world.clients[i].rcv_nxt(),
        ..Flow::ZERO
    };
    world.datapath.map.insert(key, entry);
    let mut guess = Client::v4(40_000, vec![]);
    guess.k = world.clients[i].k ^ 0x0100_0000;
    guess.timestamps = None;
    let forged = guess.make(world.now, 0, flag::ACK, &connect("other", 60, b""));
    world.punt(PuntKind::Client, world::TO_CLIENTS, isn, &forged);
    world.run_until("the answer", |w| w.clients[i].received.len() == 4);
    assert_eq!(world.backends[0].only().stream(), stream);
    let hash = world.setups.settings.client_hash(b"sensor-1");
    assert_eq!(world.steering.clients, [hash]);
}

#[test]
fn too_slow() {
    let mut world = world();
    let mut client = Client::v4(40_000, connect("sensor-1", 60, b"")[..9].to_vec());
    client.cuts = vec![3];
    world.connect(client);
    let start = world.now;
    world.run_until("the RST", |w| w.clients[0].state == ClientState::Reset);
    assert!((10 * SECOND..11 * SECOND).contains(&(world.now - start)));
    assert_eq!(world.clients[0].una, 9, "it was acknowledged so far");
    assert_eq!(world.count(Verdict::SniffTimeout), 1);
    world.assert_forgotten();
    assert_eq!(world.to_backends.len(), 0);
}

#[test]
fn closed_before_the_identifier() {
    let mut world = world();
    let mut client = Client::v4(40_000, connect("sensor-1", 60, b"")[..9].to_vec());
    client.closes = true;
    world.connect(client);
    world.run_until("the RST", |w| w.clients[0].state == ClientState::Reset);
    assert_eq!(world.count(Verdict::ClosedEarly), 1);
    world.assert_forgotten();
}

#[test]
fn reset_before_the_identifier() {
    let mut world = world();
    world.connect(Client::v4(
        40_000,
        connect("sensor-1", 60, b"")[..9].to_vec(),
    ));
    world.run_until("the first bytes", |w| w.setups.stats().sniffing == 1);
    // A blind one first: far outside of what we would take in.
    for offset in [1 << 20, 9] {
        let rst = world.clients[0].make(world.now, offset, flag::RST, &[]);
        world.arrive(world::TO_CLIENTS, vec![rst]);
        world.run(5 * MS);
        assert_eq!(world.count(Verdict::ClosedEarly), u64::from(offset == 9));
    }
    world.assert_forgotten();
    assert_eq!(
        world.clients[0].state,
        ClientState::Established,
        "no answer to a RST"
    );
}

#[test]
fn reset_while_a_backend_is_asked() {
    let mut world = world();
    world.backends[0].mode = Mode::Silent;
    world.connect(Client::v4(40_000, connect("sensor-1", 60, b"")));
    world.run_until("the SYN", |w| w.to_backends.len() == 1);
    let rst = world.clients[0].make(world.now, world.clients[0].highest, flag::RST, &[]);
    world.arrive(world::TO_CLIENTS, vec![rst]);
    world.run(10 * MS);
    world.assert_forgotten();
    assert_eq!(world.backends[0].resets, 1);
}

#[test]
fn the_client_begins_anew_on_the_same_port() {
    let mut world = world();
    world.backends[0].mode = Mode::Silent;
    world.connect(Client::v4(40_000, connect("old", 60, b"")));
    world.run_until("the SYN", |w| w.backends[0].syns.len() == 1);
    world.backends[0].mode = Mode::Normal;
    world.clients.clear();
    let mut again = Client::v4(40_000, connect("new", 60, b""));
    again.isn = 77;
    world.connect(again);
    world.run_until("the answer", |w| w.clients[0].received.len() == 4);
    let hash = world.setups.settings.client_hash(b"new");
    assert_eq!(world.steering.opened, [(3, 0, hash)]);
    assert_eq!(world.backends[0].resets, 1, "the old attempt is ended");
    world.run(2 * SECOND);
    assert_eq!(
        (world.datapath.map.len(), world.setups.stats()),
        (2, Stats::default())
    );
}

#[test]
fn the_old_connection_does_not_touch_the_new_ones_entry() {
    // The client begins anew, but the first data is still in the ring buffer when the backend answers
    // the old SYN, or when the old connection times out.
    let mut world = world();
    world.backends[0].mode = Mode::Silent;
    world.connect(Client::v4(40_000, connect("old", 60, b"")));
    world.run_until("the SYN", |w| w.backends[0].syns.len() == 1);
    let key = world.clients[0].key;
    let entry = Flow {
        next_seq: 4711,
        ..world.datapath.map[&key]
    };
    world.datapath.map.insert(key, entry);
    world.clients[0].state = ClientState::Reset;
    world.backends[0].mode = Mode::Normal;
    world.run(2 * SECOND);
    assert_eq!(world.datapath.map.get(&key), Some(&entry));
    assert_eq!(
        (world.datapath.map.len(), world.steering.opened.len()),
        (1, 0)
    );
    assert_eq!(world.setups.stats(), Stats::default());
}

#[test]
fn damage_is_dropped_and_comes_again() {
    let mut world = world();
    let i = world.connect(Client::v4(40_000, connect("sensor-1", 60, b"")));
    world.run_until("the handshake", |w| {
        w.clients[i].state == ClientState::Established
    });
    let entry = Flow {
        state: 1,
        next_seq: world.clients[i].isn,
        last_ack: world.clients[i].rcv_nxt(),
        ..Flow::ZERO
    };
    world.datapath.map.insert(world.clients[i].key, entry);
    let mut damaged = world.clients[i].make(world.now, 0, flag::ACK, &world.clients[i].stream);
    *damaged.last_mut().unwrap() ^= 1;
    world.punt(
        PuntKind::Client,
        world::TO_CLIENTS,
        world.clients[i].isn,
        &damaged,
    );
    world.run_until("the answer", |w| w.clients[i].received.len() == 4);
    assert_eq!(world.count(Verdict::BadChecksum), 1);
    assert_eq!(world.backends[0].only().stream(), world.clients[i].stream);
}

#[test]
fn a_segment_that_acknowledges_something_else_is_ignored() {
    let mut world = world();
    let mut client = Client::v4(40_000, connect("sensor-1", 60, b""));
    client.cuts = vec![4];
    client.waits = true;
    let i = world.connect(client);
    world.run_until("the first bytes", |w| w.clients[i].una == 4);
    let mut forged = Client::v4(40_000, vec![]);
    forged.k = world.clients[i].k ^ 0x100;
    let frame = forged.make(world.now, 4, flag::ACK, &noise(50));
    world.xdp(world::TO_CLIENTS, &frame);
    world.run_until("the answer", |w| w.clients[i].received.len() == 4);
    assert_eq!(world.backends[0].only().stream(), world.clients[i].stream);
}

#[test]
fn replays_of_what_is_over() {
    let mut world = world();
    world.connect(Client::v4(40_000, b"GET / HTTP/1.1\r\n\r\n".to_vec()));
    world.run_until("the RST", |w| w.clients[0].state == ClientState::Reset);
    let (isn, stream) = (world.clients[0].isn, world.clients[0].stream.clone());
    let again = world.clients[0].make(world.now, 0, flag::ACK, &stream);
    let sent = world.count(Verdict::RejectNotConnect);
    world.punt(PuntKind::Client, world::TO_CLIENTS, isn, &again);
    world.run(SECOND);
    assert_eq!(world.count(Verdict::RejectNotConnect), sent);
    world.assert_forgotten();
}

#[test]
fn the_oldest_goes_when_there_are_too_many() {
    let settings = Settings {
        connections: 10,
        ..Settings::default()
    };
    let mut world = World::with_settings(LISTENER, settings);
    world.add_backend(Backend::v4(1));
    for n in 0..25 {
        world.connect(Client::v4(
            40_000 + n,
            connect("sensor-1", 60, b"")[..9].to_vec(),
        ));
        world.run(10 * MS);
    }
    assert_eq!(world.setups.stats().sniffing, 10);
    assert_eq!(world.count(Verdict::SetupEvicted), 15);
    let reset: Vec<bool> = world
        .clients
        .iter()
        .map(|c| c.state == ClientState::Reset)
        .collect();
    assert!(reset[..15].iter().all(|r| *r) && reset[15..].iter().all(|r| !r));
    assert_eq!(world.datapath.map.len(), 10);
}

#[test]
fn the_oldest_goes_when_they_keep_too_much() {
    let settings = Settings {
        total_bytes: 10_000,
        ..Settings::default()
    };
    let mut world = World::with_settings(LISTENER, settings);
    world.add_backend(Backend::v4(1));
    // A CONNECT of version 5 whose properties come first.
    let mut body = b"\x00\x04MQTT\x05\x02\x00\x3c".to_vec();
    body.extend([0x80 | (4000 & 127) as u8, (4000 >> 7) as u8]);
    body.extend(b"\x26\x00\x01k\x0f\x00");
    body.extend(vec![b'x'; 0xf00]);
    body.extend(vec![b'y'; 5000]);
    let stream = packet(0x10, &body)[..2000].to_vec();
    for n in 0..20 {
        let mut client = Client::v4(40_000 + n, stream.clone());
        client.waits = true;
        world.connect(client);
        world.run(10 * MS);
        assert!(world.setups.stats().bytes <= 10_000);
    }
    assert_eq!(world.setups.stats().sniffing, 5);
    assert_eq!(world.count(Verdict::SetupEvicted), 15);
}

#[test]
fn those_that_are_there_may_not_grow_beyond_the_limit_either() {
    let settings = Settings {
        total_bytes: 10_000,
        ..Settings::default()
    };
    let mut world = World::with_settings(LISTENER, settings);
    world.add_backend(Backend::v4(1));
    let mut body = b"\x00\x04MQTT\x05\x02\x00\x3c".to_vec();
    body.extend([0x80 | (4000 & 127) as u8, (4000 >> 7) as u8]);
    body.extend(b"\x26\x00\x01k\x0f\x00");
    body.extend(vec![b'x'; 0xf00]);
    body.extend(vec![b'y'; 5000]);
    let stream = packet(0x10, &body)[..2000].to_vec();
    for n in 0..20 {
        let mut client = Client::v4(40_000 + n, stream.clone());
        client.cuts = vec![10, 1990];
        client.waits = true;
        world.connect(client);
    }
    // All have begun before any of them sends the rest.
    for _ in 0..200 {
        world.run(MS);
        assert!(world.setups.stats().bytes <= 10_000);
    }
    assert_eq!(world.setups.stats().sniffing, 5);
    assert_eq!(world.count(Verdict::SetupEvicted), 15);
}

#[test]
fn a_connect_without_end() {
    let settings = Settings {
        sniff_bytes: 4096,
        ..Settings::default()
    };
    let mut world = World::with_settings(LISTENER, settings);
    world.add_backend(Backend::v4(1));
    let mut body = b"\x00\x04MQTT\x05\x02\x00\x3c".to_vec();
    body.extend([0xff, 0xff, 0x03]);
    while body.len() < 50_000 {
        body.extend(b"\x26\x00\x01k\x00\x03vvv");
    }
    let mut client = Client::v4(40_000, packet(0x10, &[&body[..], &noise(40_000)].concat()));
    client.cuts = vec![1000];
    world.connect(client);
    world.run_until("the RST", |w| w.clients[0].state == ClientState::Reset);
    assert_eq!(world.count(Verdict::RejectOversizedPacket), 1);
    world.assert_forgotten();
}

#[test]
fn a_listener_that_is_no_more() {
    let mut world = world();
    world.setups.set_listener(3, None);
    world.connect(Client::v4(40_000, connect("sensor-1", 60, b"")));
    world.run_until("the RST", |w| w.clients[0].state == ClientState::Reset);
    world.assert_forgotten();
}
