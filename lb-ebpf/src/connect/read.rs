//! A client's segment: its payload copied where it can be read, its checksum verified, and what it says of
//! the client.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_csum_diff, bpf_xdp_load_bytes};
use aya_ebpf::programs::XdpContext;
use lb_common::checksum::Sum;
use lb_common::layout::{PENDING_DATA, Verdict};
use lb_common::mqtt::{Glance, Seen};
use lb_common::rewrite::ALIGNED_TIMESTAMPS;
use lb_common::siphash::Key;
use lb_common::wire::{TCP_LEN, Tcp, flag};

use super::desk::{Desk, desk};
use crate::frame::{Parsed, at, bounded};

/// What `bpf_csum_diff` takes at a time.
const CHUNK: u32 = 512;

/// Takes a segment with payload onto the desk; `false` with the reason why it isn't simple.
#[inline(never)]
pub fn take(ctx: &XdpContext, p: &Parsed) -> bool {
    let Some(desk) = desk() else {
        return false;
    };
    desk.reason = Verdict::PuntedUnusual;
    if p.flags & (flag::SYN | flag::FIN | flag::RST) != 0 || p.two_tags {
        return false;
    }
    let Some(tcp) = at::<Tcp>(ctx, p.l4()) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    let tcp = unsafe { &*tcp };
    let mut sum = tcp.sum();
    sum.add2(tcp.check);
    let tcp_len = p.tcp_len + p.payload;
    Tcp::add_pseudo(&mut sum, &p.key.src, &p.key.dst, tcp_len as u16);
    desk.seen.window = u16::from_be_bytes(tcp.window);
    desk.seen.timestamps = false;
    desk.seen.tsval = 0;
    desk.seen.echo = 0;
    if p.tcp_len != TCP_LEN as u32 {
        let Some(block) = at::<[u8; 12]>(ctx, p.l4() + TCP_LEN) else {
            return false;
        };
        // SAFETY: `at` checked the bounds.
        let b = unsafe { &*block };
        if p.tcp_len != TCP_LEN as u32 + 12 || [b[0], b[1], b[2], b[3]] != ALIGNED_TIMESTAMPS {
            return false;
        }
        sum.add(b);
        desk.seen.timestamps = true;
        desk.seen.tsval = u32::from_be_bytes([b[4], b[5], b[6], b[7]]);
        desk.seen.echo = u32::from_be_bytes([b[8], b[9], b[10], b[11]]);
    }
    let start = (p.l4() + p.tcp_len as usize) as u32;
    if !copy(ctx, start, p.payload) {
        desk.reason = Verdict::PuntedOversized;
        return false;
    }
    let payload = payload_sum(desk);
    desk.sum = payload;
    sum.0 += payload as u64;
    if sum.fold() != 0xffff {
        desk.reason = Verdict::BadChecksum;
        return false;
    }
    true
}

/// Copies `len` bytes of the frame from `start` on to the desk; `false` if there are none or too many.
#[inline(always)]
pub fn copy(ctx: &XdpContext, start: u32, len: u32) -> bool {
    let (Some(desk), Some(len)) = (desk(), bounded(len, PENDING_DATA as u32)) else {
        return false;
    };
    let bytes = desk.glance.bytes.as_mut_ptr();
    desk.glance.len = len;
    // SAFETY: `bytes` has more than PENDING_DATA bytes, and `len` is at most that.
    unsafe { bpf_xdp_load_bytes(ctx.ctx, start, bytes.cast::<c_void>(), len) == 0 }
}

/// Sum of the payload on the desk.
#[inline(always)]
fn payload_sum(desk: &mut Desk) -> u16 {
    let len = desk.glance.len;
    // The helper takes multiples of 4.
    let end = len as usize & 2047;
    let bytes = &mut desk.glance.bytes;
    bytes[end] = 0;
    bytes[end + 1] = 0;
    bytes[end + 2] = 0;
    let padded = (len + 3) & !3;
    let mut sum = Sum::ZERO;
    let mut add = |from: u32| {
        if padded > from {
            let left = padded - from;
            let chunk = if left > CHUNK { CHUNK } else { left };
            if let Some(chunk) = bounded(chunk, CHUNK) {
                let start = &raw mut bytes[from as usize];
                // SAFETY: `from` is at most 1024, so `chunk` bytes are within the payload's room.
                let part =
                    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, start.cast(), chunk, 0) };
                sum.0 += part as u32 as u64;
            }
        }
    };
    add(0);
    add(CHUNK);
    add(2 * CHUNK);
    sum.fold()
}

/// Reads the CONNECT on the desk.
#[inline(always)]
pub fn read(desk: &mut Desk, key: &Key, longest: u32) -> Seen {
    desk.glance.read(key, longest, properties, identifier, text)
}

// Loops in functions of their own, see `Glance`.

#[inline(never)]
fn properties(glance: &mut Glance, of_will: bool) -> bool {
    glance.properties(of_will)
}

#[inline(never)]
fn identifier(glance: &mut Glance, key: &Key, longest: u32) -> Seen {
    glance.identifier(key, longest)
}

#[inline(never)]
fn text(glance: &mut Glance, topic: bool) -> bool {
    glance.text(topic)
}
