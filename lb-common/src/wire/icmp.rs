//! ICMP errors about a packet that a link behind us can't carry: IPv4 "fragmentation needed"
//! (RFC 1191) and IPv6 "packet too big" (RFC 8201). Read, and written anew for the sender that the
//! packet came from before the splice.

use super::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, PROTO_ICMP, PROTO_ICMPV6,
    PROTO_TCP, TCP_LEN, VLAN_LEN, eth, flag,
};
use crate::checksum::{self, Sum};
use crate::layout::{Flow, FlowKey, Hop, v4_mapped};

/// Length of the ICMP header, in both families.
const ICMP_LEN: usize = 8;
/// What every error quotes of the TCP header: ports and sequence number (RFC 792).
const LEAST_TCP: usize = 8;
/// The longest quotation that is passed on.
const QUOTE_MAX: usize = IPV6_LEN + TCP_LEN;
/// Smaller MTUs are not believed: Linux's `net.ipv4.route.min_pmtu`, against errors that are forged to
/// make a sender slow. (RFC 791 allows 68, but no link of today is below 576.)
const LEAST_MTU_V4: u32 = 552;
/// RFC 8201, section 4: a smaller one must not be believed.
const LEAST_MTU_V6: u32 = 1280;

/// An error whose checksum is right and whose MTU is credible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig<'a> {
    /// 4-tuple of the quoted packet, as it left us.
    pub key: FlowKey,
    /// Its sequence number, as it left us.
    pub seq: u32,
    /// What the link carries, in bytes from the IP header on.
    pub mtu: u32,
    /// The quoted IP header and 8 (with IPv6 perhaps 20) bytes of the TCP header.
    quote: &'a [u8],
}

fn array<const N: usize>(b: &[u8], at: usize) -> Option<[u8; N]> {
    b.get(at..)?.first_chunk().copied()
}

fn put(b: &mut [u8], at: usize, bytes: &[u8]) -> Option<()> {
    b.get_mut(at..)?
        .get_mut(..bytes.len())?
        .copy_from_slice(bytes);
    Some(())
}

/// Sum over the pseudo-header of ICMPv6 (RFC 8200, section 8.1).
fn pseudo_header(src: &[u8; 16], dst: &[u8; 16], len: u16) -> Sum {
    let mut sum = Sum::ZERO;
    sum.add(src);
    sum.add(dst);
    sum.add2(len.to_be_bytes());
    sum.add2([0, PROTO_ICMPV6]);
    sum
}

