//! A cursor over a packet of known length of which more bytes may still come.

use super::{Reject, utf8};

/// Why reading ends before the packet does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Everything that arrived is fine, the next byte has not arrived.
    Incomplete,
    Reject(Reject),
}

impl From<Reject> for Stop {
    fn from(reject: Reject) -> Self {
        Self::Reject(reject)
    }
}

/// Knows where the packet (or the section of it) ends before its bytes are there, so that a field which
/// cannot fit is rejected as soon as its length is known.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    /// The input from its first byte on, so that positions are offsets in the input; cut at `end`.
    arrived: &'a [u8],
    position: usize,
    /// Offset one past the last byte of what is read here.
    end: usize,
    /// Bytes before `end` that the fields not read yet need at the least.
    reserved: usize,
    /// The verdict on a field that runs into `reserved` or past `end`.
    overrun: Reject,
}

impl<'a> Reader<'a> {
    pub fn new(input: &'a [u8], position: usize, end: usize, overrun: Reject) -> Self {
        Self {
            arrived: input.get(..end).unwrap_or(input),
            position,
            end,
            reserved: 0,
            overrun,
        }
    }

    pub fn position(&self) -> usize {
        self.position
    }

    /// Bytes from here to the end, arrived or not.
    pub fn left(&self) -> usize {
        self.end.saturating_sub(self.position)
    }

    /// Keeps `bytes` at the end for fields that come later.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), Stop> {
        self.reserved = self.reserved.saturating_add(bytes);
        self.fits(0)
    }

    /// Gives back what was reserved for the field to be read next. Returns what stays reserved.
    pub fn release(&mut self, bytes: usize) -> usize {
        self.reserved = self.reserved.saturating_sub(bytes);
        self.reserved
    }

    /// Rejects unless `bytes` more fit, arrived or not.
    pub fn fits(&self, bytes: usize) -> Result<(), Stop> {
        if bytes.saturating_add(self.reserved) > self.left() {
            return Err(self.overrun.into());
        }
        Ok(())
    }

    pub fn u8(&mut self) -> Result<u8, Stop> {
        self.fits(1)?;
        let byte = *self.arrived.get(self.position).ok_or(Stop::Incomplete)?;
        self.position += 1;
        Ok(byte)
    }

    /// Big endian, as everything in MQTT.
    pub fn u16(&mut self) -> Result<u16, Stop> {
        self.fits(2)?;
        Ok(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    pub fn u32(&mut self) -> Result<u32, Stop> {
        self.fits(4)?;
        Ok(u32::from_be_bytes([
            self.u8()?,
            self.u8()?,
            self.u8()?,
            self.u8()?,
        ]))
    }

    /// A variable byte integer of one to four bytes (MQTT 5, section 1.5.5), minimal or not.
    pub fn variable(&mut self, malformed: Reject) -> Result<usize, Stop> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed.into())
    }

    /// Two bytes of length and that many bytes (MQTT 5, sections 1.5.4 and 1.5.6).
    pub fn field(&mut self) -> Result<Field<'a>, Stop> {
        let len = usize::from(self.u16()?);
        self.fits(len)?;
        let start = self.position;
        self.position += len;
        Ok(Field {
            arrived: self.arrived,
            start,
            len,
        })
    }

    /// The next `len` bytes as a reader of their own; this one goes on behind them.
    pub fn section(&mut self, len: usize, overrun: Reject) -> Result<Reader<'a>, Stop> {
        self.fits(len)?;
        let start = self.position;
        self.position += len;
        Ok(Reader::new(self.arrived, start, self.position, overrun))
    }
}

/// A string or binary field, as far as it has arrived.
///
/// It keeps the input and offsets in it: the kernel's verifier follows an index that is compared with the
/// length of the whole, but not one into a part of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    arrived: &'a [u8],
    start: usize,
    /// Bytes announced.
    pub len: usize,
}

