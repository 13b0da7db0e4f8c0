//! A tuple towards the backend, and both entries.
//!
//! There is no list of free ports, as in the agent: a port is ours when the entry for the backend's
//! answers could be created. The backend's entry comes first. Of two copies of a CONNECT on two CPUs the
//! one wins that makes the client's entry; the other takes its own backend's entry back.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_loop};
use aya_ebpf::programs::XdpContext;
use lb_common::layout::Verdict;

use super::bound::wants_port;
use super::desk::{Desk, desk};
use super::maps::SNAT;
use super::pending;
use crate::frame::Parsed;
use crate::maps::{FLOWS, SETTINGS};

/// Ports tried, each at random. With 90 % of them taken, 32 fail once in 29 times.
const TRIES: u32 = 32;
const NOEXIST: u64 = 1;
const EEXIST: i32 = -17;

/// Enters the connection that lies on the desk; `false` with the reason why the agent must do it.
#[inline(never)]
pub fn dial(ctx: &XdpContext, p: &Parsed) -> bool {
    let Some(desk) = desk() else {
        return false;
    };
    desk.reason = Verdict::PuntedNoPort;
    desk.seen.ticket = pending::keep(ctx, p, desk);
    desk.found = 0;
    if wants_port(desk) {
        // SAFETY: the callback has the signature that bpf_loop demands and needs no context.
        unsafe { bpf_loop(TRIES, try_port as *mut c_void, core::ptr::null_mut(), 0) };
    } else {
        desk.backend.lead(&desk.key, &desk.back);
        desk.found = FLOWS.insert(&desk.key, &desk.backend, NOEXIST).is_ok() as u16;
    }
    desk.found != 0 && enter(p, desk)
}

/// Creates the client's entry.
#[inline(always)]
fn enter(p: &Parsed, desk: &mut Desk) -> bool {
    desk.client.lead(&p.key, &desk.key.reversed());
    desk.seen.store(&mut desk.client);
    if FLOWS.insert(&p.key, &desk.client, NOEXIST).is_err() {
        let _ = FLOWS.remove(&desk.key);
        return false;
    }
    true
}

/// One try for `bpf_loop`: 0 goes on, 1 ends.
unsafe extern "C" fn try_port(_index: u32, _ctx: *mut c_void) -> i64 {
    let (Some(desk), Some(settings)) = (desk(), SETTINGS.get(0)) else {
        return 1;
    };
    // SAFETY: the helper only gives a number.
    let random = unsafe { bpf_get_prandom_u32() };
    // Both are scaled from 16 bits, without a division.
    let ports = (settings.snat_last - settings.snat_first) as u32 + 1;
    let port = settings.snat_first as u32 + (((random & 0xffff) * ports) >> 16);
    let nth = ((random >> 16) * desk.snat_count as u32) >> 16;
    let Some(address) = SNAT.get(desk.snat_first as u32 + nth) else {
        return 1;
    };
    desk.key.dst = *address;
    desk.key.dst_port = (port as u16).to_be_bytes();
    desk.backend.lead(&desk.key, &desk.back);
    match FLOWS.insert(&desk.key, &desk.backend, NOEXIST) {
        Ok(()) => {
            desk.found = 1;
            1
        }
        Err(EEXIST) => 0,
        // The map is full: the agent would find no more.
        Err(_) => 1,
    }
}
