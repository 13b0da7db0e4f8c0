//! A client's first bytes put in order, however its segments come.
//!
//! Offsets count from the first byte after the SYN (`Ic + 1`). The contiguous part never changes, only
//! grows: a client that sends other bytes in a second copy can't get past what was read.

/// Ranges kept beyond a gap; a segment that would make one more is dropped (and comes again).
const MAX_AHEAD: usize = 64;

/// What has come of a byte stream.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    contiguous: Vec<u8>,
    /// Sorted, disjoint, not adjacent to `contiguous`.
    ahead: Vec<(usize, Vec<u8>)>,
    fin: Option<usize>,
}

impl Reassembly {
    /// Takes in the payload of a segment at `offset`, as far as it stays within `limit` bytes of the
    /// stream; `true` if the contiguous part grew.
    pub fn insert(&mut self, offset: i64, data: &[u8], limit: usize) -> bool {
        let have = self.contiguous.len();
        let limit = self.fin.map_or(limit, |fin| limit.min(fin));
        let Some((start, data)) = clip(offset, data, have, limit) else {
            return false;
        };
        if start > have {
            self.keep_ahead(start, data);
            return false;
        }
        self.contiguous.extend_from_slice(data);
        while let Some((start, range)) = self.ahead.first() {
            let have = self.contiguous.len();
            if *start > have {
                break;
            }
            if let Some(new) = range.get(have - start..) {
                self.contiguous.extend_from_slice(new);
            }
            self.ahead.remove(0);
        }
        true
    }

    /// Puts what is new of `data` into the gaps between the ranges ahead.
    fn keep_ahead(&mut self, start: usize, data: &[u8]) {
        let end = start + data.len();
        let mut pieces = Vec::new();
        let mut from = start;
        for (s, range) in &self.ahead {
            let (s, e) = (*s, s + range.len());
            if e <= from {
                continue;
            }
            if s >= end {
                break;
            }
            if s > from {
                pieces.push((from, data[from - start..s - start].to_vec()));
            }
            from = e;
        }
        if from < end {
            pieces.push((from, data[from - start..].to_vec()));
        }
        for piece in pieces {
            if self.ahead.len() < MAX_AHEAD {
                let at = self.ahead.partition_point(|(s, _)| *s < piece.0);
                self.ahead.insert(at, piece);
            }
        }
    }

    /// Notes that the stream ends at `offset`; a second, different end is ignored.
    pub fn end_at(&mut self, offset: i64) {
        if let Ok(offset) = usize::try_from(offset)
            && self.fin.is_none()
            && offset >= self.highest()
        {
            self.fin = Some(offset);
        }
    }

    /// The first bytes, without a gap.
    pub fn contiguous(&self) -> &[u8] {
        &self.contiguous
    }

    /// The first `len` bytes by themselves.
    pub fn into_first(mut self, len: usize) -> Vec<u8> {
        self.contiguous.truncate(len);
        self.contiguous.shrink_to_fit();
        self.contiguous
    }

    /// The ranges beyond a gap, in order.
    pub fn ahead(&self) -> impl Iterator<Item = (usize, &[u8])> {
        self.ahead.iter().map(|(start, data)| (*start, &data[..]))
    }

    /// Offset of the FIN, if it has come.
    pub const fn fin(&self) -> Option<usize> {
        self.fin
    }

    /// Whether everything up to the FIN has come.
    pub fn ended(&self) -> bool {
        self.fin == Some(self.contiguous.len())
    }

    /// One past the last byte that has come.
    pub fn highest(&self) -> usize {
        self.ahead
            .last()
            .map_or(self.contiguous.len(), |(start, data)| start + data.len())
    }

    /// Bytes kept.
    pub fn len(&self) -> usize {
        self.contiguous.len() + self.ahead.iter().map(|(_, data)| data.len()).sum::<usize>()
    }
}

/// The part of a segment that lies in `have..limit`, and where it starts.
fn clip(offset: i64, data: &[u8], have: usize, limit: usize) -> Option<(usize, &[u8])> {
    let have = i64::try_from(have).ok()?;
    let skip = usize::try_from((have - offset).max(0)).ok()?;
    let data = data.get(skip..)?;
    let start = usize::try_from(offset.max(have)).ok()?;
    let room = limit.checked_sub(start)?;
    let data = &data[..data.len().min(room)];
    (!data.is_empty()).then_some((start, data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(offset: usize) -> i64 {
        i64::try_from(offset).unwrap()
    }

    #[test]
    fn a_gap_is_filled() {
        let mut r = Reassembly::default();
        assert!(!r.insert(3, b"def", 100));
        assert!(!r.insert(8, b"ij", 100));
        assert_eq!((r.contiguous(), r.len(), r.highest()), (&b""[..], 5, 10));
        assert!(r.insert(0, b"abcd", 100));
        assert_eq!(r.contiguous(), b"abcdef");
        assert_eq!(r.ahead().collect::<Vec<_>>(), [(8, &b"ij"[..])]);
        assert!(r.insert(5, b"fgh", 100));
        assert_eq!(r.contiguous(), b"abcdefghij");
    }

    #[test]
    fn what_was_read_stays() {
        let mut r = Reassembly::default();
        r.insert(2, b"cd", 100);
        r.insert(1, b"XXXX", 100);
        assert!(r.insert(0, b"a", 100));
        assert_eq!(r.contiguous(), b"aXcdX");
        assert!(!r.insert(-3, b"yyyzz", 100), "nothing new");
        assert!(r.insert(0, b"zzzzzz", 100));
        assert_eq!(r.contiguous(), b"aXcdXz");
    }

    #[test]
    fn nothing_beyond_the_limit_and_the_end() {
        let mut r = Reassembly::default();
        assert!(r.insert(0, b"abcdef", 4));
        assert_eq!(r.contiguous(), b"abcd");
        assert!(!r.insert(4, b"e", 4));
        r.end_at(2);
        assert_eq!(r.fin(), None, "an end before what has come");
        r.end_at(6);
        assert!(r.insert(4, b"efgh", 100));
        assert_eq!(r.contiguous(), b"abcdef");
        assert!(r.ended());
        assert!(!r.insert(7, b"x", 100));
    }

    #[test]
    fn ranges_ahead_are_few() {
        let mut r = Reassembly::default();
        for i in 0..1000 {
            r.insert(1 + 2 * i, b"x", 1 << 20);
        }
        assert_eq!(r.len(), MAX_AHEAD);
    }

    proptest! {
        #[test]
        fn any_order_gives_the_stream(
            cuts in prop::collection::vec((0usize..300, 1usize..60), 1..40), stream in prop::collection::vec(any::<u8>(), 300),
        ) {
            let mut r = Reassembly::default();
            let mut seen = vec![false; 300];
            for (start, len) in cuts {
                let end = (start + len).min(300);
                r.insert(at(start), &stream[start..end], 1 << 20);
                seen[start..end].fill(true);
                let whole = seen.iter().take_while(|s| **s).count();
                prop_assert_eq!(r.contiguous(), &stream[..whole]);
                prop_assert_eq!(r.len(), seen.iter().filter(|s| **s).count());
                let mut last = whole;
                for (start, data) in r.ahead() {
                    prop_assert!(start >= last && start > whole, "sorted, disjoint and behind a gap");
                    prop_assert_eq!(data, &stream[start..start + data.len()]);
                    last = start + data.len();
                }
            }
        }
    }
}
