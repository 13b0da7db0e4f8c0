//! Our ACK of the backend's SYN-ACK.

use crate::checksum::Sum;
use crate::layout::FlowKey;
use crate::options::Timestamps;
use crate::rewrite::ALIGNED_TIMESTAMPS;
use crate::wire::{TCP_LEN, Tcp, flag};

/// Options of an ACK with timestamps.
pub const STAMPED: usize = 12;

/// An ACK, or the CONNECT's segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// As it stands in the header.
    pub window: u16,
    /// Both sides use timestamps.
    pub stamped: bool,
    /// Counts if `stamped`. No `Option`: LLVM would copy the bytes that `None` leaves undefined, and the
    /// verifier refuses that ("R4 !read_ok" from 6.18).
    pub timestamps: Timestamps,
}

impl Ack {
    /// The option block, if there are timestamps.
    #[inline(always)]
    #[must_use]
    pub const fn stamps(timestamps: Timestamps) -> [u8; STAMPED] {
        let (v, e) = (
            timestamps.value.to_be_bytes(),
            timestamps.echo.to_be_bytes(),
        );
        let a = ALIGNED_TIMESTAMPS;
        [
            a[0], a[1], a[2], a[3], v[0], v[1], v[2], v[3], e[0], e[1], e[2], e[3],
        ]
    }

    /// The header with the tuple `key`, which is the one that leaves, in front of `len` bytes of payload
    /// whose sum is `payload`.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "one segment")]
    pub fn header(&self, key: &FlowKey, len: u32, payload: u16) -> Tcp {
        let mut sum = Sum(payload as u64);
        let mut options_len = 0;
        if self.stamped {
            options_len = STAMPED;
            sum.add(&Self::stamps(self.timestamps));
        }
        let header_len = TCP_LEN + options_len;
        let push = if len == 0 { 0 } else { flag::PSH };
        let mut tcp = Tcp {
            src_port: key.src_port,
            dst_port: key.dst_port,
            seq: self.seq.to_be_bytes(),
            ack: self.ack.to_be_bytes(),
            offset: (header_len as u8) << 2,
            flags: flag::ACK | push,
            window: self.window.to_be_bytes(),
            check: [0; 2],
            urgent: [0; 2],
        };
        sum.0 += tcp.sum().0;
        Tcp::add_pseudo(&mut sum, &key.src, &key.dst, header_len as u16 + len as u16);
        tcp.check = sum.field();
        tcp
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_checksum_is_right(seq: u32, ack: u32, window: u16, payload in prop::collection::vec(any::<u8>(), 0..=1472), stamps in prop::option::of(any::<(u32, u32)>())) {
            let key = FlowKey { src: [0xfd; 16], dst: [0xfe; 16], src_port: [1, 2], dst_port: [3, 4] };
            let timestamps = stamps.map(|(value, echo)| Timestamps { value, echo });
            let none = Timestamps { value: 0, echo: 0 };
            let it = Ack { seq, ack, window, stamped: timestamps.is_some(), timestamps: timestamps.unwrap_or(none) };
            let len = u32::try_from(payload.len()).unwrap();
            let tcp = it.header(&key, len, Sum(checksum::sum(&payload)).fold());
            let options = timestamps.map(Ack::stamps);
            let mut whole = tcp.sum();
            whole.add2(tcp.check);
            whole.0 += checksum::sum(options.as_ref().map_or(&[][..], |o| o)) + checksum::sum(&payload);
            let tcp_len = tcp.header_len() + payload.len();
            Tcp::add_pseudo(&mut whole, &key.src, &key.dst, u16::try_from(tcp_len).unwrap());
            prop_assert_eq!(whole.fold(), 0xffff);
            prop_assert_eq!(tcp.header_len(), TCP_LEN + if timestamps.is_some() { 12 } else { 0 });
            prop_assert_eq!(tcp.has(flag::PSH), !payload.is_empty());
        }
    }
}
