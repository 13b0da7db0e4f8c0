//! Endpoints that the balancer knows: VIPs, backends and its own source addresses.

/// Address and port; port 0 stands for the address as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct EndpointKey {
    /// Address, v4-mapped.
    pub address: [u8; 16],
    /// Port, network order.
    pub port: [u8; 2],
    /// Named padding.
    pub _pad: [u8; 2],
}
const _: () = assert!(size_of::<EndpointKey>() == 20);

/// What an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EndpointKind {
    /// Clients connect here.
    Vip = 1,
    /// An EMQX node's listener.
    Backend = 2,
    /// An address (port 0) that belongs to the balancer: VIPs and SNAT addresses.
    Address = 3,
}

/// Settings of an endpoint; everything but `kind` and `listener` is of VIPs only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Endpoint {
    /// An [`EndpointKind`].
    pub kind: u8,
    /// Listener's index.
    pub listener: u8,
    /// Window scale that SYN-ACKs promise (RFC 7323): the largest of the pool's backends.
    pub window_scale: u8,
    /// Bit 0: answer timestamps; bit 1: permit SACK; bit 2: answer window scaling.
    pub answers: u8,
    /// MSS that SYN-ACKs announce: the path to the backends.
    pub mss: u16,
    /// Window that SYN-ACKs announce, never scaled.
    pub window: u16,
}
const _: () = assert!(size_of::<Endpoint>() == 8);

impl Endpoint {
    /// Bit of `answers`: timestamps.
    pub const TIMESTAMPS: u8 = 1;
    /// Bit of `answers`: selective acknowledgements.
    pub const SACK: u8 = 2;
    /// Bit of `answers`: window scaling.
    pub const WINDOW_SCALE: u8 = 4;
}
