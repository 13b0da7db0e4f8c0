//! The splice: one packet rewritten by its flow's recipe.
//!
//! The recipe is the same in both directions; nothing here knows which one it runs in. Checksums are
//! updated incrementally (RFC 1624), so a packet that came damaged leaves damaged.

mod options;

pub use options::{ALIGNED_TIMESTAMPS, Options, SACK_BLOCK, aligned_sack, sack_block, timestamps};

use crate::checksum::Sum;
use crate::layout::{Flow, by_words};
use crate::window::rescale;
use crate::wire::{Ipv4, Ipv6, Tcp, flag};

/// The hop that was the last one: the packet must be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtlExpired;

/// Rewrites an IPv4 header: addresses and TTL.
#[inline(always)]
pub fn ipv4(ip: &mut Ipv4, flow: &Flow) -> Result<(), TtlExpired> {
    if ip.ttl <= 1 {
        return Err(TtlExpired);
    }
    ipv4_alive(ip, flow);
    Ok(())
}

/// The same for a header whose TTL is known to be above 1.
#[inline(always)]
pub fn ipv4_alive(ip: &mut Ipv4, flow: &Flow) {
    let (s, d) = (&flow.new_src, &flow.new_dst);
    let mut sum = Sum::of_field(ip.check);
    // The TTL is the first byte of its 16 bits.
    sum.0 += flow.l3_diff as u64 + !u16::from_ne_bytes([1, 0]) as u64;
    ip.ttl = ip.ttl.wrapping_sub(1);
    ip.src = [s[12], s[13], s[14], s[15]];
    ip.dst = [d[12], d[13], d[14], d[15]];
    ip.check = sum.field();
}

/// Rewrites an IPv6 header: addresses and hop limit.
#[inline(always)]
pub const fn ipv6(ip: &mut Ipv6, flow: &Flow) -> Result<(), TtlExpired> {
    if ip.hop_limit <= 1 {
        return Err(TtlExpired);
    }
    ipv6_alive(ip, flow);
    Ok(())
}

/// The same for a header whose hop limit is known to be above 1.
#[inline(always)]
pub const fn ipv6_alive(ip: &mut Ipv6, flow: &Flow) {
    ip.hop_limit = ip.hop_limit.wrapping_sub(1);
    ip.src = by_words(&flow.new_src);
    ip.dst = by_words(&flow.new_dst);
}

/// Rewrites a TCP header. `options` is the change that the options made to the checksum.
#[inline(always)]
pub fn tcp(tcp: &mut Tcp, flow: &Flow, options: Sum) {
    let (has_ack, is_syn) = (tcp.has(flag::ACK), tcp.has(flag::SYN));
    tcp_known(tcp, flow, options, has_ack, is_syn);
}

/// The same where it is known whether ACK is set, and SYN.
#[inline(always)]
pub fn tcp_known(tcp: &mut Tcp, flow: &Flow, options: Sum, has_ack: bool, is_syn: bool) {
    let mut sum = Sum::of_field(tcp.check);
    sum.0 += options.0 + flow.l4_diff as u64;
    let seq = tcp.seq().wrapping_add(flow.seq_add).to_be_bytes();
    sum.replace4(tcp.seq, seq);
    tcp.seq = seq;
    if has_ack {
        let ack = tcp.ack().wrapping_add(flow.ack_add).to_be_bytes();
        sum.replace4(tcp.ack, ack);
        tcp.ack = ack;
    }
    if flow.window_shift != 0 && !is_syn {
        let window = rescale(u16::from_be_bytes(tcp.window), flow.window_shift).to_be_bytes();
        sum.replace(&tcp.window, &window);
        tcp.window = window;
    }
    tcp.src_port = flow.new_src_port;
    tcp.dst_port = flow.new_dst_port;
    tcp.check = sum.field();
}

#[cfg(test)]
mod tests {
    use super::options::tests::walk;
    use super::*;
    use crate::layout::{FlowKey, Hop};
    use crate::options::Timestamps;
    use crate::wire::{Emit, IPV4_LEN, Packet, SynOptions, emit};
    use proptest::prelude::*;

    /// The recipe's effect on a whole frame, done the plain way: parse, change, emit anew.
    fn plainly(frame: &[u8], flow: &Flow) -> Vec<u8> {
        let p = Packet::parse(frame).unwrap();
        let mut out = vec![0; 1600];
        let e = Emit {
            key: flow.outgoing(),
            seq: p.tcp.seq().wrapping_add(flow.seq_add),
            ack: p.tcp.ack().wrapping_add(flow.ack_add),
            flags: p.tcp.flags,
            window: rescale(u16::from_be_bytes(p.tcp.window), flow.window_shift),
            syn: SynOptions::default(),
            timestamps: p.timestamps().map(|t| Timestamps {
                value: t.value.wrapping_add(flow.tsval_add),
                echo: t.echo.wrapping_add(flow.tsecr_add),
            }),
            payload: p.payload,
        };
        let n = emit(&e, &p.reply, &mut out).unwrap();
        out.truncate(n);
        out
    }

