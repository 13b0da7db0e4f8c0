//! What the XDP program must know of a listener to open connections for it.

/// Values of [`Listener::source`].
pub mod source {
    /// One of the balancer's addresses.
    pub const SNAT: u8 = 1;
    /// The client's own.
    pub const CLIENT: u8 = 2;
}

/// Value of the listeners map, an array by the VIP's index ([`Endpoint::listener`](super::Endpoint)).
/// Written by the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Listener {
    /// Not 0: the program sets up connections of known clients by itself.
    pub steer: u8,
    /// Source address towards the backends, see [`source`].
    pub source: u8,
    /// Window scale that SYN-ACKs promise.
    pub window_scale: u8,
    /// What SYN-ACKs answer, as in [`Endpoint::answers`](super::Endpoint).
    pub answers: u8,
    /// Number of its pool.
    pub pool: u16,
    /// MSS that SYN-ACKs announce.
    pub mss: u16,
}
const _: () = assert!(size_of::<Listener>() == 8);
