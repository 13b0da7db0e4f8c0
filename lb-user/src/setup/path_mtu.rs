//! Path MTU discovery through the splice: a router says that a packet of ours is too large, and the
//! one who made it so is behind us (RFC 1191, RFC 8201). Without this, a tunnel or PPPoE behind the
//! balancer swallows every full segment. Other ICMP errors about spliced connections are ignored: they
//! are soft (RFC 5461), and retransmission decides.

use super::interface::Datapath;
use super::splice::hop;
use lb_common::layout::{Flow, FlowKey, State};
use lb_common::wire::TooBig;

/// Acknowledged data that may still be quoted, and data that may be on the way: a sender of forged
/// errors who doesn't see the connection knows neither (RFC 5927, section 4.1).
const BEHIND: u32 = 0x1_0000;
const AHEAD: u32 = 0x10_0000;

/// Sends the error on to the quoted packet's sender; `false` if it is about no spliced connection, or
/// not credible.
pub(super) fn pass_on(error: &TooBig<'_>, datapath: &mut impl Datapath) -> bool {
    let mut open = |key: &FlowKey| -> Option<Flow> {
        let flow = datapath.get(key)?;
        (flow.state == State::Open as u8).then_some(flow)
    };
    // The receiver's packets come back on the reversed tuple, and go on to the quoted one's sender.
    let Some(back) = open(&error.key.reversed()) else {
        return false;
    };
    let sent = back.pair();
    let Some(forth) = open(&sent).filter(|flow| flow.outgoing() == error.key) else {
        return false;
    };
    // Both as on the receiver's side.
    let offset = error.seq.wrapping_sub(back.last_ack).wrapping_add(BEHIND);
    if offset > BEHIND + AHEAD {
        return false;
    }
    let hop = hop(&back);
    let mut frame = [0; 128];
    let Some(len) = error.emit(&sent, &forth, &hop, &mut frame) else {
        return false;
    };
    datapath.send(&hop, &frame[..len]);
    true
}
