//! The bytes of a handshake, wherever the borders of its records are.

use super::Reject;

/// Longest record (RFC 8446, section 5.1).
const MAX_RECORD: usize = 1 << 14;
const HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
/// Major version of all of SSL 3.0 to TLS 1.3.
const MAJOR: u8 = 3;

/// Why reading ends.
pub(super) enum Stop {
    /// For want of bytes.
    More,
    Wrong(Reject),
}

/// Reads through the records of a stream.
pub(super) struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the record ends, or would if all of it were there.
    end: usize,
    /// Of the message.
    left: usize,
}

impl<'a> Records<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            end: 0,
            left: usize::MAX,
        }
    }

    /// The message has so many bytes more.
    pub const fn limit(&mut self, left: usize) {
        self.left = left;
    }

    /// What of the message was not read yet.
    pub const fn left(&self) -> usize {
        self.left
    }

    /// Steps over the header of a record, if one begins here.
    fn enter(&mut self) -> Result<(), Stop> {
        if self.at < self.end {
            return Ok(());
        }
        let header = self.bytes.get(self.at..).unwrap_or_default();
        // Who speaks something else may wait for an answer: don't wait for the whole header.
        let wrong = |i: usize, right: u8| header.get(i).is_some_and(|byte| *byte != right);
        if wrong(0, HANDSHAKE) || wrong(1, MAJOR) {
            return Err(Stop::Wrong(Reject::NotTls));
        }
        let [_, _, _, high, low, ..] = *header else {
            return Err(Stop::More);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > MAX_RECORD {
            return Err(Stop::Wrong(Reject::Malformed));
        }
        self.at += HEADER;
        self.end = self.at + length;
        Ok(())
    }

    pub fn byte(&mut self) -> Result<u8, Stop> {
        if self.left == 0 {
            return Err(Stop::Wrong(Reject::Malformed));
        }
        self.enter()?;
        let byte = *self.bytes.get(self.at).ok_or(Stop::More)?;
        self.at += 1;
        self.left -= 1;
        Ok(byte)
    }

    pub fn word(&mut self) -> Result<u16, Stop> {
        Ok(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    pub fn skip(&mut self, mut count: usize) -> Result<(), Stop> {
        if count > self.left {
            return Err(Stop::Wrong(Reject::Malformed));
        }
        while count > 0 {
            self.enter()?;
            let here = count
                .min(self.end - self.at)
                .min(self.bytes.len() - self.at);
            if here == 0 {
                return Err(Stop::More);
            }
            self.at += here;
            self.left -= here;
            count -= here;
        }
        Ok(())
    }
}
