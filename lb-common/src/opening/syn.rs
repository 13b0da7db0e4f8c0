//! The SYN to the backend, which mirrors the client's as far as its cookie tells it.

use crate::checksum::Sum;
use crate::cookie::{ClientOptions, NO_SCALE};
use crate::layout::FlowKey;
use crate::options::kind;
use crate::wire::{TCP_LEN, Tcp, flag};

/// Options of a SYN: MSS, SACK permitted, window scale.
pub const PLAIN: usize = 12;
/// The same and timestamps.
pub const STAMPED: usize = 24;

/// The window of a SYN, which is never scaled (RFC 7323, section 2.2), for a client that announces
/// `window` in its first data.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "bounded by the comparison")]
pub const fn window(options: ClientOptions, window: u16) -> u16 {
    let shift = if options.window_scale == NO_SCALE {
        0
    } else {
        options.window_scale & 15
    };
    let whole = (window as u32) << shift;
    if whole > 0xffff { 0xffff } else { whole as u16 }
}

/// A SYN. What the client doesn't do is left out by NOPs, so that there are two lengths only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    /// Our ISN towards the backend.
    pub isn: u32,
    /// Unscaled.
    pub window: u16,
    /// Our MSS.
    pub mss: u16,
    /// What the client's SYN said.
    pub options: ClientOptions,
}

impl Syn {
    /// MSS, SACK permitted and window scale.
    #[inline(always)]
    #[must_use]
    pub const fn plain(&self) -> [u8; PLAIN] {
        let mss = self.mss.to_be_bytes();
        let sack = if self.options.sack {
            [kind::SACK_PERMITTED, 2]
        } else {
            [kind::NOP, kind::NOP]
        };
        let scale = if self.options.window_scale == NO_SCALE {
            [kind::NOP, kind::NOP, kind::NOP]
        } else {
            [kind::WINDOW_SCALE, 3, self.options.window_scale]
        };
        [
            kind::MSS,
            4,
            mss[0],
            mss[1],
            kind::NOP,
            kind::NOP,
            sack[0],
            sack[1],
            kind::NOP,
            scale[0],
            scale[1],
            scale[2],
        ]
    }

    /// Timestamps, to stand behind the others.
    #[inline(always)]
    #[must_use]
    pub const fn stamps(tsval: u32) -> [u8; STAMPED - PLAIN] {
        let t = tsval.to_be_bytes();
        [
            kind::NOP,
            kind::NOP,
            kind::TIMESTAMPS,
            10,
            t[0],
            t[1],
            t[2],
            t[3],
            0,
            0,
            0,
            0,
        ]
    }

    /// The header with the tuple `key`, which is the one that leaves. `options` is the sum of the option
    /// block, of which there are `options_len` bytes.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a header is at most 60")]
    pub fn header(&self, key: &FlowKey, options_len: usize, options: Sum) -> Tcp {
        let len = TCP_LEN + options_len;
        let mut tcp = Tcp {
            src_port: key.src_port,
            dst_port: key.dst_port,
            seq: self.isn.to_be_bytes(),
            ack: [0; 4],
            offset: (len as u8) << 2,
            flags: flag::SYN,
            window: self.window.to_be_bytes(),
            check: [0; 2],
            urgent: [0; 2],
        };
        let mut sum = tcp.sum();
        sum.0 += options.0;
        Tcp::add_pseudo(&mut sum, &key.src, &key.dst, len as u16);
        tcp.check = sum.field();
        tcp
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum;
    use crate::options::{Timestamps, offered};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_syn_says_what_the_client_said(isn: u32, mss: u16, win: u16, byte: u8, tsval in prop::option::of(any::<u32>())) {
            let options = ClientOptions::from_byte(byte);
            let key = FlowKey::v4([10, 1, 2, 3], 20_000, [10, 1, 2, 4], 1883);
            let syn = Syn { isn, window: window(options, win), mss, options };
            let mut block = syn.plain().to_vec();
            if let Some(tsval) = tsval {
                block.extend(Syn::stamps(tsval));
            }
            prop_assert_eq!(block.len(), if tsval.is_some() { STAMPED } else { PLAIN });
            let tcp = syn.header(&key, block.len(), Sum(checksum::sum(&block)));
            let read = offered(&block);
            prop_assert_eq!(read.mss, Some(mss).filter(|m| *m != 0));
            prop_assert_eq!(read.window_scale, Some(options.window_scale).filter(|s| *s != NO_SCALE));
            prop_assert_eq!(read.sack, options.sack);
            prop_assert_eq!(read.timestamps, tsval.map(|value| Timestamps { value, echo: 0 }));
            prop_assert_eq!((tcp.seq(), tcp.ack(), tcp.flags), (isn, 0, flag::SYN));
            prop_assert_eq!(tcp.header_len(), TCP_LEN + block.len());
            let mut whole = tcp.sum();
            whole.add2(tcp.check);
            Tcp::add_pseudo(&mut whole, &key.src, &key.dst, u16::try_from(tcp.header_len()).unwrap());
            whole.0 += checksum::sum(&block);
            prop_assert_eq!(whole.fold(), 0xffff);
        }
    }

    #[test]
    fn the_window_is_what_the_client_means_up_to_the_field() {
        let with = |window_scale| ClientOptions {
            mss_class: 7,
            window_scale,
            sack: true,
        };
        assert_eq!(window(with(NO_SCALE), 512), 512);
        assert_eq!(window(with(7), 502), 64_256);
        assert_eq!(window(with(7), 512), 0xffff);
        assert_eq!(window(with(14), 0xffff), 0xffff);
        assert_eq!(window(with(0), 0), 0);
    }
}
