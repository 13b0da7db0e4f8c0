//! The RST that answers a segment of no known connection (RFC 9293, section 3.10.7.1).

use crate::layout::FlowKey;
use crate::wire::{TCP_LEN, Tcp, flag};

/// Turns the TCP header of a segment with the 4-tuple `key` into the RST that answers it: no
/// options, no payload. `seq_len` is the sequence space that the segment took.
///
/// A RST is never answered: the caller drops it.
#[inline(always)]
pub fn answer(tcp: &mut Tcp, key: &FlowKey, seq_len: u32) {
    let (seq, ack, flags) = if tcp.has(flag::ACK) {
        (tcp.ack(), 0, flag::RST)
    } else {
        (0, tcp.seq().wrapping_add(seq_len), flag::RST | flag::ACK)
    };
    *tcp = Tcp {
        src_port: key.dst_port,
        dst_port: key.src_port,
        seq: seq.to_be_bytes(),
        ack: ack.to_be_bytes(),
        offset: (TCP_LEN as u8) << 2,
        flags,
        window: [0; 2],
        check: [0; 2],
        urgent: [0; 2],
    };
    let mut sum = tcp.sum();
    Tcp::add_pseudo(&mut sum, &key.src, &key.dst, TCP_LEN as u16);
    tcp.check = sum.field();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(flags: u8) -> Tcp {
        Tcp {
            src_port: [1, 2],
            dst_port: [3, 4],
            seq: 1000u32.to_be_bytes(),
            ack: 2000u32.to_be_bytes(),
            offset: 0x80,
            flags,
            window: [1, 1],
            check: [9, 9],
            urgent: [0; 2],
        }
    }

    #[test]
    fn with_ack_the_reset_takes_its_number() {
        let key = FlowKey::v4([10, 0, 0, 1], 0x0102, [10, 0, 0, 2], 0x0304);
        let mut tcp = segment(flag::ACK | flag::PSH);
        answer(&mut tcp, &key, 10);
        assert_eq!((tcp.seq(), tcp.ack(), tcp.flags), (2000, 0, flag::RST));
        assert_eq!((tcp.src_port, tcp.dst_port), ([3, 4], [1, 2]));
        let mut sum = tcp.sum();
        sum.add2(tcp.check);
        Tcp::add_pseudo(&mut sum, &key.dst, &key.src, 20);
        assert_eq!(sum.fold(), 0xffff);
    }

    #[test]
    fn without_ack_the_reset_acknowledges() {
        let key = FlowKey::v4([10, 0, 0, 1], 0x0102, [10, 0, 0, 2], 0x0304);
        let mut tcp = segment(flag::SYN);
        answer(&mut tcp, &key, 1);
        assert_eq!(
            (tcp.seq(), tcp.ack(), tcp.flags),
            (0, 1001, flag::RST | flag::ACK)
        );
    }
}
