//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are kept in native byte order: one's complement addition doesn't care (RFC 1071, section 2).

/// A one's complement sum that isn't folded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum(pub u64);

impl Sum {
    /// Nothing added yet.
    pub const ZERO: Self = Self(0);

    /// Starts from a checksum field, to be updated: what it sums over is its complement.
    #[inline(always)]
    #[must_use]
    pub const fn of_field(field: [u8; 2]) -> Self {
        Self(!u16::from_ne_bytes(field) as u64)
    }

    /// Adds 16 bits as they stand in the packet.
    #[inline(always)]
    pub const fn add2(&mut self, v: [u8; 2]) {
        self.0 += u16::from_ne_bytes(v) as u64;
    }

    /// Adds 32 bits as they stand in the packet, at an even offset.
    #[inline(always)]
    pub const fn add4(&mut self, v: [u8; 4]) {
        self.0 += u32::from_ne_bytes(v) as u64;
    }

    /// Adds a number of even length; the length is known at compile time, so this unrolls.
    #[inline(always)]
    pub fn add<const N: usize>(&mut self, bytes: &[u8; N]) {
        let mut i = 0;
        while i + 4 <= N {
            self.add4([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
            i += 4;
        }
        if i + 2 <= N {
            self.add2([bytes[i], bytes[i + 1]]);
        }
    }

    /// Adds the change from `old` to `new`, both at the same even offset.
    #[inline(always)]
    pub fn replace<const N: usize>(&mut self, old: &[u8; N], new: &[u8; N]) {
        let mut i = 0;
        while i + 4 <= N {
            self.replace4(
                [old[i], old[i + 1], old[i + 2], old[i + 3]],
                [new[i], new[i + 1], new[i + 2], new[i + 3]],
            );
            i += 4;
        }
        if i + 2 <= N {
            self.0 += !u16::from_ne_bytes([old[i], old[i + 1]]) as u64;
            self.add2([new[i], new[i + 1]]);
        }
    }

    /// Adds the change of 32 bits.
    #[inline(always)]
    pub const fn replace4(&mut self, old: [u8; 4], new: [u8; 4]) {
        self.0 += !u32::from_ne_bytes(old) as u64;
        self.add4(new);
    }

    /// The sum in 16 bits.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits before")]
    pub const fn fold(self) -> u16 {
        let mut s = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        s = (s & 0xffff) + (s >> 16);
        s = (s & 0xffff) + (s >> 16);
        s = (s & 0xffff) + (s >> 16);
        s as u16
    }

    /// The checksum field for this sum.
    #[inline(always)]
    #[must_use]
    pub const fn field(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }
}

/// Sum of a slice of any length; an odd last byte is padded with zero (RFC 1071, section 1).
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let mut total = Sum::ZERO;
    let (pairs, rest) = bytes.as_chunks::<2>();
    for pair in pairs {
        total.add2(*pair);
    }
    if let [last] = rest {
        total.add2([*last, 0]);
    }
    total.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// +0 and −0 are the same sum.
    fn normal(s: u16) -> u16 {
        if s == 0xffff { 0 } else { s }
    }

    #[test]
    fn example_of_rfc_1071() {
        let s = sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(Sum(s).fold().to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn example_of_rfc_1624() {
        // Section 4: HC = 0xDD2F, m = 0x5555, m' = 0x3285 → 0x0000.
        let mut s = Sum::of_field([0xdd, 0x2f]);
        s.replace(&[0x55, 0x55], &[0x32, 0x85]);
        assert_eq!(normal(u16::from_be_bytes(s.field())), 0);
    }

    proptest! {
        #[test]
        fn update_equals_recompute(mut data in prop::array::uniform32(any::<u8>()), new in prop::array::uniform4(any::<u8>()), at in 0usize..8) {
            let before = Sum(sum(&data));
            let mut updated = Sum::of_field(before.field());
            let at = at * 4;
            updated.replace(&[data[at], data[at + 1], data[at + 2], data[at + 3]], &new);
            data[at..at + 4].copy_from_slice(&new);
            prop_assert_eq!(normal(updated.fold()), normal(Sum(sum(&data)).fold()));
        }

        #[test]
        fn array_and_slice_agree(data in prop::array::uniform32(any::<u8>())) {
            let mut s = Sum::ZERO;
            s.add(&data);
            prop_assert_eq!(normal(s.fold()), normal(Sum(sum(&data)).fold()));
        }
    }
}
