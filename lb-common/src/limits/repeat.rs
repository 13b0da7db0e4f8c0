//! Segments of a connection in set-up that come again while the agent may not have seen them yet.
//!
//! What was handed over last is noted in the entry, in fields that have no other use before the splice. A
//! client that sends byte by byte sends segments that differ, and all of them pass.

use crate::layout::{Flow, ticks};

/// How long a copy is not handed over, in ticks of 16.8 ms: about 100 ms, half of the shortest
/// retransmission time-out of most stacks (RFC 6298 recommends a second, Linux uses 200 ms).
const PAUSE: u32 = 6;

/// What makes two segments the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Sequence number.
    pub seq: u32,
    /// Length of the payload, at most 65,535.
    pub payload: u32,
    /// Control bits.
    pub flags: u8,
}

impl Segment {
    /// Length and flags in one word; never 0, which stands for "none yet".
    #[inline(always)]
    const fn shape(self) -> u32 {
        1 << 31 | self.payload << 8 | self.flags as u32
    }
}

/// Whether `entry` (in `Sniff`) notes the same segment, handed over a moment before `now` (ticks).
#[inline(always)]
#[must_use]
pub const fn is_repeated(entry: &Flow, segment: Segment, now: u32) -> bool {
    entry.seq_add == segment.seq
        && entry.ack_add == segment.shape()
        && ticks::since(now, entry.tsval_add) < PAUSE
}

/// Notes that `segment` was handed over at `now` (ticks).
#[inline(always)]
pub const fn note(entry: &mut Flow, segment: Segment, now: u32) {
    entry.seq_add = segment.seq;
    entry.ack_add = segment.shape();
    entry.tsval_add = now;
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: Segment = Segment {
        seq: 0,
        payload: 14,
        flags: 0x18,
    };

    #[test]
    fn copies_wait_and_others_pass() {
        let mut entry = Flow::ZERO;
        let nothing = Segment {
            seq: 0,
            payload: 0,
            flags: 0,
        };
        assert!(!is_repeated(&entry, SEGMENT, 3));
        assert!(!is_repeated(&entry, nothing, 0), "a fresh entry notes none");
        note(&mut entry, SEGMENT, 100);
        assert!(is_repeated(&entry, SEGMENT, 100));
        assert!(is_repeated(&entry, SEGMENT, 105));
        assert!(!is_repeated(&entry, SEGMENT, 106));
        for other in [
            Segment { seq: 1, ..SEGMENT },
            Segment {
                payload: 15,
                ..SEGMENT
            },
            Segment {
                flags: 0x19,
                ..SEGMENT
            },
        ] {
            assert!(!is_repeated(&entry, other, 100), "{other:?}");
        }
    }

    #[test]
    fn time_wraps() {
        let mut entry = Flow::ZERO;
        note(&mut entry, SEGMENT, u32::MAX);
        assert!(is_repeated(&entry, SEGMENT, 2));
        assert!(!is_repeated(&entry, SEGMENT, 5));
    }
}
