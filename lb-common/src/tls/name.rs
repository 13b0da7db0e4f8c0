//! The name of a server.

use core::fmt;

use super::Reject;
use super::records::Stop;

/// Longest DNS name, without the dot at its end.
const MAX: usize = 253;

/// A DNS name in lower case.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; MAX],
    len: usize,
}

impl Name {
    /// The name; it is ASCII.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Takes `len` bytes from `next`. Labels, dots and hyphens, and underscores, which are seen; a dot at the end
    /// is left away.
    pub(super) fn read(
        len: usize,
        mut next: impl FnMut() -> Result<u8, Stop>,
    ) -> Result<Self, Stop> {
        let bad = Stop::Wrong(Reject::BadName);
        if len == 0 || len > MAX + 1 {
            return Err(bad);
        }
        let mut name = Self {
            bytes: [0; MAX],
            len: 0,
        };
        let mut label = 0;
        for i in 0..len {
            let byte = next()?.to_ascii_lowercase();
            let last = i + 1 == len;
            label = match byte {
                b'.' if label == 0 => return Err(bad),
                b'.' if last => break,
                b'.' => 0,
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' if label < 63 => label + 1,
                _ => return Err(bad),
            };
            let Some(place) = name.bytes.get_mut(name.len) else {
                return Err(bad);
            };
            *place = byte;
            name.len += 1;
        }
        Ok(name)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}
