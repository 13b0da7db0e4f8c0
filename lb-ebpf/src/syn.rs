//! SYN to SYN-ACK in place, without state.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_loop, bpf_xdp_load_bytes, bpf_xdp_store_bytes};
use aya_ebpf::programs::XdpContext;
use lb_common::layout::{Endpoint, Verdict};
use lb_common::options::{BUFFER, MAX};
use lb_common::wire::TCP_LEN;

use crate::count::{drop, transmit};
use crate::frame::{Parsed, bounded, cut, reply_ip, turn_round};
use crate::maps::{SCRATCH, SETTINGS};

/// Answers a SYN for a VIP.
#[inline(never)]
pub fn answer(ctx: &XdpContext, p: &Parsed, vip: &Endpoint) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return drop(Verdict::HelperFailed, p.length);
    };
    let Some(settings) = SETTINGS.get(0) else {
        return drop(Verdict::HelperFailed, p.length);
    };
    // SAFETY: a per-CPU value, used by nobody else while the program runs.
    let answer = unsafe { &mut (*scratch).answer };
    let start = (p.l4() + TCP_LEN) as u32;
    let len = p.tcp_len - TCP_LEN as u32;
    answer.buffer = [0; BUFFER];
    // Milliseconds, as most stacks count; the offset hides the uptime.
    // SAFETY: the helper only reads a clock.
    let clock = ((unsafe { bpf_ktime_get_ns() } / 1_000_000) as u32)
        .wrapping_add(settings.timestamp_offset);
    answer.begin(len, clock, *vip, p.v4);
    if len != 0 {
        let Some(len) = bounded(len, MAX as u32) else {
            return drop(Verdict::BadOptions, p.length);
        };
        // SAFETY: the buffer has 64 bytes, `len` is at most 40.
        if unsafe {
            bpf_xdp_load_bytes(
                ctx.ctx,
                start,
                answer.buffer.as_mut_ptr().cast::<c_void>(),
                len,
            )
        } != 0
        {
            return drop(Verdict::HelperFailed, p.length);
        }
        // SAFETY: the callback has the signature that bpf_loop demands and needs no context.
        unsafe {
            bpf_loop(
                MAX as u32 + 1,
                step as *mut c_void,
                core::ptr::null_mut(),
                0,
            )
        };
        if answer.bad != 0 {
            return drop(Verdict::BadOptions, p.length);
        }
        // SAFETY: as for the load.
        if unsafe {
            bpf_xdp_store_bytes(
                ctx.ctx,
                start,
                answer.buffer.as_mut_ptr().cast::<c_void>(),
                len,
            )
        } != 0
        {
            return drop(Verdict::HelperFailed, p.length);
        }
    }
    // Data in a SYN is ignored, so that it comes again.
    if !cut(ctx, p.l4() + p.tcp_len as usize) {
        return drop(Verdict::HelperFailed, p.length);
    }
    let Some(tcp) = reply_ip(ctx, p, p.tcp_len as u16) else {
        return drop(Verdict::HelperFailed, p.length);
    };
    let current = (settings.cookie_epoch & 1) as usize;
    // SAFETY: `reply_ip` checked the bounds.
    answer.finish(unsafe { &mut *tcp }, &settings.cookie_keys[current], &p.key);
    if !turn_round(ctx) {
        return drop(Verdict::HelperFailed, p.length);
    }
    transmit(Verdict::SynAck, p.length)
}

/// One step for `bpf_loop`: 0 goes on, 1 ends.
unsafe extern "C" fn step(_index: u32, _ctx: *mut c_void) -> i64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: as in `answer`, which waits for us.
    if unsafe { (*scratch).answer.step() } {
        0
    } else {
        1
    }
}
