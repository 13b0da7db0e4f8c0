//! Routers that say "too big" about packets of a spliced connection.

use super::super::*;
use super::world::{LISTENER, MS, OUR_MAC, TO_BACKENDS, TO_CLIENTS};
use super::{Backend, Client, World, connect, noise, world};
use lb_common::checksum::{self, Sum};
use lb_common::layout::Hop;
use lb_common::wire::{IPV4_LEN, IPV6_LEN, TooBig};
use proptest::prelude::*;

fn spliced(v6: bool, source: Source) -> World {
    let mut world = World::new(ListenerSettings { source, ..LISTENER });
    let connect = connect("sensor-1", 60, b"");
    let (backend, client) = if v6 {
        (Backend::v6(1), Client::v6(40_000, connect))
    } else {
        (Backend::v4(1), Client::v4(40_000, connect))
    };
    world.add_backend(backend);
    world.backends[0].reply_after = 1;
    world.connect(client);
    world.run_until("the answer", |w| w.clients[0].received.len() == 4);
    // The splice's own work is done, what follows is only the router's.
    world.run(5 * MS);
    world
}

/// A router's error about the packet that is `frame`, as plainly as possible.
fn too_big(frame: &[u8], mtu: u32) -> Vec<u8> {
    let v4 = frame[12..14] == [8, 0];
    let quote = if v4 { IPV4_LEN + 8 } else { 1000 };
    let mut message = if v4 {
        vec![3, 4, 0, 0]
    } else {
        vec![2, 0, 0, 0]
    };
    message.extend(mtu.to_be_bytes());
    message.extend(&frame[ETH_LEN..ETH_LEN + quote]);
    let len = u16::try_from(message.len()).unwrap();
    let mut sum = checksum::sum(&message);
    let mut out = frame[..ETH_LEN].to_vec();
    if v4 {
        out.extend([0x45, 0]);
        out.extend((len + 20).to_be_bytes());
        out.extend([0, 0, 0, 0, 64, 1, 0, 0]);
        out.extend([10, 99, 99, 99, 10, 0, 1, 1]);
    } else {
        let addresses = [0xaa; 32];
        sum += checksum::sum(&addresses) + checksum::sum(&(u32::from(len) + 58).to_be_bytes());
        out.extend([0x60, 0, 0, 0]);
        out.extend(len.to_be_bytes());
        out.extend([58, 64]);
        out.extend(addresses);
    }
    message[2..4].copy_from_slice(&Sum(sum).field());
    out.extend(message);
    out
}

/// One connection in one direction.
struct Case {
    world: World,
    /// As the sender sends it.
    sent: FlowKey,
    seq: u32,
    /// How the sender is reached.
    to: Hop,
}

impl Case {
    fn new(v6: bool, source: Source, from_client: bool) -> Self {
        let world = spliced(v6, source);
        let client = world.clients[0].key;
        let flow = world.datapath.map[&client];
        let (sent, to) = if from_client {
            let to = Hop {
                ifindex: TO_CLIENTS,
                dst_mac: world.clients[0].hop.src_mac,
                src_mac: world.clients[0].hop.dst_mac,
                ..Hop::default()
            };
            (client, to)
        } else {
            let to = Hop {
                ifindex: TO_BACKENDS,
                dst_mac: world.backends[0].mac(),
                src_mac: OUR_MAC,
                ..Hop::default()
            };
            (flow.pair(), to)
        };
        let seq = world.datapath.map[&sent].next_seq;
        Self {
            world,
            sent,
            seq,
            to,
        }
    }

    /// The packet with sequence number `seq` of the sender's, as it leaves us.
    fn spliced(&self, seq: u32) -> Vec<u8> {
        let flow = self.world.datapath.map[&self.sent];
        let segment = lb_common::wire::Emit {
            payload: &noise(1448),
            ..world::segment(
                flow.outgoing(),
                seq.wrapping_add(flow.seq_add),
                1,
                flag::ACK,
            )
        };
        world::frame(&Hop::default(), &segment)
    }

    /// What the agent sends when it is told of `icmp`.
    fn answers(&mut self, icmp: &[u8]) -> Vec<(Hop, Vec<u8>)> {
        let punt = Punt {
            time: self.world.now,
            ifindex: TO_CLIENTS,
            captured: u16::try_from(icmp.len()).unwrap(),
            length: u16::try_from(icmp.len()).unwrap(),
            isn: 0,
            kind: PuntKind::Icmp as u8,
            listener: 3,
            _pad: [0; 2],
        };
        let world = &mut self.world;
        world.setups.on_punt(
            world.now,
            &punt,
            icmp,
            &mut world.datapath,
            &mut world.steering,
        );
        std::mem::take(&mut world.datapath.sent)
    }

