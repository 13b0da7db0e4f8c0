//! TCP options on their way through a splice: in the layouts that nearly every stack sends, in place;
//! in any other layout, step by step.

use crate::checksum::Sum;
use crate::layout::Flow;
use crate::options::{self, BUFFER, Step, get4, kind, put4};

/// NOP, NOP, timestamps: how nearly every stack aligns them (RFC 7323, appendix A).
pub const ALIGNED_TIMESTAMPS: [u8; 4] = [1, 1, 8, 10];

/// Rewrites aligned timestamps in place (12 bytes from the two NOPs on), gives the checksum change.
#[inline(always)]
pub fn timestamps(block: &mut [u8; 12], flow: &Flow, has_ack: bool) -> Sum {
    let mut sum = Sum::ZERO;
    let old = [block[4], block[5], block[6], block[7]];
    let new = u32::from_be_bytes(old)
        .wrapping_add(flow.tsval_add)
        .to_be_bytes();
    sum.replace4(old, new);
    block[4] = new[0];
    block[5] = new[1];
    block[6] = new[2];
    block[7] = new[3];
    // RFC 7323, section 3.2: TSecr is valid only with ACK, and zero otherwise.
    if has_ack {
        let old = [block[8], block[9], block[10], block[11]];
        let new = u32::from_be_bytes(old)
            .wrapping_add(flow.tsecr_add)
            .to_be_bytes();
        sum.replace4(old, new);
        block[8] = new[0];
        block[9] = new[1];
        block[10] = new[2];
        block[11] = new[3];
    }
    sum
}

/// Length of one SACK block, two edges (RFC 2018, section 3).
pub const SACK_BLOCK: usize = 8;

/// How `len` bytes of options begin that are two NOPs and one SACK option of whole blocks (`len` is 4
/// more than a multiple of [`SACK_BLOCK`]): what Linux, the BSDs and Windows send, behind aligned
/// timestamps if the connection has them.
#[inline(always)]
#[must_use]
pub const fn aligned_sack(len: u8) -> [u8; 4] {
    [kind::NOP, kind::NOP, kind::SACK, len.wrapping_sub(2)]
}

/// Moves both edges of a SACK block, gives the checksum change.
#[inline(always)]
pub fn sack_block(block: &mut [u8; SACK_BLOCK], flow: &Flow) -> Sum {
    let mut sum = Sum::ZERO;
    let old = [block[0], block[1], block[2], block[3]];
    let new = u32::from_be_bytes(old)
        .wrapping_add(flow.ack_add)
        .to_be_bytes();
    sum.replace4(old, new);
    block[0] = new[0];
    block[1] = new[1];
    block[2] = new[2];
    block[3] = new[3];
    let old = [block[4], block[5], block[6], block[7]];
    let new = u32::from_be_bytes(old)
        .wrapping_add(flow.ack_add)
        .to_be_bytes();
    sum.replace4(old, new);
    block[4] = new[0];
    block[5] = new[1];
    block[6] = new[2];
    block[7] = new[3];
    sum
}

/// Options in any layout, on the way through a splice.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Options {
    /// The option block; zero beyond `len`.
    pub buffer: [u8; BUFFER],
    /// Its length in bytes.
    pub len: u32,
    /// Next byte to look at.
    pub at: u32,
    /// Added to SACK edges.
    pub ack_add: u32,
    /// Added to TSval.
    pub tsval_add: u32,
    /// Added to TSecr; 0 when the segment has no ACK.
    pub tsecr_add: u32,
    /// Not zero when the options are malformed.
    pub bad: u32,
    /// The buffer's sum before, complemented by `finish`.
    pub before: u64,
}

impl Options {
    /// Begins a walk; the caller has filled `buffer`.
    #[inline(always)]
    pub fn begin(&mut self, len: u32, flow: &Flow, has_ack: bool) {
        self.len = len;
        self.at = 0;
        self.ack_add = flow.ack_add;
        self.tsval_add = flow.tsval_add;
        self.tsecr_add = if has_ack { flow.tsecr_add } else { 0 };
        self.bad = 0;
        let mut sum = Sum::ZERO;
        sum.add(&self.buffer);
        self.before = sum.0;
    }

