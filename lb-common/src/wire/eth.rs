//! The Ethernet header and its VLAN tags (IEEE 802.3, 802.1Q).

/// Length of the header without tags.
pub const ETH_LEN: usize = 14;
/// Length of one VLAN tag.
pub const VLAN_LEN: usize = 4;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Header without tags; with a tag, `kind` is the tag's TPID.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Eth {
    /// Destination MAC.
    pub dst: [u8; 6],
    /// Source MAC.
    pub src: [u8; 6],
    /// EtherType, network order.
    pub kind: [u8; 2],
}
const _: () = assert!(size_of::<Eth>() == ETH_LEN && align_of::<Eth>() == 1);

/// Whether an EtherType announces a VLAN tag: 802.1Q or 802.1ad.
#[inline(always)]
#[must_use]
pub const fn is_vlan(kind: u16) -> bool {
    kind == 0x8100 || kind == 0x88a8
}

/// The EtherType behind up to two VLAN tags, and what follows the link header; `None` if the frame
/// ends before.
#[must_use]
pub fn payload(frame: &[u8]) -> Option<(u16, &[u8])> {
    let kind = |at| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
    let mut at = ETH_LEN;
    while is_vlan(kind(at - 2)?) && at < ETH_LEN + 2 * VLAN_LEN {
        at += VLAN_LEN;
    }
    Some((kind(at - 2)?, frame.get(at..)?))
}
