//! A packet of a known flow, whatever it is. What nearly all of them are goes by [`crate::straight`].

use core::ffi::c_void;
use core::mem::offset_of;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::{bpf_loop, bpf_redirect, bpf_xdp_load_bytes, bpf_xdp_store_bytes};
use aya_ebpf::programs::XdpContext;
use lb_common::checksum::Sum;
use lb_common::layout::{Flow, Hop, PuntKind, State, Verdict, flags};
use lb_common::limits::repeat;
use lb_common::options::{BUFFER, MAX};
use lb_common::rewrite::{self, ALIGNED_TIMESTAMPS};
use lb_common::wire::{ETH_LEN, Eth, TCP_LEN, flag};

use crate::clock;
use crate::connect;
use crate::count::{count, drop};
use crate::frame::{Parsed, V4, V6, at, bounded};
use crate::maps::{BACKENDS, FLOWS, SCRATCH};
use crate::marks;
use crate::punt::{self, Reason};
use crate::reset;

/// Whether the client gave a connection up and begins a new one with the same port. (In set-up the
/// agent sees it by the other ISN.)
#[inline(always)]
pub fn begins_anew(p: &Parsed, flow: &Flow) -> bool {
    if p.flags & flag::SYN == 0 {
        return false;
    }
    if flow.state == State::Open as u8 {
        flow.closed() && flow.flags & flags::FROM_CLIENT != 0
    } else {
        if flow.state == State::Cut as u8 {
            return true;
        }
        let of_client = flow.state == State::Sniff as u8
            || flow.state == State::Connecting as u8 && flow.flags & flags::FROM_CLIENT != 0;
        of_client && p.seq != flow.next_seq
    }
}

/// Handles a packet of the flow `flow`.
#[inline(never)]
pub fn known(ctx: &XdpContext, p: &Parsed, flow: &mut Flow) -> u32 {
    if flow.state != State::Open as u8 {
        // Not within `in_setup`: the stack has 512 bytes for the whole chain of calls.
        if flow.state == State::Connecting as u8 {
            return connect::packet(ctx, p, flow);
        }
        return in_setup(ctx, p, flow);
    }
    if p.flags & (flag::SYN | flag::FIN | flag::RST) != 0 || flow.flags & flags::RST != 0 {
        follow(p, flow);
    }
    if flow.flags & flags::FROM_CLIENT != 0 {
        follow_hops(ctx, p, flow);
    }
    if flow.flags & flags::TAGGED != 0 && !p.tagged || flow.flags & flags::TAGGED == 0 && p.tagged {
        return drop(Verdict::VlanMismatch, p.length);
    }
    let has_ack = p.flags & flag::ACK != 0;
    let Some(change) = options(ctx, p, flow, has_ack) else {
        return drop(Verdict::BadOptions, p.length);
    };
    if !headers(ctx, p, flow, change) {
        return drop(Verdict::TtlExpired, p.length);
    }
    // A client that tries to begin anew doesn't keep the old connection alive.
    if p.flags & flag::SYN == 0 {
        flow.last_seen = clock::now();
    }
    record(flow, p.length, has_ack.then_some(p.ack));
    leave(ctx, flow, p.length)
}

/// Notes in a flow's entry that a packet is spliced: `length` and the acknowledgement number as the
/// sender sent them.
#[inline(always)]
pub fn record(flow: &mut Flow, length: u32, ack: Option<u32>) {
    flow.packets += 1;
    flow.bytes += length as u64;
    if let Some(ack) = ack
        && ack.wrapping_sub(flow.last_ack) < 0x8000_0000
    {
        flow.last_ack = ack;
    }
}

/// Counts a packet that was rewritten, and sends it on.
#[inline(always)]
pub fn leave(ctx: &XdpContext, flow: &Flow, length: u32) -> u32 {
    count(Verdict::Spliced, length);
    // SAFETY: the context is ours.
    if flow.ifindex == unsafe { (*ctx.ctx).ingress_ifindex } {
        return xdp_action::XDP_TX;
    }
    // SAFETY: the helper takes any interface index; an unknown one drops the packet.
    unsafe { bpf_redirect(flow.ifindex, 0) as u32 }
}

