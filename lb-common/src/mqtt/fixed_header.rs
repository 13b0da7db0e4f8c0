//! Packet type and remaining length (MQTT 5, section 2.1).

use super::{
    Limits, Reject,
    reader::{Reader, Stop},
};

/// CONNECT with its four reserved bits 0.
const CONNECT: u8 = 0x10;
/// One byte of type, at most four of length.
const MAX_LEN: usize = 5;
/// The least remaining length, 3.1.1's: name (6), level, flags, keep alive (2), empty identifier (2).
const MIN_REMAINING: usize = 12;

/// Returns the packet after its fixed header, ready to read.
///
/// A remaining length that isn't minimal passes: no broker rejects it, and clients that reserve a fixed
/// number of bytes for the length send it.
pub(super) fn read<'a>(input: &'a [u8], limits: &Limits) -> Result<Reader<'a>, Stop> {
    let mut header = Reader::new(input, 0, MAX_LEN, Reject::BadRemainingLength);
    if header.u8()? != CONNECT {
        return Err(Reject::NotConnect.into());
    }
    let remaining = header.variable(Reject::BadRemainingLength)?;
    if remaining > limits.packet {
        return Err(Reject::OversizedPacket.into());
    }
    let start = header.position();
    let packet = Reader::new(input, start, start + remaining, Reject::BadRemainingLength);
    packet.fits(MIN_REMAINING)?;
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Start of the variable header and remaining length.
    fn header(input: &[u8]) -> Result<(usize, usize), Stop> {
        read(input, &Limits::DEFAULT).map(|packet| (packet.position(), packet.left()))
    }

    #[test]
    fn lengths() {
        assert_eq!(header(&[0x10, 12]), Ok((2, 12)));
        assert_eq!(header(&[0x10, 0x80, 0x01]), Ok((3, 128)));
        assert_eq!(header(&[0x10, 0x80, 0x80, 0x40]), Ok((4, 1 << 20)));
        assert_eq!(
            header(&[0x10, 0x8C, 0x80, 0x80, 0x00]),
            Ok((5, 12)),
            "not minimal"
        );
    }

    #[test]
    fn cut_anywhere_is_incomplete() {
        for cut in [
            &[][..],
            &[0x10],
            &[0x10, 0x8C],
            &[0x10, 0x8C, 0x80],
            &[0x10, 0x8C, 0x80, 0x80],
        ] {
            assert_eq!(header(cut), Err(Stop::Incomplete), "{cut:x?}");
        }
    }

    #[test]
    fn only_0x10_is_a_connect() {
        for first in (0..=255).filter(|&byte| byte != CONNECT) {
            assert_eq!(header(&[first]), Err(Stop::Reject(Reject::NotConnect)));
        }
    }

    #[test]
    fn unsound_lengths() {
        let bad = Err(Stop::Reject(Reject::BadRemainingLength));
        assert_eq!(
            header(&[0x10, 0x80, 0x80, 0x80, 0x80]),
            bad,
            "a fifth byte announced"
        );
        assert_eq!(header(&[0x10, 0]), bad);
        assert_eq!(header(&[0x10, 11]), bad);
        let oversized = Err(Stop::Reject(Reject::OversizedPacket));
        assert_eq!(header(&[0x10, 0x81, 0x80, 0x40]), oversized);
        assert_eq!(header(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F]), oversized);
    }
}
