//! ICMP errors about our SYNs.

use lb_common::layout::{FlowKey, v4_mapped};
use lb_common::wire::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV6_LEN, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, payload,
};

/// What an ICMP error says about the packet that it quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreachable {
    /// 4-tuple of the quoted packet, as we sent it.
    pub key: FlowKey,
    /// Its sequence number.
    pub seq: u32,
}

fn array<const N: usize>(b: &[u8], at: usize) -> Option<[u8; N]> {
    b.get(at..)?.first_chunk().copied()
}

/// Reads an ICMP "destination unreachable" with a quoted TCP segment; `None` for anything else.
///
/// Not every code ends an attempt: "fragmentation needed" (RFC 1191) and time exceeded don't say that
/// the backend can't be reached.
pub(super) fn unreachable(frame: &[u8]) -> Option<Unreachable> {
    let (kind, packet) = payload(frame)?;
    match kind {
        ETHERTYPE_IPV4 => {
            let icmp = packet.get(v4_header(packet, PROTO_ICMP)?..)?;
            let [3, code] = array(icmp, 0)? else {
                return None;
            };
            // RFC 1122, section 4.2.3.9; codes by RFC 792 and RFC 1812, section 5.2.7.1.
            if !matches!(code, 0..=3 | 5..=13) {
                return None;
            }
            let quoted = icmp.get(8..)?;
            let l4 = v4_header(quoted, PROTO_TCP)?;
            let address = |at| Some(v4_mapped(array(quoted, at)?));
            segment(address(12)?, address(16)?, quoted.get(l4..)?)
        }
        ETHERTYPE_IPV6 => {
            let icmp = packet.get(v6_header(packet, PROTO_ICMPV6)?..)?;
            let [1, _code] = array(icmp, 0)? else {
                return None;
            };
            let quoted = icmp.get(8..)?;
            let l4 = v6_header(quoted, PROTO_TCP)?;
            segment(array(quoted, 8)?, array(quoted, 24)?, quoted.get(l4..)?)
        }
        _ => None,
    }
}

/// Length of an IPv4 header in front of `protocol`.
fn v4_header(packet: &[u8], protocol: u8) -> Option<usize> {
    let first = *packet.first()?;
    let len = usize::from(first & 15) * 4;
    (first >> 4 == 4 && len >= 20 && *packet.get(9)? == protocol).then_some(len)
}

/// Length of an IPv6 header in front of `protocol`; we send none with extensions.
fn v6_header(packet: &[u8], protocol: u8) -> Option<usize> {
    (packet.first()? >> 4 == 6 && *packet.get(6)? == protocol).then_some(IPV6_LEN)
}

/// The first 8 bytes of the TCP header, which are always quoted.
fn segment(src: [u8; 16], dst: [u8; 16], tcp: &[u8]) -> Option<Unreachable> {
    Some(Unreachable {
        key: FlowKey {
            src,
            dst,
            src_port: array(tcp, 0)?,
            dst_port: array(tcp, 2)?,
        },
        seq: u32::from_be_bytes(array(tcp, 4)?),
    })
}
