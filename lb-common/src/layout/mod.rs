//! Keys and values of the BPF maps and records of the ring buffer.
//!
//! `#[repr(C)]`, fixed-width fields, named padding. Integers are in host order unless a field says
//! otherwise. Any change here moves [`VERSION`], which names the pin directory.

mod backend;
mod binding;
mod connecting;
mod flow;
mod listener;
mod pending;
mod punt;
mod settings;
mod source;
mod turns;
mod verdict;
mod vip;

pub use backend::{Backend, Hop, SNAT_ADDRESSES};
pub use binding::Binding;
pub use connecting::Connecting;
pub use flow::{Flow, FlowKey, State, flags, ticks};
pub use listener::{Listener, source_mode, steer};
pub use pending::{PENDING_DATA, PENDING_SLOTS, Pending};
pub use punt::{PUNT_LARGE, PUNT_SMALL, Punt, PuntKind};
pub use settings::{Bucket, IdleLimits, Settings};
pub use source::{Source, SourceKey};
pub use turns::{TURN_POOLS, TURNS, Turns};
pub use verdict::{Counter, Verdict};
pub use vip::{Endpoint, EndpointKey, EndpointKind};

/// Version of all layouts in this module; part of the pin directory's name.
pub const VERSION: u32 = 3;

/// IPv4-mapped prefix: both families share one 16-byte layout (RFC 4291, section 2.5.5.2).
pub const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// `a.b.c.d` as `::ffff:a.b.c.d`.
#[inline(always)]
#[must_use]
pub const fn v4_mapped(v4: [u8; 4]) -> [u8; 16] {
    let p = V4_MAPPED;
    [
        p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11], v4[0], v4[1],
        v4[2], v4[3],
    ]
}

/// An address copied word by word: as an array it would be copied by bytes, for BPF's memcpy of
/// unaligned memory is a loop over bytes.
#[inline(always)]
#[must_use]
pub const fn by_words(a: &[u8; 16]) -> [u8; 16] {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        let word = u32::from_ne_bytes([a[i], a[i + 1], a[i + 2], a[i + 3]]).to_ne_bytes();
        out[i] = word[0];
        out[i + 1] = word[1];
        out[i + 2] = word[2];
        out[i + 3] = word[3];
        i += 4;
    }
    out
}

/// Declares that a layout may be copied to and from a map byte by byte.
#[cfg(feature = "user")]
macro_rules! pod {
    ($($t:ty),+ $(,)?) => {$(
        // SAFETY: `repr(C)`, made of integers and byte arrays only, with every byte of padding a
        // named field (the size assertions beside the types prove it), so any bit pattern is valid.
        unsafe impl aya::Pod for $t {}
    )+};
}
#[cfg(feature = "user")]
pod!(
    Backend,
    Binding,
    Flow,
    FlowKey,
    Pending,
    Settings,
    Bucket,
    Counter,
    Endpoint,
    EndpointKey,
    Listener,
    Source,
    SourceKey,
    Turns,
    crate::limits::credit::Credit
);
