//! The map of credits in the agent's memory: program and agent count connections in the same cells.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use anyhow::Context as _;
use aya::maps::MapData;
use lb_common::limits::credit::{CELLS, Credit};

use super::home::{At, Home};

/// [`Credit`] with fields that others write too.
#[repr(C)]
struct Cell {
    opened: AtomicU32,
    open_until: AtomicU32,
}
const _: () = assert!(size_of::<Cell>() == size_of::<Credit>());

const LEN: usize = CELLS as usize * size_of::<Cell>();

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
    /// The map, shared with the kernel (`BPF_F_MMAPABLE`, Linux 5.5).
    Mapped(Mapping),
    Memory(MemoryCells),
}

/// [`CELLS`] cells, mapped.
struct Mapping(NonNull<Cell>);

// SAFETY: the memory is only accessed through atomics and belongs to the process, not to a thread.
unsafe impl Send for Mapping {}

impl Credits {
    /// Maps what is pinned, or takes what is in memory.
    ///
    /// # Errors
    /// The map can't be opened or mapped.
    pub fn open(home: &Home) -> anyhow::Result<Self> {
        let dir = match &home.at {
            At::Pinned(dir) => dir,
            At::Memory(memory) => return Ok(Self(Place::Memory(memory.credits.clone()))),
        };
        let path = dir.join("CREDITS");
        let map = MapData::from_pin(&path)
            .with_context(|| format!("cannot open the map {}", path.display()))?;
        let has = map.info()?.max_entries();
        anyhow::ensure!(
            has == CELLS,
            "the map {} has {has} entries in place of {CELLS}",
            path.display()
        );
        // SAFETY: a new mapping at an address of the kernel's choice, of a map that is this large (its
        // entries are 8 bytes, its size is rounded up to pages). It keeps the map alive by itself.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LEN,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            return Err(error).with_context(|| format!("cannot map {}", path.display()));
        }
        let memory = NonNull::new(memory.cast()).context("mapped at address 0")?;
        Ok(Self(Place::Mapped(Mapping(memory))))
    }

    fn cell(&self, index: u32) -> Option<&Cell> {
        match &self.0 {
            Place::Memory(cells) => cells.0.get(index as usize),
            Place::Mapped(mapping) if index < CELLS => {
                // SAFETY: within the mapping, which lives as long as `self`; pages are aligned for atomics.
                Some(unsafe { mapping.0.add(index as usize).as_ref() })
            }
            Place::Mapped(_) => None,
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

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our mapping, of this length; no reference into it outlives `self`.
        unsafe { libc::munmap(self.0.as_ptr().cast(), LEN) };
    }
}
