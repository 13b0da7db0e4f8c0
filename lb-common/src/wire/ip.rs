//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers.

use crate::checksum::Sum;

/// Length of an IPv4 header without options; we take no others.
pub const IPV4_LEN: usize = 20;
/// Length of the fixed IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Protocol number of ICMP.
pub const PROTO_ICMP: u8 = 1;
/// Protocol number of TCP.
pub const PROTO_TCP: u8 = 6;
/// Protocol number of ICMPv6.
pub const PROTO_ICMPV6: u8 = 58;

/// TTL and hop limit of packets that we make.
const TTL: u8 = 64;

/// IPv4 header without options.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Ipv4 {
    /// Version and header length in 32-bit words.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of the packet.
    pub total_len: [u8; 2],
    /// Identification.
    pub id: [u8; 2],
    /// Flags and fragment offset.
    pub fragment: [u8; 2],
    /// Time to live.
    pub ttl: u8,
    /// Protocol.
    pub protocol: u8,
    /// Header checksum.
    pub check: [u8; 2],
    /// Source.
    pub src: [u8; 4],
    /// Destination.
    pub dst: [u8; 4],
}
const _: () = assert!(size_of::<Ipv4>() == IPV4_LEN && align_of::<Ipv4>() == 1);

impl Ipv4 {
    /// Whether more fragments follow or this isn't the first (reserved and DF bits don't matter).
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        u16::from_be_bytes(self.fragment) & 0x3fff != 0
    }

    /// A fresh header from `src` to `dst` around `total_len` bytes: no options, DF, TTL 64.
    #[inline(always)]
    #[must_use]
    pub fn new(src: [u8; 4], dst: [u8; 4], total_len: u16) -> Self {
        let mut ip = Self {
            version_ihl: 0x45,
            tos: 0,
            total_len: total_len.to_be_bytes(),
            id: [0; 2],
            fragment: [0x40, 0],
            ttl: TTL,
            protocol: PROTO_TCP,
            check: [0; 2],
            src,
            dst,
        };
        let mut s = Sum::ZERO;
        s.add2([ip.version_ihl, ip.tos]);
        s.add2(ip.total_len);
        s.add2(ip.fragment);
        s.add2([ip.ttl, ip.protocol]);
        s.add4(src);
        s.add4(dst);
        ip.check = s.field();
        ip
    }

    /// Says that the packet is longer by `more` bytes.
    #[inline(always)]
    pub fn lengthen(&mut self, more: u16) {
        let total = u16::from_be_bytes(self.total_len).wrapping_add(more);
        let mut sum = Sum::of_field(self.check);
        sum.replace(&self.total_len, &total.to_be_bytes());
        self.total_len = total.to_be_bytes();
        self.check = sum.field();
    }
}

/// Fixed IPv6 header.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version_class_label: [u8; 4],
    /// Length of what follows this header.
    pub payload_len: [u8; 2],
    /// What follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub src: [u8; 16],
    /// Destination.
    pub dst: [u8; 16],
}
const _: () = assert!(size_of::<Ipv6>() == IPV6_LEN && align_of::<Ipv6>() == 1);

impl Ipv6 {
    /// A fresh header from `src` to `dst` around `payload_len` bytes: hop limit 64.
    #[inline(always)]
    #[must_use]
    pub const fn new(src: [u8; 16], dst: [u8; 16], payload_len: u16) -> Self {
        Self {
            version_class_label: [0x60, 0, 0, 0],
            payload_len: payload_len.to_be_bytes(),
            next_header: PROTO_TCP,
            hop_limit: TTL,
            src,
            dst,
        }
    }
}

impl Ipv6 {
    /// Says that the packet is longer by `more` bytes.
    #[inline(always)]
    pub const fn lengthen(&mut self, more: u16) {
        let len = u16::from_be_bytes(self.payload_len).wrapping_add(more);
        self.payload_len = len.to_be_bytes();
    }
}

/// Whether a next-header value is an extension header (RFC 8200, section 4, and IANA's registry) that
/// TCP may stand behind in clear: not ESP and AH, which are the host's IPsec.
#[inline(always)]
#[must_use]
pub const fn is_v6_extension(next_header: u8) -> bool {
    // Hop-by-hop, routing, fragment, destination options, mobility, HIP, shim6, and two for experiments.
    matches!(next_header, 0 | 43 | 44 | 60 | 135 | 139 | 140 | 253 | 254)
}
