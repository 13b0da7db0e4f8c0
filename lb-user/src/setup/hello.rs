//! TLS that is passed through: what a ClientHello tells takes the place of the CONNECT.

use lb_common::layout::Verdict;
use lb_common::tls::{Name, Reject};

/// The verdict that counts a reason.
pub(crate) const fn verdict(reject: Reject) -> Verdict {
    match reject {
        Reject::NotTls | Reject::NotHello | Reject::Malformed => Verdict::TlsMalformed,
        Reject::TooLong => Verdict::RejectOversizedPacket,
        Reject::BadName => Verdict::TlsBadName,
    }
}

/// What a client is known by that is only seen from outside: its address, and the server that it asks for, because
/// servers may be in different pools. No client identifier is equal: that has no zero byte.
pub(crate) fn known_by(address: &[u8; 16], server: Option<&Name>) -> Vec<u8> {
    let server = server.map_or("", Name::as_str);
    [&[0], &address[..], server.as_bytes()].concat()
}
