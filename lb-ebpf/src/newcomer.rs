//! A packet that belongs to no flow: is it for us, and if so, what is it?

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::programs::XdpContext;
use lb_common::cookie::{self, Check};
use lb_common::layout::{
    Endpoint, EndpointKey, EndpointKind, Flow, PuntKind, State, Verdict, by_words, flags, ticks,
};
use lb_common::limits::repeat;
use lb_common::wire::flag;

use crate::count::{drop, pass};
use crate::frame::{Aligned, Parsed};
use crate::limits::{self, Admission};
use crate::maps::{ENDPOINTS, FLOWS, SCRATCH, SETTINGS};
use crate::punt::{self, Reason};
use crate::{connect, reset, syn};

/// The endpoint of an address and port, all zero if there is none.
///
/// This and [`check`] are functions of their own so that their memory is gone when a packet goes on:
/// all frames of a chain of calls together have 512 bytes.
#[inline(never)]
fn endpoint(address: &[u8; 16], port: [u8; 2]) -> Endpoint {
    let key = Aligned(EndpointKey {
        address: by_words(address),
        port,
        _pad: [0; 2],
    });
    // SAFETY: the agent replaces values as a whole; a stale one is as good.
    match unsafe { ENDPOINTS.get(&key.0) } {
        Some(found) => *found,
        None => Endpoint::default(),
    }
}

/// Whether the cookie is right.
#[inline(never)]
fn check(p: &Parsed) -> Check {
    let Some(settings) = SETTINGS.get(0) else {
        return Check::Wrong;
    };
    cookie::check(
        &settings.cookie_keys,
        settings.cookie_epoch,
        &p.key,
        p.seq,
        p.ack,
    )
}

/// Handles a packet without a flow.
#[inline(never)]
pub fn unknown(ctx: &XdpContext, p: &Parsed) -> u32 {
    let to = endpoint(&p.key.dst, p.key.dst_port);
    if to.kind == EndpointKind::Vip as u8 {
        return for_vip(ctx, p, to);
    }
    let from = endpoint(&p.key.src, p.key.src_port);
    if from.kind == EndpointKind::Backend as u8 && for_snat(p) {
        // From a backend, to one of our ports, and nobody's: the connection is gone.
        return reset::reset(ctx, p, Verdict::ResetUnknown);
    }
    pass(p.length)
}

/// Whether the destination is a SNAT address and a port of the range.
#[inline(always)]
fn for_snat(p: &Parsed) -> bool {
    let Some(settings) = SETTINGS.get(0) else {
        return false;
    };
    let port = u16::from_be_bytes(p.key.dst_port);
    port >= settings.snat_first
        && port <= settings.snat_last
        && endpoint(&p.key.dst, [0; 2]).kind == EndpointKind::Address as u8
}

/// A packet for a VIP, without a flow.
#[inline(always)]
fn for_vip(ctx: &XdpContext, p: &Parsed, vip: Endpoint) -> u32 {
    if limits::is_blocked(p) {
        return drop(Verdict::SourceBlocked, p.length);
    }
    if p.flags & flag::RST != 0 {
        return drop(Verdict::StrayReset, p.length);
    }
    if p.flags & (flag::SYN | flag::ACK | flag::FIN) == flag::SYN {
        return syn::answer(ctx, p, vip);
    }
    if p.flags & (flag::SYN | flag::ACK) != flag::ACK {
        return reset::reset(ctx, p, Verdict::ResetUnknown);
    }
    let says_something = p.payload != 0 || p.flags & flag::FIN != 0;
    match check(p) {
        Check::First if p.payload != 0 => first_data(ctx, p, vip.listener),
        // Closed before it said anything.
        Check::First if says_something => reset::reset(ctx, p, Verdict::ClosedEarly),
        Check::First => drop(Verdict::BareAck, p.length),
        // Its first bytes are behind, or lost.
        Check::Perhaps if says_something => drop(Verdict::EarlySegment, p.length),
        Check::Perhaps => drop(Verdict::BareAck, p.length),
        Check::Wrong => reset::reset(ctx, p, Verdict::ResetUnknown),
    }
}

/// The first segment of a client. If the kernel can't connect it by itself: from now on its packets have
/// an entry, and the agent reads them.
#[inline(never)]
fn first_data(ctx: &XdpContext, p: &Parsed, listener: u8) -> u32 {
    match limits::admit(p, listener) {
        Admission::Yes => {}
        // Its retransmission comes when there may be room again.
        Admission::TooOften => return drop(Verdict::SourceRate, p.length),
        Admission::TooMany => return reset::reset(ctx, p, Verdict::SourceFull),
        Admission::Unknown => return drop(Verdict::HelperFailed, p.length),
    }
    let verdict = match connect::first(ctx, p, listener) {
        Ok(action) => return action,
        Err(verdict) => verdict,
    };
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return drop(Verdict::HelperFailed, p.length);
    };
    // SAFETY: a per-CPU value, used by nobody else while the program runs.
    let flow = unsafe { &mut (*scratch).flow };
    let isn = p.seq.wrapping_sub(1);
    *flow = Flow::ZERO;
    flow.state = State::Sniff as u8;
    flow.flags = flags::FROM_CLIENT;
    flow.listener = listener;
    flow.next_seq = isn;
    flow.last_ack = p.ack;
    // SAFETY: the helper only reads a clock.
    let now = ticks::from_ns(unsafe { bpf_ktime_get_coarse_ns() });
    flow.last_seen = now;
    repeat::note(flow, p.segment(), now);
    const NOEXIST: u64 = 1;
    if FLOWS.insert(&p.key, &*flow, NOEXIST).is_err() {
        // A copy of this segment may have made it on another CPU a moment ago.
        if FLOWS.get_ptr(&p.key).is_some() {
            return drop(Verdict::EarlySegment, p.length);
        }
        return reset::reset(ctx, p, Verdict::FlowsFull);
    }
    let reason = Reason {
        kind: PuntKind::Client,
        listener,
        isn,
        verdict,
        bytes: p.length,
    };
    let result = punt::from_client(ctx, p, &reason);
    if result as u32 != verdict as u32 {
        // The agent knows nothing of it, so nobody would remove the entry. The client comes again.
        let _ = FLOWS.remove(&p.key);
    }
    drop(result, p.length)
}
