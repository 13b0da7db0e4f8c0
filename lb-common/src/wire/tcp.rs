//! The TCP header (RFC 9293, section 3.1).

use crate::checksum::Sum;
use crate::wire::PROTO_TCP;

/// Length without options.
pub const TCP_LEN: usize = 20;
/// The longest, with options.
pub const TCP_MAX: usize = 60;

/// Control bits.
pub mod flag {
    /// No more data from sender.
    pub const FIN: u8 = 1;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// Push.
    pub const PSH: u8 = 8;
    /// Acknowledgement field is valid.
    pub const ACK: u8 = 16;
}

/// TCP header without options.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Tcp {
    /// Source port.
    pub src_port: [u8; 2],
    /// Destination port.
    pub dst_port: [u8; 2],
    /// Sequence number.
    pub seq: [u8; 4],
    /// Acknowledgement number.
    pub ack: [u8; 4],
    /// Header length in 32-bit words, in the upper four bits.
    pub offset: u8,
    /// See [`flag`].
    pub flags: u8,
    /// Receive window, scaled.
    pub window: [u8; 2],
    /// Checksum.
    pub check: [u8; 2],
    /// Urgent pointer.
    pub urgent: [u8; 2],
}
const _: () = assert!(size_of::<Tcp>() == TCP_LEN && align_of::<Tcp>() == 1);

impl Tcp {
    /// Header length in bytes, options included (0 to 60; below 20 is malformed).
    #[inline(always)]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        ((self.offset >> 4) as usize) * 4
    }

    /// Sequence number, host order.
    #[inline(always)]
    #[must_use]
    pub const fn seq(&self) -> u32 {
        u32::from_be_bytes(self.seq)
    }

    /// Acknowledgement number, host order.
    #[inline(always)]
    #[must_use]
    pub const fn ack(&self) -> u32 {
        u32::from_be_bytes(self.ack)
    }

    /// Whether all of `bits` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, bits: u8) -> bool {
        self.flags & bits == bits
    }

    /// The sum over this header (its checksum field as zero).
    #[inline(always)]
    #[must_use]
    pub const fn sum(&self) -> Sum {
        let mut s = Sum::ZERO;
        s.add2(self.src_port);
        s.add2(self.dst_port);
        s.add4(self.seq);
        s.add4(self.ack);
        s.add2([self.offset, self.flags]);
        s.add2(self.window);
        s.add2(self.urgent);
        s
    }

    /// Makes a segment begin `more` bytes earlier, an even number of them, which have the sum `added`.
    #[inline(always)]
    pub const fn put_before(&mut self, more: u16, added: Sum) {
        let seq = self.seq().wrapping_sub(more as u32).to_be_bytes();
        let mut sum = Sum::of_field(self.check);
        sum.replace4(self.seq, seq);
        sum.0 += added.0;
        // The pseudo-header's length grows.
        sum.add2(more.to_be_bytes());
        self.seq = seq;
        self.check = sum.field();
    }

    /// Adds the pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1) to a sum.
    ///
    /// Addresses are v4-mapped: the mapped prefix adds 0xffff, which is zero in one's complement.
    #[inline(always)]
    pub fn add_pseudo(s: &mut Sum, src: &[u8; 16], dst: &[u8; 16], tcp_len: u16) {
        s.add(src);
        s.add(dst);
        s.add2(tcp_len.to_be_bytes());
        s.add2([0, PROTO_TCP]);
    }
}
