//! Child processes that do not outlive the lab.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::pace::here;

/// Copies a program that is to be run. Another process does it: a child that another thread forks meanwhile would
/// have a copy of ours open for writing until it becomes its own program, and what is open for writing can't be run
/// ("Text file busy").
///
/// # Errors
/// It can't be copied.
pub fn copy_program(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("--").args([from, to]).status()?;
    ensure!(
        status.success(),
        "cp {} {}: {status}",
        from.display(),
        to.display()
    );
    Ok(())
}

/// A child process whose output goes to a log file. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; both of its outputs are appended to `log`.
    ///
    /// The child is killed by the kernel when this process dies, however it dies.
    ///
    /// # Errors
    /// The log cannot be opened or the program not be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let out = open_log(log)?;
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            // A group of its own: the terminal's Ctrl-C is for the lab, which then ends its children.
            .process_group(0);
        die_with_parent(&mut command);
        let program = format!("{command:?}");
        let child = spawn_for_life(command).with_context(|| format!("start {name}: {program}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the process wrote so far.
    pub fn output(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Waits until `ready` says yes, for as long as `limit` is on a machine of one's own ([`pace`](crate::pace)).
    ///
    /// # Errors
    /// The process ended, or the limit passed; the message holds the end of the log.
    pub fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let (start, limit) = (Instant::now(), here(limit));
        while !ready(self) {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended ({status}) before {what}:\n{}",
                    self.name,
                    self.tail()
                );
            }
            if start.elapsed() > limit {
                bail!("{}: no {what} after {limit:?}:\n{}", self.name, self.tail());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Asks the process to end (SIGTERM) and waits for it, with a limit as that of [`Self::wait_until`].
    ///
    /// # Errors
    /// It is still there after the limit; it is then killed.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        let (start, limit) = (Instant::now(), here(limit));
        while start.elapsed() < limit {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.kill();
        bail!("{} did not end within {limit:?} of SIGTERM", self.name);
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process has ended.
    pub fn signal(&mut self, signal: libc::c_int) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} has ended already ({status})", self.name);
        }
        let pid = libc::pid_t::try_from(self.child.id())?;
        // SAFETY: kill touches no memory. The child has not been reaped (`try_wait` said so), so the
        // number is still its own.
        match unsafe { libc::kill(pid, signal) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()).with_context(|| format!("signal {}", self.name)),
        }
    }

    /// Kills the process (SIGKILL) and reaps it.
    pub fn kill(&mut self) {
        // It may have ended by itself, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The last lines of the log, for error messages.
    pub fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Raises this process's limit of open files, which its children inherit, as far as it may, and returns it.
///
/// # Errors
/// The kernel refuses even what the hard limit allows.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    /// Enough for tens of thousands of connections.
    const WANTED: u64 = 200_000;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit writes the structure, which lives for the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let raised = libc::rlimit {
        rlim_cur: WANTED.max(limit.rlim_cur),
        rlim_max: WANTED.max(limit.rlim_max),
    };
    let as_allowed = libc::rlimit {
        rlim_cur: limit.rlim_max,
        rlim_max: limit.rlim_max,
    };
    // To raise the hard limit takes CAP_SYS_RESOURCE, which root in a container may lack.
    for limit in [raised, as_allowed] {
        // SAFETY: setrlimit reads the structure, which lives for the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0 {
            return Ok(limit.rlim_cur);
        }
    }
    Err(io::Error::last_os_error())
}

fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open log {}", path.display()))
}

fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes one system call and touches no memory.
    unsafe {
        command.pre_exec(
            || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            },
        );
    }
}

/// Spawns from a thread that lives as long as this process: PR_SET_PDEATHSIG means the death of the
/// parent *thread*, and a lab may be built on a thread that ends before the lab does.
fn spawn_for_life(command: Command) -> io::Result<Child> {
    type Job = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = channel::<Job>();
        thread::spawn(move || {
            for (mut command, answer) in queue {
                // Nobody to tell if the asking thread is gone; dropping the Child leaves it to the kernel.
                let _ = answer.send(command.spawn());
            }
        });
        jobs
    });
    let (answer, result) = channel();
    let gone = |_| io::Error::other("the thread that starts processes is gone");
    spawner.send((command, answer)).map_err(|_| gone(()))?;
    result.recv().map_err(|_| gone(()))?
}
