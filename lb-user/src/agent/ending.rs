//! Ends an open connection from outside: a RST to both sides, and its entries go.
//!
//! A RST counts only at the exact sequence number that its receiver expects (RFC 5961, section 3.2). What
//! the receiver acknowledged last is that number, unless data reached it since. So behind the RST goes a
//! segment that is one byte too old: a receiver that the RST did not end answers it with the number that
//! it expects (RFC 9293, section 3.10.7.4), and the XDP program, which knows the connection no more,
//! answers that with the right RST. Of a live client's entry something stays for a while to that end
//! ([`Flow::cut`]).

use lb_common::layout::{Flow, FlowKey, State};
use lb_common::wire::{Emit, SynOptions, emit, flag};

use crate::setup::{Datapath, hop};

/// Whether the receiver may hold data that it hasn't acknowledged yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Silent for long: what it acknowledged last is all that it has.
    Silent,
    /// Live; with the time, in ticks.
    Live(u32),
}

/// Ends the connection with the client's entry `key`, if it is open and still the one that is `meant`:
/// the client may have begun anew with the same port. `true` if it was ended.
pub fn end(
    kernel: &mut impl Datapath,
    key: &FlowKey,
    traffic: Traffic,
    meant: impl Fn(&Flow) -> bool,
) -> bool {
    let Some(client) = kernel
        .get(key)
        .filter(|flow| flow.state == State::Open as u8 && meant(flow))
    else {
        return false;
    };
    let pair = client.pair();
    let backend = kernel.get(&pair).filter(|flow| flow.leads_to(key));
    // The entries first: what the receivers answer must not find them.
    match traffic {
        Traffic::Live(now) => cut(kernel, key, &client, now),
        Traffic::Silent => kernel.remove(key),
    }
    if let Some(backend) = backend {
        kernel.remove(&pair);
        // To the client: as the VIP, by the way that the backend's packets go.
        say(kernel, key.reversed(), &client, &backend, traffic);
        // To the backend: as the client is known there.
        say(kernel, client.outgoing(), &backend, &client, traffic);
    }
    true
}

/// Whatever the client of the entry `key` says from now on is answered with a RST. `now` in ticks.
pub fn cut(kernel: &mut impl Datapath, key: &FlowKey, client: &Flow, now: u32) {
    if kernel
        .replace(key, &Flow::cut(client.listener, now))
        .is_err()
    {
        kernel.remove(key);
    }
}

/// To the side that `receiver` is the entry of, under the tuple `key`, by the way of `way`.
fn say(kernel: &mut impl Datapath, key: FlowKey, receiver: &Flow, way: &Flow, traffic: Traffic) {
    let expected = receiver.last_ack;
    segment(kernel, key, way, expected, 0, flag::RST);
    if let Traffic::Live(_) = traffic {
        let ack = way.last_ack.wrapping_add(way.ack_add);
        segment(kernel, key, way, expected.wrapping_sub(1), ack, flag::ACK);
    }
}

fn segment(kernel: &mut impl Datapath, key: FlowKey, way: &Flow, seq: u32, ack: u32, flags: u8) {
    let hop = hop(way);
    let mut frame = [0; 128];
    let segment = Emit {
        key,
        seq,
        ack,
        flags,
        window: 0,
        syn: SynOptions::default(),
        timestamps: None,
        payload: &[],
    };
    if let Some(n) = emit(&segment, &hop, &mut frame) {
        kernel.send(&hop, &frame[..n]);
    }
}
