//! TLS that is passed through: a ClientHello comes in place of the CONNECT.

use super::super::*;
use super::client::State as ClientState;
use super::world::{LISTENER, SECOND};
use super::{Backend, Client, World, connect};
use crate::select::shared_hash;

/// The first bytes of a real client that asks for this server.
fn client_hello(server: &'static str) -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = server.try_into().unwrap();
    let mut connection = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

fn world(proxy_protocol: bool) -> World {
    let mut world = World::new(ListenerSettings {
        tls: true,
        proxy_protocol,
        ..LISTENER
    });
    world.add_backend(Backend::v4(1));
    world
}

#[test]
fn it_comes_through_whole_and_tells_the_server() {
    let stream = client_hello("mqtt.example");
    for (proxy_protocol, header) in [(false, 0), (true, 28)] {
        for cuts in [vec![], vec![1], vec![40], vec![100, 3]] {
            let mut world = world(proxy_protocol);
            world.backends[0].reply_after = header + stream.len();
            let mut client = Client::v4(40_000, stream.clone());
            // Waits for the acknowledgement of each piece (RFC 896).
            if !cuts.is_empty() {
                client.waits = true;
                client.cuts = cuts;
            }
            let i = world.connect(client);
            world.run_until("the answer", |w| !w.clients[i].received.is_empty());
            world.run(3 * SECOND);
            assert_eq!(world.backends[0].only().stream()[header..], stream);
            assert_eq!(world.count(Verdict::SteeredAgent), 1);
            assert_eq!(world.steering.servers, [Some("mqtt.example".to_owned())]);
            // Its address and the server's name.
            let address = world.clients[i].key.src;
            let known_by = [&[0][..], &address, b"mqtt.example"].concat();
            let hash = world.setups.settings.client_hash(&known_by);
            assert_eq!(world.steering.clients, [hash]);
            assert_eq!(world.steering.shared, [shared_hash(&known_by)]);
        }
    }
}

#[test]
fn the_next_backend_gets_the_same_hello() {
    let stream = client_hello("mqtt.example");
    let mut world = world(false);
    world.backends[0].mode = super::backend::Mode::Refuses;
    world.add_backend(Backend::v4(2));
    world.backends[1].reply_after = stream.len();
    let i = world.connect(Client::v4(40_000, stream.clone()));
    world.run_until("the answer", |w| !w.clients[i].received.is_empty());
    let server = Some("mqtt.example".to_owned());
    assert_eq!(world.steering.servers, [server.clone(), server]);
    assert_eq!(world.backends[1].only().stream(), stream);
}

#[test]
fn who_is_not_served_gets_a_reset_and_no_mqtt() {
    let good = client_hello("mqtt.example");
    let mut short = good.clone();
    short[4] = 0;
    short[3] = 0;
    for (verdict, stream, denied) in [
        (Verdict::TlsMalformed, connect("sensor-1", 60, b""), None),
        (Verdict::TlsMalformed, short, None),
        (Verdict::NoBackend, good.clone(), None),
        (Verdict::ListenerFull, good, Some(Denied::ListenerFull)),
    ] {
        let mut world = world(false);
        world.steering.denied = denied;
        if verdict == Verdict::NoBackend {
            world.steering.choices.clear();
        }
        world.connect(Client::v4(40_000, stream));
        world.run_until("the RST", |w| w.clients[0].state == ClientState::Reset);
        assert_eq!(world.count(verdict), 1, "{}", verdict.name());
        assert!(world.clients[0].received.is_empty());
        world.run(SECOND);
        world.assert_forgotten();
    }
}

#[test]
fn half_a_hello_has_so_long_and_no_longer() {
    let mut world = world(false);
    let half = client_hello("mqtt.example")[..60].to_vec();
    world.connect(Client::v4(40_000, half));
    world.run_until_within("the RST", 20 * SECOND, |w| {
        w.clients[0].state == ClientState::Reset
    });
    assert_eq!(world.count(Verdict::SniffTimeout), 1);
    world.run(SECOND);
    world.assert_forgotten();
    assert!(world.to_backends.is_empty());
}
