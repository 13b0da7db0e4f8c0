//! The client's segment turned into the SYN to its backend.

use aya_ebpf::programs::XdpContext;
use lb_common::checksum::Sum;
use lb_common::cookie::ClientOptions;
use lb_common::layout::{Connecting, Flow, Verdict};
use lb_common::opening::Syn;
use lb_common::opening::syn::{PLAIN, STAMPED, window};
use lb_common::wire::{TCP_LEN, Tcp};

use super::bound::mss;
use super::desk::desk;
use super::out;
use crate::count::drop;
use crate::frame::{Parsed, at, cut};

#[repr(C)]
struct Head<const N: usize> {
    tcp: Tcp,
    options: [u8; N],
}

/// The SYN of the client's entry that is on the desk.
#[inline(always)]
pub fn first(ctx: &XdpContext, p: &Parsed) -> u32 {
    match desk() {
        Some(desk) => {
            let verdict = if desk.by_turn == 0 {
                Verdict::KernelSyn
            } else {
                Verdict::KernelSynNew
            };
            send(ctx, p, &desk.client, verdict)
        }
        None => drop(Verdict::HelperFailed, p.length),
    }
}

/// The SYN of a client's entry.
#[inline(never)]
pub fn send(ctx: &XdpContext, p: &Parsed, flow: &Flow, verdict: Verdict) -> u32 {
    let connecting = Connecting::load(flow);
    let options = ClientOptions::from_byte(flow.last_ack.wrapping_sub(1) as u8);
    let (theirs, ours) = (options.mss(), mss(flow.backend));
    let syn = Syn {
        isn: flow.next_seq.wrapping_sub(flow.header(p.v4)),
        window: window(options, connecting.window),
        mss: if theirs < ours { theirs } else { ours },
        options,
    };
    let options_len = if connecting.timestamps {
        STAMPED
    } else {
        PLAIN
    };
    // A CONNECT is longer than these options.
    if !cut(ctx, p.l4() + TCP_LEN + options_len) {
        return drop(Verdict::HelperFailed, p.length);
    }
    let key = flow.outgoing();
    let plain = syn.plain();
    let mut sum = Sum::ZERO;
    sum.add(&plain);
    let written = if connecting.timestamps {
        let stamps = Syn::stamps(connecting.tsval);
        sum.add(&stamps);
        let Some(head) = at::<Head<STAMPED>>(ctx, p.l4()) else {
            return drop(Verdict::HelperFailed, p.length);
        };
        // SAFETY: `at` checked the bounds.
        unsafe {
            (*head).tcp = syn.header(&key, STAMPED, sum);
            let options = (&raw mut (*head).options).cast::<u8>();
            options.cast::<[u8; PLAIN]>().write(plain);
            options
                .add(PLAIN)
                .cast::<[u8; STAMPED - PLAIN]>()
                .write(stamps);
        }
        out::headers(ctx, p, flow, (TCP_LEN + STAMPED) as u32)
    } else {
        let Some(head) = at::<Head<PLAIN>>(ctx, p.l4()) else {
            return drop(Verdict::HelperFailed, p.length);
        };
        // SAFETY: `at` checked the bounds.
        unsafe {
            (*head).tcp = syn.header(&key, PLAIN, sum);
            (*head).options = plain;
        }
        out::headers(ctx, p, flow, (TCP_LEN + PLAIN) as u32)
    };
    if !written {
        return drop(Verdict::HelperFailed, p.length);
    }
    out::leave(ctx, flow, verdict, p.length)
}
