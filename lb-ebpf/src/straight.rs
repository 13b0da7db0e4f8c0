//! The straight path: what nearly every packet of an open connection is.
//!
//! An untagged frame of TCP over IPv4 or IPv6, with ACK and without SYN, FIN and RST, of an open
//! connection whose next hops are as they were; its options are none, aligned timestamps, aligned SACK blocks, or both
//! in this order. Everything is at a constant offset then, and little has to be kept in registers.
//! Whatever is not so is left untouched to the general way ([`crate::steer`]), which would do the same.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use lb_common::checksum::Sum;
use lb_common::layout::{Flow, FlowKey, Hop, State, by_words, flags};
use lb_common::rewrite::{self, ALIGNED_TIMESTAMPS, SACK_BLOCK, aligned_sack};
use lb_common::wire::{
    ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, Ipv4, Ipv6, PROTO_TCP, TCP_LEN, Tcp, flag,
};

use crate::clock;
use crate::frame::{at, length, opaque};
use crate::maps::{BACKENDS, FLOWS};
use crate::splice;
use crate::steer::{mapped, ports};

/// What became of a frame.
pub enum Way {
    /// Spliced, with this action.
    Gone(u32),
    /// Untouched.
    General(Lookup),
}

/// What is known of a frame's flow. (Not an `Option` in another: LLVM would compute with its pointer,
/// "R3 bitwise operator &= on pointer prohibited" from 6.18.)
#[derive(Clone, Copy)]
pub struct Lookup {
    /// Whether it was looked up.
    pub done: bool,
    /// Its entry, if there is one.
    pub flow: *mut Flow,
}

impl Lookup {
    const NOT_YET: Self = Self {
        done: false,
        flow: core::ptr::null_mut(),
    };
    const NONE: Self = Self {
        done: true,
        ..Self::NOT_YET
    };
}

/// Splices a frame if it is of the usual kind.
#[inline(always)]
pub fn splice(ctx: &XdpContext) -> Way {
    // The shorter of the two.
    let Some(frame) = at::<Frame<Ipv4>>(ctx, 0) else {
        return Way::General(Lookup::NOT_YET);
    };
    // SAFETY: `at` checked the bounds; nothing else refers to the frame.
    let frame = unsafe { &mut *frame };
    match u16::from_be_bytes(frame.eth.kind) {
        ETHERTYPE_IPV4 => way(ctx, frame),
        ETHERTYPE_IPV6 => {
            let Some(frame) = at::<Frame<Ipv6>>(ctx, 0) else {
                return Way::General(Lookup::NOT_YET);
            };
            // SAFETY: as above.
            way(ctx, unsafe { &mut *frame })
        }
        _ => Way::General(Lookup::NOT_YET),
    }
}

/// The headers of an untagged frame.
#[repr(C)]
struct Frame<Ip> {
    eth: Eth,
    ip: Ip,
    tcp: Tcp,
}

/// What differs between the families.
trait Ip {
    /// Length of the packet, if it is TCP and may be forwarded, and nothing about it is unusual.
    fn usual(&self) -> Option<u32>;
    fn addresses(&self) -> ([u8; 16], [u8; 16]);
    /// Rewrites the header of a `usual` packet.
    fn rewrite(&mut self, flow: &Flow);
}

impl Ip for Ipv4 {
    #[inline(always)]
    fn usual(&self) -> Option<u32> {
        let usual = self.version_ihl == 0x45
            && self.protocol == PROTO_TCP
            && !self.is_fragment()
            && self.ttl > 1;
        usual.then_some(u16::from_be_bytes(self.total_len) as u32)
    }

    #[inline(always)]
    fn addresses(&self) -> ([u8; 16], [u8; 16]) {
        mapped(self.src, self.dst)
    }

    #[inline(always)]
    fn rewrite(&mut self, flow: &Flow) {
        rewrite::ipv4_alive(self, flow);
    }
}

impl Ip for Ipv6 {
    #[inline(always)]
    fn usual(&self) -> Option<u32> {
        let usual = self.next_header == PROTO_TCP && self.hop_limit > 1;
        usual.then_some(u16::from_be_bytes(self.payload_len) as u32 + size_of::<Self>() as u32)
    }

    #[inline(always)]
    fn addresses(&self) -> ([u8; 16], [u8; 16]) {
        (by_words(&self.src), by_words(&self.dst))
    }

    #[inline(always)]
    fn rewrite(&mut self, flow: &Flow) {
        rewrite::ipv6_alive(self, flow);
    }
}