impl<'a> TooBig<'a> {
    /// Reads a frame from the Ethernet header on; `None` for anything else than such an error about a
    /// TCP segment, without IP options or extension headers, complete and undamaged.
    #[must_use]
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let (kind, packet) = eth::payload(frame)?;
        match kind {
            ETHERTYPE_IPV4 => Self::parse_v4(packet),
            ETHERTYPE_IPV6 => Self::parse_v6(packet),
            _ => None,
        }
    }

    fn parse_v4(packet: &'a [u8]) -> Option<Self> {
        let ip: [u8; IPV4_LEN] = array(packet, 0)?;
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        let message = packet.get(IPV4_LEN..total)?;
        if ip[0] != 0x45
            || ip[9] != PROTO_ICMP
            || Sum(checksum::sum(message)).fold() != 0xffff
            || array(message, 0)? != [3, 4]
        {
            return None;
        }
        let mtu = u32::from(u16::from_be_bytes(array(message, 6)?));
        let quote = message.get(ICMP_LEN..)?.get(..IPV4_LEN + LEAST_TCP)?;
        let ip: [u8; IPV4_LEN] = array(quote, 0)?;
        // Only a first fragment begins with the ports.
        let offset = u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff;
        if ip[0] != 0x45 || ip[9] != PROTO_TCP || offset != 0 || mtu < LEAST_MTU_V4 {
            return None;
        }
        let address = |at| Some(v4_mapped(array(quote, at)?));
        Self::new(address(12)?, address(16)?, IPV4_LEN, mtu, quote)
    }

    fn parse_v6(packet: &'a [u8]) -> Option<Self> {
        let ip: [u8; IPV6_LEN] = array(packet, 0)?;
        let len = u16::from_be_bytes([ip[4], ip[5]]);
        let message = packet.get(IPV6_LEN..)?.get(..usize::from(len))?;
        let mut sum = pseudo_header(&array(&ip, 8)?, &array(&ip, 24)?, len);
        sum.0 += checksum::sum(message);
        // The code is ignored by the receiver (RFC 4443, section 3.2).
        if ip[0] >> 4 != 6
            || ip[6] != PROTO_ICMPV6
            || sum.fold() != 0xffff
            || message.first() != Some(&2)
        {
            return None;
        }
        let mtu = u32::from_be_bytes(array(message, 4)?);
        let quote = message.get(ICMP_LEN..)?;
        let quote = quote
            .get(..QUOTE_MAX)
            .or_else(|| quote.get(..IPV6_LEN + LEAST_TCP))?;
        if quote.first()? >> 4 != 6 || *quote.get(6)? != PROTO_TCP || mtu < LEAST_MTU_V6 {
            return None;
        }
        Self::new(array(quote, 8)?, array(quote, 24)?, IPV6_LEN, mtu, quote)
    }

    fn new(src: [u8; 16], dst: [u8; 16], l4: usize, mtu: u32, quote: &'a [u8]) -> Option<Self> {
        Some(Self {
            key: FlowKey {
                src,
                dst,
                src_port: array(quote, l4)?,
                dst_port: array(quote, l4 + 2)?,
            },
            seq: u32::from_be_bytes(array(quote, l4 + 4)?),
            mtu,
            quote,
        })
    }

    /// Writes the frame that tells the quoted packet's sender, and gives its length. `sent` is the
    /// packet's tuple as it came in, `flow` the entry of that tuple, whose recipe is undone. The error
    /// comes from the address that the sender sent to.
    ///
    /// Window and TCP checksum stay as they left us: they can't be restored, and nobody reads them.
    ///
    /// `None` if `out` is too short (126 bytes do) or `sent` is of the other address family.
    #[must_use]
    pub fn emit(&self, sent: &FlowKey, flow: &Flow, hop: &Hop, out: &mut [u8]) -> Option<usize> {
        // By the quote: IPv6 headers may hold v4-mapped addresses.
        let v4 = *self.quote.first()? == 0x45;
        if sent.is_v4() != v4 {
            return None;
        }
        let mut message = [0; ICMP_LEN + QUOTE_MAX];
        let message = message.get_mut(..ICMP_LEN + self.quote.len())?;
        // The client's first segment was longer by the header, which the client knows nothing of.
        let header = flow.header(v4);
        let headed = header != 0 && self.seq.wrapping_sub(flow.next_seq) >= 1 << 31;
        let mtu = if headed {
            self.mtu.saturating_sub(header)
        } else {
            self.mtu
        };
        put(message, 4, &mtu.to_be_bytes())?;
        put(message, 0, if v4 { &[3, 4] } else { &[2, 0] })?;
        put(message, ICMP_LEN, self.quote)?;
        undo(message.get_mut(ICMP_LEN..)?, sent, flow, v4)?;
        if headed {
            let ip = if v4 { IPV4_LEN } else { IPV6_LEN };
            put(message, ICMP_LEN + ip + 4, &flow.next_seq.to_be_bytes())?;
        }

        let kind = if v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        let mut at = 0;
        let mut write = |bytes: &[u8]| {
            put(out, at, bytes)?;
            at += bytes.len();
            Some(())
        };
        write(&hop.dst_mac)?;
        write(&hop.src_mac)?;
        if hop.tagged != 0 {
            let tag = hop.vlan.to_be_bytes();
            let tagged: [u8; VLAN_LEN] = [0x81, 0x00, tag[0], tag[1]];
            write(&tagged)?;
        }
        write(&kind.to_be_bytes())?;
        let len = u16::try_from(message.len()).ok()?;
        if v4 {
            let total = u16::try_from(IPV4_LEN).ok()? + len;
            let mut ip = Ipv4::new(array(&sent.dst, 12)?, array(&sent.src, 12)?, total);
            let mut sum = Sum::of_field(ip.check);
            sum.replace(&[ip.ttl, ip.protocol], &[ip.ttl, PROTO_ICMP]);
            ip.protocol = PROTO_ICMP;
            ip.check = sum.field();
            write(&[ip.version_ihl, ip.tos])?;
            write(&ip.total_len)?;
            write(&ip.id)?;
            write(&ip.fragment)?;
            write(&[ip.ttl, ip.protocol])?;
            write(&ip.check)?;
            write(&ip.src)?;
            write(&ip.dst)?;
            put(message, 2, &Sum(checksum::sum(message)).field())?;
        } else {
            let ip = Ipv6::new(sent.dst, sent.src, len);
            write(&ip.version_class_label)?;
            write(&ip.payload_len)?;
            write(&[PROTO_ICMPV6, ip.hop_limit])?;
            write(&ip.src)?;
            write(&ip.dst)?;
            let mut sum = pseudo_header(&ip.src, &ip.dst, len);
            sum.0 += checksum::sum(message);
            put(message, 2, &sum.field())?;
        }
        write(message)?;
        Some(at)
    }
}

