//! Where a backend's frames end (RFC 6455, section 5.2). The relay passes them as they are; this only skips from
//! header to header, so that a close frame of ours falls between two of them.

/// What has passed so far, from the first frame on.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Passed {
    /// The bytes of a header that has begun.
    header: [u8; 14],
    have: u8,
    /// What is left of the payload behind it.
    left: u64,
    /// The backend has sent a close frame.
    closed: bool,
}

impl Passed {
    /// Takes note of bytes that the client gets.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        loop {
            let skipped = usize::try_from(self.left).map_or(bytes.len(), |n| n.min(bytes.len()));
            self.left -= skipped as u64;
            bytes = &bytes[skipped..];
            let Some((first, rest)) = bytes.split_first() else {
                return;
            };
            bytes = rest;
            self.header[usize::from(self.have)] = *first;
            self.have += 1;
            let header = &self.header[..usize::from(self.have)];
            if let Some(length) = payload(header) {
                self.closed |= header[0] & 0x0f == 8;
                self.left = length;
                self.have = 0;
            }
        }
    }

    /// Whether a close frame may follow: no frame has begun, and there was none yet.
    pub const fn may_close(&self) -> bool {
        self.left == 0 && self.have == 0 && !self.closed
    }
}

/// The length of the payload, once its header is complete.
fn payload(header: &[u8]) -> Option<u64> {
    let second = *header.get(1)?;
    // A backend has no business with a key, but then it is as long as this.
    let key = if second & 0x80 == 0 { 0 } else { 4 };
    let (length, extended) = match second & 0x7f {
        126 => (header.get(2..4)?, 2),
        127 => (header.get(2..10)?, 8),
        _ => (&header[1..2], 0),
    };
    let whole = length.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    (header.len() == 2 + extended + key).then_some(match extended {
        0 => u64::from(second & 0x7f),
        _ => whole,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tungstenite::protocol::frame::Frame;
    use tungstenite::protocol::frame::coding::{Data, OpCode};

    /// A frame as another implementation writes it.
    fn frame(length: usize, last: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let frame = Frame::message(vec![0x88; length], OpCode::Data(Data::Binary), last);
        frame.format(&mut bytes).unwrap();
        bytes
    }

    proptest! {
        #[test]
        fn frames_end_where_they_end(
            lengths in prop::collection::vec(
                prop_oneof![0..200usize, Just(125), Just(126), Just(65_535), Just(65_536)],
                1..6,
            ),
            step in 1..70_000usize,
        ) {
            let mut all = Vec::new();
            let mut ends = vec![0];
            for length in &lengths {
                all.extend(frame(*length, length % 2 == 0));
                ends.push(all.len());
            }
            let mut passed = Passed::default();
            let mut at = 0;
            for chunk in all.chunks(step) {
                passed.pass(chunk);
                at += chunk.len();
                prop_assert_eq!(passed.may_close(), ends.contains(&at), "{} of {:?}", at, ends);
            }
            prop_assert!(passed.may_close());
            // The same byte by byte, around the ends.
            let mut passed = Passed::default();
            for (n, byte) in all.iter().enumerate() {
                passed.pass(&[*byte]);
                prop_assert_eq!(passed.may_close(), ends.contains(&(n + 1)));
            }
        }
    }

    #[test]
    fn nothing_follows_a_close_frame() {
        for close in [
            &[0x88, 0][..],
            &[0x88, 2, 3, 0xe8],
            &[0x88, 0x82, 1, 2, 3, 4, 5, 6],
        ] {
            let mut passed = Passed::default();
            passed.pass(&frame(5, true));
            assert!(passed.may_close());
            passed.pass(close);
            assert!(!passed.may_close());
            assert_eq!((passed.left, passed.have), (0, 0), "{close:02x?}");
        }
    }
}
