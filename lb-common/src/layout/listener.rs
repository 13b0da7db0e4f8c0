//! A listener's settings that the XDP program needs beyond the SYN-ACK: to open connections, and their limits.

use crate::limits::client::ClientPace;
use crate::limits::rate::Pace;

/// Values of [`Listener::steer`].
pub mod steer {
    /// The agent sets all connections up.
    pub const AGENT: u8 = 0;
    /// The program sets up those of known clients.
    pub const KERNEL: u8 = 1;
    /// The same, with a PROXY header, version 2.
    pub const KERNEL_PROXY: u8 = 2;
}

/// Values of [`Listener::source`].
pub mod source_mode {
    /// One of the balancer's addresses.
    pub const SNAT: u8 = 1;
    /// The client's own.
    pub const CLIENT: u8 = 2;
}

/// Value of the listeners map; the index is [`super::Endpoint::listener`]. Written by the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Listener {
    /// Who sets up connections of known clients, see [`steer`].
    pub steer: u8,
    /// Source address towards the backends, see [`source_mode`].
    pub source: u8,
    /// Window scale that SYN-ACKs promise.
    pub window_scale: u8,
    /// What SYN-ACKs answer, as in [`Endpoint::answers`](super::Endpoint).
    pub answers: u8,
    /// The pool's number: sources are counted for each pool.
    pub pool: u16,
    /// Cell of the credits map that limits its connections; several addresses of one listener of the
    /// configuration share one.
    pub credit: u16,
    /// Most connections at a time from one source; 0: no limit.
    pub source_flows: u32,
    /// Leading bits that make a source, of IPv4's v4-mapped addresses: 96 to 128.
    pub v4_bits: u8,
    /// Leading bits that make a source, of IPv6 addresses: up to 128.
    pub v6_bits: u8,
    /// MSS that SYN-ACKs announce.
    pub mss: u16,
    /// CONNECTs from one source.
    pub source_pace: Pace,
    /// CONNECTs with one client identifier.
    pub client_pace: ClientPace,
    /// Room for more, zero.
    pub _room: [u64; 3],
}
const _: () = assert!(size_of::<Listener>() == 64);

impl Listener {
    /// Length of the prefix that makes a source of a client's address.
    #[inline(always)]
    #[must_use]
    pub const fn source_bits(&self, v4: bool) -> u8 {
        if v4 { self.v4_bits } else { self.v6_bits }
    }
}
