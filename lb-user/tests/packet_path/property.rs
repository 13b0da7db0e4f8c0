//! Any recipe on any valid segment: the program does what `lb_common` does in user space, and what
//! a plain reading of the recipe says, checksums recomputed in full.

use std::cell::RefCell;

use lb_common::checksum::Sum;
use lb_common::layout::{Flow, FlowKey, State, Verdict, flags};
use lb_common::rewrite;
use lb_common::wire::{Ipv4, Ipv6, Tcp};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::frame::{ACK, FIN, RST, SYN, Segment};
use crate::place::{self, FROM_BACKEND, IFINDEX};
use crate::world::{Action, World};

/// A TCP option as it stands in the header, and what becomes of it.
#[derive(Clone, Debug)]
enum Piece {
    Nop,
    Timestamps(u32, u32),
    Sack(Vec<(u32, u32)>),
    Unknown(u8, Vec<u8>),
}

impl Piece {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Nop => vec![1],
            Self::Timestamps(v, e) => [&[8, 10][..], &v.to_be_bytes(), &e.to_be_bytes()].concat(),
            Self::Sack(blocks) => {
                let mut o = vec![5, u8::try_from(2 + blocks.len() * 8).unwrap()];
                for (left, right) in blocks {
                    o.extend(left.to_be_bytes());
                    o.extend(right.to_be_bytes());
                }
                o
            }
            Self::Unknown(kind, data) => {
                [&[*kind, u8::try_from(2 + data.len()).unwrap()], &data[..]].concat()
            }
        }
    }

    fn spliced(&self, flow: &Flow, has_ack: bool) -> Self {
        let echo_add = if has_ack { flow.tsecr_add } else { 0 };
        let edge = |e: &u32| e.wrapping_add(flow.ack_add);
        match self {
            Self::Timestamps(v, e) => {
                Self::Timestamps(v.wrapping_add(flow.tsval_add), e.wrapping_add(echo_add))
            }
            Self::Sack(blocks) => {
                Self::Sack(blocks.iter().map(|(l, r)| (edge(l), edge(r))).collect())
            }
            other => other.clone(),
        }
    }
}

/// As many of the pieces as fit 40 bytes, padded to a multiple of 4 with `pad`.
fn block(pieces: &[Piece], pad: u8, change: impl Fn(&Piece) -> Piece) -> Vec<u8> {
    let mut options = vec![];
    for piece in pieces {
        let bytes = change(piece).bytes();
        if options.len() + bytes.len() <= 40 {
            options.extend(bytes);
        }
    }
    while options.len() % 4 != 0 {
        options.push(pad);
    }
    options
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let stamps = any::<(u32, u32)>().prop_map(|(v, e)| Piece::Timestamps(v, e));
    let piece = prop_oneof![
        Just(Piece::Nop),
        stamps.clone(),
        prop::collection::vec(any::<(u32, u32)>(), 1..=4).prop_map(Piece::Sack),
        (9u8..=255, prop::collection::vec(any::<u8>(), 0..12))
            .prop_map(|(k, d)| Piece::Unknown(k, d)),
    ];
    let sack = |blocks| prop::collection::vec(any::<(u32, u32)>(), blocks).prop_map(Piece::Sack);
    prop_oneof![
        Just(vec![]),
        stamps.clone().prop_map(|t| vec![Piece::Nop, Piece::Nop, t]),
        sack(1..=4).prop_map(|s| vec![Piece::Nop, Piece::Nop, s]),
        (stamps, sack(1..=3))
            .prop_map(|(t, s)| { vec![Piece::Nop, Piece::Nop, t, Piece::Nop, Piece::Nop, s] }),
        prop::collection::vec(piece, 0..8),
    ]
}

