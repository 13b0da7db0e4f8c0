//! Counting, and the actions that end a packet's way.

use aya_ebpf::bindings::xdp_action;
use lb_common::layout::Verdict;

use crate::maps::COUNTERS;

/// Counts one packet.
#[inline(always)]
pub fn count(verdict: Verdict, bytes: u32) {
    if let Some(c) = COUNTERS.get_ptr_mut(verdict as u32) {
        // SAFETY: a per-CPU value; XDP programs don't preempt each other on a CPU.
        unsafe {
            (*c).packets += 1;
            (*c).bytes += bytes as u64;
        }
    }
}

/// Drops a packet for a reason.
#[inline(always)]
pub fn drop(verdict: Verdict, bytes: u32) -> u32 {
    count(verdict, bytes);
    xdp_action::XDP_DROP
}

/// Hands a packet to the host's stack.
#[inline(always)]
pub fn pass(bytes: u32) -> u32 {
    count(Verdict::Passed, bytes);
    xdp_action::XDP_PASS
}

/// Sends a packet back out of the interface that it came in on.
#[inline(always)]
pub fn transmit(verdict: Verdict, bytes: u32) -> u32 {
    count(verdict, bytes);
    xdp_action::XDP_TX
}
