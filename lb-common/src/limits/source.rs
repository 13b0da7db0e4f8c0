//! Sources: clients whose addresses begin alike are counted together.

/// The first `bits` bits of an address (IPv4: of the v4-mapped one), the others zero.
///
/// In words of native order, as [`crate::layout::by_words`] copies them: of big-endian ones LLVM makes
/// loads at any offset, and where the address is on the stack the verifier refuses them ("misaligned
/// stack access off 0+-96+3 size 4", 6.18).
#[inline(always)]
#[must_use]
pub const fn masked(address: &[u8; 16], bits: u8) -> [u8; 16] {
    let bits = bits as u32;
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        let a = u32::from_ne_bytes([address[i], address[i + 1], address[i + 2], address[i + 3]]);
        let word = (a & mask(bits.saturating_sub(8 * i as u32))).to_ne_bytes();
        out[i] = word[0];
        out[i + 1] = word[1];
        out[i + 2] = word[2];
        out[i + 3] = word[3];
        i += 4;
    }
    out
}

/// The `n` first bits of a big-endian word set, at most all of them.
#[inline(always)]
const fn mask(n: u32) -> u32 {
    match n {
        0 => 0,
        32.. => u32::MAX,
        _ => (u32::MAX << ((32 - n) & 31)).to_be(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::v4_mapped;
    use proptest::prelude::*;

    #[test]
    fn prefixes_of_both_families() {
        let v4 = v4_mapped([10, 77, 255, 129]);
        assert_eq!(masked(&v4, 128), v4);
        assert_eq!(masked(&v4, 96 + 24), v4_mapped([10, 77, 255, 0]));
        assert_eq!(masked(&v4, 96 + 25), v4_mapped([10, 77, 255, 128]));
        assert_eq!(masked(&v4, 96), v4_mapped([0, 0, 0, 0]));
        assert_eq!(masked(&[0xff; 16], 0), [0; 16]);
    }

    proptest! {
        #[test]
        fn by_bits(address: [u8; 16], bits in 0u8..=128) {
            let number = u128::from_be_bytes(address);
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            prop_assert_eq!(masked(&address, bits), (number & mask).to_be_bytes());
        }
    }
}
