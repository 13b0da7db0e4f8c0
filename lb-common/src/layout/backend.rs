//! A backend as the XDP program sees it, and the next hop.

/// Where frames for a host go: the interface and what stands in the Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Hop {
    /// Interface to transmit on.
    pub ifindex: u32,
    /// Next hop's MAC.
    pub dst_mac: [u8; 6],
    /// Our MAC on that interface.
    pub src_mac: [u8; 6],
    /// VLAN id, when `tagged` is 1.
    pub vlan: u16,
    /// 1 when frames carry a VLAN tag.
    pub tagged: u16,
}
const _: () = assert!(size_of::<Hop>() == 20);

impl Hop {
    /// A digest of a hop, to notice that a client's packets come in another way.
    ///
    /// Not secret, only well mixed: a move that goes unnoticed has a chance of 2^-32.
    #[inline(always)]
    #[must_use]
    pub const fn signature(ifindex: u32, mac: &[u8; 6], vlan: u16) -> u32 {
        let low = u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]]);
        let high = ((mac[0] as u32) << 24) | ((mac[1] as u32) << 16) | vlan as u32;
        low.wrapping_mul(0x9e37_79b1)
            ^ high.wrapping_mul(0x85eb_ca77)
            ^ ifindex.wrapping_mul(0xc2b2_ae3d)
    }
}

/// One address of one backend. Written by the agent, read by the XDP program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Backend {
    /// Address, v4-mapped.
    pub address: [u8; 16],
    /// Port, network order.
    pub port: [u8; 2],
    /// 0: free slot, 1: up. (Other states: down, draining, disabled, in this order.)
    pub state: u8,
    /// Not 0: the agent counts its connections, and the program opens none by itself.
    pub by_agent: u8,
    /// Next hop towards it.
    pub hop: Hop,
    /// Moves with every change of `hop`; never 0 in a used slot.
    pub generation: u32,
    /// Number of its pool ([`Listener::pool`](super::Listener::pool)).
    pub pool: u16,
    /// Largest TCP segment that the path to it carries, without options.
    pub mss: u16,
    /// Source addresses towards it: the first one's place in the map `SNAT`.
    pub snat_first: u16,
    /// And how many; with 0 the program opens no connection to it by itself.
    pub snat_count: u16,
}
const _: () = assert!(size_of::<Backend>() == 52);

/// Entries of the map `SNAT`: addresses, v4-mapped; all zero where none is.
pub const SNAT_ADDRESSES: u32 = 1024;
