//! Builds TCP frames for injection and for tests.

use super::{
    ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, Ipv4, Ipv6, TCP_LEN, Tcp, VLAN_LEN,
};
use crate::checksum;
use crate::layout::{FlowKey, Hop};
use crate::options::Timestamps;

/// Options that only SYN segments have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SynOptions {
    /// Maximum segment size.
    pub mss: Option<u16>,
    /// Window scale.
    pub window_scale: Option<u8>,
    /// SACK permitted.
    pub sack: bool,
}

/// A segment to build.
#[derive(Clone, Copy, Debug)]
pub struct Emit<'a> {
    /// The 4-tuple as it leaves.
    pub key: FlowKey,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Control bits.
    pub flags: u8,
    /// Window field, already scaled.
    pub window: u16,
    /// For SYN segments.
    pub syn: SynOptions,
    /// Timestamps option.
    pub timestamps: Option<Timestamps>,
    /// Payload.
    pub payload: &'a [u8],
}

/// Writes options in the order that Linux uses; gives their length, a multiple of 4 up to 40.
fn write_options(e: &Emit<'_>, out: &mut [u8; 40]) -> usize {
    *out = [1; 40];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        if let Some(to) = out.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
            at += bytes.len();
        }
    };
    if let Some(mss) = e.syn.mss {
        let m = mss.to_be_bytes();
        put(&[2, 4, m[0], m[1]]);
    }
    if e.syn.sack {
        put(&[1, 1, 4, 2]);
    }
    if let Some(t) = e.timestamps {
        let (v, r) = (t.value.to_be_bytes(), t.echo.to_be_bytes());
        put(&[1, 1, 8, 10, v[0], v[1], v[2], v[3], r[0], r[1], r[2], r[3]]);
    }
    if let Some(scale) = e.syn.window_scale {
        put(&[1, 3, 3, scale]);
    }
    at
}

