//! Clients are connected to their backend here, without the agent: a CONNECT whose client identifier is
//! bound to a usable backend becomes the SYN to it, and the backend's SYN-ACK becomes our ACK with the
//! CONNECT behind it. Where the pool's backends take turns, so does the CONNECT of a client that is bound to
//! none.
//!
//! ```text
//!   CONNECT ─▶ read ─▶ dial: both entries (Connecting), CONNECT kept, SYN ─▶ backend
//!   SYN-ACK ─▶ answer: both entries (Open), ACK + CONNECT ─▶ backend
//! ```
//! - [`read`]: a client's segment, and the CONNECT in it; [`bound`]: its backend
//! - [`dial`]: a tuple, the entries; [`syn`]: the SYN
//! - [`pending`]: the CONNECT, until the SYN-ACK; [`header`]: the PROXY header in front of it
//! - [`client`], [`answer`]: packets of either side while connecting
//! - [`out`]: what leaves
//! - [`desk`]: working memory; [`maps`]
//!
//! Nothing here is a must: whatever isn't simple is punted, and the agent does the same in its own way.
//! Nor is there a timer: the client sends its CONNECT again until the backend acknowledges it.

mod answer;
mod bound;
mod client;
mod desk;
mod dial;
pub mod header;
mod maps;
mod out;
mod pending;
mod read;
mod syn;

use aya_ebpf::programs::XdpContext;
use lb_common::layout::{Flow, State, Verdict, flags};

use crate::count::drop;
use crate::frame::{Parsed, length};
use crate::maps::FLOWS;

/// The first data of a client, cookie checked. The action, or why the agent must do it.
#[inline(always)]
pub fn first(ctx: &XdpContext, p: &Parsed, listener: u8) -> Result<u32, Verdict> {
    match first_data(ctx, p, listener as u32) {
        0 => match desk::reason() {
            // The agent could only count it.
            Verdict::BadChecksum => Ok(drop(Verdict::BadChecksum, p.length)),
            reason => Err(reason),
        },
        action => Ok(action),
    }
}

/// The action, or 0 with the reason on the desk.
#[inline(never)]
fn first_data(ctx: &XdpContext, p: &Parsed, listener: u32) -> u32 {
    if bound::known(ctx, p, listener) && dial::dial(ctx, p) {
        bound::count(listener);
        bound::bind();
        syn::first(ctx, p)
    } else {
        bound::give_back(listener);
        0
    }
}

/// Reads the CONNECT that begins at `start` and looks its client up: what measurements look at alone.
#[inline(always)]
pub fn glance(ctx: &XdpContext, start: u32) -> bool {
    let len = length(ctx) as u32 - start;
    read::copy(ctx, start, len) && bound::sound() && bound::binding().is_some()
}

/// The client of this entry gave up. If it was being connected here: a backend that answers gets a RST,
/// because there is no entry.
#[inline(always)]
pub fn withdraw(flow: &Flow) {
    if flow.state == State::Connecting as u8 {
        let _ = FLOWS.remove(&flow.pair());
    }
}

/// A packet of a connection that is being set up here.
#[inline(always)]
pub fn packet(ctx: &XdpContext, p: &Parsed, entry: &Flow) -> u32 {
    if entry.flags & flags::FROM_CLIENT != 0 {
        client::packet(ctx, p, entry)
    } else {
        answer::packet(ctx, p, entry)
    }
}
