//! A pinned map in the agent's memory, for values that program and agent change at the same time.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::ptr::NonNull;

use anyhow::Context as _;
use aya::maps::MapData;

/// A type of value that others write to while it is looked at.
///
/// # Safety
/// It is made of atomics only, without padding; its size is a multiple of 8, as the kernel rounds it up to.
pub(super) unsafe trait Value: Sync {}

/// An array map made with `BPF_F_MMAPABLE` (Linux 5.5). It keeps the map alive by itself.
pub(super) struct Mapped<T> {
    first: NonNull<T>,
    entries: u32,
}

// SAFETY: the memory is only accessed through atomics (see `Value`) and belongs to the process, not to a thread.
unsafe impl<T: Value> Send for Mapped<T> {}

impl<T: Value> Mapped<T> {
    /// Maps the pinned map `name` in `dir`, which has this many entries.
    ///
    /// # Errors
    /// It can't be opened or mapped, or isn't what it should be.
    pub fn open(dir: &Path, name: &str, entries: u32) -> anyhow::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let path = dir.join(name);
        let map = MapData::from_pin(&path)
            .with_context(|| format!("cannot open the map {}", path.display()))?;
        let info = map.info()?;
        let (has, bytes) = (info.max_entries(), info.value_size() as usize);
        anyhow::ensure!(
            has == entries && bytes == size_of::<T>(),
            "the map {} has {has} entries of {bytes} bytes in place of {entries} of {}",
            path.display(),
            size_of::<T>()
        );
        // SAFETY: a new mapping at an address of the kernel's choice, of a map that is this large.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::bytes(entries),
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
        let first = NonNull::new(memory.cast()).context("mapped at address 0")?;
        Ok(Self { first, entries })
    }

    const fn bytes(entries: u32) -> usize {
        entries as usize * size_of::<T>()
    }

    /// One of them.
    pub fn get(&self, index: u32) -> Option<&T> {
        // SAFETY: within the mapping, which lives as long as `self`; pages are aligned for atomics, and any
        // bytes are atomics.
        (index < self.entries).then(|| unsafe { self.first.add(index as usize).as_ref() })
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        let bytes = self.entries as usize * size_of::<T>();
        // SAFETY: our mapping, of this length; no reference into it outlives `self`.
        unsafe { libc::munmap(self.first.as_ptr().cast(), bytes) };
    }
}