/// Writes the frame and gives its length, or `None` if `out` is too short or the packet too long.
pub fn emit(e: &Emit<'_>, hop: &Hop, out: &mut [u8]) -> Option<usize> {
    let mut options = [0; 40];
    let options_len = write_options(e, &mut options);
    let options = options.get(..options_len)?;
    let tcp_len = TCP_LEN + options_len + e.payload.len();
    let v4 = e.key.is_v4();
    let kind = if v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }.to_be_bytes();
    let mut at = 0usize;
    let mut put = |bytes: &[u8]| -> Option<()> {
        out.get_mut(at..at.checked_add(bytes.len())?)?
            .copy_from_slice(bytes);
        at += bytes.len();
        Some(())
    };

    put(&hop.dst_mac)?;
    put(&hop.src_mac)?;
    if hop.tagged != 0 {
        let tag = hop.vlan.to_be_bytes();
        let tagged: [u8; VLAN_LEN] = [0x81, 0x00, tag[0], tag[1]];
        put(&tagged)?;
    }
    put(&kind)?;
    if v4 {
        let (s, d) = (e.key.src, e.key.dst);
        let total = u16::try_from(IPV4_LEN + tcp_len).ok()?;
        let ip = Ipv4::new(
            [s[12], s[13], s[14], s[15]],
            [d[12], d[13], d[14], d[15]],
            total,
        );
        put(&[ip.version_ihl, ip.tos])?;
        put(&ip.total_len)?;
        put(&ip.id)?;
        put(&ip.fragment)?;
        put(&[ip.ttl, ip.protocol])?;
        put(&ip.check)?;
        put(&ip.src)?;
        put(&ip.dst)?;
    } else {
        let ip = Ipv6::new(e.key.src, e.key.dst, u16::try_from(tcp_len).ok()?);
        put(&ip.version_class_label)?;
        put(&ip.payload_len)?;
        put(&[ip.next_header, ip.hop_limit])?;
        put(&ip.src)?;
        put(&ip.dst)?;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most 60 bytes of header; the length was checked above"
    )]
    let (offset, tcp_len) = (((TCP_LEN + options_len) as u8) << 2, tcp_len as u16);
    let mut tcp = Tcp {
        src_port: e.key.src_port,
        dst_port: e.key.dst_port,
        seq: e.seq.to_be_bytes(),
        ack: e.ack.to_be_bytes(),
        offset,
        flags: e.flags,
        window: e.window.to_be_bytes(),
        check: [0; 2],
        urgent: [0; 2],
    };
    let mut sum = tcp.sum();
    Tcp::add_pseudo(&mut sum, &e.key.src, &e.key.dst, tcp_len);
    sum.0 += checksum::sum(options) + checksum::sum(e.payload);
    tcp.check = sum.field();
    put(&tcp.src_port)?;
    put(&tcp.dst_port)?;
    put(&tcp.seq)?;
    put(&tcp.ack)?;
    put(&[tcp.offset, tcp.flags])?;
    put(&tcp.window)?;
    put(&tcp.check)?;
    put(&tcp.urgent)?;
    put(options)?;
    put(e.payload)?;
    debug_assert!(at >= ETH_LEN);
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Packet, flag};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parse_gives_back_what_was_emitted(
            v6: bool, seq: u32, ack: u32, window: u16, ts in prop::option::of((any::<u32>(), any::<u32>())),
            vlan in prop::option::of(0u16..4095), payload in prop::collection::vec(any::<u8>(), 0..1400),
        ) {
            let key = if v6 {
                FlowKey { src: [0xfd; 16], dst: [0xfe; 16], src_port: [1, 2], dst_port: [3, 4] }
            } else {
                FlowKey::v4([10, 1, 2, 3], 1000, [10, 1, 2, 4], 1883)
            };
            let hop = Hop { dst_mac: [2; 6], src_mac: [4; 6], vlan: vlan.unwrap_or(0), tagged: u16::from(vlan.is_some()), ifindex: 0 };
            let timestamps = ts.map(|(value, echo)| Timestamps { value, echo });
            let mut out = [0; 1600];
            let n = emit(&Emit { key, seq, ack, flags: flag::ACK, window, syn: SynOptions::default(), timestamps, payload: &payload }, &hop, &mut out).unwrap();
            let p = Packet::parse(&out[..n]).unwrap();
            prop_assert!(p.checksum_ok());
            prop_assert_eq!(p.key, key);
            prop_assert_eq!((p.tcp.seq(), p.tcp.ack()), (seq, ack));
            prop_assert_eq!(p.timestamps(), timestamps);
            prop_assert_eq!(p.payload, &payload[..]);
            prop_assert_eq!((p.reply.dst_mac, p.reply.src_mac), (hop.src_mac, hop.dst_mac));
            prop_assert_eq!((p.reply.vlan, p.reply.tagged), (hop.vlan, hop.tagged));
        }

        #[test]
        fn garbage_never_panics(frame in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Packet::parse(&frame);
        }

        #[test]
        fn a_flipped_bit_is_noticed(bit in 0usize..(20 + 32 + 5) * 8) {
            let key = FlowKey::v4([10, 1, 2, 3], 1000, [10, 1, 2, 4], 1883);
            let mut out = [0; 200];
            let e = Emit { key, seq: 1, ack: 2, flags: flag::ACK, window: 3, syn: SynOptions::default(), timestamps: Some(Timestamps { value: 4, echo: 5 }), payload: b"hello" };
            let n = emit(&e, &Hop::default(), &mut out).unwrap();
            // From the addresses on, everything is under the TCP checksum.
            let at = 14 + 12 + bit / 8;
            prop_assume!(at < n);
            out[at] ^= 1 << (bit % 8);
            prop_assert!(!Packet::parse(&out[..n]).is_ok_and(|p| p.checksum_ok() && p.payload_len == 5));
        }
    }
}
