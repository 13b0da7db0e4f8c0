//! The backend's packets while it is being connected to: its SYN-ACK opens the connection.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_loop, bpf_xdp_load_bytes};
use aya_ebpf::programs::XdpContext;
use lb_common::cookie::ClientOptions;
use lb_common::layout::{Connecting, Flow, FlowKey, PuntKind, State, Verdict};
use lb_common::opening::{Ack, Numbers, ack, may_splice};
use lb_common::options::{BUFFER, MAX, Timestamps};
use lb_common::window::rescale;
use lb_common::wire::{TCP_LEN, Tcp, flag};

use super::desk::{Desk, desk};
use super::{header, out, pending};
use crate::clock;
use crate::count::{count, drop};
use crate::frame::{Parsed, at, bounded};
use crate::maps::{BINDINGS, FLOWS, LISTENERS};
use crate::punt::{self, Reason};
use crate::reset;

const EXIST: u64 = 2;

/// A packet of the backend's entry.
#[inline(never)]
pub fn packet(ctx: &XdpContext, p: &Parsed, entry: &Flow) -> u32 {
    let key = entry.pair();
    let client = FLOWS.get_ptr_mut(&key);
    // SAFETY: a map value stays valid for the run of the program.
    let client = client.map(|client| unsafe { &mut *client });
    let ours =
        |client: &&mut Flow| client.state == State::Connecting as u8 && client.leads_to(&p.key);
    let Some(client) = client.filter(ours) else {
        // The client has given up.
        let _ = FLOWS.remove(&p.key);
        return reset::reset(ctx, p, Verdict::ResetUnknown);
    };
    let bits = p.flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN);
    let first = p.ack.wrapping_add(client.header(p.v4));
    let answers = bits == flag::SYN | flag::ACK && first == client.next_seq.wrapping_add(1);
    if answers && offers(ctx, p) && fits(p, client) {
        if !out::tag_fits(p, client) {
            return drop(Verdict::VlanMismatch, p.length);
        }
        // One after the other, not nested: the stack has 512 bytes for the whole chain of calls.
        if !open(p, entry, client) {
            return drop(Verdict::EarlySegment, p.length);
        }
        if !room(ctx, p) || !fill(ctx, p) {
            return drop(Verdict::HelperFailed, p.length);
        }
        return acknowledge(ctx, p);
    }
    // Refused, a tuple that is in use there (RFC 5961), or options that can't be spliced as they are.
    let reason = Reason {
        kind: PuntKind::Backend,
        listener: entry.listener,
        isn: 0,
        verdict: Verdict::PuntedTakeover,
        bytes: p.length,
    };
    punt::punt(ctx, &reason)
}

/// Reads the options of a SYN-ACK onto the desk; `false` if they are malformed.
#[inline(never)]
fn offers(ctx: &XdpContext, p: &Parsed) -> bool {
    let Some(desk) = desk() else {
        return false;
    };
    let offers = &mut desk.offers;
    offers.buffer = [0; BUFFER];
    let len = p.tcp_len - TCP_LEN as u32;
    offers.begin(len);
    let Some(len) = bounded(len, MAX as u32) else {
        // None at all.
        return true;
    };
    let start = (p.l4() + TCP_LEN) as u32;
    let buffer = offers.buffer.as_mut_ptr().cast::<c_void>();
    // SAFETY: the buffer has 64 bytes, `len` is at most 40.
    if unsafe { bpf_xdp_load_bytes(ctx.ctx, start, buffer, len) } != 0 {
        return false;
    }
    // SAFETY: the callback has the signature that bpf_loop demands and needs no context.
    unsafe {
        bpf_loop(
            MAX as u32 + 1,
            step as *mut c_void,
            core::ptr::null_mut(),
            0,
        )
    };
    desk.offers.bad == 0
}

/// One step for `bpf_loop`: 0 goes on, 1 ends.
unsafe extern "C" fn step(_index: u32, _ctx: *mut c_void) -> i64 {
    let Some(desk) = desk() else {
        return 1;
    };
    if desk.offers.step() { 0 } else { 1 }
}

/// What the client's SYN said.
#[inline(always)]
fn said(client: &Flow) -> ClientOptions {
    ClientOptions::from_byte(client.last_ack.wrapping_sub(1) as u8)
}

/// Whether the SYN-ACK on the desk keeps what was promised to the client.
#[inline(always)]
fn fits(p: &Parsed, client: &Flow) -> bool {
    let (Some(desk), Some(listener)) = (desk(), LISTENERS.get(client.listener as u32)) else {
        return false;
    };
    let timestamps = Connecting::load(client).timestamps;
    let offered = desk.offers.offered();
    // The client's first segment gets longer by the header.
    let mss = listener.mss + client.header(p.v4) as u16;
    p.payload == 0 && !p.two_tags && may_splice(said(client), timestamps, mss, &offered)
}

/// Both entries become recipes. `false` if they aren't ours any more.
#[inline(never)]
fn open(p: &Parsed, entry: &Flow, client: &Flow) -> bool {
    let Some(desk) = desk() else {
        return false;
    };
    desk.seen = Connecting::load(client);
    desk.client = *client;
    desk.backend = *entry;
    recipes(p, desk);
    desk.key = p.key;
    // The agent may have taken the connection over a moment ago; then one of its entries is gone. The
    // backend's entry first: a client's entry that is open leads to where nothing is spliced yet.
    let key = desk.backend.pair();
    if FLOWS.insert(&p.key, &desk.backend, EXIST).is_err()
        || FLOWS.insert(&key, &desk.client, EXIST).is_err()
    {
        return false;
    }
    refresh(desk);
    count(Verdict::SteeredKernel, p.length);
    true
}