    /// Rewrites the next option; `false` when done. At most 40 calls.
    #[inline(always)]
    pub const fn step(&mut self) -> bool {
        let at = self.at as usize & (BUFFER - 1);
        let (kind, len) = match options::step(&self.buffer, self.len as usize, at) {
            Step::Option { kind, len, .. } => (kind, len),
            Step::End => return false,
            Step::Bad => {
                self.bad = 1;
                return false;
            }
        };
        if kind == kind::TIMESTAMPS && len == 10 {
            let value = get4(&self.buffer, at + 2).wrapping_add(self.tsval_add);
            put4(&mut self.buffer, at + 2, value);
            let echo = get4(&self.buffer, at + 6).wrapping_add(self.tsecr_add);
            put4(&mut self.buffer, at + 6, echo);
        } else if kind == kind::SACK {
            // Up to four blocks of two edges (RFC 2018, section 3). `len` is at most 40.
            let mut edge = 0;
            while edge < 8 {
                if 2 + edge * 4 + 4 <= len {
                    let v = get4(&self.buffer, at + 2 + edge * 4).wrapping_add(self.ack_add);
                    put4(&mut self.buffer, at + 2 + edge * 4, v);
                }
                edge += 1;
            }
        }
        self.at = (at + len) as u32;
        true
    }

    /// The checksum change that the walk has made.
    #[inline(always)]
    #[must_use]
    pub fn finish(&self) -> Sum {
        let mut after = Sum::ZERO;
        after.add(&self.buffer);
        // Complementing the folded sum keeps the number of carries out of it.
        Sum(after.0 + (!Sum(self.before).fold()) as u64)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The general walk.
    pub fn walk(options: &[u8], flow: &Flow, has_ack: bool) -> Options {
        let (buffer, len) = options::buffer(options);
        let mut o = Options {
            buffer,
            len: 0,
            at: 0,
            ack_add: 0,
            tsval_add: 0,
            tsecr_add: 0,
            bad: 0,
            before: 0,
        };
        o.begin(u32::try_from(len).unwrap(), flow, has_ack);
        let mut steps = 0;
        while o.step() {
            steps += 1;
            assert!(steps <= options::MAX);
        }
        o
    }

    /// +0 and −0 are the same sum.
    fn zero(s: u16) -> u16 {
        if s == 0xffff { 0 } else { s }
    }

    proptest! {
        #[test]
        fn sack_edges_move_and_the_sum_is_right(edges in prop::collection::vec(any::<u32>(), 1..=4), add: u32, odd: bool) {
            // Edges in pairs; an odd start (one NOP) is legal though nobody sends it.
            let mut o = if odd { vec![1] } else { vec![1, 1] };
            o.extend([5, u8::try_from(2 + edges.len() * 8).unwrap()]);
            for e in &edges {
                o.extend(e.to_be_bytes());
                o.extend(e.wrapping_add(1448).to_be_bytes());
            }
            while o.len() % 4 != 0 { o.push(0); }
            prop_assume!(o.len() <= 40);
            let f = Flow { ack_add: add, ..Flow::ZERO };
            let w = walk(&o, &f, true);
            prop_assert_eq!(w.bad, 0);
            let start = if odd { 3 } else { 4 };
            for (i, e) in edges.iter().enumerate() {
                prop_assert_eq!(get4(&w.buffer, start + i * 8), e.wrapping_add(add));
                prop_assert_eq!(get4(&w.buffer, start + i * 8 + 4), e.wrapping_add(1448).wrapping_add(add));
            }
            let mut by_hand = crate::checksum::sum(&w.buffer);
            by_hand += u64::from(!Sum(crate::checksum::sum(&options::buffer(&o).0)).fold());
            prop_assert_eq!(zero(w.finish().fold()), zero(Sum(by_hand).fold()));
        }

        #[test]
        fn aligned_sack_is_what_the_walk_makes_of_it(
            edges in prop::collection::vec(any::<[u8; 8]>(), 1..=4), adds: [u32; 3], stamps in any::<Option<[u8; 8]>>(), has_ack: bool,
        ) {
            let flow = Flow { ack_add: adds[0], tsval_add: adds[1], tsecr_add: adds[2], ..Flow::ZERO };
            let mut options = vec![];
            if let Some(stamps) = &stamps {
                options.extend(ALIGNED_TIMESTAMPS);
                options.extend(stamps);
            }
            let start = options.len();
            let len = 4 + edges.len() * SACK_BLOCK;
            options.extend(aligned_sack(u8::try_from(len).unwrap()));
            options.extend(edges.concat());
            prop_assume!(options.len() <= options::MAX);
            let want = walk(&options, &flow, has_ack);
            prop_assert_eq!(want.bad, 0);

            // The straight way: the pieces one by one, in place.
            let mut change = 0;
            if stamps.is_some() {
                let block = options[..12].as_mut_array().unwrap();
                change += timestamps(block, &flow, has_ack).0;
            }
            for block in options[start + 4..].as_chunks_mut().0 {
                change += sack_block(block, &flow).0;
            }
            prop_assert_eq!(&options[..], &want.buffer[..options.len()]);
            prop_assert_eq!(zero(Sum(change).fold()), zero(want.finish().fold()));
        }

        #[test]
        fn any_options_end_in_time(options in prop::collection::vec(any::<u8>(), 0..=40)) {
            walk(&options, &Flow::ZERO, true);
        }
    }
}
