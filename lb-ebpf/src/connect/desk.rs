//! Working memory of one packet: what doesn't fit the stack, and what functions tell each other. It is a
//! map's value, of which the verifier assumes nothing, so it needn't follow a function's every outcome
//! through the next one.

use lb_common::layout::{Connecting, Flow, FlowKey, Verdict};
use lb_common::mqtt::Glance;
use lb_common::options::Offers;
use lb_common::proxy_v2;

use super::maps::DESK;

#[repr(C)]
pub struct Desk {
    /// The client's payload.
    pub glance: Glance,
    /// The options of a SYN-ACK.
    pub offers: Offers,
    /// A PROXY header.
    pub header: [u32; proxy_v2::WORDS],
    /// The entries to be.
    pub client: Flow,
    pub backend: Flow,
    /// The key of `backend`.
    pub key: FlowKey,
    /// The client's tuple as we answer it: where packets of `backend` go.
    pub back: FlowKey,
    /// Length of what goes behind our ACK.
    pub len: u32,
    /// Of the client's segment.
    pub seen: Connecting,
    /// The payload's one's complement sum.
    pub sum: u16,
    /// The search for a port has ended.
    pub found: u16,
    /// Source addresses: the first one's place, and how many.
    pub snat_first: u16,
    pub snat_count: u16,
    /// The client is bound to no backend: it got this one by turn. 0 for no.
    pub by_turn: u16,
    /// Why the agent must do it.
    pub reason: Verdict,
}

/// The desk of this CPU.
#[inline(always)]
pub fn desk() -> Option<&'static mut Desk> {
    // SAFETY: a per-CPU value, used by nobody else while the program runs; functions take it one after
    // the other.
    DESK.get_ptr_mut(0).map(|desk| unsafe { &mut *desk })
}

/// Why the agent must do it.
#[inline(always)]
pub fn reason() -> Verdict {
    desk().map_or(Verdict::PuntedNew, |desk| desk.reason)
}
