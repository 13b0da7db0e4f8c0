//! Maps of set-up in the kernel.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use lb_common::layout::{PENDING_SLOTS, Pending, SNAT_ADDRESSES, TURN_POOLS, Turns};

use super::desk::Desk;

/// Source addresses towards the backends; which of them are a backend's, it says itself.
#[map]
pub static SNAT: Array<[u8; 16]> = Array::pinned(SNAT_ADDRESSES, 0);

/// Whose turn it is, by pool. The agent takes turns as well, so it has the map in its memory.
#[map]
pub static TURNS: Array<Turns> = Array::pinned(TURN_POOLS, BPF_F_MMAPABLE);

/// CONNECTs that wait for a SYN-ACK: a ring.
#[map]
pub static PENDING: Array<Pending> = Array::pinned(PENDING_SLOTS, 0);

/// The last ticket that was given out.
#[map]
pub static TICKETS: Array<u64> = Array::pinned(1, 0);

/// Working memory of one packet.
#[map]
pub static DESK: PerCpuArray<Desk> = PerCpuArray::with_max_entries(1, 0);
