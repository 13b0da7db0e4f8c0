//! The client's packets while its backend is being connected to. Its retransmission of the CONNECT is our
//! timer.

use aya_ebpf::programs::XdpContext;
use lb_common::layout::{Flow, PuntKind, Verdict, ticks};
use lb_common::wire::flag;

use super::bound::UP;
use super::{out, read, syn};
use crate::clock;
use crate::count::drop;
use crate::frame::Parsed;
use crate::maps::{BACKENDS, FLOWS, SETTINGS};
use crate::punt::{self, Reason};

/// A packet of the client's entry.
#[inline(never)]
pub fn packet(ctx: &XdpContext, p: &Parsed, flow: &Flow) -> u32 {
    if p.flags & flag::SYN != 0 {
        // One with another number begins anew, see `splice::begins_anew`.
        return drop(Verdict::DuplicateSyn, p.length);
    }
    let offset = p.seq.wrapping_sub(flow.next_seq).wrapping_sub(1);
    if p.flags & flag::RST != 0 {
        // Only where we take in: a blind RST must guess (RFC 5961, section 3.2).
        if offset <= 0xffff {
            super::withdraw(flow);
            let _ = FLOWS.remove(&p.key);
        }
        return drop(Verdict::ClosedEarly, p.length);
    }
    if p.payload == 0 && p.flags & flag::FIN == 0 {
        return drop(Verdict::BareAck, p.length);
    }
    if offset != 0 || p.payload == 0 {
        // What follows the CONNECT comes again, when the backend is there.
        return drop(Verdict::EarlySegment, p.length);
    }
    // One after the other, not nested: the stack has 512 bytes for the whole chain of calls.
    match again(ctx, p, flow) {
        AGAIN => syn::send(ctx, p, flow, Verdict::KernelSynAgain),
        action => action,
    }
}

/// No action: the SYN is due again.
const AGAIN: u32 = 0;

/// The CONNECT once more: the SYN is due again, or the agent takes over.
///
/// Nothing is written to the entry: the backend's answer may replace it at this moment on another CPU, and what the
/// map takes out it gives to the next connection at once. So it is the first CONNECT that is kept and sent.
#[inline(never)]
fn again(ctx: &XdpContext, p: &Parsed, flow: &Flow) -> u32 {
    let reason = Reason {
        kind: PuntKind::Client,
        listener: flow.listener,
        isn: flow.next_seq,
        verdict: Verdict::PuntedTakeover,
        bytes: p.length,
    };
    let Some(settings) = SETTINGS.get(0) else {
        return drop(Verdict::HelperFailed, p.length);
    };
    let late = ticks::since(clock::now(), flow.last_seen) > settings.connect_timeout;
    let usable = BACKENDS
        .get(flow.backend as u32)
        .is_some_and(|backend| backend.state == UP);
    if late || !usable || !out::tag_fits(p, flow) || !read::take(ctx, p) {
        return punt::punt(ctx, &reason);
    }
    AGAIN
}
