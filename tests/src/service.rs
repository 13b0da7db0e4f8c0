//! What stands in for systemd: starts the agent as `packaging/mqlb.service` says, as somebody without a
//! name, with the unit's capabilities and no other, and listens to what it has to tell (sd_notify(3)).
//! [`crate::machine`] has the real one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::balancer::Options;
use crate::lab::Lab;
use crate::mqlb::binary;
use crate::process::copy_program;

/// A user and a group that nothing here belongs to.
pub const NOBODY: u32 = 61_883;

/// The unit, as it is packaged.
pub const UNIT: &str = include_str!("../../packaging/mqlb.service");

/// Of `/sys/fs` the agent sees its pins and nothing else (`TemporaryFileSystem=`, `BindPaths=`).
const HIDE: &str = r#"set -e
mount --make-rprivate /
mount --bind "$1" /mnt
mount -t tmpfs -o mode=755 tmpfs /sys/fs
mkdir -p "$1"
mount --bind /mnt "$1"
umount /mnt
shift
exec "$@""#;

/// The manager's side.
#[derive(Debug)]
pub struct Service {
    directory: PathBuf,
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Service {
    /// Makes what the unit asks for: directories of the service's own, and a socket to listen at.
    ///
    /// # Errors
    /// Not root, or no BPF file system.
    pub fn new(lab: &Lab) -> Result<Self> {
        // Not the lab's directory: only root may look into that.
        let directory = std::env::temp_dir().join(lab.id());
        let pins = pins(lab);
        let (shown, shown_pins) = (directory.display(), pins.display());
        lab.undo_with(&format!("rm -rf {shown}; rmdir {shown_pins}"))?;
        for directory in [&directory, &directory.join("state"), &pins] {
            fs::create_dir_all(directory)
                .with_context(|| format!("create {}", directory.display()))?;
        }
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        for own in [directory.join("state"), pins] {
            fs::set_permissions(&own, fs::Permissions::from_mode(0o700))?;
            chown(&own, Some(NOBODY), Some(NOBODY))?;
        }
        copy_program(&binary()?, &directory.join("mqlb"))?;
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        Ok(Self {
            directory,
            socket,
            heard: Vec::new(),
        })
    }

    /// Starts the agent by this service, with a watchdog of this many microseconds.
    pub fn options(&self, lab: &Lab, watchdog: u64, options: Options) -> Options {
        let set = setting("AmbientCapabilities").replace("CAP_", "+");
        let capabilities = format!("-all,{}", set.to_lowercase().replace(' ', ","));
        let nobody = NOBODY.to_string();
        let pins = pins(lab).display().to_string();
        let socket = format!("NOTIFY_SOCKET={}", self.directory.join("notify").display());
        let watchdog = format!("WATCHDOG_USEC={watchdog}");
        let words = [
            &["unshare", "--mount", "sh", "-c", HIDE, "sh", &pins][..],
            &["env", &socket, &watchdog, "setpriv"],
            &["--reuid", &nobody, "--regid", &nobody, "--clear-groups"],
            &["--no-new-privs", "--pdeathsig", "KILL"],
            &["--inh-caps", &capabilities, "--ambient-caps", &capabilities],
            &["--bounding-set", &capabilities],
        ]
        .concat();
        Options {
            starter: words.into_iter().map(str::to_owned).collect(),
            directory: Some(self.directory.clone()),
            ..options
        }
    }

    /// Waits for a message that `is` says yes to; what came before it is forgotten.
    ///
    /// # Errors
    /// None came within `limit`; the error has the others.
    pub fn expect(&mut self, limit: Duration, is: impl Fn(&str) -> bool) -> Result<String> {
        let end = Instant::now() + limit;
        let mut buffer = [0; 4096];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("not told within {limit:?}; only {:?}", self.heard);
            }
            self.socket.set_read_timeout(Some(left))?;
            let Ok(length) = self.socket.recv(&mut buffer) else {
                continue;
            };
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if is(&message) {
                self.heard.clear();
                return Ok(message);
            }
            self.heard.push(message);
        }
    }
}

/// Where the lab's agent pins things.
fn pins(lab: &Lab) -> PathBuf {
    PathBuf::from("/sys/fs/bpf/mqlb").join(lab.id())
}

/// What the unit says of `key`.
///
/// # Panics
/// It says nothing.
pub fn setting(key: &str) -> &'static str {
    let value = |line: &'static str| line.strip_prefix(key)?.strip_prefix('=');
    let found = UNIT.lines().find_map(value);
    found.unwrap_or_else(|| panic!("no {key} in packaging/mqlb.service"))
}
