//! The SYN cookie: our initial sequence number `K`, from which a connection is rebuilt when its
//! first data comes.
//!
//! ```text
//! 31            16 15     8 7                    0
//! ┌───────────────┬────────┬──────────────────────┐
//! │ exact (Ic)    │ coarse │ MSS:3 │ scale:4 │ SACK│
//! └───────────────┴────────┴──────────────────────┘
//! ```
//! The 16 `exact` bits depend on the client's ISN, the 8 `coarse` ones don't. All 24 must fit for a
//! first segment. Data that doesn't pass but whose coarse bits fit may be a later segment of the
//! same CONNECT that overtook the first; it must not be answered with a RST.

use crate::layout::FlowKey;
use crate::siphash::{self, Key};

/// What the client's SYN said, as far as a cookie can carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientOptions {
    /// Index into [`MSS_CLASSES`].
    pub mss_class: u8,
    /// Window scale, 15 for none (RFC 7323 allows 0 to 14).
    pub window_scale: u8,
    /// SACK permitted.
    pub sack: bool,
}

/// MSS that a cookie can tell, ascending. A client's MSS is rounded down to one of them.
pub const MSS_CLASSES: [u16; 8] = [88, 256, 536, 1200, 1360, 1400, 1440, 1460];

/// Window scale of a client that did not offer it.
pub const NO_SCALE: u8 = 15;

/// The class of an MSS: the largest that isn't above it.
#[inline(always)]
#[must_use]
pub const fn mss_class(mss: u16) -> u8 {
    // A sum of comparisons: no branch for the verifier to follow.
    (mss >= MSS_CLASSES[1]) as u8
        + (mss >= MSS_CLASSES[2]) as u8
        + (mss >= MSS_CLASSES[3]) as u8
        + (mss >= MSS_CLASSES[4]) as u8
        + (mss >= MSS_CLASSES[5]) as u8
        + (mss >= MSS_CLASSES[6]) as u8
        + (mss >= MSS_CLASSES[7]) as u8
}

impl ClientOptions {
    /// The MSS that backends are told.
    #[inline(always)]
    #[must_use]
    pub const fn mss(self) -> u16 {
        MSS_CLASSES[(self.mss_class & 7) as usize]
    }

    /// The option byte of a cookie.
    #[inline(always)]
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        (self.mss_class & 7) << 5 | (self.window_scale & 15) << 1 | self.sack as u8
    }

    /// From the option byte of a cookie.
    #[inline(always)]
    #[must_use]
    pub const fn from_byte(b: u8) -> Self {
        Self {
            mss_class: b >> 5,
            window_scale: (b >> 1) & 15,
            sack: b & 1 == 1,
        }
    }
}

#[inline(always)]
const fn word(b: &[u8; 16], at: usize) -> u64 {
    u64::from_le_bytes([
        b[at],
        b[at + 1],
        b[at + 2],
        b[at + 3],
        b[at + 4],
        b[at + 5],
        b[at + 6],
        b[at + 7],
    ])
}

/// The cookie for a SYN from `key.src` with ISN `isn`.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "bits of a hash")]
pub fn make(secret: &Key, key: &FlowKey, isn: u32, options: u8) -> u32 {
    let ports = u32::from_be_bytes([
        key.src_port[0],
        key.src_port[1],
        key.dst_port[0],
        key.dst_port[1],
    ]);
    let tuple = siphash::words(
        secret,
        &[
            word(&key.src, 0),
            word(&key.src, 8),
            word(&key.dst, 0),
            word(&key.dst, 8),
            (ports as u64) << 8 | options as u64,
        ],
    );
    // The tuple's hash stands for the tuple in a second, shorter hash; other key order, other function.
    let exact = siphash::words(&[secret[1], secret[0]], &[tuple, isn as u64]);
    (exact as u32 & 0xffff) << 16 | (tuple as u32 & 0xff) << 8 | options as u32
}

/// What a segment's acknowledgement tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The first segment after our SYN-ACK; `seq - 1` is the client's ISN.
    First,
    /// Perhaps a later segment of a client whose first segment is still to come.
    Perhaps,
    /// Not ours.
    Wrong,
}

/// Checks `seq` and `ack` of a segment against both keys, the current one first.
#[inline(always)]
#[must_use]
pub fn check(keys: &[Key; 2], epoch: u32, key: &FlowKey, seq: u32, ack: u32) -> Check {
    let cookie = ack.wrapping_sub(1);
    let isn = seq.wrapping_sub(1);
    let current = (epoch & 1) as usize;
    let a = make(&keys[current], key, isn, cookie as u8) ^ cookie;
    if a == 0 {
        return Check::First;
    }
    let b = make(&keys[current ^ 1], key, isn, cookie as u8) ^ cookie;
    if b == 0 {
        return Check::First;
    }
    if a & 0xff00 == 0 || b & 0xff00 == 0 {
        Check::Perhaps
    } else {
        Check::Wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEYS: [Key; 2] = [[1, 2], [3, 4]];

    fn tuple() -> FlowKey {
        FlowKey::v4([10, 0, 0, 1], 40000, [10, 0, 0, 2], 1883)
    }

    #[test]
    fn mss_is_rounded_down() {
        for (mss, want) in [
            (0, 88),
            (100, 88),
            (256, 256),
            (535, 256),
            (536, 536),
            (1220, 1200),
            (1439, 1400),
            (1440, 1440),
            (9000, 1460),
        ] {
            assert_eq!(MSS_CLASSES[mss_class(mss) as usize], want, "{mss}");
        }
    }

    #[test]
    fn previous_key_is_accepted_and_older_are_not() {
        let k = make(&KEYS[0], &tuple(), 77, 5);
        assert_eq!(
            check(&KEYS, 0, &tuple(), 78, k.wrapping_add(1)),
            Check::First
        );
        assert_eq!(
            check(&KEYS, 1, &tuple(), 78, k.wrapping_add(1)),
            Check::First
        );
        assert_ne!(
            check(&[[5, 6], [7, 8]], 0, &tuple(), 78, k.wrapping_add(1)),
            Check::First
        );
    }

    #[test]
    fn guesses_fail() {
        let hits = (0..100_000u32)
            .filter(|g| check(&KEYS, 0, &tuple(), 78, g.wrapping_mul(0x9e37_79b1)) == Check::First)
            .count();
        assert!(
            hits <= 1,
            "{hits} of 100,000 guesses passed; two keys of 24 bits allow 0.012 on average"
        );
    }

    proptest! {
        #[test]
        fn options_survive(b: u8) {
            prop_assert_eq!(ClientOptions::from_byte(b).to_byte(), b);
        }

        #[test]
        fn later_segments_are_perhaps(isn: u32, options: u8, ahead in 1u32..60_000, epoch: u32) {
            let k = make(&KEYS[(epoch & 1) as usize], &tuple(), isn, options);
            let ack = k.wrapping_add(1);
            prop_assert_eq!(check(&KEYS, epoch, &tuple(), isn.wrapping_add(1), ack), Check::First);
            prop_assert_ne!(check(&KEYS, epoch, &tuple(), isn.wrapping_add(1).wrapping_add(ahead), ack), Check::Wrong);
        }
    }
}
