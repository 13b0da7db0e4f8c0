//! What the balancer itself says over WebSocket: short frames without a mask (RFC 6455, section 5.1).

use super::{Kind, MOST_CONTROL};

/// Bytes of such a header.
pub const HEADER_ROOM: usize = 2;

/// The header of a frame that is a whole message; `None`: above [`MOST_CONTROL`], which none of ours is.
#[must_use]
pub fn server_header(kind: Kind, length: usize) -> Option<[u8; HEADER_ROOM]> {
    let opcode = match kind {
        Kind::Data => 0x2,
        Kind::Close => 0x8,
        Kind::Ping => 0x9,
        Kind::Pong => 0xa,
    };
    let length = u8::try_from(length).ok()?;
    (usize::from(length) <= MOST_CONTROL).then_some([0x80 | opcode, length])
}