fn tuple(v6: bool) -> impl Strategy<Value = FlowKey> {
    any::<([u8; 16], [u8; 16], [u8; 2], [u8; 2])>().prop_map(
        move |(mut src, mut dst, src_port, dst_port)| {
            if v6 {
                (src[0], dst[0]) = (0xfd, 0xfd);
            } else {
                src[..12].copy_from_slice(&place::client_v4().src[..12]);
                dst[..12].copy_from_slice(&place::client_v4().src[..12]);
            }
            FlowKey {
                src,
                dst,
                src_port,
                dst_port,
            }
        },
    )
}

#[derive(Clone, Debug)]
struct Case {
    segment: Segment,
    pieces: Vec<Piece>,
    pad: u8,
    flow: Flow,
}

fn case() -> impl Strategy<Value = Case> {
    any::<bool>().prop_flat_map(|v6| {
        let segment = (
            tuple(v6),
            (
                any::<u32>(),
                any::<u32>(),
                any::<u16>(),
                any::<u8>(),
                2u8..,
                any::<u16>(),
            ),
            // FIN, SYN and RST change the entries, not the frame; they have rows of their own.
            any::<u8>().prop_map(|f| f & !(FIN | SYN | RST | 32)),
            prop::collection::vec(any::<u8>(), 0..300),
        );
        let recipe = (
            tuple(v6),
            prop::array::uniform4(any::<u32>()),
            -14i8..=14,
            any::<([u8; 6], [u8; 6])>(),
            // Tagged frames don't take the straight path.
            prop::option::of(0u16..4095),
        );
        (segment, recipe, pieces(), 0u8..=1).prop_map(
            |(
                (key, (seq, ack, window, tos, ttl, id), flags, payload),
                (to, adds, shift, macs, vlan),
                pieces,
                pad,
            )| {
                let mut segment = Segment::new(key, FROM_BACKEND)
                    .seq(seq)
                    .ack(ack)
                    .flags(flags)
                    .payload(&payload)
                    .options(&block(&pieces, pad, Clone::clone));
                (segment.window, segment.tos, segment.ttl, segment.id) = (window, tos, ttl, id);
                segment.tags.extend(vlan.map(|vlan| (0x8100, vlan)));
                let flow = Flow {
                    seq_add: adds[0],
                    ack_add: adds[1],
                    tsval_add: adds[2],
                    tsecr_add: adds[3],
                    window_shift: shift,
                    ifindex: IFINDEX,
                    dst_mac: macs.0,
                    src_mac: macs.1,
                    state: State::Open as u8,
                    flags: if vlan.is_some() { flags::TAGGED } else { 0 },
                    vlan: vlan.unwrap_or(0),
                    ..Flow::ZERO
                }
                .towards(&key, &to);
                Case {
                    segment,
                    pieces,
                    pad,
                    flow,
                }
            },
        )
    })
}

/// What the recipe says, field by field.
fn by_hand(case: &Case) -> Segment {
    let (flow, has_ack) = (&case.flow, case.segment.flags & ACK != 0);
    case.segment.but(|s| {
        (s.dst_mac, s.src_mac) = (flow.dst_mac, flow.src_mac);
        s.key = flow.outgoing();
        s.ttl -= 1;
        s.seq = s.seq.wrapping_add(flow.seq_add);
        if has_ack {
            s.ack = s.ack.wrapping_add(flow.ack_add);
        }
        let shift = u32::from(flow.window_shift.unsigned_abs());
        let window = u32::from(s.window);
        let scaled = if flow.window_shift < 0 {
            window >> shift
        } else {
            window << shift
        };
        let least = u32::from(window != 0);
        s.window = u16::try_from(scaled.clamp(least, 0xffff)).unwrap();
        s.options = block(&case.pieces, case.pad, |p| p.spliced(flow, has_ack));
    })
}

fn array<const N: usize>(b: &[u8]) -> [u8; N] {
    b[..N].try_into().unwrap()
}

