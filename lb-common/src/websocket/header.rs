//! The header of a client's frame (RFC 6455, section 5.2).

use super::{MOST_CONTROL, Wrong};

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Binary,
    Close,
    Ping,
    Pong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Last frame of its message.
    pub last: bool,
    pub opcode: Opcode,
    /// Of the payload; at most [`MOST_CONTROL`] if it is a control frame.
    pub length: u64,
    /// The masking key.
    pub key: [u8; 4],
}

impl Header {
    /// Reads the header at the beginning of `bytes`, and its own length; `None`: it isn't whole.
    pub fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, Wrong> {
        let Some((&first, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(Wrong::Reserved);
        }
        let last = first & 0x80 != 0;
        let opcode = match first & 0x0f {
            0 => Opcode::Continuation,
            1 => return Err(Wrong::Text),
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return Err(Wrong::Reserved),
        };
        let Some((&second, rest)) = rest.split_first() else {
            return Ok(None);
        };
        if second & 0x80 == 0 {
            return Err(Wrong::Unmasked);
        }
        let short = second & 0x7f;
        let control = !matches!(opcode, Opcode::Continuation | Opcode::Binary);
        if control && (!last || usize::from(short) > MOST_CONTROL) {
            return Err(Wrong::Control);
        }
        let (length, rest) = match short {
            126 => match rest.split_first_chunk() {
                Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((length, rest)) => (u64::from_be_bytes(*length), rest),
                None => return Ok(None),
            },
            short => (u64::from(short), rest),
        };
        let minimal = match short {
            126 => length > 125,
            127 => length > 0xffff && length >> 63 == 0,
            _ => true,
        };
        if !minimal {
            return Err(Wrong::Length);
        }
        let Some((key, rest)) = rest.split_first_chunk() else {
            return Ok(None);
        };
        let header = Self {
            last,
            opcode,
            length,
            key: *key,
        };
        Ok(Some((header, bytes.len().saturating_sub(rest.len()))))
    }
}
