//! Is this the CONNECT of a client whose backend is known, because it is bound to it or because it is that
//! backend's turn, and may the backend have it?

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::XdpContext;
use lb_common::layout::{
    Binding, Flow, FlowKey, Hop, State, Turns, Verdict, flags, source_mode, steer, ticks,
};
use lb_common::limits::credit::{ALL, of_backend};
use lb_common::mqtt::Seen;
use lb_common::wire::Eth;

use super::desk::{Desk, desk};
use super::maps::TURNS;
use super::read;
use crate::atomic;
use crate::clock;
use crate::frame::{Parsed, at};
use crate::maps::{BACKENDS, BINDINGS, CREDITS, LISTENERS, SETTINGS};

/// `state` of a backend that takes clients.
pub const UP: u8 = 1;

/// Lays both entries onto the desk, as far as they are known before there is a port; `false` with the
/// reason why the agent must do it.
#[inline(always)]
pub fn known(ctx: &XdpContext, p: &Parsed, listener: u32) -> bool {
    let Some(desk) = desk() else {
        return false;
    };
    desk.reason = Verdict::PuntedNew;
    desk.by_turn = 0;
    let Some(of_listener) = LISTENERS.get(listener) else {
        return false;
    };
    if of_listener.steer == steer::AGENT {
        return false;
    }
    if !read::take(ctx, p) {
        return false;
    }
    desk.seen.promised = of_listener.window_scale;
    sound() && choose(ctx, p, listener) && may_open(listener)
}

/// Reads the CONNECT on the desk; `false` with the reason why the agent must do it.
#[inline(never)]
pub fn sound() -> bool {
    let (Some(desk), Some(settings)) = (desk(), SETTINGS.get(0)) else {
        return false;
    };
    desk.reason = match read::read(desk, &settings.client_key, settings.client_id) {
        Seen::Connect => return true,
        Seen::Split => Verdict::PuntedSplit,
        Seen::Anonymous => Verdict::PuntedUnbound,
        Seen::Oversized => Verdict::PuntedOversized,
        Seen::Unusual => Verdict::PuntedUnusual,
    };
    false
}

/// The binding of the client on the desk.
#[inline(always)]
pub fn binding() -> Option<&'static Binding> {
    let desk = desk()?;
    // SAFETY: two fields that nobody relies on to be of one moment; valid for the run of the program.
    unsafe { BINDINGS.get(&desk.glance.client) }
}

/// No backend.
const NOBODY: u32 = u32::MAX;

/// Slot of the backend whose turn it is.
#[inline(never)]
fn turn(listener: u32, v4: bool) -> u32 {
    let Some(of_listener) = LISTENERS.get(listener) else {
        return NOBODY;
    };
    // Only a binding has the state of the client's rate.
    if of_listener.client_pace.interval != 0 {
        return NOBODY;
    }
    let Some(turns) = TURNS.get_ptr_mut(of_listener.pool as u32) else {
        return NOBODY;
    };
    // SAFETY: a map's value, aligned; others take turns and write rounds at the same time, see `Turns`.
    unsafe {
        let len = (&raw const (*turns).len).read_volatile();
        if len == 0 || (*turns).families & Turns::family(v4) == 0 {
            return NOBODY;
        }
        let place = Turns::place(atomic::fetch_add(&raw mut (*turns).next, 1), len);
        (*turns).round[place] as u32
    }
}

/// Gives the turn of the client on the desk back, if it had one: the agent takes it, or who comes next.
#[inline(never)]
pub fn give_back(listener: u32) {
    let (Some(desk), Some(of_listener)) = (desk(), LISTENERS.get(listener)) else {
        return;
    };
    if desk.by_turn == 0 {
        return;
    }
    if let Some(turns) = TURNS.get_ptr_mut(of_listener.pool as u32) {
        // SAFETY: as above. If others took turns meanwhile, one is taken twice and one by nobody.
        unsafe { atomic::fetch_add(&raw mut (*turns).next, u64::MAX) };
    }
}

/// Binds the client on the desk to its backend, if that is new.
#[inline(never)]
pub fn bind() {
    let Some(desk) = desk() else {
        return;
    };
    if desk.by_turn == 0 {
        return;
    }
    let binding = Binding {
        backend: desk.client.backend & !1,
        _pad: [0; 2],
        last_seen: desk.client.last_seen,
        connects: 0,
        _room: 0,
    };
    // Without it the client would be new again the next time.
    let _ = BINDINGS.insert(&desk.glance.client, &binding, 0);
}

