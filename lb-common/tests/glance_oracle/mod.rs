//! What must hold of a glance at any payload. Shared by the property tests and the fuzz target.

use lb_common::mqtt::{Glance, Protocol, ROOM, Seen, Sniff, sniff};
use lb_common::siphash;

pub const KEY: siphash::Key = [0x0123_4567_89ab_cdef, 42];

/// Glances at a payload. Whatever lay there before must not matter.
pub fn glance(payload: &[u8], before: u8) -> (Seen, Glance) {
    let mut glance = Box::new(Glance::EMPTY);
    glance.bytes = [before; ROOM + 8];
    let seen = glance.read_all(payload, &KEY, u32::MAX);
    (seen, *glance)
}

/// What the glance accepts, the sniffer accepts, with the same identifier, keep-alive and length; what it
/// calls split or anonymous is so, or is rejected.
pub fn check(payload: &[u8]) -> Seen {
    let (seen, found) = glance(payload, 0);
    let (again, other) = glance(payload, 0xff);
    assert_eq!(seen, again, "what was in the buffer before matters");
    let sniffed = sniff(payload);
    match seen {
        Seen::Connect => {
            let Ok(Sniff::Connect(connect)) = sniffed else {
                panic!("accepted, but the sniffer says {sniffed:?}: {payload:x?}");
            };
            assert!(connect.complete && connect.packet_len <= payload.len());
            assert!(matches!(connect.protocol, Protocol::V311 | Protocol::V5));
            assert!(!connect.bridge && !connect.client_id.is_empty());
            assert_eq!(found.keep_alive, u32::from(connect.keep_alive));
            assert_eq!(found.client, siphash::bytes(&KEY, connect.client_id).max(1));
            assert_eq!(found.client, other.client);
        }
        Seen::Split => {
            if let Ok(Sniff::Connect(connect)) = sniffed {
                // A longer payload is cut, and no segment is that long.
                assert!(!connect.complete || payload.len() > ROOM, "{payload:x?}");
            }
        }
        Seen::Anonymous => {
            if let Ok(Sniff::Connect(connect)) = sniffed {
                assert!(connect.client_id.is_empty(), "{payload:x?}");
            }
        }
        Seen::Unusual | Seen::Oversized => {}
    }
    seen
}
