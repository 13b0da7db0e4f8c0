//! One agent per instance: a locked file that names the process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// Why the lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error(
        "another mqlb runs as this instance: process {pid} (lock file {file}); stop it, or give this one another `[agent] name`"
    )]
    Held { pid: String, file: PathBuf },
    /// The file system said no.
    #[error("cannot use the lock file {file}: {source}; is the directory writable?")]
    Io {
        file: PathBuf,
        source: std::io::Error,
    },
}

/// The lock, held until it is dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, never read")] File);

impl Lock {
    /// Takes the lock in `state_dir`, which is created if need be.
    pub fn take(state_dir: &Path) -> Result<Self, LockError> {
        let file = state_dir.join("lock");
        let failed = |source| LockError::Io {
            file: file.clone(),
            source,
        };
        std::fs::create_dir_all(state_dir).map_err(failed)?;
        let mut handle = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&file)
            .map_err(failed)?;
        match handle.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                handle.read_to_string(&mut pid).map_err(failed)?;
                return Err(LockError::Held {
                    pid: pid.trim().to_owned(),
                    file,
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        handle.set_len(0).map_err(failed)?;
        handle.rewind().map_err(failed)?;
        writeln!(handle, "{}", std::process::id()).map_err(failed)?;
        Ok(Self(handle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_runs() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        let first = Lock::take(&state).unwrap();
        let error = Lock::take(&state).unwrap_err();
        assert!(
            matches!(&error, LockError::Held { pid, .. } if *pid == std::process::id().to_string()),
            "{error}"
        );
        drop(first);
        Lock::take(&state).unwrap();
    }
}
