//! A SYN turned into our SYN-ACK, in place: the client's options are answered where they stand and
//! overwritten with NOP where they aren't, so the frame never grows.
//!
//! TCP Fast Open, ECN and MPTCP are not answered. Data in a SYN is not acknowledged.

use crate::checksum::Sum;
use crate::cookie::{self, ClientOptions, NO_SCALE};
use crate::layout::{Endpoint, FlowKey};
use crate::options::{self, BUFFER, Step, byte, get4, kind, put4};
use crate::siphash::Key;
use crate::wire::{TCP_LEN, Tcp, flag};

/// The options of a SYN, and how far they have been answered.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Answer {
    /// The option block, being rewritten; zero beyond `len`.
    pub buffer: [u8; BUFFER],
    /// Its length in bytes, a multiple of 4 up to 40.
    pub len: u32,
    /// Next byte to look at.
    pub at: u32,
    /// Bytes still to overwrite with NOP.
    pub erase: u32,
    /// Our TSval.
    pub clock: u32,
    /// What the VIP answers.
    pub vip: Endpoint,
    /// The client's MSS (RFC 9293: 536 for IPv4, 1220 for IPv6 when absent).
    pub client_mss: u16,
    /// The client's window scale, or 15.
    pub client_scale: u8,
    /// SACK permitted by the client and by us.
    pub sack: u8,
    /// Not zero when the options are malformed.
    pub bad: u32,
}

impl Answer {
    /// Begins to answer a SYN; the caller fills `buffer` and `len`.
    #[inline(always)]
    pub const fn begin(&mut self, len: u32, clock: u32, vip: Endpoint, v4: bool) {
        self.len = len;
        self.at = 0;
        self.erase = 0;
        self.clock = clock;
        self.vip = vip;
        self.client_mss = if v4 { 536 } else { 1220 };
        self.client_scale = NO_SCALE;
        self.sack = 0;
        self.bad = 0;
    }

    /// Answers the next option, or erases one byte; `false` when done. At most 41 calls.
    #[inline(always)]
    pub const fn step(&mut self) -> bool {
        let at = self.at as usize & (BUFFER - 1);
        if self.erase != 0 {
            self.buffer[at] = kind::NOP;
            self.at = at as u32 + 1;
            self.erase -= 1;
            return true;
        }
        let (kind, len) = match options::step(&self.buffer, self.len as usize, at) {
            Step::Option { kind, len, .. } => (kind, len),
            Step::End => return false,
            Step::Bad => {
                self.bad = 1;
                return false;
            }
        };
        let answered = match (kind, len) {
            (kind::NOP, _) => true,
            (kind::MSS, 4) => {
                self.client_mss =
                    u16::from_be_bytes([byte(&self.buffer, at + 2), byte(&self.buffer, at + 3)]);
                let ours = self.vip.mss.to_be_bytes();
                self.buffer[(at + 2) & (BUFFER - 1)] = ours[0];
                self.buffer[(at + 3) & (BUFFER - 1)] = ours[1];
                true
            }
            (kind::WINDOW_SCALE, 3) if self.vip.answers & Endpoint::WINDOW_SCALE != 0 => {
                let scale = byte(&self.buffer, at + 2);
                // RFC 7323, section 2.3: more than 14 is read as 14.
                self.client_scale = if scale > 14 { 14 } else { scale };
                self.buffer[(at + 2) & (BUFFER - 1)] = self.vip.window_scale;
                true
            }
            (kind::SACK_PERMITTED, 2) if self.vip.answers & Endpoint::SACK != 0 => {
                self.sack = 1;
                true
            }
            (kind::TIMESTAMPS, 10) if self.vip.answers & Endpoint::TIMESTAMPS != 0 => {
                let theirs = get4(&self.buffer, at + 2);
                put4(&mut self.buffer, at + 2, self.clock);
                put4(&mut self.buffer, at + 6, theirs);
                true
            }
            _ => false,
        };
        if answered {
            self.at = (at + len) as u32;
        } else {
            self.buffer[at] = kind::NOP;
            self.at = at as u32 + 1;
            self.erase = len as u32 - 1;
        }
        true
    }