/// Rewrites Ethernet, IP and TCP headers. `false` when the TTL is used up (or the frame too short).
#[inline(always)]
fn headers(ctx: &XdpContext, p: &Parsed, flow: &Flow, change: Sum) -> bool {
    if p.v4 {
        let Some(head) = at::<V4>(ctx, p.l3) else {
            return false;
        };
        // SAFETY: `at` checked the bounds of both headers, which don't overlap.
        let (ip, tcp) = unsafe { (&mut (*head).ip, &mut (*head).tcp) };
        if rewrite::ipv4(ip, flow).is_err() {
            return false;
        }
        rewrite::tcp(tcp, flow, change);
    } else {
        let Some(head) = at::<V6>(ctx, p.l3) else {
            return false;
        };
        // SAFETY: as above.
        let (ip, tcp) = unsafe { (&mut (*head).ip, &mut (*head).tcp) };
        if rewrite::ipv6(ip, flow).is_err() {
            return false;
        }
        rewrite::tcp(tcp, flow, change);
    }
    let Some(eth) = at::<Eth>(ctx, 0) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    macs(unsafe { &mut *eth }, flow);
    if p.tagged && p.vlan != flow.vlan {
        let Some(tag) = at::<[u8; 2]>(ctx, ETH_LEN) else {
            return false;
        };
        // SAFETY: `at` checked the bounds. Priority and DEI stay.
        unsafe {
            let old = u16::from_be_bytes(*tag);
            *tag = (old & 0xf000 | flow.vlan & 0xfff).to_be_bytes();
        }
    }
    true
}

/// Writes both MACs, in words: as arrays they would be copied by `memcpy`, a loop over bytes.
#[inline(always)]
pub fn macs(eth: &mut Eth, flow: &Flow) {
    let (to, from): (*mut Eth, *const Flow) = (eth, flow);
    const {
        assert!(offset_of!(Eth, src) == 6);
        assert!(offset_of!(Flow, src_mac) == offset_of!(Flow, dst_mac) + 6);
    };
    // SAFETY: both are 12 bytes long, as asserted, and the accesses need no alignment.
    unsafe {
        let from = from.byte_add(offset_of!(Flow, dst_mac));
        let high = from.cast::<u64>().read_unaligned();
        let low = from.byte_add(8).cast::<u32>().read_unaligned();
        to.cast::<u64>().write_unaligned(high);
        to.byte_add(8).cast::<u32>().write_unaligned(low);
    }
}

/// Rewrites the TCP options, gives the change to the checksum; `None` when they are malformed.
#[inline(always)]
fn options(ctx: &XdpContext, p: &Parsed, flow: &Flow, has_ack: bool) -> Option<Sum> {
    let start = p.l4() + TCP_LEN;
    if p.tcp_len == TCP_LEN as u32 {
        return Some(Sum::ZERO);
    }
    if p.tcp_len == TCP_LEN as u32 + 12 {
        let block = at::<[u8; 12]>(ctx, start)?;
        // SAFETY: `at` checked the bounds.
        let block = unsafe { &mut *block };
        if [block[0], block[1], block[2], block[3]] == ALIGNED_TIMESTAMPS {
            return Some(rewrite::timestamps(block, flow, has_ack));
        }
    }
    let change = any_options(ctx, start as u32, p.tcp_len - TCP_LEN as u32, flow, has_ack);
    if change == u64::MAX {
        None
    } else {
        Some(Sum(change))
    }
}

