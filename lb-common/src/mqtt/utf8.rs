//! UTF-8 as MQTT wants it (MQTT 3.1.1 and 5, section 1.5.3 and 1.5.4).

/// Whether the string at `start..end` is well-formed UTF-8 without U+0000, as far as it is in `arrived`.
///
/// Overlong forms, surrogates (U+D800 to U+DFFF) and values above U+10FFFF are ill-formed [MQTT-1.5.4-1];
/// U+0000 is forbidden [MQTT-1.5.4-2]. A character may be cut where `arrived` ends before `end` does.
///
/// A plain loop over single bytes: `core::str::from_utf8` reads words through casts, which is no code for
/// the kernel's verifier.
pub(super) fn is_valid(arrived: &[u8], start: usize, end: usize) -> bool {
    const CONTINUATION: (u8, u8) = (0x80, 0xBF);
    let mut missing = 0u8;
    let (mut low, mut high) = CONTINUATION;
    for at in start..end {
        let Some(&byte) = arrived.get(at) else {
            return true;
        };
        if missing > 0 {
            if byte < low || byte > high {
                return false;
            }
            missing -= 1;
            (low, high) = CONTINUATION;
            continue;
        }
        // Unicode, table 3-7: only the second byte of a sequence has a narrower range.
        match byte {
            0x01..=0x7F => {}
            0xC2..=0xDF => missing = 1,
            0xE0 => (missing, low) = (2, 0xA0),
            0xED => (missing, high) = (2, 0x9F),
            0xE1..=0xEF => missing = 2,
            0xF0 => (missing, low) = (3, 0x90),
            0xF1..=0xF3 => missing = 3,
            0xF4 => (missing, high) = (3, 0x8F),
            _ => return false,
        }
    }
    missing == 0
}

#[cfg(test)]
mod tests {
    /// A string of which more may come, or not.
    fn is_valid(arrived: &[u8], whole: bool) -> bool {
        let end = if whole {
            arrived.len()
        } else {
            arrived.len() + 9
        };
        super::is_valid(arrived, 0, end)
    }

    #[test]
    fn agrees_with_the_standard_library_on_every_character() {
        for c in (1..=0x10FFFF).filter_map(char::from_u32) {
            assert!(
                is_valid(c.encode_utf8(&mut [0; 4]).as_bytes(), true),
                "{c:?}"
            );
        }
    }

    #[test]
    fn agrees_with_the_standard_library_on_every_short_sequence() {
        // Every lead byte with every second byte, followed by sound and unsound thirds and fourths.
        const TAILS: [&[u8]; 6] = [&[], b"\x80", b"\xBF\x80", b"a", b"\x80a", b"\x80\xC2"];
        for first in 1..=255u8 {
            for second in 1..=255u8 {
                for tail in TAILS {
                    let bytes = [&[first, second], tail].concat();
                    let std = core::str::from_utf8(&bytes);
                    assert_eq!(is_valid(&bytes, true), std.is_ok(), "{bytes:x?}");
                    let could_become = std.map_or_else(|e| e.error_len().is_none(), |_| true);
                    assert_eq!(is_valid(&bytes, false), could_become, "{bytes:x?}, cut");
                }
            }
        }
    }

    #[test]
    fn nul_is_forbidden() {
        assert!(!is_valid(b"a\0b", true));
        assert!(!is_valid(b"\0", false));
    }

    #[test]
    fn surrogates_and_overlong_forms_are_rejected_on_the_second_byte() {
        for bytes in [
            b"\xED\xA0",
            b"\xED\xBF",
            b"\xE0\x80",
            b"\xF0\x80",
            b"\xF4\x90",
        ] {
            assert!(!is_valid(bytes, false), "{bytes:x?}");
        }
    }

    #[test]
    fn a_cut_character_may_still_come() {
        assert!(is_valid(b"caf\xC3", false));
        assert!(!is_valid(b"caf\xC3", true));
    }
}
