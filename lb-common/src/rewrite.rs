//! The splice: one packet rewritten by its flow's recipe.
//!
//! The recipe is the same in both directions; nothing here knows which one it runs in. Checksums are
//! updated incrementally (RFC 1624), so a packet that came damaged leaves damaged.

use crate::checksum::Sum;
use crate::layout::{Flow, by_words};
use crate::options::{self, BUFFER, Step, get4, kind, put4};
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
    let (s, d) = (&flow.new_src, &flow.new_dst);
    let mut sum = Sum::of_field(ip.check);
    sum.0 += flow.l3_diff as u64;
    sum.replace(&[ip.ttl, ip.protocol], &[ip.ttl - 1, ip.protocol]);
    ip.ttl -= 1;
    ip.src = [s[12], s[13], s[14], s[15]];
    ip.dst = [d[12], d[13], d[14], d[15]];
    ip.check = sum.field();
    Ok(())
}

/// Rewrites an IPv6 header: addresses and hop limit.
#[inline(always)]
pub const fn ipv6(ip: &mut Ipv6, flow: &Flow) -> Result<(), TtlExpired> {
    if ip.hop_limit <= 1 {
        return Err(TtlExpired);
    }
    ip.hop_limit -= 1;
    ip.src = by_words(&flow.new_src);
    ip.dst = by_words(&flow.new_dst);
    Ok(())
}

/// Rewrites a TCP header. `options` is the change that the options made to the checksum.
#[inline(always)]
pub fn tcp(tcp: &mut Tcp, flow: &Flow, options: Sum) {
    let mut sum = Sum::of_field(tcp.check);
    sum.0 += options.0 + flow.l4_diff as u64;
    let seq = tcp.seq().wrapping_add(flow.seq_add).to_be_bytes();
    sum.replace4(tcp.seq, seq);
    tcp.seq = seq;
    if tcp.has(flag::ACK) {
        let ack = tcp.ack().wrapping_add(flow.ack_add).to_be_bytes();
        sum.replace4(tcp.ack, ack);
        tcp.ack = ack;
    }
    if flow.window_shift != 0 && !tcp.has(flag::SYN) {
        let window = rescale(u16::from_be_bytes(tcp.window), flow.window_shift).to_be_bytes();
        sum.replace(&tcp.window, &window);
        tcp.window = window;
    }
    tcp.src_port = flow.new_src_port;
    tcp.dst_port = flow.new_dst_port;
    tcp.check = sum.field();
}

/// NOP, NOP, timestamps: how nearly every stack aligns them (RFC 7323, appendix A).
pub const ALIGNED_TIMESTAMPS: [u8; 4] = [1, 1, 8, 10];

/// Rewrites aligned timestamps in place (12 bytes from the two NOPs on), gives the checksum change.
#[inline(always)]
pub fn timestamps(block: &mut [u8; 12], flow: &Flow, has_ack: bool) -> Sum {
    let mut sum = Sum::ZERO;
    let old = [block[4], block[5], block[6], block[7]];
    let new = u32::from_be_bytes(old)
        .wrapping_add(flow.tsval_add)
        .to_be_bytes();
    sum.replace4(old, new);
    block[4] = new[0];
    block[5] = new[1];
    block[6] = new[2];
    block[7] = new[3];
    // RFC 7323, section 3.2: TSecr is valid only with ACK, and zero otherwise.
    if has_ack {
        let old = [block[8], block[9], block[10], block[11]];
        let new = u32::from_be_bytes(old)
            .wrapping_add(flow.tsecr_add)
            .to_be_bytes();
        sum.replace4(old, new);
        block[8] = new[0];
        block[9] = new[1];
        block[10] = new[2];
        block[11] = new[3];
    }
    sum
}

/// Options in any layout, on the way through a splice.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Options {
    /// The option block; zero beyond `len`.
    pub buffer: [u8; BUFFER],
    /// Its length in bytes.
    pub len: u32,
    /// Next byte to look at.
    pub at: u32,
    /// Added to SACK edges.
    pub ack_add: u32,
    /// Added to TSval.
    pub tsval_add: u32,
    /// Added to TSecr; 0 when the segment has no ACK.
    pub tsecr_add: u32,
    /// Not zero when the options are malformed.
    pub bad: u32,
    /// The buffer's sum before, complemented by `finish`.
    pub before: u64,
}