/// Makes of a quoted packet that left us the packet as it came in.
fn undo(quote: &mut [u8], sent: &FlowKey, flow: &Flow, v4: bool) -> Option<()> {
    let l4 = if v4 {
        let (src, dst): ([u8; 4], [u8; 4]) = (array(&sent.src, 12)?, array(&sent.dst, 12)?);
        let mut sum = Sum::of_field(array(quote, 10)?);
        sum.replace(&array(quote, 12)?, &src);
        sum.replace(&array(quote, 16)?, &dst);
        put(quote, 10, &sum.field())?;
        put(quote, 12, &src)?;
        put(quote, 16, &dst)?;
        IPV4_LEN
    } else {
        put(quote, 8, &sent.src)?;
        put(quote, 24, &sent.dst)?;
        IPV6_LEN
    };
    put(quote, l4, &sent.src_port)?;
    put(quote, l4 + 2, &sent.dst_port)?;
    let seq = u32::from_be_bytes(array(quote, l4 + 4)?).wrapping_sub(flow.seq_add);
    put(quote, l4 + 4, &seq.to_be_bytes())?;
    if quote
        .get(l4 + 13)
        .is_some_and(|flags| flags & flag::ACK != 0)
    {
        let ack = u32::from_be_bytes(array(quote, l4 + 8)?).wrapping_sub(flow.ack_add);
        put(quote, l4 + 8, &ack.to_be_bytes())?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ETH_LEN, Emit, SynOptions, emit};
    use proptest::prelude::*;

    /// The quoted packet, as it left us.
    fn left(v6: bool) -> FlowKey {
        if v6 {
            FlowKey {
                src: [0xfd; 16],
                dst: [0xfe; 16],
                src_port: [7, 8],
                dst_port: [9, 10],
            }
        } else {
            FlowKey::v4([10, 0, 1, 1], 10_000, [10, 77, 1, 2], 1883)
        }
    }

    /// The same, as it came in.
    fn came(v6: bool) -> FlowKey {
        if v6 {
            FlowKey {
                src: [0x20; 16],
                dst: [0x30; 16],
                src_port: [1, 2],
                dst_port: [3, 4],
            }
        } else {
            FlowKey::v4([192, 0, 2, 9], 40_000, [10, 77, 0, 2], 1883)
        }
    }

    /// A router's error that quotes `tcp` bytes of the TCP packet, as plainly as possible.
    fn error(v6: bool, kind: u8, code: u8, mtu: u32, tcp: usize) -> Vec<u8> {
        let segment = Emit {
            key: left(v6),
            seq: 1000,
            ack: 2000,
            flags: flag::ACK,
            window: 500,
            syn: SynOptions::default(),
            timestamps: None,
            payload: &[1; 1440],
        };
        let mut packet = vec![0; 1600];
        let n = emit(&segment, &Hop::default(), &mut packet).unwrap();
        let ip_len = if v6 { IPV6_LEN } else { IPV4_LEN };
        let quote = &packet[ETH_LEN..n][..ip_len + tcp];
        let mut message = vec![kind, code, 0, 0];
        message.extend(mtu.to_be_bytes());
        message.extend(quote);
        let mut frame = vec![0; 12];
        let len = u16::try_from(message.len()).unwrap().to_be_bytes();
        let mut sum = checksum::sum(&message);
        if v6 {
            let addresses = [[0xaa; 16], [0xfd; 16]].concat();
            sum +=
                checksum::sum(&addresses) + checksum::sum(&len) + checksum::sum(&[0, PROTO_ICMPV6]);
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(len);
            frame.extend([PROTO_ICMPV6, 63]);
            frame.extend(addresses);
        } else {
            frame.extend([0x08, 0x00]);
            let total = u16::try_from(IPV4_LEN + message.len()).unwrap();
            let ip = Ipv4::new([10, 77, 1, 9], [10, 0, 1, 1], total);
            frame.extend([0x45, 0xc0, ip.total_len[0], ip.total_len[1], 0, 0, 0, 0]);
            frame.extend([63, PROTO_ICMP, 0, 0]);
            frame.extend([ip.src, ip.dst].concat());
        }
        let check = Sum(sum).field();
        message[2..4].copy_from_slice(&check);
        frame.extend(message);
        frame
    }

    fn too_big(v6: bool) -> Vec<u8> {
        if v6 {
            error(true, 2, 0, 1400, 1000)
        } else {
            error(false, 3, 4, 1400, 8)
        }
    }

    fn recipe(v6: bool) -> Flow {
        Flow {
            seq_add: 300,
            ack_add: 500,
            ..Flow::ZERO
        }
        .towards(&came(v6), &left(v6))
    }

    const HOP: Hop = Hop {
        ifindex: 3,
        dst_mac: [2; 6],
        src_mac: [4; 6],
        vlan: 0,
        tagged: 0,
    };

    #[test]
    fn what_is_read() {
        for v6 in [false, true] {
            let frame = too_big(v6);
            let e = TooBig::parse(&frame).unwrap();
            assert_eq!((e.key, e.seq, e.mtu), (left(v6), 1000, 1400));
        }
    }

    #[test]
    fn an_error_for_the_sender_quotes_what_it_sent() {
        for v6 in [false, true] {
            for hop in [
                HOP,
                Hop {
                    vlan: 100,
                    tagged: 1,
                    ..HOP
                },
            ] {
                let frame = too_big(v6);
                let e = TooBig::parse(&frame).unwrap();
                let mut out = [0; 126];
                let n = e.emit(&came(v6), &recipe(v6), &hop, &mut out).unwrap();
                // Parsing checks the ICMP checksum.
                let back = TooBig::parse(&out[..n]).unwrap();
                assert_eq!((back.key, back.seq, back.mtu), (came(v6), 700, 1400));
                assert_eq!((&out[..6], &out[6..12]), (&[2; 6][..], &[4; 6][..]));
                let l3 = if hop.tagged != 0 { 18 } else { 14 };
                if hop.tagged != 0 {
                    assert_eq!(out[12..16], [0x81, 0, 0, 100]);
                }
                let ip = &out[l3..n];
                let (src, dst) = (came(v6).dst, came(v6).src);
                if v6 {
                    assert_eq!(ip.len(), 40 + 8 + 60);
                    assert_eq!((&ip[8..24], &ip[24..40]), (&src[..], &dst[..]));
                    // Acknowledgement number; then flags and window as they were.
                    assert_eq!(ip[40 + 8 + 40 + 8..][..4], 1500u32.to_be_bytes());
                    assert_eq!(ip[40 + 8 + 40 + 12..][..4], [0x50, flag::ACK, 1, 0xf4]);
                } else {
                    assert_eq!(ip.len(), 20 + 8 + 28);
                    assert_eq!((&ip[12..16], &ip[16..20]), (&src[12..], &dst[12..]));
                    // Both IP headers are valid.
                    for header in [&ip[..20], &ip[28..48]] {
                        assert_eq!(Sum(checksum::sum(header)).fold(), 0xffff);
                    }
                }
            }
        }
    }

    /// The client's first segment was too big with the PROXY header: without it, it must be smaller.
    #[test]
    fn a_header_is_not_the_clients() {
        use crate::layout::flags;
        for (v6, header) in [(false, 28), (true, 52)] {
            let frame = too_big(v6);
            let e = TooBig::parse(&frame).unwrap();
            for (first, quoted, mtu) in [
                (1000 + header, 1000 + header, 1400 - header),
                // A later segment.
                (1000, 1000, 1400),
            ] {
                let flow = Flow {
                    flags: flags::FROM_CLIENT | flags::HEADED,
                    next_seq: first,
                    seq_add: 0,
                    ..recipe(v6)
                };
                let mut out = [0; 126];
                let n = e.emit(&came(v6), &flow, &HOP, &mut out).unwrap();
                let back = TooBig::parse(&out[..n]).unwrap();
                assert_eq!((back.seq, back.mtu), (quoted, mtu), "IPv6: {v6}");
            }
        }
    }

    #[test]
    fn an_ipv6_quote_without_a_whole_tcp_header() {
        let frame = error(true, 2, 0, 1280, 19);
        let e = TooBig::parse(&frame).unwrap();
        let mut out = [0; 126];
        let n = e.emit(&came(true), &recipe(true), &HOP, &mut out).unwrap();
        assert_eq!(n, ETH_LEN + 40 + 8 + 48);
        assert_eq!(TooBig::parse(&out[..n]).unwrap().seq, 700);
    }

    #[test]
    fn what_is_not_believed() {
        let none = |frame: &[u8]| assert_eq!(TooBig::parse(frame), None);
        // Other kinds and codes.
        none(&error(false, 3, 3, 1400, 8));
        none(&error(false, 11, 4, 1400, 8));
        none(&error(true, 1, 0, 1400, 20));
        // MTUs: too small, just large enough; routers from before RFC 1191 say 0.
        none(&error(false, 3, 4, 0, 8));
        none(&error(false, 3, 4, 551, 8));
        assert!(TooBig::parse(&error(false, 3, 4, 552, 8)).is_some());
        none(&error(true, 2, 0, 1279, 20));
        assert!(TooBig::parse(&error(true, 2, 0, 1280, 20)).is_some());
        // Cut off, in the frame or by the router.
        for v6 in [false, true] {
            let frame = too_big(v6);
            for cut in 0..frame.len() {
                none(&frame[..cut]);
            }
            let (kind, code) = if v6 { (2, 0) } else { (3, 4) };
            none(&error(v6, kind, code, 1400, 7));
        }
    }

    #[test]
    fn an_entry_of_the_other_family_or_a_short_buffer() {
        let frame = too_big(false);
        let e = TooBig::parse(&frame).unwrap();
        assert_eq!(
            e.emit(&came(true), &recipe(true), &HOP, &mut [0; 126]),
            None
        );
        // IPv6 with v4-mapped addresses is not IPv4.
        let mut mapped = too_big(true);
        let quote = ETH_LEN + IPV6_LEN + ICMP_LEN;
        mapped[quote + 8..quote + 24].copy_from_slice(&left(false).src);
        mapped[quote + 24..quote + 40].copy_from_slice(&left(false).dst);
        let check = ETH_LEN + IPV6_LEN + 2;
        let mut sum = Sum::of_field([mapped[check], mapped[check + 1]]);
        sum.replace(&left(true).src, &left(false).src);
        sum.replace(&left(true).dst, &left(false).dst);
        mapped[check..check + 2].copy_from_slice(&sum.field());
        let m = TooBig::parse(&mapped).unwrap();
        assert!(m.key.is_v4());
        assert_eq!(
            m.emit(&came(false), &recipe(false), &HOP, &mut [0; 126]),
            None
        );
        for len in 0..ETH_LEN + 20 + 8 + 28 {
            assert_eq!(
                e.emit(&came(false), &recipe(false), &HOP, &mut vec![0; len]),
                None
            );
        }
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_noticed(v6: bool, at: prop::sample::Index, bit in 0u8..8) {
            let mut frame = too_big(v6);
            // From the ICMP header on, everything is under its checksum.
            let icmp = ETH_LEN + if v6 { IPV6_LEN } else { IPV4_LEN };
            let at = icmp + at.index(frame.len() - icmp);
            frame[at] ^= 1 << bit;
            prop_assert_eq!(TooBig::parse(&frame), None);
        }

        #[test]
        fn garbage_never_panics(
            frame in prop::collection::vec(any::<u8>(), 0..200), v6: bool, kind in prop::option::of(0u8..3),
            key in any::<([u8; 16], [u8; 16])>(), seq_add: u32,
        ) {
            // Behind a header that is right, with a checksum that is: most get as far as the quote.
            let mut deep = too_big(v6);
            let head = ETH_LEN + if v6 { IPV6_LEN } else { IPV4_LEN } + ICMP_LEN;
            let n = frame.len().min(deep.len() - head);
            deep[head..head + n].copy_from_slice(&frame[..n]);
            if let Some(kind) = kind {
                deep[head] = [0x45, 0x60, 0x46][usize::from(kind)];
                deep[head + if v6 { 6 } else { 9 }] = PROTO_TCP;
            }
            let was = [deep[head - 6], deep[head - 5]];
            (deep[head - 6], deep[head - 5]) = (0, 0);
            let mut sum = Sum(checksum::sum(&deep[head - ICMP_LEN..]));
            if v6 {
                let len = u16::try_from(deep.len() - head + ICMP_LEN).unwrap();
                sum.0 += pseudo_header(&[0xaa; 16], &[0xfd; 16], len).0;
            }
            let check = if n == 0 { was } else { sum.field() };
            (deep[head - 6], deep[head - 5]) = (check[0], check[1]);
            for frame in [&frame, &deep] {
                if let Some(e) = TooBig::parse(frame) {
                    prop_assume!(v6 != e.key.is_v4());
                    let sent = FlowKey { src: key.0, dst: key.1, ..e.key };
                    let flow = Flow { seq_add, ..Flow::ZERO };
                    let _ = e.emit(&sent, &flow, &HOP, &mut [0; 126]);
                    prop_assert!(e.emit(&e.key, &flow, &HOP, &mut [0; 126]).is_some());
                }
            }
        }
    }
}