    fn about(&mut self, seq: u32, mtu: u32) -> usize {
        let icmp = too_big(&self.spliced(seq), mtu);
        self.answers(&icmp).len()
    }
}

#[test]
fn the_sender_is_told_about_its_own_packet() {
    for v6 in [false, true] {
        for source in [Source::Snat, Source::Client] {
            for from_client in [false, true] {
                let mut case = Case::new(v6, source, from_client);
                let seq = case.seq;
                let icmp = too_big(&case.spliced(seq), 1400);
                let answers = case.answers(&icmp);
                let [(hop, frame)] = &answers[..] else {
                    panic!("{} frames", answers.len());
                };
                let to = case.to;
                assert_eq!(
                    (hop.ifindex, hop.dst_mac, hop.src_mac, hop.tagged),
                    (to.ifindex, to.dst_mac, to.src_mac, 0)
                );
                assert_eq!(
                    (&frame[..6], &frame[6..12]),
                    (&to.dst_mac[..], &to.src_mac[..])
                );
                let told = TooBig::parse(frame).unwrap();
                assert_eq!((told.key, told.seq, told.mtu), (case.sent, seq, 1400));
                // From the address that it sent to, to its own.
                let addresses = [case.sent.dst, case.sent.src];
                let ip = &frame[ETH_LEN..];
                if v6 {
                    assert_eq!(ip[8..40], *addresses.as_flattened());
                    assert_eq!(frame.len(), ETH_LEN + IPV6_LEN + 8 + IPV6_LEN + 20);
                } else {
                    let addresses = addresses.map(|a| [a[12], a[13], a[14], a[15]]);
                    assert_eq!(ip[12..20], *addresses.as_flattened());
                    assert_eq!(frame.len(), ETH_LEN + IPV4_LEN + 8 + IPV4_LEN + 8);
                }
                assert_eq!(case.world.count(Verdict::PathMtu), 1);
            }
        }
    }
}

#[test]
fn sequence_numbers_far_from_the_window_are_guesses() {
    for from_client in [false, true] {
        let mut case = Case::new(false, Source::Snat, from_client);
        // Everything is acknowledged, so the next number is where the window begins.
        let flow = case.world.datapath.map[&case.sent];
        let other = case.world.datapath.map[&flow.pair()];
        assert_eq!(other.last_ack, case.seq.wrapping_add(flow.seq_add));
        for (offset, told) in [
            (-0x1_0001, 0),
            (-0x1_0000, 1),
            (0, 1),
            (0x10_0000, 1),
            (0x10_0001, 0),
            (i32::MAX, 0),
            (i32::MIN, 0),
        ] {
            let seq = case.seq.wrapping_add_signed(offset);
            assert_eq!(case.about(seq, 1400), told, "{offset}");
        }
        assert_eq!(case.world.count(Verdict::PathMtu), 3);
    }
}

#[test]
fn what_is_ignored() {
    let mut case = Case::new(false, Source::Snat, false);
    let seq = case.seq;
    assert_eq!(case.about(seq, 551), 0, "no credible MTU");
    let good = too_big(&case.spliced(seq), 1400);
    let mut damaged = good.clone();
    damaged[ETH_LEN + IPV4_LEN + 7] ^= 1;
    assert_eq!(case.answers(&damaged).len(), 0, "wrong checksum");
    // Host unreachable: a soft error.
    let mut soft = good.clone();
    soft[ETH_LEN + IPV4_LEN + 1] = 1;
    soft[ETH_LEN + IPV4_LEN + 3] += 3;
    assert_eq!(case.answers(&soft).len(), 0, "a soft error");
    assert_eq!(case.answers(&good).len(), 1);

    // One of the two entries is gone, or not spliced.
    let flow = case.world.datapath.map[&case.sent];
    for key in [case.sent, flow.pair()] {
        let entry = case.world.datapath.map.remove(&key).unwrap();
        assert_eq!(case.answers(&good).len(), 0, "no entry");
        for (state, told) in [(State::Setup, 0), (State::Open, 1)] {
            let state = state as u8;
            case.world.datapath.map.insert(key, Flow { state, ..entry });
            assert_eq!(case.answers(&good).len(), told, "state {state}");
        }
    }
    // The sender's entry is another connection's by now.
    let mut other = flow;
    other.new_dst_port = [1, 1];
    case.world.datapath.map.insert(case.sent, other);
    assert_eq!(case.answers(&good).len(), 0, "another connection");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_frame_panics(frame in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, v6: bool) {
        let mut case = Case::new(v6, Source::Snat, false);
        case.answers(&frame);
        // Behind the beginning of a good one; the checksum guards the rest.
        let mut good = too_big(&case.spliced(case.seq), 1400);
        good.truncate(at.index(good.len()));
        prop_assert_eq!(case.answers(&good).len(), 0);
        good.extend(frame);
        case.answers(&good);
    }
}
