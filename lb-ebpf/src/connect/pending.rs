//! The CONNECT, from our SYN until the SYN-ACK.
//!
//! A ring: a ticket is a running number, and its place is overwritten once as many others were given out
//! as there are places. No list, no allocation, and only the bytes that there are get copied.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_xdp_load_bytes, bpf_xdp_store_bytes};
use aya_ebpf::programs::XdpContext;
use lb_common::layout::{PENDING_DATA, PENDING_SLOTS, Pending};

use super::desk::Desk;
use super::maps::{PENDING, TICKETS};
use crate::atomic;
use crate::frame::{Parsed, bounded};

/// The place of a ticket.
#[inline(always)]
fn place(ticket: u32) -> Option<*mut Pending> {
    PENDING.get_ptr_mut(ticket & (PENDING_SLOTS - 1))
}

/// The mark of a place, as of now: a barrier between what was read before and what follows.
#[inline(always)]
fn mark(place: *mut Pending) -> u64 {
    // SAFETY: aligned to 8 as the whole is, and valid for the run of the program.
    unsafe { atomic::fetch_add(&raw mut (*place).ticket, 0) }
}

/// Keeps the payload of a segment that is on the desk; gives its ticket, or 0.
#[inline(always)]
pub fn keep(ctx: &XdpContext, p: &Parsed, desk: &Desk) -> u32 {
    let Some(last) = TICKETS.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: a map's value of 8 bytes.
    let ticket = unsafe { atomic::fetch_add(last, 1) }.wrapping_add(1) as u32;
    let (Some(place), Some(len)) = (place(ticket), bounded(p.payload, PENDING_DATA as u32)) else {
        return 0;
    };
    // SAFETY: valid for the run of the program; whoever reads it at the same time looks at the mark after.
    unsafe {
        atomic::swap(&raw mut (*place).ticket, 0);
        (*place).check = ticket as u64;
        (*place).len = len as u16;
        (*place).sum = desk.sum;
        (*place).key = p.key;
        (*place).tsval = desk.seen.tsval;
        (*place).window = desk.seen.window;
        let start = (p.l4() + p.tcp_len as usize) as u32;
        let data = (&raw mut (*place).data).cast::<c_void>();
        if bpf_xdp_load_bytes(ctx.ctx, start, data, len) != 0 {
            return 0;
        }
        atomic::swap(&raw mut (*place).ticket, ticket as u64);
    }
    ticket
}

/// Length and sum of a ticket's payload, if it is still there: the sum in the upper 16 bits, 0 for none.
#[inline(always)]
pub fn held(ticket: u32) -> u32 {
    let Some(place) = place(ticket) else {
        return 0;
    };
    if ticket == 0 || mark(place) != ticket as u64 {
        return 0;
    }
    // SAFETY: valid for the run of the program; `put` sees whether it was written to meanwhile.
    unsafe { (*place).len as u32 | ((*place).sum as u32) << 16 }
}

/// Writes a ticket's payload of `len` bytes into the frame at `offset`; `false` if it is gone, and then the
/// frame holds anything there.
#[inline(always)]
pub fn put(ctx: &XdpContext, offset: u32, ticket: u32, len: u32) -> bool {
    let (Some(place), Some(len)) = (place(ticket), bounded(len, PENDING_DATA as u32)) else {
        return false;
    };
    // SAFETY: `data` has PENDING_DATA bytes, and `len` is at most that.
    let stored = unsafe {
        let data = (&raw mut (*place).data).cast::<c_void>();
        bpf_xdp_store_bytes(ctx.ctx, offset, data, len) == 0
    };
    stored && mark(place) == ticket as u64
}