/// What `lb_common` makes of the frame, byte by byte.
fn in_user_space(case: &Case) -> Vec<u8> {
    let (s, flow) = (&case.segment, &case.flow);
    let mut f = s.bytes();
    f[..6].copy_from_slice(&flow.dst_mac);
    f[6..12].copy_from_slice(&flow.src_mac);
    let (l3, l4) = (s.l3(), s.l4());
    if s.key.is_v4() {
        let h = &f[l3..];
        let mut ip = Ipv4 {
            version_ihl: h[0],
            tos: h[1],
            total_len: array(&h[2..]),
            id: array(&h[4..]),
            fragment: array(&h[6..]),
            ttl: h[8],
            protocol: h[9],
            check: array(&h[10..]),
            src: array(&h[12..]),
            dst: array(&h[16..]),
        };
        rewrite::ipv4(&mut ip, flow).unwrap();
        f[l3 + 8] = ip.ttl;
        f[l3 + 10..l3 + 12].copy_from_slice(&ip.check);
        f[l3 + 12..l3 + 20].copy_from_slice(&[ip.src, ip.dst].concat());
    } else {
        let h = &f[l3..];
        let mut ip = Ipv6 {
            version_class_label: array(h),
            payload_len: array(&h[4..]),
            next_header: h[6],
            hop_limit: h[7],
            src: array(&h[8..]),
            dst: array(&h[24..]),
        };
        rewrite::ipv6(&mut ip, flow).unwrap();
        f[l3 + 7] = ip.hop_limit;
        f[l3 + 8..l3 + 40].copy_from_slice(&[ip.src, ip.dst].concat());
    }
    let mut change = Sum::ZERO;
    if !s.options.is_empty() {
        let (buffer, len) = lb_common::options::buffer(&s.options);
        let mut o = rewrite::Options {
            buffer,
            len: 0,
            at: 0,
            ack_add: 0,
            tsval_add: 0,
            tsecr_add: 0,
            bad: 0,
            before: 0,
        };
        o.begin(u32::try_from(len).unwrap(), flow, s.flags & ACK != 0);
        while o.step() {}
        assert_eq!(o.bad, 0);
        change = o.finish();
        f[l4 + 20..l4 + 20 + len].copy_from_slice(&o.buffer[..len]);
    }
    let h = &f[l4..];
    let mut tcp = Tcp {
        src_port: array(h),
        dst_port: array(&h[2..]),
        seq: array(&h[4..]),
        ack: array(&h[8..]),
        offset: h[12],
        flags: h[13],
        window: array(&h[14..]),
        check: array(&h[16..]),
        urgent: array(&h[18..]),
    };
    rewrite::tcp(&mut tcp, flow, change);
    f[l4..l4 + 4].copy_from_slice(&[tcp.src_port, tcp.dst_port].concat());
    f[l4 + 4..l4 + 12].copy_from_slice(&[tcp.seq, tcp.ack].concat());
    f[l4 + 14..l4 + 18].copy_from_slice(&[tcp.window, tcp.check].concat());
    f
}

/// A checksum of 0 and one of 0xffff are the same number in one's complement, and the quick way over
/// aligned timestamps may end with the other one.
fn normal(mut frame: Vec<u8>, check: usize) -> Vec<u8> {
    if frame[check..check + 2] == [0xff, 0xff] {
        frame[check..check + 2].fill(0);
    }
    frame
}

#[test]
fn any_recipe_on_any_segment() {
    let Some(world) = World::new("property") else {
        return;
    };
    let world = RefCell::new(world);
    let mut runner = TestRunner::new(Config {
        cases: 1000,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&case(), |case| {
        let mut world = world.borrow_mut();
        world.flows.insert(case.segment.key, case.flow, 0).unwrap();
        let run = world.run(&case.segment.bytes());
        world.flows.remove(&case.segment.key).unwrap();
        prop_assert_eq!(run.action, Action::Tx);
        prop_assert_eq!(run.counted.len(), 1);
        prop_assert_eq!(run.counted[0].0, Verdict::Spliced);
        prop_assert_eq!(Segment::read(&run.frame), by_hand(&case));
        let check = case.segment.l4() + 16;
        prop_assert_eq!(
            normal(run.frame, check),
            normal(in_user_space(&case), check)
        );
        Ok(())
    });
    result.unwrap();
}
