//! A binding: hash of a client identifier → backend.

/// Value of the bindings map; the key is the 64-bit keyed hash of the client identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Binding {
    /// Index into the backends map (of the backend's first address).
    pub backend: u16,
    /// Named padding.
    pub _pad: [u8; 2],
    /// When the client was last seen, in ticks.
    pub last_seen: u32,
    /// State of the rate of its CONNECTs ([`crate::limits::client`]).
    pub connects: u32,
    /// Named padding.
    pub _room: u32,
}
const _: () = assert!(size_of::<Binding>() == 16);