    fn flow(key: &FlowKey, to: &FlowKey, adds: [u32; 4], shift: i8) -> Flow {
        Flow {
            seq_add: adds[0],
            ack_add: adds[1],
            tsval_add: adds[2],
            tsecr_add: adds[3],
            window_shift: shift,
            ..Flow::ZERO
        }
        .towards(key, to)
    }

    proptest! {
        #[test]
        fn incremental_equals_plain(
            adds in prop::array::uniform4(any::<u32>()), shift in -14i8..=14, seq: u32, ack: u32, window: u16,
            with_ts: bool, value: u32, echo: u32, payload in prop::collection::vec(any::<u8>(), 0..200),
            to in any::<([u8; 4], u16, [u8; 4], u16)>(),
        ) {
            let key = FlowKey::v4([10, 1, 2, 3], 1000, [10, 1, 2, 4], 1883);
            let flow = flow(&key, &FlowKey::v4(to.0, to.1, to.2, to.3), adds, shift);
            let mut frame = vec![0; 1600];
            let timestamps = with_ts.then_some(Timestamps { value, echo });
            let n = emit(&Emit { key, seq, ack, flags: flag::ACK, window, syn: SynOptions::default(), timestamps, payload: &payload }, &Hop::default(), &mut frame).unwrap();
            frame.truncate(n);
            let want = plainly(&frame, &flow);

            // The same in place, as the XDP program does it.
            let p = Packet::parse(&frame).unwrap();
            let mut t = p.tcp;
            let mut got_options = p.options.to_vec();
            let change = if with_ts {
                let mut block: [u8; 12] = got_options[..].try_into().unwrap();
                let s = super::timestamps(&mut block, &flow, true);
                // The general walk does the same.
                let o = walk(&got_options, &flow, true);
                prop_assert_eq!(&o.buffer[..12], &block[..]);
                got_options.copy_from_slice(&block);
                s
            } else { Sum::ZERO };
            super::tcp(&mut t, &flow, change);
            let w = Packet::parse(&want).unwrap();
            prop_assert_eq!((t.seq, t.ack, t.window, t.src_port, t.dst_port), (w.tcp.seq, w.tcp.ack, w.tcp.window, w.tcp.src_port, w.tcp.dst_port));
            prop_assert_eq!(&got_options[..], w.options);
            // Equal as one's complement numbers: 0 and 0xffff are both zero.
            let zero = |c: [u8; 2]| if c == [0xff; 2] { [0; 2] } else { c };
            prop_assert_eq!(zero(t.check), zero(w.tcp.check));
        }

        #[test]
        fn ipv4_header_stays_valid(to in any::<([u8; 4], [u8; 4])>(), ttl in 2u8..) {
            let key = FlowKey::v4([10, 1, 2, 3], 1, [10, 1, 2, 4], 2);
            let flow = flow(&key, &FlowKey::v4(to.0, 1, to.1, 2), [0; 4], 0);
            let mut ip = Ipv4::new([10, 1, 2, 3], [10, 1, 2, 4], 77);
            let mut s = Sum::of_field(ip.check);
            s.replace(&[ip.ttl, ip.protocol], &[ttl, ip.protocol]);
            ip.ttl = ttl;
            ip.check = s.field();
            super::ipv4(&mut ip, &flow).unwrap();
            prop_assert_eq!((ip.src, ip.dst, ip.ttl), (to.0, to.1, ttl - 1));
            let mut whole = Sum::ZERO;
            whole.add2([ip.version_ihl, ip.tos]);
            whole.add2(ip.total_len);
            whole.add2(ip.id);
            whole.add2(ip.fragment);
            whole.add2([ip.ttl, ip.protocol]);
            whole.add2(ip.check);
            whole.add4(ip.src);
            whole.add4(ip.dst);
            prop_assert_eq!(whole.fold(), 0xffff);
            prop_assert_eq!(IPV4_LEN, 20);
        }

    }

    #[test]
    fn last_hop() {
        let mut ip = Ipv4::new([1; 4], [2; 4], 40);
        ip.ttl = 1;
        assert_eq!(super::ipv4(&mut ip, &Flow::ZERO), Err(TtlExpired));
        let mut ip = Ipv6::new([1; 16], [2; 16], 20);
        ip.hop_limit = 1;
        assert_eq!(super::ipv6(&mut ip, &Flow::ZERO), Err(TtlExpired));
    }
}
