//! Turns: the backends that clients of a pool go to which are bound to none, where the pool's policy asks
//! neither who the client is nor how many connections a backend has.

/// Pools that have turns, at most: those with lower numbers.
pub const TURN_POOLS: u32 = 256;
/// Turns of a round, at most. A power of two.
pub const TURNS: usize = 1024;

/// Value of the map of turns; the index is the pool's number.
///
/// The agent writes a round, and program and agent take turns by adding to `next`. A round is replaced while
/// turns are taken: whoever takes one looks at whether the backend may have the client, as it does anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Turns {
    /// Turns taken since the map exists.
    pub next: u64,
    /// Length of the round; 0: the agent chooses.
    pub len: u32,
    /// Families that all backends of the round can be reached by: [`Self::V4`], [`Self::V6`].
    pub families: u32,
    /// The round: slots of the backends' IPv4 addresses.
    pub round: [u16; TURNS],
}
const _: () = assert!(size_of::<Turns>() == 16 + 2 * TURNS);

impl Turns {
    /// Bit of IPv4 in `families`.
    pub const V4: u32 = 1;
    /// Bit of IPv6.
    pub const V6: u32 = 2;

    /// The bit of a family.
    #[inline(always)]
    #[must_use]
    pub const fn family(v4: bool) -> u32 {
        if v4 { Self::V4 } else { Self::V6 }
    }

    /// Place of a turn in a round of `len`, which isn't 0.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "below TURNS")]
    pub const fn place(turn: u64, len: u32) -> usize {
        // The mask is for the verifier, and for a length that is none.
        (turn % len as u64) as usize & (TURNS - 1)
    }
}
