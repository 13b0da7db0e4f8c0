//! Records of the ring buffer: packets that the XDP program hands to the agent.

/// Why a packet was punted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PuntKind {
    /// From a client whose connection has no backend yet.
    Client = 1,
    /// From a backend that we sent a SYN to.
    Backend = 2,
    /// An ICMP error about one of our connections.
    Icmp = 3,
    /// A backend's SYN-ACK that the program has answered, but without the CONNECT, for which the frame
    /// had no room: the agent sends it. `isn` is the ticket of the [`Pending`](super::Pending).
    Deliver = 4,
}

/// Frame bytes of a small record.
pub const PUNT_SMALL: usize = 256;
/// Frame bytes of a large record. A longer frame is cut; the client retransmits the rest.
pub const PUNT_LARGE: usize = 2048;

/// Head of a record; `captured` bytes of the frame, from the Ethernet header on, follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Punt {
    /// When, monotonic ns.
    pub time: u64,
    /// Interface that it came in on.
    pub ifindex: u32,
    /// Bytes of the frame in this record.
    pub captured: u16,
    /// Bytes of the frame on the wire.
    pub length: u16,
    /// [`PuntKind::Client`]: the client's ISN. [`PuntKind::Deliver`]: a ticket.
    pub isn: u32,
    /// A [`PuntKind`].
    pub kind: u8,
    /// Listener's index.
    pub listener: u8,
    /// Named padding.
    pub _pad: [u8; 2],
}
const _: () = assert!(size_of::<Punt>() == 24);

impl Punt {
    /// Length of the head in a record.
    pub const LEN: usize = size_of::<Self>();

    /// Splits a record into head and frame; `None` if it is too short for what it says.
    #[must_use]
    pub fn read(record: &[u8]) -> Option<(Self, &[u8])> {
        let (h, rest) = record.split_first_chunk::<{ Self::LEN }>()?;
        let head = Self {
            time: u64::from_ne_bytes([h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]]),
            ifindex: u32::from_ne_bytes([h[8], h[9], h[10], h[11]]),
            captured: u16::from_ne_bytes([h[12], h[13]]),
            length: u16::from_ne_bytes([h[14], h[15]]),
            isn: u32::from_ne_bytes([h[16], h[17], h[18], h[19]]),
            kind: h[20],
            listener: h[21],
            _pad: [0; 2],
        };
        Some((head, rest.get(..usize::from(head.captured))?))
    }
}
