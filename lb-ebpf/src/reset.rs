//! Answers a segment of no connection with a RST, made in place and limited in rate.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::XdpContext;
use lb_common::layout::Verdict;
use lb_common::reset;
use lb_common::wire::{TCP_LEN, flag};

use crate::count::{drop, transmit};
use crate::frame::{Parsed, cut, reply_ip, turn_round};
use crate::maps::{BUCKETS, SETTINGS};
use crate::note::note;

/// Turns the packet into the RST that answers it.
#[inline(never)]
pub fn reset(ctx: &XdpContext, p: &Parsed, verdict: Verdict) -> u32 {
    if p.flags & flag::RST != 0 {
        return drop(Verdict::StrayReset, p.length);
    }
    let (Some(bucket), Some(settings)) = (BUCKETS.get_ptr_mut(0), SETTINGS.get(0)) else {
        return drop(Verdict::HelperFailed, p.length);
    };
    // SAFETY: a per-CPU value; the helper only reads a clock.
    if !unsafe { (*bucket).take(bpf_ktime_get_ns(), settings.reset_rate) } {
        return drop(Verdict::ResetLimited, p.length);
    }
    if !cut(ctx, p.l4() + TCP_LEN) {
        return drop(Verdict::HelperFailed, p.length);
    }
    let Some(tcp) = reply_ip(ctx, p, TCP_LEN as u16) else {
        return drop(Verdict::HelperFailed, p.length);
    };
    let seq_len = p.payload + (p.flags & flag::SYN != 0) as u32 + (p.flags & flag::FIN != 0) as u32;
    // SAFETY: `reply_ip` checked the bounds.
    reset::answer(unsafe { &mut *tcp }, &p.key, seq_len);
    if !turn_round(ctx) {
        return drop(Verdict::HelperFailed, p.length);
    }
    note!(ctx, "reset, verdict {}", verdict as u32);
    transmit(verdict, p.length)
}