impl Options {
    /// Begins a walk; the caller has filled `buffer`.
    #[inline(always)]
    pub fn begin(&mut self, len: u32, flow: &Flow, has_ack: bool) {
        self.len = len;
        self.at = 0;
        self.ack_add = flow.ack_add;
        self.tsval_add = flow.tsval_add;
        self.tsecr_add = if has_ack { flow.tsecr_add } else { 0 };
        self.bad = 0;
        let mut sum = Sum::ZERO;
        sum.add(&self.buffer);
        self.before = sum.0;
    }

    /// Rewrites the next option; `false` when done. At most 40 calls.
    #[inline(always)]
    pub const fn step(&mut self) -> bool {
        let at = self.at as usize & (BUFFER - 1);
        let (kind, len) = match options::step(&self.buffer, self.len as usize, at) {
            Step::Option { kind, len, .. } => (kind, len),
            Step::End => return false,
            Step::Bad => {
                self.bad = 1;
                return false;
            }
        };
        if kind == kind::TIMESTAMPS && len == 10 {
            let value = get4(&self.buffer, at + 2).wrapping_add(self.tsval_add);
            put4(&mut self.buffer, at + 2, value);
            let echo = get4(&self.buffer, at + 6).wrapping_add(self.tsecr_add);
            put4(&mut self.buffer, at + 6, echo);
        } else if kind == kind::SACK {
            // Up to four blocks of two edges (RFC 2018, section 3). `len` is at most 40.
            let mut edge = 0;
            while edge < 8 {
                if 2 + edge * 4 + 4 <= len {
                    let v = get4(&self.buffer, at + 2 + edge * 4).wrapping_add(self.ack_add);
                    put4(&mut self.buffer, at + 2 + edge * 4, v);
                }
                edge += 1;
            }
        }
        self.at = (at + len) as u32;
        true
    }

    /// The checksum change that the walk has made.
    #[inline(always)]
    #[must_use]
    pub fn finish(&self) -> Sum {
        let mut after = Sum::ZERO;
        after.add(&self.buffer);
        // Complementing the folded sum keeps the number of carries out of it.
        Sum(after.0 + (!Sum(self.before).fold()) as u64)
    }
}

#[cfg(test)]
mod tests {
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

    fn walk(options: &[u8], flow: &Flow) -> Options {
        let (buffer, len) = options::buffer(options);
        let mut o = Options {
            buffer,
            len: 0,
            at: 0,
            ack_add: 0,
            tsval_add: 0,
            tsecr_add: 0,
            bad: 0,
            before: 0,
        };
        o.begin(u32::try_from(len).unwrap(), flow, true);
        let mut steps = 0;
        while o.step() {
            steps += 1;
            assert!(steps <= options::MAX);
        }
        o
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
                let o = walk(&got_options, &flow);
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

        #[test]
        fn sack_edges_move_and_the_sum_is_right(edges in prop::collection::vec(any::<u32>(), 1..=4), add: u32, odd: bool) {
            // Edges in pairs; an odd start (one NOP) is legal though nobody sends it.
            let mut o = if odd { vec![1] } else { vec![1, 1] };
            o.extend([5, u8::try_from(2 + edges.len() * 8).unwrap()]);
            for e in &edges {
                o.extend(e.to_be_bytes());
                o.extend(e.wrapping_add(1448).to_be_bytes());
            }
            while o.len() % 4 != 0 { o.push(0); }
            prop_assume!(o.len() <= 40);
            let f = Flow { ack_add: add, ..Flow::ZERO };
            let w = walk(&o, &f);
            prop_assert_eq!(w.bad, 0);
            let start = if odd { 3 } else { 4 };
            for (i, e) in edges.iter().enumerate() {
                prop_assert_eq!(get4(&w.buffer, start + i * 8), e.wrapping_add(add));
                prop_assert_eq!(get4(&w.buffer, start + i * 8 + 4), e.wrapping_add(1448).wrapping_add(add));
            }
            let mut by_hand = crate::checksum::sum(&w.buffer);
            by_hand += u64::from(!Sum(crate::checksum::sum(&options::buffer(&o).0)).fold());
            let zero = |s: u16| if s == 0xffff { 0 } else { s };
            prop_assert_eq!(zero(w.finish().fold()), zero(Sum(by_hand).fold()));
        }

        #[test]
        fn any_options_end_in_time(options in prop::collection::vec(any::<u8>(), 0..=40)) {
            walk(&options, &Flow::ZERO);
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
