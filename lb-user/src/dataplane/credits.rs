//! The map of credits in the agent's memory: program and agent count connections in the same cells.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use lb_common::limits::credit::{CELLS, Credit};

use super::home::{At, Home};
use super::mapped::{Mapped, Value};

/// [`Credit`] with fields that others write too.
#[repr(C)]
struct Cell {
    opened: AtomicU32,
    open_until: AtomicU32,
}
const _: () = assert!(size_of::<Cell>() == size_of::<Credit>());

// SAFETY: atomics only, without padding.
unsafe impl Value for Cell {}

/// The cells of an agent without XDP.
#[derive(Clone)]
pub(super) struct MemoryCells(Arc<[Cell]>);

impl Default for MemoryCells {
    fn default() -> Self {
        let cell = |_| Cell {
            opened: AtomicU32::new(0),
            open_until: AtomicU32::new(0),
        };
        Self((0..CELLS).map(cell).collect())
    }
}

/// The cells, which others have too.
pub struct Credits(Place);

enum Place {
    /// The map, shared with the kernel.
    Mapped(Mapped<Cell>),
    Memory(MemoryCells),
}

impl Credits {
    /// Maps what is pinned, or takes what is in memory.
    ///
    /// # Errors
    /// The map can't be opened or mapped.
    pub fn open(home: &Home) -> anyhow::Result<Self> {
        Ok(Self(match &home.at {
            At::Pinned(dir) => Place::Mapped(Mapped::open(dir, "CREDITS", CELLS)?),
            At::Memory(memory) => Place::Memory(memory.credits.clone()),
        }))
    }

    fn cell(&self, index: u32) -> Option<&Cell> {
        match &self.0 {
            Place::Memory(cells) => cells.0.get(index as usize),
            Place::Mapped(cells) => cells.get(index),
        }
    }

    /// A cell as it is now; without any credit if there is no such cell.
    #[must_use]
    pub fn get(&self, index: u32) -> Credit {
        self.cell(index).map_or(Credit::default(), |cell| Credit {
            opened: cell.opened.load(Relaxed),
            open_until: cell.open_until.load(Relaxed),
        })
    }

    /// Counts a connection.
    pub fn open_one(&self, index: u32) {
        if let Some(cell) = self.cell(index) {
            cell.opened.fetch_add(1, Relaxed);
        }
    }

    /// Up to which count connections may be opened.
    pub fn set_until(&self, index: u32, until: u32) {
        if let Some(cell) = self.cell(index) {
            cell.open_until.store(until, Relaxed);
        }
    }
}