/// Options in any layout. Gives the change of the sum, or `u64::MAX` when they are malformed.
#[inline(never)]
fn any_options(ctx: &XdpContext, start: u32, len: u32, flow: &Flow, has_ack: bool) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return u64::MAX;
    };
    // SAFETY: a per-CPU value, used by nobody else while the program runs.
    let options = unsafe { &mut (*scratch).options };
    let Some(len) = bounded(len, MAX as u32) else {
        return u64::MAX;
    };
    options.buffer = [0; BUFFER];
    // SAFETY: the buffer has 64 bytes, `len` is at most 40.
    if unsafe {
        bpf_xdp_load_bytes(
            ctx.ctx,
            start,
            options.buffer.as_mut_ptr().cast::<c_void>(),
            len,
        )
    } != 0
    {
        return u64::MAX;
    }
    options.begin(len, flow, has_ack);
    // SAFETY: the callback has the signature that bpf_loop demands and needs no context.
    unsafe {
        bpf_loop(
            MAX as u32 + 1,
            options_step as *mut c_void,
            core::ptr::null_mut(),
            0,
        )
    };
    if options.bad != 0 {
        return u64::MAX;
    }
    // SAFETY: as for the load.
    if unsafe {
        bpf_xdp_store_bytes(
            ctx.ctx,
            start,
            options.buffer.as_mut_ptr().cast::<c_void>(),
            len,
        )
    } != 0
    {
        return u64::MAX;
    }
    options.finish().0
}

/// One step for `bpf_loop`: 0 goes on, 1 ends.
unsafe extern "C" fn options_step(_index: u32, _ctx: *mut c_void) -> i64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: as in `any_options`, which waits for us.
    if unsafe { (*scratch).options.step() } {
        0
    } else {
        1
    }
}

/// Keeps both next hops true: the backend's when the agent says that it changed, the client's when
/// its packets come in by another way.
#[inline(always)]
fn follow_hops(ctx: &XdpContext, p: &Parsed, flow: &mut Flow) {
    if let Some(backend) = BACKENDS.get(flow.backend as u32)
        && backend.generation != flow.hop_generation
    {
        flow.ifindex = backend.hop.ifindex;
        flow.dst_mac = backend.hop.dst_mac;
        flow.src_mac = backend.hop.src_mac;
        // Without a tag of its own, the hop takes the client's (see setup's `begin`).
        if backend.hop.tagged != 0 {
            flow.vlan = backend.hop.vlan;
            marks::set(flow, flags::TAGGED);
        }
        flow.hop_generation = backend.generation;
    }
    let Some((ifindex, src, _)) = origin(ctx) else {
        return;
    };
    let signature = Hop::signature(ifindex, &src, p.vlan);
    if signature != flow.ingress {
        learn(ctx, p, flow, signature);
    }
}

/// Where a frame came in: interface, source and destination MAC.
#[inline(always)]
fn origin(ctx: &XdpContext) -> Option<(u32, [u8; 6], [u8; 6])> {
    let eth = at::<Eth>(ctx, 0)?;
    // SAFETY: `at` checked the bounds; the context is ours.
    Some(unsafe { ((*ctx.ctx).ingress_ifindex, (*eth).src, (*eth).dst) })
}

/// The client's packets come in by another way: answers go back by it.
///
/// Only a segment that the backend could take moves the way: a blind sender doesn't know the window.
#[inline(never)]
fn learn(ctx: &XdpContext, p: &Parsed, flow: &mut Flow, signature: u32) {
    let Some(pair) = FLOWS.get_ptr_mut(&flow.pair()) else {
        return;
    };
    let Some((ifindex, src, dst)) = origin(ctx) else {
        return;
    };
    // SAFETY: as in `known`.
    let pair = unsafe { &mut *pair };
    if !plausible(p, pair) {
        return;
    }
    pair.dst_mac = src;
    pair.src_mac = dst;
    pair.ifindex = ifindex;
    pair.vlan = p.vlan;
    if p.tagged {
        marks::set(pair, flags::TAGGED);
    } else {
        marks::clear(pair, flags::TAGGED);
    }
    flow.ingress = signature;
    count(Verdict::HopLearnt, p.length);
}

