//! Options, windows and timestamps on both sides of the splice.

use super::super::*;
use super::client::State as ClientState;
use super::world::{LISTENER, MS, SECOND};
use super::{Backend, Client, World, connect, world};
use lb_common::options::Offered;

fn run(client: Client, change: impl FnOnce(&mut Backend)) -> World {
    let mut world = World::new(LISTENER);
    let mut backend = Backend::v4(1);
    backend.reply_after = client.stream.len();
    change(&mut backend);
    world.add_backend(backend);
    world.connect(client);
    world.run_until("the answer", |w| w.clients[0].received.len() == 4);
    world.run(2 * SECOND);
    assert_eq!(world.backends[0].only().stream(), world.clients[0].stream);
    assert_eq!(
        (
            world.backends[0].only().old_timestamps,
            world.clients[0].old_timestamps
        ),
        (0, 0)
    );
    world
}

fn client() -> Client {
    Client::v4(40_000, connect("sensor-1", 60, b""))
}

#[test]
fn the_syn_mirrors_the_clients() {
    let world = run(
        Client {
            mss: 1300,
            scale: Some(3),
            window: 8000,
            ..client()
        },
        |_| {},
    );
    let (_, _, offered, window) = world.backends[0].syns[0];
    assert_eq!(
        (offered.mss, offered.window_scale, offered.sack),
        (Some(1200), Some(3), true)
    );
    assert_eq!(window, 64_000, "SYN windows are not scaled");
    let value = offered.timestamps.unwrap().value;
    let first_data = world.clients[0].ts_recent;
    assert_ne!((value, first_data), (0, 0));

    let world = run(
        Client {
            mss: 536,
            scale: None,
            sack: false,
            timestamps: None,
            ..client()
        },
        |_| {},
    );
    let (_, _, offered, window) = world.backends[0].syns[0];
    assert_eq!(
        offered,
        Offered {
            mss: Some(536),
            ..Offered::default()
        }
    );
    assert_eq!(window, 8000);

    let world = run(
        Client {
            scale: Some(14),
            window: 60_000,
            ..client()
        },
        |_| {},
    );
    assert_eq!(world.backends[0].syns[0].3, 65_535);
}

#[test]
fn windows_mean_the_same_on_both_sides() {
    // Promised is a scale of 7.
    for (client_scale, backend_scale, to_client, to_backend) in [
        (Some(3), Some(7), 500 << 7, 8000 << 3),
        (Some(3), Some(9), 500 << 9, 8000 << 3),
        (Some(3), Some(4), 500 << 4 >> 7 << 7, 8000 << 3),
        (Some(0), Some(0), 500 >> 7 << 7, 8000),
        // No scaling at the backend: what it reads is at most what the field holds.
        (Some(3), None, 500 >> 7 << 7, 64_000),
        (Some(9), None, 500 >> 7 << 7, 65_535),
        (None, Some(7), 500, 8000),
        (None, None, 500, 8000),
    ] {
        let world = run(
            Client {
                scale: client_scale,
                ..client()
            },
            |b| b.scale = backend_scale,
        );
        assert_eq!(
            world.clients[0].their_window, to_client,
            "{client_scale:?} {backend_scale:?}"
        );
        assert_eq!(
            world.backends[0].only().window,
            to_backend,
            "{client_scale:?} {backend_scale:?}"
        );
        let told = client_scale.is_some() && backend_scale != Some(7);
        assert_eq!(world.steering.capabilities.len(), usize::from(told));
    }
}

#[test]
fn timestamps_only_if_the_client_has_them() {
    run(
        Client {
            timestamps: None,
            ..client()
        },
        |_| {},
    );
    run(
        Client {
            timestamps: None,
            ..client()
        },
        |b| b.timestamps = None,
    );
    // Clocks that wrap, and clocks that are far apart.
    for (ours, theirs) in [
        (0, 0),
        (0x7fff_ffff, 0x8000_0001),
        (0u32.wrapping_sub(1_000_010), 0u32.wrapping_sub(1_000_005)),
    ] {
        run(
            Client {
                timestamps: Some(ours),
                cuts: vec![3],
                waits: true,
                ..client()
            },
            |b| b.timestamps = Some(theirs),
        );
    }
}

#[test]
fn a_backend_without_sack_is_told_about() {
    let world = run(client(), |b| b.sack = false);
    assert_eq!(world.steering.capabilities.len(), 1);
    assert!(!world.steering.capabilities[0].1.sack);
    assert_eq!(
        run(
            Client {
                sack: false,
                ..client()
            },
            |b| b.sack = false
        )
        .steering
        .capabilities,
        []
    );
}

