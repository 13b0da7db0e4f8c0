//! Changes to [`Flow::flags`]. Both sides often close at the same time, on two CPUs, and each marks both entries:
//! the changes are atomic, or one of them would be lost.

use core::mem::offset_of;

use lb_common::layout::Flow;

use crate::atomic;

/// The eight bytes of an entry that hold the flags begin here.
const WORD: usize = offset_of!(Flow, flags) / 8 * 8;

/// `flags` where they are in the word, in bytes of `other`.
const fn mask(flags: u8, other: u8) -> u64 {
    let mut bytes = [other; 8];
    bytes[offset_of!(Flow, flags) - WORD] = flags;
    u64::from_ne_bytes(bytes)
}

#[inline(always)]
fn word(flow: &mut Flow) -> *mut u64 {
    // SAFETY: within the entry.
    unsafe { (&raw mut *flow).byte_add(WORD).cast() }
}

/// Sets flags in a flow map's entry.
#[inline(always)]
pub fn set(flow: &mut Flow, flags: u8) {
    // SAFETY: the word is in a map's value, whose size is a multiple of eight bytes, as is its alignment.
    unsafe { atomic::set(word(flow), mask(flags, 0)) }
}

/// Clears flags in a flow map's entry.
#[inline(always)]
pub fn clear(flow: &mut Flow, flags: u8) {
    // SAFETY: as in `set`.
    unsafe { atomic::keep(word(flow), mask(!flags, !0)) }
}