impl<'a> Field<'a> {
    /// Binary data: anything goes.
    pub fn binary(self) -> Result<&'a [u8], Stop> {
        self.arrived
            .get(self.start..self.end())
            .ok_or(Stop::Incomplete)
    }

    /// A UTF-8 string; what has arrived is validated even when the rest is missing.
    pub fn string(self, invalid: Reject) -> Result<&'a [u8], Stop> {
        if !utf8::is_valid(self.arrived, self.start, self.end()) {
            return Err(invalid.into());
        }
        self.binary()
    }

    /// A topic name: a string of at least one character (section 4.7.3) without wildcards
    /// [MQTT-3.3.2-2, MQTT-3.3.2-14].
    pub fn topic_name(self, invalid: Reject) -> Result<&'a [u8], Stop> {
        if self.len == 0 {
            return Err(invalid.into());
        }
        for at in self.start..self.end() {
            match self.arrived.get(at) {
                Some(b'+' | b'#') => return Err(invalid.into()),
                Some(_) => {}
                None => break,
            }
        }
        self.string(invalid)
    }

    fn end(self) -> usize {
        self.start + self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERRUN: Reject = Reject::BadRemainingLength;

    #[test]
    fn a_field_that_cannot_fit_is_rejected_before_it_arrives() {
        let mut reader = Reader::new(b"\x00\x09", 0, 10, OVERRUN);
        assert_eq!(reader.field().unwrap_err(), Stop::Reject(OVERRUN));
        let mut reader = Reader::new(b"\x00\x08", 0, 10, OVERRUN);
        assert_eq!(reader.field().unwrap().binary(), Err(Stop::Incomplete));
    }

    #[test]
    fn reserved_bytes_are_not_given_away() {
        let mut reader = Reader::new(b"\x00\x02abcd", 0, 6, OVERRUN);
        reader.reserve(3).unwrap();
        assert_eq!(reader.field().unwrap_err(), Stop::Reject(OVERRUN));
        let mut reader = Reader::new(b"\x00\x02abcd", 0, 6, OVERRUN);
        reader.reserve(2).unwrap();
        assert_eq!(reader.field().unwrap().binary(), Ok(&b"ab"[..]));
        assert_eq!(reader.reserve(3), Err(Stop::Reject(OVERRUN)));
    }

    #[test]
    fn variable_byte_integers() {
        let read = |bytes: &[u8]| Reader::new(bytes, 0, 8, OVERRUN).variable(Reject::BadProperties);
        assert_eq!(read(b"\x00"), Ok(0));
        assert_eq!(read(b"\x7F"), Ok(127));
        assert_eq!(read(b"\x80\x01"), Ok(128));
        assert_eq!(read(b"\xFF\xFF\xFF\x7F"), Ok(268_435_455));
        assert_eq!(read(b"\x85\x80\x80\x00"), Ok(5), "not minimal");
        assert_eq!(read(b"\xFF\xFF\xFF"), Err(Stop::Incomplete));
        assert_eq!(
            read(b"\x80\x80\x80\x80"),
            Err(Stop::Reject(Reject::BadProperties))
        );
    }

    #[test]
    fn a_section_ends_where_it_says() {
        let mut reader = Reader::new(b"\x01\x02\x03\x04", 0, 4, OVERRUN);
        let mut section = reader.section(3, Reject::BadProperties).unwrap();
        assert_eq!(section.u32(), Err(Stop::Reject(Reject::BadProperties)));
        assert_eq!(section.u16(), Ok(0x0102));
        assert_eq!(section.left(), 1);
        assert_eq!(reader.u8(), Ok(4));
        assert_eq!(reader.u8(), Err(Stop::Reject(OVERRUN)));
    }

    #[test]
    fn topic_names() {
        let topic = |arrived: &'static [u8], len| {
            Field {
                arrived,
                start: 0,
                len,
            }
            .topic_name(Reject::BadPayload)
            .map_err(|stop| stop == Stop::Incomplete)
        };
        assert_eq!(topic(b"a/b", 3), Ok(&b"a/b"[..]));
        assert_eq!(topic(b"a/", 3), Err(true));
        assert_eq!(topic(b"", 0), Err(false));
        assert_eq!(topic(b"a/+", 9), Err(false));
        assert_eq!(topic(b"#", 1), Err(false));
        assert_eq!(topic(b"a\0", 2), Err(false));
    }
}