#[test]
fn a_backend_with_a_smaller_mss() {
    // The backend asserts that no segment is larger.
    let mut client = Client::v4(40_000, connect("sensor-1", 60, &super::noise(5000)));
    client.cuts = vec![500];
    let world = run(client, |b| b.mss = 536);
    assert_eq!(world.steering.capabilities.len(), 1);
    assert_eq!(world.steering.capabilities[0].1.mss, Some(536));
}

#[test]
fn a_backend_without_the_timestamps_that_were_promised() {
    let mut world = World::new(LISTENER);
    let mut backend = Backend::v4(1);
    backend.timestamps = None;
    world.add_backend(backend);
    world.connect(client());
    world.run_until("the RST", |w| w.clients[0].state == ClientState::Reset);
    world.run(100 * MS);
    assert_eq!(world.count(Verdict::OptionMismatch), 1);
    assert_eq!(
        (
            world.steering.capabilities.len(),
            world.steering.opened.len()
        ),
        (1, 0)
    );
    assert!(world.steering.capabilities[0].1.timestamps.is_none());
    assert_eq!(world.backends[0].resets, 1);
    world.assert_forgotten();
}

#[test]
fn acknowledgements_of_ours_have_a_scaled_window_and_a_clock() {
    for scale in [Some(2), None] {
        let mut world = World::new(LISTENER);
        world.add_backend(Backend::v4(1));
        let mut client = client();
        client.scale = scale;
        client.stream.truncate(9);
        let i = world.connect(client);
        world.run_until("our ACK", |w| w.clients[i].una == 9);
        assert_eq!(world.clients[i].their_window, 16_384);
        assert_eq!(
            world.clients[i].ts_recent,
            world.setups.settings.clock(world.now - MS)
        );
    }
}

use super::world::frame;

#[test]
fn a_syn_ack_that_comes_again_is_acknowledged() {
    let mut world = World::new(LISTENER);
    let mut backend = Backend::v4(1);
    backend.reply_after = 1;
    world.add_backend(backend);
    world.connect(client());
    world.run_until("the splice", |w| w.steering.opened.len() == 1);
    let (key, sent) = (
        *world.setups.backends.keys().next().unwrap(),
        world.to_backends.len(),
    );
    let flow = world.datapath.map[&key];
    let e = lb_common::wire::Emit {
        timestamps: Some(lb_common::options::Timestamps {
            value: 0x8000_0000 + 1_000_003,
            echo: 5,
        }),
        ..world::segment(
            key,
            flow.next_seq.wrapping_sub(1),
            flow.last_ack,
            flag::SYN | flag::ACK,
        )
    };
    let syn_ack = frame(&Default::default(), &e);
    let before = world.now;
    world.punt(PuntKind::Backend, world::TO_BACKENDS, 0, &syn_ack);
    world.run(0);
    assert_eq!(world.now, before);
    let ack = world.to_backends[sent..]
        .iter()
        .map(|f| Packet::parse(f).unwrap())
        .next_back()
        .unwrap();
    assert_eq!(
        (ack.tcp.seq(), ack.tcp.ack(), ack.tcp.flags),
        (flow.last_ack, flow.next_seq, flag::ACK)
    );
    assert_eq!(ack.timestamps().unwrap().echo, 0x8000_0000 + 1_000_003);
}

#[test]
fn the_clock_goes_on_from_the_latest_that_the_client_heard() {
    let mut world = World::new(LISTENER);
    world.add_backend(Backend::v4(1));
    world.backends[0].mode = super::backend::Mode::Silent;
    world.connect(client());
    world.run_until("the SYN", |w| w.to_backends.len() == 1);
    // Our SYN-ACK had come twice; the client repeats its CONNECT and echoes the second.
    let client = &mut world.clients[0];
    client.ts_recent = client.ts_recent.wrapping_add(5);
    let (heard, stream) = (client.ts_recent, client.stream.clone());
    let again = world.clients[0].make(world.now, 0, flag::ACK, &stream);
    world.xdp(world::TO_CLIENTS, &again);
    world.run(10 * MS);
    world.backends[0].mode = super::backend::Mode::Normal;
    world.run_until("the splice", |w| w.steering.opened.len() == 1);
    let flow = world.datapath.map[&world.clients[0].key];
    let theirs = world.backends[0].only().snt.0;
    assert_eq!(theirs.wrapping_sub(flow.tsecr_add), heard);
}
