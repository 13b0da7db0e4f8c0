//! The PROXY header in front of a client's first byte, where the listener wants one.
//!
//! Our SYN's number is lower by the header's length, so that the client's own numbers stay as they are. The
//! client doesn't know of the header and never repeats it. So it is written anew whenever the client's first
//! byte comes, until the backend has acknowledged it: what it says follows from the client's tuple alone. The
//! client's segments are short enough, because its MSS was promised shorter by the header.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_load_bytes, bpf_xdp_store_bytes};
use aya_ebpf::programs::XdpContext;
use lb_common::checksum::Sum;
use lb_common::layout::{Flow, State, flags};
use lb_common::proxy_v2::{self, MAX_LEN, V4_LEN};
use lb_common::wire::{ETH_LEN, IPV6_LEN, TCP_MAX, VLAN_LEN};

use super::desk::{Desk, desk};
use crate::frame::{Parsed, V4, V6, at, bounded};
use crate::maps::FLOWS;
use crate::marks;

/// The longest headers of a frame.
const HEAD: u32 = (ETH_LEN + 2 * VLAN_LEN + IPV6_LEN + TCP_MAX) as u32;

/// Whether this packet of an open connection is the client's first byte, and the backend may not have the header.
#[inline(always)]
pub fn is_due(p: &Parsed, flow: &mut Flow) -> bool {
    const HEADED: u8 = flags::FROM_CLIENT | flags::HEADED;
    flow.flags & HEADED == HEADED && flow.state == State::Open as u8 && is_missing(p, flow)
}

/// The same, where there is to be a header.
#[inline(never)]
fn is_missing(p: &Parsed, flow: &mut Flow) -> bool {
    let Some(pair) = FLOWS.get_ptr(&flow.pair()) else {
        return false;
    };
    // SAFETY: a map value stays valid for the run of the program.
    let acknowledged = unsafe { (*pair).last_ack };
    if acknowledged.wrapping_sub(flow.next_seq) < 1 << 31 {
        marks::clear(flow, flags::HEADED);
        return false;
    }
    p.seq == flow.next_seq && p.payload != 0
}

/// Puts the header in front of a client's payload. The frame is then as if the client had sent it so; `p` still
/// says where its headers are.
#[inline(never)]
pub fn prepend(ctx: &XdpContext, p: &Parsed) -> bool {
    let (Some(desk), Some(head)) = (desk(), bounded(p.l4() as u32 + p.tcp_len, HEAD)) else {
        return false;
    };
    let len = proxy_v2::len(p.v4);
    let (key, header) = (&p.key, &mut desk.header);
    let (src, dst) = ((&key.src, key.src_port), (&key.dst, key.dst_port));
    let sum = proxy_v2::write(src, dst, p.v4, header);
    let bytes = desk.glance.bytes.as_mut_ptr().cast::<c_void>();
    // SAFETY: the context is ours, and packet pointers from before are not used afterwards; `bytes` has more than
    // HEAD bytes, and `head` is at most that.
    let moved = unsafe {
        bpf_xdp_load_bytes(ctx.ctx, 0, bytes, head) == 0
            && bpf_xdp_adjust_head(ctx.ctx, -(len as i32)) == 0
            && bpf_xdp_store_bytes(ctx.ctx, 0, bytes, head) == 0
    };
    moved && store(ctx, desk, p.v4, head) && lengthen(ctx, p, len as u16, sum)
}

/// Writes the header of the client on the desk at `offset`, in front of the CONNECT that is there, and adds it to
/// the sum on the desk; nothing if either isn't to be there.
#[inline(never)]
pub fn put(ctx: &XdpContext, v4: bool, offset: u32) -> bool {
    let Some(desk) = desk() else {
        return false;
    };
    if desk.len == 0 || desk.client.flags & flags::HEADED == 0 {
        return true;
    }
    // What goes to the client goes from the VIP.
    let (back, header) = (&desk.backend, &mut desk.header);
    let src = (&back.new_dst, back.new_dst_port);
    let dst = (&back.new_src, back.new_src_port);
    let mut sum = proxy_v2::write(src, dst, v4, header);
    sum.0 += desk.sum as u64;
    desk.sum = sum.fold();
    store(ctx, desk, v4, offset)
}

#[inline(always)]
fn store(ctx: &XdpContext, desk: &mut Desk, v4: bool, offset: u32) -> bool {
    let header = desk.header.as_mut_ptr().cast::<c_void>();
    // SAFETY: the header has MAX_LEN bytes.
    unsafe {
        if v4 {
            bpf_xdp_store_bytes(ctx.ctx, offset, header, V4_LEN as u32) == 0
        } else {
            bpf_xdp_store_bytes(ctx.ctx, offset, header, MAX_LEN as u32) == 0
        }
    }
}

/// Makes IP and TCP say that the packet begins `more` bytes earlier, which have the sum `added`.
#[inline(always)]
fn lengthen(ctx: &XdpContext, p: &Parsed, more: u16, added: Sum) -> bool {
    if p.v4 {
        let Some(head) = at::<V4>(ctx, p.l3) else {
            return false;
        };
        // SAFETY: `at` checked the bounds of both headers, which don't overlap.
        let (ip, tcp) = unsafe { (&mut (*head).ip, &mut (*head).tcp) };
        ip.lengthen(more);
        tcp.put_before(more, added);
    } else {
        let Some(head) = at::<V6>(ctx, p.l3) else {
            return false;
        };
        // SAFETY: as above.
        let (ip, tcp) = unsafe { (&mut (*head).ip, &mut (*head).tcp) };
        ip.lengthen(more);
        tcp.put_before(more, added);
    }
    true
}