/// Finds the backend of the client on the desk.
#[inline(never)]
fn choose(ctx: &XdpContext, p: &Parsed, listener: u32) -> bool {
    let (Some(desk), Some(settings), Some(of_listener)) =
        (desk(), SETTINGS.get(0), LISTENERS.get(listener))
    else {
        return false;
    };
    let client = desk.glance.client;
    let now = clock::now();
    let bound = match binding() {
        Some(binding) if ticks::since(now, binding.last_seen) <= settings.linger => {
            binding.backend as u32
        }
        _ => NOBODY,
    };
    desk.reason = Verdict::PuntedUnbound;
    let first = if bound == NOBODY {
        turn(listener, p.v4)
    } else {
        bound
    };
    if first == NOBODY {
        return false;
    }
    desk.by_turn = (bound == NOBODY) as u16;
    desk.reason = Verdict::PuntedBackend;
    // That is the slot of the backend's IPv4 address; that of IPv6 is the next.
    let slot = first as u16 & !1 | !p.v4 as u16;
    let Some(backend) = BACKENDS.get(slot as u32) else {
        return false;
    };
    if backend.state != UP
        || backend.by_agent != 0
        || backend.generation == 0
        || backend.pool != of_listener.pool
    {
        return false;
    }
    let Some(eth) = at::<Eth>(ctx, 0) else {
        return false;
    };
    // SAFETY: the context is ours; `at` checked the bounds.
    let (ifindex, from, to) = unsafe { ((*ctx.ctx).ingress_ifindex, (*eth).src, (*eth).dst) };
    // Frames keep their tag, unless the way to the backend has one of its own; none is added.
    let (mut vlan, mut tagged) = (p.vlan, p.tagged);
    if backend.hop.tagged != 0 {
        if !p.tagged {
            return false;
        }
        (vlan, tagged) = (backend.hop.vlan, true);
    }
    let tag = |tagged: bool| if tagged { flags::TAGGED } else { 0 };
    desk.client = Flow::ZERO;
    let flow = &mut desk.client;
    flow.state = State::Connecting as u8;
    flow.flags = flags::FROM_CLIENT | tag(tagged);
    if of_listener.steer == steer::KERNEL_PROXY {
        flow.flags |= flags::HEADED;
    }
    flow.listener = listener as u8;
    flow.backend = slot;
    flow.client = client;
    flow.idle_limit = settings.idle.limit(desk.glance.keep_alive as u16);
    flow.last_seen = now;
    flow.next_seq = p.seq.wrapping_sub(1);
    flow.last_ack = p.ack;
    flow.ifindex = backend.hop.ifindex;
    flow.dst_mac = backend.hop.dst_mac;
    flow.src_mac = backend.hop.src_mac;
    flow.vlan = vlan;
    flow.ingress = Hop::signature(ifindex, &from, p.vlan);
    flow.hop_generation = backend.generation;
    desk.backend = desk.client;
    let flow = &mut desk.backend;
    flow.flags = tag(p.tagged);
    flow.ifindex = ifindex;
    flow.dst_mac = from;
    flow.src_mac = to;
    flow.vlan = p.vlan;
    flow.ingress = 0;
    flow.hop_generation = 0;
    flow.next_seq = 0;
    flow.last_ack = 0;
    desk.key = FlowKey {
        src: backend.address,
        dst: p.key.src,
        src_port: backend.port,
        dst_port: p.key.src_port,
    };
    desk.back = p.key.reversed();
    let snat = of_listener.source == source_mode::SNAT;
    desk.snat_first = backend.snat_first;
    desk.snat_count = if snat { backend.snat_count } else { 0 };
    if snat {
        backend.snat_count != 0
    } else {
        of_listener.source == source_mode::CLIENT
    }
}

/// Whether the limits allow the connection on the desk. If not, the agent finds another backend for it, or
/// refuses it in MQTT terms.
#[inline(never)]
fn may_open(listener: u32) -> bool {
    let (Some(desk), Some(of_listener)) = (desk(), LISTENERS.get(listener)) else {
        return false;
    };
    desk.reason = Verdict::PuntedFull;
    let left = |cell: u32| CREDITS.get(cell).is_some_and(|credit| credit.left() != 0);
    if !left(ALL) || !left(of_listener.credit as u32) || !left(of_backend(desk.client.backend)) {
        return false;
    }
    let pace = &of_listener.client_pace;
    if pace.interval == 0 {
        return true;
    }
    // SAFETY: the helper only reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    binding().is_some_and(|b| pace.take(b.connects, now).is_some())
}

/// Counts the connection on the desk, which has been entered.
#[inline(never)]
pub fn count(listener: u32) {
    let (Some(desk), Some(of_listener)) = (desk(), LISTENERS.get(listener)) else {
        return;
    };
    for cell in [
        ALL,
        of_listener.credit as u32,
        of_backend(desk.client.backend),
    ] {
        if let Some(credit) = CREDITS.get_ptr_mut(cell) {
            // SAFETY: a map's value. What another CPU adds at the same time may get lost until the next
            // sweep.
            unsafe { (*credit).opened = (*credit).opened.wrapping_add(1) };
        }
    }
    let pace = &of_listener.client_pace;
    if pace.interval == 0 {
        return;
    }
    if let Some(binding) = BINDINGS.get_ptr_mut(&desk.glance.client) {
        // SAFETY: a map's value, of which no one relies on two fields to be of one moment; the helper only
        // reads a clock.
        unsafe {
            if let Some(next) = pace.take((*binding).connects, bpf_ktime_get_ns()) {
                (*binding).connects = next;
            }
        }
    }
}

/// The largest segment that we tell a backend of.
#[inline(always)]
pub fn mss(slot: u16) -> u16 {
    BACKENDS.get(slot as u32).map_or(0, |backend| backend.mss)
}

/// Whether the desk asks for a SNAT port.
#[inline(always)]
pub fn wants_port(desk: &Desk) -> bool {
    desk.snat_count != 0
}
