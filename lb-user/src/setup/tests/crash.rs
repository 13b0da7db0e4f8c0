//! An agent that dies between any two of its deeds, again and again: what the next one finds must not hold
//! any client up, nor mislead a packet.

use super::super::*;
use super::client::State as ClientState;
use super::kernel::Kernel;
use super::world::{LISTENER, MS, SECOND, Wire};
use super::{Backend, Client, World, connect, noise};
use crate::agent::ending::{Traffic, end};
use lb_common::layout::ticks;
use proptest::prelude::*;

/// What the sweep does for connections whose first bytes died with an agent.
fn sweep(world: &mut World) {
    let agent = world.setups.settings.agent;
    let stranded = world.datapath.map.values().filter(|f| f.is_stranded(agent));
    for client in stranded.map(Flow::pair).collect::<Vec<_>>() {
        let now = Traffic::Live(ticks::from_ns(world.now));
        end(&mut world.datapath, &client, now, |_| true);
    }
}

/// An entry that sends packets on leads to one that sends them back; only what clients send matters: a
/// backend's entry without its client's is nobody's, and goes with the sweep.
fn check_pairs(world: &World) -> Result<(), TestCaseError> {
    let map = &world.datapath.map;
    for (key, flow) in map {
        let of_client = flow.flags & lb_common::layout::flags::FROM_CLIENT != 0;
        if of_client && flow.state == State::Open as u8 {
            let pair = map.get(&flow.pair());
            let paired = pair.is_some_and(|p| p.state == State::Open as u8 && p.leads_to(key));
            prop_assert!(paired, "{flow:?} leads to {pair:?}");
        }
    }
    Ok(())
}

#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    cuts: Vec<usize>,
    wire: Wire,
    deaths: u32,
    deeds: u32,
    kernel: Kernel,
    client_source: bool,
    proxy_protocol: bool,
    password: usize,
    closes: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let kernel = prop_oneof![Just(Kernel::Off), Just(Kernel::Begins), Just(Kernel::Opens)];
    (
        any::<u64>(),
        prop::collection::vec(prop_oneof![1usize..20, 20usize..1400], 1..5),
        (0u32..10, 0u32..10, 0u64..20),
        (1u32..20, 1u32..12),
        kernel,
        (any::<bool>(), any::<bool>(), any::<bool>()),
        prop_oneof![Just(0usize), 1usize..3000],
    )
        .prop_map(
            |(
                seed,
                cuts,
                (loss, repeat, jitter),
                (deaths, deeds),
                kernel,
                (source, proxy, closes),
                password,
            )| Case {
                seed,
                cuts,
                wire: Wire {
                    loss,
                    repeat,
                    jitter: jitter * MS,
                    replay: 0,
                },
                deaths,
                deeds,
                kernel,
                client_source: source && kernel == Kernel::Off,
                proxy_protocol: proxy && kernel == Kernel::Off,
                password,
                closes,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn no_client_is_stuck_and_no_packet_misled(case in case()) {
        let listener = ListenerSettings {
            source: if case.client_source { Source::Client } else { Source::Snat },
            proxy_protocol: case.proxy_protocol,
            ..LISTENER
        };
        let mut world = World::new(listener);
        world.seed(case.seed);
        world.wire = case.wire;
        world.kernel = case.kernel;
        (world.deaths, world.deeds) = (case.deaths, case.deeds);
        let stream = connect("sensor-1", 60, &noise(case.password));
        let proxy = if case.proxy_protocol { 28 } else { 0 };
        for n in [1, 2] {
            let mut backend = Backend::v4(n);
            backend.reply_after = stream.len() + proxy;
            world.add_backend(backend);
        }
        // Who is told to go comes again, as clients do.
        let mut port = 40_000;
        let served = loop {
            let mut client = Client::v4(port, stream.clone());
            client.cuts.clone_from(&case.cuts);
            client.closes = case.closes;
            client.challenges = true;
            let i = world.connect(client);
            let until = world.now + 300 * SECOND;
            while world.clients[i].received.is_empty()
                && world.clients[i].state != ClientState::Reset
                && world.now < until
            {
                world.run(SECOND);
                check_pairs(&world)?;
                sweep(&mut world);
            }
            if !world.clients[i].received.is_empty() {
                break i;
            }
            // A RST may be lost. Who has nothing to say then, and no entry, gets the next at its keep-alive.
            let told = world.clients[i].state == ClientState::Reset;
            let forgotten = !world.datapath.map.contains_key(&world.clients[i].key);
            prop_assert!(told || forgotten, "stuck for 300 s: {:?}", &world.datapath.map);
            port += 1;
        };
        prop_assert_eq!(&world.clients[served].received[..], b"\x20\x02\x00\x00");
        // Whoever answered has all that the client said.
        let all = world.backends.iter().flat_map(|b| b.connections.values());
        let whole = all.filter(|c| c.stream().get(proxy..) == Some(&stream[..]));
        prop_assert!(whole.count() >= 1);
        world.run(5 * SECOND);
        check_pairs(&world)?;
    }
}
