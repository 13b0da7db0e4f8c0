//! What is known of a source: clients of one pool whose addresses begin alike.

use super::Listener;
use crate::limits::credit::Credit;
use crate::limits::source::masked;

/// Key of the sources map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(4))]
pub struct SourceKey {
    /// The leading bits of the address (v4-mapped), the others zero.
    pub prefix: [u8; 16],
    /// The pool's number.
    pub pool: u16,
    /// Named padding.
    pub _pad: u16,
}
const _: () = assert!(size_of::<SourceKey>() == 20);

impl SourceKey {
    /// The source that a client of a listener belongs to.
    #[inline(always)]
    #[must_use]
    pub const fn new(listener: &Listener, client: &[u8; 16], v4: bool) -> Self {
        Self {
            prefix: masked(client, listener.source_bits(v4)),
            pool: listener.pool,
            _pad: 0,
        }
    }
}

/// Value of the sources map. Created by the XDP program at a source's first data with a right cookie;
/// the sweeper writes `credit.open_until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Source {
    /// State of the rate of CONNECTs.
    pub connects: u64,
    /// State of the rate of packets handed to the agent.
    pub punts: u64,
    /// Connections at a time.
    pub credit: Credit,
}
const _: () = assert!(size_of::<Source>() == 24);