    /// Turns the TCP header of a SYN with the 4-tuple `key` into that of the SYN-ACK.
    #[inline(always)]
    pub fn finish(&self, tcp: &mut Tcp, secret: &Key, key: &FlowKey) {
        let options = ClientOptions {
            mss_class: cookie::mss_class(self.client_mss),
            window_scale: self.client_scale,
            sack: self.sack != 0,
        };
        let isn = tcp.seq();
        let len = TCP_LEN as u32 + self.len;
        let cookie = cookie::make(secret, key, isn, options.to_byte());
        *tcp = Tcp {
            src_port: key.dst_port,
            dst_port: key.src_port,
            seq: cookie.to_be_bytes(),
            ack: isn.wrapping_add(1).to_be_bytes(),
            offset: (len << 2) as u8,
            flags: flag::SYN | flag::ACK,
            window: self.vip.window.to_be_bytes(),
            check: [0; 2],
            urgent: [0; 2],
        };
        let mut sum: Sum = tcp.sum();
        Tcp::add_pseudo(&mut sum, &key.src, &key.dst, len as u16);
        sum.add(&self.buffer);
        tcp.check = sum.field();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Hop;
    use crate::options::{Timestamps, offered};
    use crate::wire::{Emit, Packet, SynOptions, emit};
    use proptest::prelude::*;

    const VIP: Endpoint = Endpoint {
        kind: 1,
        listener: 0,
        window_scale: 9,
        answers: 7,
        mss: 1400,
        window: 16384,
    };

    fn answer(options: &[u8], vip: Endpoint) -> Answer {
        let (buffer, len) = options::buffer(options);
        let mut a = Answer {
            buffer,
            len: 0,
            at: 0,
            erase: 0,
            clock: 0,
            vip,
            client_mss: 0,
            client_scale: 0,
            sack: 0,
            bad: 0,
        };
        a.begin(u32::try_from(len).unwrap(), 4711, vip, true);
        let mut steps = 0;
        while a.step() {
            steps += 1;
            assert!(steps <= options::MAX);
        }
        a
    }

    #[test]
    fn all_that_linux_offers_is_answered_in_place() {
        let a = answer(
            &[
                2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7,
            ],
            VIP,
        );
        assert_eq!(
            (a.bad, a.client_mss, a.client_scale, a.sack),
            (0, 1460, 7, 1)
        );
        let o = offered(&a.buffer[..20]);
        assert_eq!(o.mss, Some(1400));
        assert_eq!(o.window_scale, Some(9));
        assert!(o.sack);
        assert_eq!(
            o.timestamps,
            Some(Timestamps {
                value: 4711,
                echo: 9
            })
        );
    }

    #[test]
    fn only_mss_as_lwip_sends_it() {
        let a = answer(&[2, 4, 2, 0x18], VIP);
        assert_eq!((a.client_mss, a.client_scale, a.sack), (536, NO_SCALE, 0));
        assert_eq!(a.buffer[..4], [2, 4, 0x05, 0x78]);
    }

    #[test]
    fn fast_open_and_mptcp_become_nops() {
        let a = answer(&[34, 6, 1, 2, 3, 4, 30, 4, 0, 0, 1, 1], VIP);
        assert_eq!(a.bad, 0);
        assert_eq!(a.buffer[..12], [1; 12]);
    }

    #[test]
    fn what_backends_lack_is_not_promised() {
        let a = answer(
            &[4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 3, 3, 7, 1],
            Endpoint { answers: 0, ..VIP },
        );
        assert_eq!(a.buffer[..16], [1; 16]);
        assert_eq!((a.client_scale, a.sack), (NO_SCALE, 0));
    }

    #[test]
    fn malformed_options_are_noticed() {
        assert_eq!(answer(&[2, 9, 5, 0xb4], VIP).bad, 1);
        assert_eq!(answer(&[2, 1, 5, 0xb4], VIP).bad, 1);
    }

    proptest! {
        #[test]
        fn any_options_end_in_time(options in prop::collection::vec(any::<u8>(), 0..=40)) {
            answer(&options, VIP);
        }

        #[test]
        fn syn_ack_is_a_valid_segment(isn: u32, mss: u16, scale in prop::option::of(0u8..=20), sack: bool, ts in prop::option::of(any::<u32>()), v6: bool) {
            let key = if v6 {
                FlowKey { src: [0xfd; 16], dst: [0xfe; 16], src_port: [1, 2], dst_port: [3, 4] }
            } else {
                FlowKey::v4([10, 1, 2, 3], 1000, [10, 1, 2, 4], 1883)
            };
            let syn = SynOptions { mss: Some(mss), window_scale: scale, sack };
            let timestamps = ts.map(|value| Timestamps { value, echo: 0 });
            let mut frame = [0; 200];
            let n = emit(&Emit { key, seq: isn, ack: 0, flags: flag::SYN, window: 1000, syn, timestamps, payload: &[] }, &Hop::default(), &mut frame).unwrap();
            let p = Packet::parse(&frame[..n]).unwrap();
            let a = answer(p.options, VIP);
            let mut tcp = p.tcp;
            a.finish(&mut tcp, &[1, 2], &key);
            let mut whole = tcp.sum();
            whole.add2(tcp.check);
            Tcp::add_pseudo(&mut whole, &key.dst, &key.src, u16::try_from(tcp.header_len()).unwrap());
            whole.0 += crate::checksum::sum(&a.buffer[..a.len as usize]);
            prop_assert_eq!(whole.fold(), 0xffff);
            prop_assert_eq!(tcp.ack(), isn.wrapping_add(1));
            prop_assert_eq!(tcp.header_len(), p.tcp.header_len());
            let back = ClientOptions::from_byte(tcp.seq() as u8);
            prop_assert_eq!(back.window_scale, scale.map_or(NO_SCALE, |s| s.min(14)));
            prop_assert_eq!(back.sack, sack);
            prop_assert!(back.mss() <= mss.max(88));
            prop_assert_eq!(cookie::check(&[[1, 2], [3, 4]], 0, &key, isn.wrapping_add(1), tcp.seq().wrapping_add(1)), cookie::Check::First);
        }
    }
}
