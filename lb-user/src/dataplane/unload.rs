//! Removes an instance's data path: links, programs, maps.

use std::io;
use std::path::Path;

use anyhow::Context as _;

/// What was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unloaded {
    /// The data path was removed.
    Removed,
    /// There was none.
    Nothing,
}

/// Removes everything that is pinned below `pin_dir`. The kernel detaches programs and frees maps
/// when their last pin goes and no process holds them.
pub fn unload(pin_dir: &Path) -> anyhow::Result<Unloaded> {
    match remove(pin_dir) {
        Ok(()) => Ok(Unloaded::Removed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Unloaded::Nothing),
        Err(error) => Err(error)
            .with_context(|| format!("cannot remove {}; are you root?", pin_dir.display())),
    }
}

/// Links first: no packet may meet a program whose maps are going.
fn remove(pin_dir: &Path) -> io::Result<()> {
    for version in std::fs::read_dir(pin_dir)? {
        let links = version?.path().join("links");
        match std::fs::remove_dir_all(&links) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::remove_dir_all(pin_dir)
}