/// Follows FIN and RST on both entries.
///
/// From the client only what the backend could take: a blind sender, who can only pose as a client,
/// doesn't know the window. A RST must be within 64 KB ahead, where the backend either dies of it or
/// answers; beyond, it is silent (RFC 5961, section 3.2), and nothing would take the mark back. The
/// backend is believed: one that lost the connection answers a SYN with a RST of sequence number 0.
#[inline(never)]
fn follow(p: &Parsed, flow: &mut Flow) {
    let pair = FLOWS.get_ptr_mut(&flow.pair());
    // SAFETY: as in `known`; the pair is another entry than `flow`. The client may have begun anew with
    // the same port; then what is found is the new connection's, and none of this one's business.
    let pair = pair.map(|p| unsafe { &mut *p });
    let mut pair = pair.filter(|pair| pair.leads_to(&p.key));
    if flow.flags & flags::FROM_CLIENT != 0
        && let Some(pair) = &pair
    {
        let ahead = p.seq.wrapping_sub(pair.last_ack);
        if p.flags & flag::RST != 0 && ahead > 0xffff || !plausible(p, pair) {
            return;
        }
    }
    let (mut ours, mut theirs) = (0, 0);
    if p.flags & flag::RST != 0 {
        ours = flags::RST | flags::RST_SELF;
        theirs = flags::RST;
    } else if flow.flags & (flags::RST | flags::RST_SELF) == flags::RST {
        // The one who should have died of the RST still talks: it was not accepted (RFC 5961).
        marks::clear(flow, flags::RST);
        if let Some(pair) = &mut pair {
            marks::clear(pair, flags::RST | flags::RST_SELF);
        }
    }
    if p.flags & (flag::FIN | flag::RST) == flag::FIN {
        // Both may be the first, and then both are.
        if flow.flags & flags::FIN_PEER == 0 {
            ours = flags::FIN_FIRST;
        }
        ours |= flags::FIN_SELF;
        theirs = flags::FIN_PEER;
    }
    marks::set(flow, ours);
    if let Some(pair) = &mut pair {
        marks::set(pair, theirs);
    }
}

/// Whether a client's segment is near what the backend has acknowledged last: 64 KB of that may come
/// again, 1 MB may be on the way. (A client's sequence numbers are the same on both sides.)
#[inline(always)]
fn plausible(p: &Parsed, pair: &Flow) -> bool {
    p.seq.wrapping_sub(pair.last_ack).wrapping_add(0x1_0000) <= 0x11_0000
}

/// A packet of a connection that the agent sets up, or has ended.
#[inline(never)]
fn in_setup(ctx: &XdpContext, p: &Parsed, flow: &mut Flow) -> u32 {
    if flow.state == State::Cut as u8 {
        return reset::reset(ctx, p, Verdict::ResetUnknown);
    }
    let mut reason = Reason {
        kind: PuntKind::Backend,
        listener: flow.listener,
        isn: 0,
        verdict: Verdict::PuntedSetup,
        bytes: p.length,
    };
    if flow.state == State::Sniff as u8 {
        if p.flags & flag::SYN != 0 {
            return drop(Verdict::DuplicateSyn, p.length);
        }
        if p.payload == 0 && p.flags & (flag::FIN | flag::RST) == 0 {
            return drop(Verdict::BareAck, p.length);
        }
        reason.kind = PuntKind::Client;
        reason.isn = flow.next_seq;
        return sniffed(ctx, p, flow, &reason);
    }
    punt::punt(ctx, &reason)
}

/// A client's packet of a connection in set-up that the agent should see, once.
#[inline(always)]
fn sniffed(ctx: &XdpContext, p: &Parsed, flow: &mut Flow, reason: &Reason) -> u32 {
    let now = clock::now();
    if repeat::is_repeated(flow, p.segment(), now) {
        return drop(Verdict::PuntRepeated, p.length);
    }
    let verdict = punt::from_client(ctx, p, reason);
    if verdict as u32 == Verdict::PuntedSetup as u32 {
        repeat::note(flow, p.segment(), now);
    }
    drop(verdict, p.length)
}
