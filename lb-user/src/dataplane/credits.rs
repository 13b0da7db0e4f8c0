//! The map of credits in the agent's memory: program and agent count connections in the same cells.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use anyhow::Context as _;
use aya::maps::MapData;
use lb_common::limits::credit::{CELLS, Credit};

/// [`Credit`] with fields that others write too.
#[repr(C)]
struct Cell {
    opened: AtomicU32,
    open_until: AtomicU32,
}
const _: () = assert!(size_of::<Cell>() == size_of::<Credit>());

const LEN: usize = CELLS as usize * size_of::<Cell>();

/// The map, shared with the kernel (`BPF_F_MMAPABLE`, Linux 5.5).
pub struct Credits(NonNull<Cell>);

// SAFETY: the memory is only accessed through atomics and belongs to the process, not to a thread.
unsafe impl Send for Credits {}

impl Credits {
    /// Maps what is pinned in `dir`.
    ///
    /// # Errors
    /// The map can't be opened or mapped.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
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
        Ok(Self(memory))
    }

    fn cell(&self, index: u32) -> Option<&Cell> {
        if index >= CELLS {
            return None;
        }
        // SAFETY: within the mapping, which lives as long as `self`; pages are aligned for atomics.
        Some(unsafe { self.0.add(index as usize).as_ref() })
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

impl Drop for Credits {
    fn drop(&mut self) {
        // SAFETY: our mapping, of this length; no reference into it outlives `self`.
        unsafe { libc::munmap(self.0.as_ptr().cast(), LEN) };
    }
}
