//! The map of turns in the agent's memory: program and agent take turns from the same rounds.

use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use lb_common::layout::{self, TURN_POOLS, TURNS};

use super::home::{At, Home};
use super::mapped::{Mapped, Value};

/// [`layout::Turns`] with fields that others read and write too.
#[repr(C)]
struct Pool {
    next: AtomicU64,
    len: AtomicU32,
    families: AtomicU32,
    round: [AtomicU16; TURNS],
}
const _: () = assert!(size_of::<Pool>() == size_of::<layout::Turns>());

// SAFETY: atomics only, without padding.
unsafe impl Value for Pool {}

/// The turns of all pools.
pub struct Turns(Mapped<Pool>);

impl Turns {
    /// Maps what is pinned; `None` without XDP: then nobody else takes turns.
    ///
    /// # Errors
    /// The map can't be opened or mapped.
    pub fn open(home: &Home) -> anyhow::Result<Option<Self>> {
        match &home.at {
            At::Pinned(dir) => Ok(Some(Self(Mapped::open(dir, "TURNS", TURN_POOLS)?))),
            At::Memory(_) => Ok(None),
        }
    }

    fn pool(&self, pool: usize) -> Option<&Pool> {
        self.0.get(u32::try_from(pool).ok()?)
    }

    /// The round of a pool from now on, at most [`TURNS`] slots; an empty one leaves the choice to the agent.
    /// Turns that are taken meanwhile are of either round.
    pub fn set(&self, pool: usize, families: u32, round: &[u16]) {
        let Some(pool) = self.pool(pool) else {
            return;
        };
        pool.len.store(0, Relaxed);
        for (place, slot) in pool.round.iter().zip(round) {
            place.store(*slot, Relaxed);
        }
        pool.families.store(families, Relaxed);
        let len = round.len().min(TURNS);
        pool.len.store(u32::try_from(len).unwrap_or(0), Release);
    }

    /// Slot of the backend of a pool whose turn it is; `None` if there are no turns.
    pub fn take(&self, pool: usize) -> Option<u16> {
        let pool = self.pool(pool)?;
        let len = pool.len.load(Relaxed);
        if len == 0 {
            return None;
        }
        let place = layout::Turns::place(pool.next.fetch_add(1, Relaxed), len);
        Some(pool.round[place].load(Relaxed))
    }
}
