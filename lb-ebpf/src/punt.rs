//! Hands a packet to the agent by the ring buffer.

use core::ffi::c_void;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_xdp_load_bytes};
use aya_ebpf::programs::XdpContext;
use lb_common::layout::{PUNT_LARGE, PUNT_SMALL, Punt, PuntKind, Verdict};

use crate::count::{count, drop};
use crate::frame::{bounded, length};
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

/// Punts a packet; it is dropped here, and retransmitted by its sender if need be.
#[inline(never)]
pub fn punt(ctx: &XdpContext, reason: &Reason) -> u32 {
    let done = if length(ctx) <= PUNT_SMALL {
        write::<PUNT_SMALL>(ctx, reason)
    } else {
        write::<PUNT_LARGE>(ctx, reason)
    };
    if !done {
        return drop(Verdict::PuntOverflow, reason.bytes);
    }
    note!(
        ctx,
        "punted, verdict {}, listener {}",
        reason.verdict as u32,
        reason.listener
    );
    count(reason.verdict, reason.bytes);
    xdp_action::XDP_DROP
}

#[inline(always)]
fn write<const N: usize>(ctx: &XdpContext, reason: &Reason) -> bool {
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
