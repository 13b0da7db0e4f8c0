//! A whole TCP frame parsed once from a slice, for user space.

use super::{
    ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, PROTO_TCP, TCP_LEN, Tcp, VLAN_LEN,
    flag, is_vlan,
};
use crate::checksum::{self, Sum};
use crate::layout::{FlowKey, Hop, v4_mapped};
use crate::options::{Timestamps, find_timestamps};

/// Why a frame isn't a TCP packet that we can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// Ends before a header does, or lengths contradict each other.
    Truncated,
    /// Not TCP over IPv4 or IPv6 without extensions.
    NotTcp,
}

/// A frame's TCP packet; `payload` may be cut short if the frame was captured only in part.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Where a reply goes: MACs swapped, VLAN kept; `ifindex` is 0.
    pub reply: Hop,
    /// The 4-tuple.
    pub key: FlowKey,
    /// The TCP header.
    pub tcp: Tcp,
    /// TCP options, up to 40 bytes.
    pub options: &'a [u8],
    /// Payload as far as it was captured.
    pub payload: &'a [u8],
    /// Length of the payload on the wire.
    pub payload_len: usize,
}

fn array<const N: usize>(b: &[u8], at: usize) -> Result<[u8; N], ParseError> {
    b.get(at..)
        .and_then(|b| b.first_chunk::<N>())
        .copied()
        .ok_or(ParseError::Truncated)
}

impl<'a> Packet<'a> {
    /// Parses from the Ethernet header on; up to two VLAN tags.
    pub fn parse(frame: &'a [u8]) -> Result<Self, ParseError> {
        let dst: [u8; 6] = array(frame, 0)?;
        let src: [u8; 6] = array(frame, 6)?;
        let mut kind = u16::from_be_bytes(array(frame, 12)?);
        let mut l3 = ETH_LEN;
        let mut reply = Hop {
            dst_mac: src,
            src_mac: dst,
            ..Hop::default()
        };
        for _ in 0..2 {
            if !is_vlan(kind) {
                break;
            }
            if reply.tagged == 0 {
                reply.vlan = u16::from_be_bytes(array(frame, l3)?) & 0xfff;
                reply.tagged = 1;
            }
            kind = u16::from_be_bytes(array(frame, l3 + 2)?);
            l3 += VLAN_LEN;
        }
        let (addresses, l4, end) = match kind {
            ETHERTYPE_IPV4 => {
                let head: [u8; IPV4_LEN] = array(frame, l3)?;
                if head[0] != 0x45
                    || head[9] != PROTO_TCP
                    || u16::from_be_bytes([head[6], head[7]]) & 0x3fff != 0
                {
                    return Err(ParseError::NotTcp);
                }
                let end = l3 + usize::from(u16::from_be_bytes([head[2], head[3]]));
                (
                    (
                        v4_mapped(array(frame, l3 + 12)?),
                        v4_mapped(array(frame, l3 + 16)?),
                    ),
                    l3 + IPV4_LEN,
                    end,
                )
            }
            ETHERTYPE_IPV6 => {
                let head: [u8; 8] = array(frame, l3)?;
                if head[0] >> 4 != 6 || head[6] != PROTO_TCP {
                    return Err(ParseError::NotTcp);
                }
                let end = l3 + IPV6_LEN + usize::from(u16::from_be_bytes([head[4], head[5]]));
                (
                    (array(frame, l3 + 8)?, array(frame, l3 + 24)?),
                    l3 + IPV6_LEN,
                    end,
                )
            }
            _ => return Err(ParseError::NotTcp),
        };
        let h: [u8; TCP_LEN] = array(frame, l4)?;
        let tcp = Tcp {
            src_port: [h[0], h[1]],
            dst_port: [h[2], h[3]],
            seq: [h[4], h[5], h[6], h[7]],
            ack: [h[8], h[9], h[10], h[11]],
            offset: h[12],
            flags: h[13],
            window: [h[14], h[15]],
            check: [h[16], h[17]],
            urgent: [h[18], h[19]],
        };
        let data = l4 + tcp.header_len();
        if tcp.header_len() < TCP_LEN || data > end {
            return Err(ParseError::Truncated);
        }
        let options = frame.get(l4 + TCP_LEN..data).ok_or(ParseError::Truncated)?;
        let payload = frame
            .get(data..end.min(frame.len()))
            .ok_or(ParseError::Truncated)?;
        Ok(Self {
            reply,
            key: FlowKey {
                src: addresses.0,
                dst: addresses.1,
                src_port: tcp.src_port,
                dst_port: tcp.dst_port,
            },
            tcp,
            options,
            payload,
            payload_len: end - data,
        })
    }

    /// Whether the TCP checksum is right; `true` where the payload was cut and nobody can tell.
    #[must_use]
    pub fn checksum_ok(&self) -> bool {
        if self.payload.len() != self.payload_len {
            return true;
        }
        let mut s = self.tcp.sum();
        s.add2(self.tcp.check);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an IP packet has at most 65535 bytes"
        )]
        Tcp::add_pseudo(
            &mut s,
            &self.key.src,
            &self.key.dst,
            (self.tcp.header_len() + self.payload_len) as u16,
        );
        s.0 += checksum::sum(self.options) + checksum::sum(self.payload);
        Sum(s.0).fold() == 0xffff
    }

    /// The timestamps option, if any.
    #[must_use]
    pub fn timestamps(&self) -> Option<Timestamps> {
        find_timestamps(self.options)
    }

    /// Sequence space that the segment takes: payload, SYN and FIN.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an IP packet has at most 65535 bytes"
    )]
    pub fn seq_len(&self) -> u32 {
        self.payload_len as u32
            + u32::from(self.tcp.has(flag::SYN))
            + u32::from(self.tcp.has(flag::FIN))
    }
}
