//! How many entries a pinned hash map has, whatever its keys and values are: to say what the removal of another
//! version's data path would cost.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use aya::maps::MapInfo;

const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
/// Longest key that is read.
const KEY: usize = 256;

/// The part of the kernel's `union bpf_attr` for elements (include/uapi/linux/bpf.h).
#[repr(C)]
struct Attr {
    map_fd: u32,
    key: u64,
    next_key: u64,
    flags: u64,
}

/// Entries of the map pinned at `pin`; `None` if it can't be read. While entries come and go the number is
/// about right.
#[must_use]
pub fn entries(pin: &Path) -> Option<u64> {
    let info = MapInfo::from_pin(pin).ok()?;
    let most = u64::from(info.max_entries());
    if info.key_size() as usize > KEY {
        return None;
    }
    let fd = info.fd().ok()?;
    let mut key = [0u8; KEY];
    let mut count = 0;
    // A key that went meanwhile begins the walk anew, so it could last.
    while count < most {
        let from = key;
        let attr = Attr {
            map_fd: fd.as_fd().as_raw_fd().unsigned_abs(),
            key: if count == 0 { 0 } else { from.as_ptr() as u64 },
            next_key: key.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: `attr` is what the command expects; both buffers have room for the map's key.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_GET_NEXT_KEY,
                &raw const attr,
                size_of::<Attr>(),
            )
        };
        if result != 0 {
            break;
        }
        count += 1;
    }
    Some(count)
}
