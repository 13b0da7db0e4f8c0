//! Named network namespaces, and running things inside them.
//!
//! Only the network namespace is entered, never the mount namespace: what runs inside still sees the
//! host's `/sys/fs/bpf` (`ip netns exec` would hide it).

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

/// A network namespace under `/run/netns`. Dropping it does not remove it: the lab's clean-up does.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Creates the namespace and brings its loopback up.
    ///
    /// # Errors
    /// The `ip` tool is missing, or refuses (not root, name taken).
    pub fn create(name: String) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let netns = Self { name };
        netns.ip(["link set lo up"])?;
        Ok(netns)
    }

    /// A namespace that exists already.
    ///
    /// # Errors
    /// It does not.
    pub fn existing(name: String) -> Result<Self> {
        let netns = Self { name };
        netns.open()?;
        Ok(netns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace, for `nsenter --net=FILE`.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs lines of the `ip` tool's batch language in the namespace.
    ///
    /// # Errors
    /// The tool's own message, with the line that it is about.
    pub fn ip<L: AsRef<str>>(&self, lines: impl IntoIterator<Item = L>) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-batch", "-"]);
        let lines: Vec<_> = lines.into_iter().map(|l| l.as_ref().to_owned()).collect();
        feed(&mut command, &lines.join("\n"))
            .with_context(|| format!("ip, in namespace {}:\n{}", self.name, lines.join("\n")))
    }

    /// Loads nftables rules in the namespace.
    ///
    /// # Errors
    /// `nft`'s own message.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let mut command = self.command("nft")?;
        feed(command.args(["-f", "-"]), rules)
            .with_context(|| format!("nft, in namespace {}:\n{rules}", self.name))
    }

    /// Writes kernel parameters, `net/ipv4/…` under `/proc/sys`, in the namespace.
    ///
    /// # Errors
    /// The kernel has no such parameter, or refuses the value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (key, value) in settings {
                std::fs::write(Path::new("/proc/sys").join(key), value)
                    .with_context(|| format!("set sysctl {key} to {value:?}"))?;
            }
            Ok(())
        })?
    }

    /// A command that will run in the namespace.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let file = self.open()?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec the closure makes one system call and touches nothing else;
        // `file` was opened before the fork and lives as long as the closure.
        unsafe { command.pre_exec(move || set_netns(&file)) };
        Ok(command)
    }

    /// Runs `f` in the namespace, on a thread of its own, and waits for it.
    ///
    /// # Errors
    /// The namespace cannot be entered. A panic of `f` goes on in the caller.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.open()?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                set_netns(&file)?;
                Ok(f())
            });
            match inside.join() {
                Ok(result) => result.map_err(|error: io::Error| self.cannot_enter(error)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Starts a thread in the namespace that runs `f`.
    ///
    /// # Errors
    /// The namespace is gone. If it cannot be entered, the thread's result is an error.
    pub fn spawn<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let file = self.open()?;
        let this = self.clone();
        Ok(thread::spawn(move || {
            set_netns(&file).map_err(|error| this.cannot_enter(error))?;
            Ok(f())
        }))
    }

    fn open(&self) -> Result<File> {
        File::open(self.path()).with_context(|| format!("open namespace {}", self.name))
    }

    fn cannot_enter(&self, error: io::Error) -> anyhow::Error {
        anyhow::Error::new(error).context(format!("enter namespace {}", self.name))
    }
}

/// Lets `command` see `file` in place of `/etc/resolv.conf`, in a mount namespace of its own.
///
/// # Errors
/// A path with a NUL byte.
pub fn replace_resolv_conf(command: &mut Command, file: &Path) -> Result<()> {
    let source = CString::new(file.as_os_str().as_bytes())?;
    let bind = move || {
        let none = std::ptr::null();
        let private = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: unshare takes flags only. The pointers given to mount are null or to C strings that
        // outlive the calls.
        let failed = unsafe {
            libc::unshare(libc::CLONE_NEWNS) != 0
                // What is mounted here must not show up outside.
                || libc::mount(none, c"/".as_ptr(), none, private, none.cast()) != 0
                || libc::mount(source.as_ptr(), c"/etc/resolv.conf".as_ptr(), none, libc::MS_BIND, none.cast()) != 0
        };
        match failed {
            true => Err(io::Error::last_os_error()),
            false => Ok(()),
        }
    };
    // SAFETY: between fork and exec the closure makes system calls on memory that was allocated before.
    unsafe { command.pre_exec(bind) };
    Ok(())
}

/// Moves the calling thread into the namespace behind `file`.
fn set_netns(file: &File) -> io::Result<()> {
    // SAFETY: setns takes a descriptor, which `file` keeps open, and a flag; it touches no memory.
    match unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs a command to its end and returns what it wrote to standard output.
///
/// # Errors
/// It could not be started or failed; the message holds the command and what it wrote to standard error.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end with `input` as its standard input.
fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    // A tool that stops at a wrong line closes its end early; its message says more than EPIPE.
    let written = child
        .stdin
        .take()
        .map(|mut pipe| pipe.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    written.transpose()?;
    Ok(())
}
