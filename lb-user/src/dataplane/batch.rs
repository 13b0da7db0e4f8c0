//! Reads the flow map in batches (`BPF_MAP_LOOKUP_BATCH`, Linux 5.6): one system call for thousands
//! of entries instead of two for each. aya has no call for it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya::Pod;

/// Entries a call. More than any bucket of the kernel's hash table holds, or it says ENOSPC.
const BATCH: usize = 4096;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// The part of the kernel's `union bpf_attr` for batches (include/uapi/linux/bpf.h).
#[repr(C)]
struct Attr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// All entries of a hash map, in batches. Entries that come or go meanwhile may be missed or seen.
pub struct Batches<'a, K, V> {
    fd: BorrowedFd<'a>,
    cursor: u32,
    started: bool,
    done: bool,
    keys: Vec<K>,
    values: Vec<V>,
}

impl<'a, K: Pod, V: Pod> Batches<'a, K, V> {
    /// Begins; `K` and `V` must be the map's types (the caller has them from a typed map).
    #[must_use]
    pub fn new(fd: BorrowedFd<'a>) -> Self {
        Self {
            fd,
            cursor: 0,
            started: false,
            done: false,
            keys: Vec::with_capacity(BATCH),
            values: Vec::with_capacity(BATCH),
        }
    }

    /// The next batch; `None` after the last.
    ///
    /// # Errors
    /// What the kernel said.
    #[expect(clippy::cast_possible_truncation, reason = "BATCH is small")]
    pub fn next_batch(&mut self) -> io::Result<Option<impl Iterator<Item = (&K, &V)>>> {
        if self.done {
            return Ok(None);
        }
        self.keys.clear();
        self.values.clear();
        let mut next = 0u32;
        let mut attr = Attr {
            in_batch: if self.started {
                &raw const self.cursor as u64
            } else {
                0
            },
            out_batch: &raw mut next as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: BATCH as u32,
            map_fd: self.fd.as_raw_fd().unsigned_abs(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: `attr` is what the command expects; keys and values have room for `count` entries of
        // the map's own types; the cursors are the u32 that a hash map's batches use.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut attr,
                size_of::<Attr>(),
            )
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            // ENOENT: that was the last batch, and it may hold entries.
            if error.raw_os_error() != Some(libc::ENOENT) {
                return Err(error);
            }
            self.done = true;
        }
        let count = (attr.count as usize).min(BATCH);
        // SAFETY: the kernel wrote `count` keys and values, of types for which any bits are valid.
        unsafe {
            self.keys.set_len(count);
            self.values.set_len(count);
        }
        self.cursor = next;
        self.started = true;
        Ok(Some(self.keys.iter().zip(&self.values)))
    }
}
