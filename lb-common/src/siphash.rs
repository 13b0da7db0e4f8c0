//! SipHash-1-3 (Aumasson and Bernstein), over 64-bit words and over bytes.
//!
//! The words variant hashes their little-endian bytes, so it equals the bytes variant.

/// A 128-bit key.
pub type Key = [u64; 2];

pub(crate) struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    #[inline(always)]
    pub(crate) const fn new(key: &Key) -> Self {
        Self {
            v0: key[0] ^ 0x736f_6d65_7073_6575,
            v1: key[1] ^ 0x646f_7261_6e64_6f6d,
            v2: key[0] ^ 0x6c79_6765_6e65_7261,
            v3: key[1] ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    const fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }

    #[inline(always)]
    pub(crate) const fn word(&mut self, m: u64) {
        self.v3 ^= m;
        self.round();
        self.v0 ^= m;
    }

    #[inline(always)]
    pub(crate) const fn finish(mut self) -> u64 {
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }
}

/// Hash of `N` words.
#[inline(always)]
#[must_use]
pub fn words<const N: usize>(key: &Key, words: &[u64; N]) -> u64 {
    let mut s = State::new(key);
    let mut i = 0;
    while i < N {
        s.word(words[i]);
        i += 1;
    }
    s.word(((N * 8) as u64) << 56);
    s.finish()
}

/// Hash of a byte string of any length.
#[must_use]
pub fn bytes(key: &Key, data: &[u8]) -> u64 {
    let mut s = State::new(key);
    let (chunks, rest) = data.as_chunks::<8>();
    for chunk in chunks {
        s.word(u64::from_le_bytes(*chunk));
    }
    let mut last = (data.len() as u64) << 56;
    for (i, b) in rest.iter().enumerate() {
        last |= u64::from(*b) << (8 * i);
    }
    s.word(last);
    s.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::hash::Hasher;

    fn reference(key: Key, data: &[u8]) -> u64 {
        let mut h = siphasher::sip::SipHasher13::new_with_keys(key[0], key[1]);
        h.write(data);
        h.finish()
    }

    #[test]
    fn every_length_up_to_256() {
        let data: Vec<u8> = (0..=255).collect();
        for n in 0..=256 {
            assert_eq!(
                bytes(&[7, 9], &data[..n.min(256)]),
                reference([7, 9], &data[..n.min(256)]),
                "length {n}"
            );
        }
    }

    proptest! {
        #[test]
        fn equals_reference(k0: u64, k1: u64, data in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(bytes(&[k0, k1], &data), reference([k0, k1], &data));
        }

        #[test]
        fn words_equal_bytes(k0: u64, k1: u64, w in prop::array::uniform5(any::<u64>())) {
            let data: Vec<u8> = w.iter().flat_map(|w| w.to_le_bytes()).collect();
            prop_assert_eq!(words(&[k0, k1], &w), bytes(&[k0, k1], &data));
        }
    }
}
