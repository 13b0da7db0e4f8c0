//! Sources: clients whose addresses begin alike are counted together.

/// The first `bits` bits of an address (IPv4: of the v4-mapped one), the others zero.
#[inline(always)]
#[must_use]
pub const fn masked(address: &[u8; 16], bits: u8) -> [u8; 16] {
    let a = address;
    let high = u64::from_be_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]);
    let low = u64::from_be_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]);
    let bits = bits as u32;
    let (in_high, in_low) = if bits > 64 {
        (64, bits - 64)
    } else {
        (bits, 0)
    };
    let h = (high & mask(in_high)).to_be_bytes();
    let l = (low & mask(in_low)).to_be_bytes();
    [
        h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7], l[0], l[1], l[2], l[3], l[4], l[5], l[6],
        l[7],
    ]
}

/// The `n` highest bits of a word set; `n` is at most 64.
#[inline(always)]
const fn mask(n: u32) -> u64 {
    if n == 0 {
        0
    } else {
        u64::MAX << ((64 - n) & 63)
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
