//! Hands a packet to the agent by the ring buffer.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_RING_SIZE};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_xdp_load_bytes};
use aya_ebpf::programs::XdpContext;
use lb_common::layout::{PUNT_LARGE, PUNT_SMALL, Punt, PuntKind, Verdict};

use crate::count::drop;
use crate::frame::{Parsed, bounded, length};
use crate::limits;
use crate::maps::PUNTS;
use crate::note::note;

#[repr(C)]
struct Record<const N: usize> {
    head: Punt,
    frame: [u8; N],
}

/// Why and for whom a packet is punted. By reference: a BPF function takes five arguments.
///
/// Aligned to 8, like everything that LLVM may write to the stack in words: with unaligned access
/// enabled it does so at any alignment, and the verifier refuses that ("misaligned stack access").
#[repr(C, align(8))]
pub struct Reason {
    /// The client's ISN, or 0.
    pub isn: u32,
    pub verdict: Verdict,
    /// Length of the IP packet, to count.
    pub bytes: u32,
    pub kind: PuntKind,
    pub listener: u8,
}

/// How much of the ring buffer waits to be read: `n` of `of` parts of it or more.
#[inline(always)]
fn is_filled(n: u64, of: u64) -> bool {
    PUNTS.query(BPF_RB_AVAIL_DATA as u64) * of >= PUNTS.query(BPF_RB_RING_SIZE as u64) * n
}

/// Punts a packet of a backend or an ICMP error; it is dropped here, and sent again by its sender if
/// need be.
///
/// What backends say may fill the ring buffer, for it ends set-ups. Anybody who has a connection can make
/// ICMP errors about it, and they come again: half of the buffer is enough.
#[inline(never)]
pub fn punt(ctx: &XdpContext, reason: &Reason) -> u32 {
    if reason.kind as u8 == PuntKind::Icmp as u8 && is_filled(1, 2) {
        return drop(Verdict::PuntOverflow, reason.bytes);
    }
    drop(write(ctx, reason), reason.bytes)
}

/// Punts a client's packet; gives what to count, [`Reason::verdict`] if the agent has it.
///
/// A quarter of the ring buffer is kept for the backends, and one source can't fill the rest.
#[inline(never)]
pub fn from_client(ctx: &XdpContext, p: &Parsed, reason: &Reason) -> Verdict {
    if is_filled(3, 4) {
        return Verdict::PuntOverflow;
    }
    if !limits::may_punt(p, reason.listener, is_filled(1, 16)) {
        return Verdict::PuntLimited;
    }
    write(ctx, reason)
}

#[inline(always)]
fn write(ctx: &XdpContext, reason: &Reason) -> Verdict {
    let done = if length(ctx) <= PUNT_SMALL {
        record::<PUNT_SMALL>(ctx, reason)
    } else {
        record::<PUNT_LARGE>(ctx, reason)
    };
    if !done {
        return Verdict::PuntOverflow;
    }
    note!(
        ctx,
        "punted, verdict {}, listener {}",
        reason.verdict as u32,
        reason.listener
    );
    reason.verdict
}

#[inline(always)]
fn record<const N: usize>(ctx: &XdpContext, reason: &Reason) -> bool {
    let frame_len = length(ctx) as u32;
    let Some(mut entry) = PUNTS.reserve::<Record<N>>(0) else {
        return false;
    };
    let record = entry.as_mut_ptr();
    let wanted = if frame_len > N as u32 {
        N as u32
    } else {
        frame_len
    };
    let Some(len) = bounded(wanted, N as u32) else {
        entry.discard(0);
        return false;
    };
    // SAFETY: the record is ours until it is submitted; `len` is at most N.
    unsafe {
        (*record).head = Punt {
            time: bpf_ktime_get_ns(),
            ifindex: (*ctx.ctx).ingress_ifindex,
            captured: len as u16,
            length: frame_len as u16,
            isn: reason.isn,
            kind: reason.kind as u8,
            listener: reason.listener,
            _pad: [0; 2],
        };
        if bpf_xdp_load_bytes(ctx.ctx, 0, (&raw mut (*record).frame).cast::<c_void>(), len) != 0 {
            entry.discard(0);
            return false;
        }
    }
    entry.submit(0);
    true
}
