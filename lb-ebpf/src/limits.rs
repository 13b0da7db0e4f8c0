//! Who may begin a connection, and how much a source may send to the agent.
//!
//! Nothing is written for a SYN, nor for data with a wrong cookie: whoever is counted here has shown that
//! packets to its address arrive.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::maps::lpm_trie;
use lb_common::layout::{Listener, Source, SourceKey};
use lb_common::limits::credit::Credit;
use lb_common::limits::rate::Pace;

use crate::frame::{Aligned, Parsed};
use crate::maps::{BLOCKED, LISTENERS, SCRATCH, SOURCES};

/// Packets that one source may send to the agent: 16,384 a second, four seconds' worth at once.
const PUNTS: Pace = Pace::new(16_384, 65_536);
/// The same while the agent lags behind.
const PUNTS_BUSY: Pace = Pace::new(16_384, 1_024);

/// Whether a source may begin a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Admission {
    Yes = 0,
    /// Beyond its rate of CONNECTs.
    TooOften = 1,
    /// It has as many connections as it may.
    TooMany = 2,
    /// A map could not be read or written.
    Unknown = 3,
}

/// Whether the sender is on the block list.
#[inline(never)]
pub fn is_blocked(p: &Parsed) -> bool {
    let address = Aligned(lpm_trie::Key::new(128, p.key.src));
    BLOCKED.get(&address.0).is_some()
}

/// First data with a right cookie: whether its source may begin a connection, which is counted if so.
#[inline(never)]
pub fn admit(p: &Parsed, listener: u8) -> Admission {
    let Some(listener) = LISTENERS.get(listener as u32) else {
        return Admission::Unknown;
    };
    if listener.source_flows == 0 && listener.source_pace.interval == 0 {
        return Admission::Yes;
    }
    let Some(source) = source(p, listener) else {
        return Admission::Unknown;
    };
    // SAFETY: a map value stays valid for the run of the program; what other CPUs write to it at the
    // same time is admitted one too many, or forgotten, and the next sweep puts it right.
    let source = unsafe { &mut *source };
    if listener.source_flows != 0 && source.credit.left() == 0 {
        return Admission::TooMany;
    }
    // SAFETY: the helper only reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(next) = listener.source_pace.take(source.connects, now) else {
        return Admission::TooOften;
    };
    source.connects = next;
    source.credit.opened = source.credit.opened.wrapping_add(1);
    Admission::Yes
}

/// Whether the agent takes one more packet from this source now; `busy`: it lags behind.
#[inline(never)]
pub fn may_punt(p: &Parsed, listener: u8, busy: bool) -> bool {
    let Some(listener) = LISTENERS.get(listener as u32) else {
        return false;
    };
    let Some(source) = source(p, listener) else {
        return false;
    };
    // SAFETY: as in `admit`.
    let source = unsafe { &mut *source };
    // SAFETY: the helper only reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    // Both leave the same kind of state: they differ in the burst only.
    if busy && source.punts.saturating_sub(now) > PUNTS_BUSY.tolerance {
        return false;
    }
    match PUNTS.take(source.punts, now) {
        Some(next) => {
            source.punts = next;
            true
        }
        None => false,
    }
}

/// The source that a client belongs to, made if it is new.
#[inline(always)]
fn source(p: &Parsed, listener: &Listener) -> Option<*mut Source> {
    // Not on the stack, which has no room for it by the time a packet comes here.
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value, used by nobody else while the program runs.
    let (key, fresh) = unsafe { (&mut (*scratch).source_key, &mut (*scratch).source) };
    *key = SourceKey::new(listener, &p.key.src, p.v4);
    if let Some(known) = SOURCES.get_ptr_mut(&*key) {
        return Some(known);
    }
    // The sweeper corrects this if the source has connections already.
    *fresh = Source::default();
    fresh.credit.open_until = Credit::until(0, listener.source_flows, 0);
    const NOEXIST: u64 = 1;
    // Another CPU may have been faster.
    let _ = SOURCES.insert(&*key, &*fresh, NOEXIST);
    SOURCES.get_ptr_mut(&*key)
}