/// Fills in what the SYN-ACK tells.
#[inline(always)]
fn recipes(p: &Parsed, desk: &mut Desk) {
    let offered = desk.offers.offered();
    let options = said(&desk.client);
    let seen = desk.seen;
    let timestamps = match offered.timestamps {
        Some(t) if seen.timestamps => Some((seen.echo, t.value)),
        _ => None,
    };
    let numbers = Numbers::new(
        desk.client.last_ack.wrapping_sub(1),
        p.seq,
        timestamps,
        (options.window_scale, seen.promised, offered.window_scale),
    );
    let now = clock::now();
    numbers.from_client(&mut desk.client);
    numbers.from_backend(&mut desk.backend);
    desk.client.state = State::Open as u8;
    desk.backend.state = State::Open as u8;
    desk.client.last_seen = now;
    desk.backend.last_seen = now;
    desk.client.next_seq = p.ack.wrapping_add(desk.client.header(p.v4));
    desk.backend.next_seq = p.seq.wrapping_add(1);
    desk.backend.last_ack = p.ack;
}

/// The client is there: its binding begins to age anew.
#[inline(always)]
fn refresh(desk: &Desk) {
    if let Some(binding) = BINDINGS.get_ptr_mut(&desk.client.client) {
        // SAFETY: valid for the run of the program. If it was another client's a moment ago, that one was
        // there a moment ago.
        unsafe {
            if (*binding).backend == desk.client.backend & !1 {
                (*binding).last_seen = desk.client.last_seen;
            }
        }
    }
}

#[repr(C)]
struct Stamped {
    tcp: Tcp,
    options: [u8; ack::STAMPED],
}

/// Makes room for our ACK and puts the CONNECT behind it, if it is there and there is room, with a gap for the
/// PROXY header if there is to be one. The length of both is on the desk then, or 0.
#[inline(never)]
fn room(ctx: &XdpContext, p: &Parsed) -> bool {
    let Some(desk) = desk() else {
        return false;
    };
    let start = p.l4() as u32 + header_len(desk);
    let held = pending::held(desk.seen.ticket);
    let len = held & 0xffff;
    let before = desk.client.header(p.v4);
    (desk.len, desk.sum) = (before + len, (held >> 16) as u16);
    if len != 0 {
        if out::resize(ctx, start + before + len) {
            if pending::put(ctx, start + before, desk.seen.ticket, len) {
                return true;
            }
        } else {
            deliver(ctx, p, desk);
        }
    }
    (desk.len, desk.sum) = (0, 0);
    count(Verdict::KernelAck, p.length);
    out::resize(ctx, start)
}

/// Writes the PROXY header into its gap.
#[inline(always)]
fn fill(ctx: &XdpContext, p: &Parsed) -> bool {
    desk().is_some_and(|desk| header::put(ctx, p.v4, p.l4() as u32 + header_len(desk)))
}

/// Length of our ACK's TCP header.
#[inline(always)]
fn header_len(desk: &Desk) -> u32 {
    (TCP_LEN
        + if desk.seen.timestamps {
            ack::STAMPED
        } else {
            0
        }) as u32
}

/// Writes the headers.
#[inline(always)]
fn acknowledge(ctx: &XdpContext, p: &Parsed) -> u32 {
    let Some(desk) = desk() else {
        return drop(Verdict::HelperFailed, p.length);
    };
    let tcp_len = header_len(desk) + desk.len;
    if !segment(ctx, p) || !out::headers(ctx, p, &desk.client, tcp_len) {
        return drop(Verdict::HelperFailed, p.length);
    }
    out::way(ctx, &desk.client)
}

/// Writes the TCP header and its options.
#[inline(never)]
fn segment(ctx: &XdpContext, p: &Parsed) -> bool {
    let Some(desk) = desk() else {
        return false;
    };
    let ack = Ack {
        seq: desk.backend.last_ack,
        ack: desk.backend.next_seq,
        window: rescale(desk.seen.window, desk.client.window_shift),
        stamped: desk.seen.timestamps,
        timestamps: Timestamps {
            value: desk.seen.tsval,
            echo: desk.offers.value,
        },
    };
    let key: FlowKey = desk.client.outgoing();
    let tcp = ack.header(&key, desk.len, desk.sum);
    if ack.stamped {
        let Some(head) = at::<Stamped>(ctx, p.l4()) else {
            return false;
        };
        // SAFETY: `at` checked the bounds.
        unsafe {
            (*head).tcp = tcp;
            (*head).options = Ack::stamps(ack.timestamps);
        }
    } else {
        let Some(head) = at::<Tcp>(ctx, p.l4()) else {
            return false;
        };
        // SAFETY: `at` checked the bounds.
        unsafe { *head = tcp };
    }
    true
}

/// The agent sends the CONNECT; if there is none, the client does, once more.
#[inline(always)]
fn deliver(ctx: &XdpContext, p: &Parsed, desk: &Desk) {
    let reason = Reason {
        kind: PuntKind::Deliver,
        listener: desk.client.listener,
        isn: desk.seen.ticket,
        verdict: Verdict::PuntedDelivery,
        bytes: p.length,
    };
    let _dropped = punt::punt(ctx, &reason);
}
