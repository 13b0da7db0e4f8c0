//! Re-scaling of receive windows between two window scales (RFC 7323, section 2).

/// The window that stands in the header after a shift (positive: left, negative: right).
///
/// Never larger than the field holds, and never from non-zero to 0: that would stop the sender.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "bounded by the comparison")]
pub const fn rescale(window: u16, shift: i8) -> u16 {
    let w = window as u32;
    // A shift beyond 14 doesn't exist; the masks keep the shifts defined (and the verifier content).
    let scaled = if shift >= 0 {
        w << (shift as u32 & 15)
    } else {
        w >> (shift.unsigned_abs() as u32 & 15)
    };
    if scaled > 0xffff {
        0xffff
    } else if scaled == 0 && w != 0 {
        1
    } else {
        scaled as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        assert_eq!(rescale(0, 7), 0);
        assert_eq!(rescale(0, -7), 0);
        assert_eq!(rescale(1, -7), 1, "never from non-zero to zero");
        assert_eq!(rescale(0x8000, 1), 0xffff);
        assert_eq!(rescale(1000, 0), 1000);
        assert_eq!(rescale(1000, -3), 125);
        assert_eq!(rescale(125, 3), 1000);
        assert_eq!(rescale(0xffff, 14), 0xffff);
    }

    #[test]
    fn never_promises_more_when_shrinking() {
        for w in 0..=u16::MAX {
            for s in 1..=14i8 {
                let out = rescale(w, -s);
                assert!(u32::from(out) << s <= u32::from(w).max(1 << s));
            }
        }
    }
}
