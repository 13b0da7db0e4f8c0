//! Keeps labs apart, and makes sure that each is undone: at its end, after a crash, or by the next lab.
//!
//! A lab has a directory `/run/mqlb-lab/ID` (of another user than root: `$XDG_RUNTIME_DIR/mqlb-lab/ID`) with a lock that it holds as long as it lives, and a script
//! `undo.sh` of what is to be undone, written before each thing is done. The script is run by a small
//! process that waits for the lab's end, whether that comes by `Drop`, a panic or SIGKILL. Should that
//! process be killed too, the next lab finds the directory with nobody holding its lock.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};

use crate::netns::run;
use crate::plan::FIRST_NETWORK;

/// Root's; the parts of labs that need root are undone from here only.
const DIRECTORY: &str = "/run/mqlb-lab";

/// Where this user's labs have their directories.
fn all_labs() -> Result<PathBuf> {
    // SAFETY: geteuid has no arguments and cannot fail.
    let user = unsafe { libc::geteuid() };
    let directory = match std::env::var_os("XDG_RUNTIME_DIR") {
        _ if user == 0 => DIRECTORY.into(),
        Some(runtime) => Path::new(&runtime).join("mqlb-lab"),
        None => std::env::temp_dir().join(format!("mqlb-lab-{user}")),
    };
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&directory)
        .with_context(|| format!("create {}", directory.display()))?;
    // Scripts in there are run.
    let found = fs::symlink_metadata(&directory)?;
    ensure!(
        found.is_dir() && found.uid() == user && found.mode() & 0o022 == 0,
        "{} is not a directory that only this user writes to: remove it",
        directory.display()
    );
    Ok(directory)
}

/// What the process runs that undoes a lab: `$1` is the lab's directory. A line on its input announces
/// an orderly end; without it the lab crashed, and its children get a moment to be killed by the kernel.
const UNDOER: &str = r#"read -r _ || sleep 1; sh "$1/undo.sh" >/dev/null 2>&1; rm -rf "$1""#;

/// A lab's name, directory and undo list. Dropping it undoes everything and returns when that is done.
#[derive(Debug)]
pub struct Registration {
    id: String,
    directory: PathBuf,
    script: Mutex<File>,
    undoer: Child,
    /// Held for its flock.
    _lock: File,
}

impl Registration {
    /// Registers a lab of this process, after undoing labs whose process is dead.
    ///
    /// # Errors
    /// The directory for labs can't be made.
    pub fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let all = all_labs()?;
        // Between its creation and its lock a directory looks dead: one at a time.
        let _one_at_a_time = lock(&all.join("lock"), Wait::Yes)?;
        undo_the_dead(&all)?;

        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("mqlb-lab-{}-{number}", std::process::id());
        let directory = all.join(&id);
        // The same number of an earlier process, which `undo_the_dead` has just undone.
        fs::create_dir(&directory).with_context(|| format!("create {}", directory.display()))?;
        let lock = lock(&directory.join("lock"), Wait::No)?
            .context("a lab of this name is running already")?;
        let script = File::create(directory.join("undo.sh"))?;
        let undoer = Command::new("sh")
            .args(["-c", UNDOER, "mqlb-lab-undo"])
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A group of its own: the terminal's Ctrl-C is for the lab, which then ends in order.
            .process_group(0)
            .spawn()
            .context("start the lab's undo process")?;
        Ok(Self {
            id,
            directory,
            script: Mutex::new(script),
            undoer,
            _lock: lock,
        })
    }

    /// Unique on this host; the first part of the names of the lab's namespaces.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A directory for configurations and logs, removed with the lab.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Adds a shell command to what is undone, in the order of the calls.
    ///
    /// # Errors
    /// The script cannot be written.
    pub fn undo_with(&self, command: &str) -> Result<()> {
        let mut script = self.script.lock().expect("no panic while it is held");
        writeln!(script, "{command}").context("write the lab's undo script")
    }

    /// Finds a network number, from 77 up, that no other lab nor the host itself uses, and keeps it as
    /// long as the returned file is open.
    ///
    /// # Errors
    /// All are taken.
    pub fn reserve_network() -> Result<(u8, File)> {
        for network in FIRST_NETWORK..100 {
            let path = Path::new(DIRECTORY).join(format!("network-{network}"));
            let Some(lock) = lock(&path, Wait::No)? else {
                continue;
            };
            let prefix = format!("10.{network}.0.0/16");
            if run(Command::new("ip").args(["-o", "addr", "show", "to", &prefix]))?.is_empty() {
                return Ok((network, lock));
            }
        }
        bail!("the networks 10.77.0.0/16 to 10.99.0.0/16 are all in use on this host");
    }

    /// Takes a set of network cards, unless another lab has it; it is kept as long as the returned file is open.
    ///
    /// # Errors
    /// The lock's file can't be opened.
    pub fn reserve_cards(set: u8) -> Result<Option<File>> {
        lock(&Path::new(DIRECTORY).join(format!("cards-{set}")), Wait::No)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(mut input) = self.undoer.stdin.take() {
            // If the process is gone, the next lab does its work.
            let _ = writeln!(input, "end");
        }
        let _ = self.undoer.wait();
    }
}

/// Undoes every lab that nobody holds the lock of.
fn undo_the_dead(all: &Path) -> Result<()> {
    for entry in fs::read_dir(all)? {
        let directory = entry?.path();
        if !directory.is_dir() {
            continue;
        }
        let lock = match lock(&directory.join("lock"), Wait::No) {
            Ok(lock) => lock,
            // Its own undo process was quicker.
            Err(error) if is_not_found(&error) => continue,
            Err(error) => return Err(error),
        };
        if lock.is_some() {
            // Each command of the script stands for itself: some things are gone already.
            let _ = run(Command::new("sh").arg(directory.join("undo.sh")));
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", directory.display()));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

#[derive(Clone, Copy, PartialEq)]
enum Wait {
    Yes,
    No,
}

/// Takes the flock of a file, created if need be. `None`: another holds it, and we were not to wait.
fn lock(path: &Path, wait: Wait) -> Result<Option<File>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    let flags = libc::LOCK_EX | if wait == Wait::No { libc::LOCK_NB } else { 0 };
    // SAFETY: flock takes a descriptor, which `file` keeps open, and flags; it touches no memory.
    if unsafe { libc::flock(file.as_raw_fd(), flags) } == 0 {
        return Ok(Some(file));
    }
    let error = std::io::Error::last_os_error();
    if error.kind() == ErrorKind::WouldBlock {
        return Ok(None);
    }
    Err(error).with_context(|| format!("lock {}", path.display()))
}
