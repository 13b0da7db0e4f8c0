//! WebSocket frames that clients send (RFC 6455, section 5), read without keeping them: the balancer looks into
//! the first ones for an MQTT CONNECT and then passes all of them on as they are.
//!
//! [`Frames::next`] looks at the bytes behind what it read before, and says what the next of them are. Each frame is
//! checked as soon as its header is there:
//!
//! | offender | section | here | close code |
//! |---|---|---|---|
//! | frame that isn't masked | 5.1 | `Unmasked` | 1002 |
//! | RSV bit without an extension, reserved opcode | 5.2 | `Reserved` | 1002 |
//! | length that isn't minimal, or above 2^63 | 5.2 | `Length` | 1002 |
//! | control frame in fragments, or above 125 bytes | 5.5 | `Control` | 1002 |
//! | close frame of one byte, or with a code that may not be sent | 5.5.1, 7.4 | `Control` | 1002 |
//! | continuation of nothing, message within a message | 5.4 | `Fragment` | 1002 |
//! | text message | MQTT 5, section 6 [MQTT-6.0.0-1] | `Text` | 1003 |
//! | close frame whose reason isn't UTF-8 | 5.5.1 | `CloseReason` | 1007 |

mod header;
mod server;
#[cfg(test)]
mod tests;

use header::{Header, Opcode};
pub use server::{HEADER_ROOM, server_header};

/// The longest payload of a control frame (section 5.5).
pub const MOST_CONTROL: usize = 125;

/// Codes of close frames (section 7.4.1, and IANA's registry for those of later date).
pub mod close {
    pub const GOING_AWAY: u16 = 1001;
    pub const PROTOCOL_ERROR: u16 = 1002;
    pub const UNSUPPORTED_DATA: u16 = 1003;
    pub const INVALID_DATA: u16 = 1007;
    pub const POLICY: u16 = 1008;
    pub const TOO_BIG: u16 = 1009;
    pub const TRY_AGAIN: u16 = 1013;
}

/// What is wrong with a frame, see the module's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    Unmasked,
    Reserved,
    Length,
    Control,
    Fragment,
    Text,
    CloseReason,
}

impl Wrong {
    /// The code to close with.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Unmasked | Self::Reserved | Self::Length | Self::Control | Self::Fragment => {
                close::PROTOCOL_ERROR
            }
            Self::Text => close::UNSUPPORTED_DATA,
            Self::CloseReason => close::INVALID_DATA,
        }
    }
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of a binary message.
    Data,
    /// A whole ping.
    Ping,
    /// A whole pong.
    Pong,
    /// A whole close frame.
    Close,
}

/// Some of the next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub kind: Kind,
    /// Where payload begins; what is before it is a frame's header.
    pub payload: usize,
    /// Where the part ends, and the next one begins.
    pub end: usize,
    /// What the payload is masked with, from its first byte on ([`unmask`]).
    pub key: [u8; 4],
}

/// The frames of one client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frames {
    /// Payload of the current data frame that was not read yet.
    rest: u64,
    /// What it is masked with, from its next byte on.
    key: [u8; 4],
    /// The current message goes on in another frame.
    open: bool,
}

impl Frames {
    /// What the beginning of `bytes` is, which are those behind the end of the last part; `None`: more bytes are
    /// needed. A part of data may be without payload; control frames come as a whole.
    ///
    /// # Errors
    /// The frame is wrong; nothing behind it can be read.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Option<Part>, Wrong> {
        if self.rest > 0 {
            return Ok((!bytes.is_empty()).then(|| self.data(0, bytes.len())));
        }
        let Some((header, length)) = Header::read(bytes)? else {
            return Ok(None);
        };
        let kind = match header.opcode {
            Opcode::Continuation if !self.open => return Err(Wrong::Fragment),
            Opcode::Binary if self.open => return Err(Wrong::Fragment),
            Opcode::Continuation | Opcode::Binary => {
                self.open = !header.last;
                self.rest = header.length;
                self.key = header.key;
                return Ok(Some(self.data(length, bytes.len())));
            }
            Opcode::Ping => Kind::Ping,
            Opcode::Pong => Kind::Pong,
            Opcode::Close => Kind::Close,
        };
        // Not above MOST_CONTROL.
        let end = length.saturating_add(usize::try_from(header.length).unwrap_or(MOST_CONTROL));
        Ok((bytes.len() >= end).then_some(Part {
            kind,
            payload: length,
            end,
            key: header.key,
        }))
    }

    /// As much of the current frame's payload as lies between the two.
    fn data(&mut self, payload: usize, end: usize) -> Part {
        let there = end.saturating_sub(payload);
        let here = usize::try_from(self.rest).map_or(there, |rest| rest.min(there));
        let key = self.key;
        self.rest = self.rest.saturating_sub(here as u64);
        self.key.rotate_left(here % 4);
        Part {
            kind: Kind::Data,
            payload,
            end: payload.saturating_add(here),
            key,
        }
    }
}

/// Takes the mask off, or puts it on.
pub fn unmask(bytes: &mut [u8], key: [u8; 4]) {
    for (byte, mask) in bytes.iter_mut().zip(key.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Reads the payload of a close frame, without its mask: the code, if there is one.
///
/// # Errors
/// It is wrong.
pub fn close_code(payload: &[u8]) -> Result<Option<u16>, Wrong> {
    let [high, low, reason @ ..] = payload else {
        return if payload.is_empty() {
            Ok(None)
        } else {
            Err(Wrong::Control)
        };
    };
    let code = u16::from_be_bytes([*high, *low]);
    // Section 7.4.2. 1004 to 1006 and 1015 are never sent.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Wrong::Control);
    }
    match core::str::from_utf8(reason) {
        Ok(_) => Ok(Some(code)),
        Err(_) => Err(Wrong::CloseReason),
    }
}