#[inline(always)]
fn way<I: Ip>(ctx: &XdpContext, frame: &mut Frame<I>) -> Way {
    let Some(bytes) = frame.ip.usual() else {
        return Way::General(Lookup::NOT_YET);
    };
    let tcp_len = frame.tcp.header_len() as u32;
    if frame.tcp.flags & (flag::SYN | flag::FIN | flag::RST | flag::ACK) != flag::ACK
        || tcp_len < TCP_LEN as u32
        || bytes < size_of::<I>() as u32 + tcp_len
        || ETH_LEN + bytes as usize > length(ctx)
    {
        return Way::General(Lookup::NOT_YET);
    }
    let (src, dst) = frame.ip.addresses();
    let (src_port, dst_port) = ports(&frame.tcp);
    let key = FlowKey {
        src,
        dst,
        src_port,
        dst_port,
    };
    let Some(entry) = FLOWS.get_ptr_mut(&key) else {
        return Way::General(Lookup::NONE);
    };
    let general = Way::General(Lookup {
        done: true,
        flow: entry,
    });
    // SAFETY: see `steer::steer`.
    let flow = unsafe { &mut *entry };
    if flow.state != State::Open as u8
        || flow.flags & (flags::RST | flags::TAGGED) != 0
        || flow.flags & flags::FROM_CLIENT != 0
            && (flow.flags & flags::HEADED != 0 || hop_moved(ctx, &frame.eth, flow))
    {
        return general;
    }
    let Some(change) = options::<I>(ctx, tcp_len - TCP_LEN as u32, flow) else {
        return general;
    };
    splice::record(flow, bytes, Some(frame.tcp.ack()));
    frame.ip.rewrite(flow);
    rewrite::tcp_known(&mut frame.tcp, flow, change, true, false);
    splice::macs(&mut frame.eth, flow);
    flow.last_seen = clock::now();
    Way::Gone(splice::leave(ctx, flow, bytes))
}

/// Whether either of a client's next hops isn't what its entry knows.
#[inline(always)]
fn hop_moved(ctx: &XdpContext, eth: &Eth, flow: &Flow) -> bool {
    // SAFETY: the context is ours.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    Hop::signature(ifindex, &eth.src, 0) != flow.ingress
        || BACKENDS
            .get(flow.backend as u32)
            .is_some_and(|backend| backend.generation != flow.hop_generation)
}

/// Rewrites `len` bytes of options and gives the change of the sum; `None` if they are unusual, and
/// then they are untouched.
#[inline(always)]
fn options<I>(ctx: &XdpContext, len: u32, flow: &Flow) -> Option<Sum> {
    if len == 0 {
        return Some(Sum::ZERO);
    }
    let start = size_of::<Frame<I>>();
    let block = at::<[u8; 12]>(ctx, start)?;
    // SAFETY: `at` checked the bounds. There may be fewer options, and then this is payload too: what
    // looks like timestamps then is none.
    let block = unsafe { &mut *block };
    if [block[0], block[1], block[2], block[3]] != ALIGNED_TIMESTAMPS {
        return sacks(ctx, start, len, flow);
    }
    if len == 12 {
        return Some(rewrite::timestamps(block, flow, true));
    }
    let sum = sacks(ctx, start + 12, len.wrapping_sub(12), flow)?;
    Some(Sum(sum.0 + rewrite::timestamps(block, flow, true).0))
}

/// The same for options that are SACK blocks alone.
#[inline(always)]
fn sacks(ctx: &XdpContext, start: usize, len: u32, flow: &Flow) -> Option<Sum> {
    let sum = aligned_sacks(ctx.ctx, start, len, flow);
    if sum == u64::MAX {
        None
    } else {
        Some(Sum(sum))
    }
}

/// `u64::MAX` if they are unusual. A function of its own, so that its spills don't burden the others.
#[inline(never)]
fn aligned_sacks(ctx: *mut xdp_md, start: usize, len: u32, flow: &Flow) -> u64 {
    let ctx = &XdpContext::new(ctx);
    match len {
        12 => blocks::<1>(ctx, start, flow),
        20 => blocks::<2>(ctx, start, flow),
        28 => blocks::<3>(ctx, start, flow),
        36 => blocks::<4>(ctx, start, flow),
        _ => u64::MAX,
    }
}

/// The option with its NOPs.
#[repr(C)]
struct Sack<const N: usize> {
    head: [u8; 4],
    blocks: [[u8; SACK_BLOCK]; N],
}

#[inline(always)]
fn blocks<const N: usize>(ctx: &XdpContext, start: usize, flow: &Flow) -> u64 {
    let Some(sack) = at::<Sack<N>>(ctx, start) else {
        return u64::MAX;
    };
    // SAFETY: `at` checked the bounds.
    let sack = unsafe { &mut *sack };
    if sack.head != aligned_sack(size_of::<Sack<N>>() as u8) {
        return u64::MAX;
    }
    let mut sum = 0;
    for block in &mut sack.blocks {
        // One after the other: else LLVM would load them all first, and spill them.
        sum = opaque(sum + rewrite::sack_block(block, flow).0);
    }
    sum
}
