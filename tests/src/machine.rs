//! A system of its own for packages and services: a copy of this one's files that nothing written to
//! leaves (an overlay in memory), with systemd as its first process, in the network namespace of a lab's
//! balancer. What it has of this system is the kernel; its `/sys/fs/bpf` is its own, root's alone as
//! systemd makes it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::lab::Lab;
use crate::netns::Netns;
use crate::pace::here;
use crate::process::Process;

/// Lays the files out and becomes systemd, in namespaces of its own. Arguments: a directory to mount on,
/// and one of this system's that is seen inside too.
///
/// No unit of this system's is wanted there but the journal: they would set clocks, kernel settings and
/// devices, of which there is one set for all. Nor does a package have the index of all manual pages built, which
/// takes minutes where files are slow to read.
const BOOT: &str = r#"set -eu
work=$1 shared=$2
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$work"
mkdir "$work/upper" "$work/internal" "$work/root"
root=$work/root
mount -t overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/internal" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t bpf -o mode=0700 bpf "$root/sys/fs/bpf"
for directory in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs "$root/$directory"; done
chmod 1777 "$root/tmp"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s pts/ptmx "$root/dev/ptmx"
mkdir -p "$root/dev/shm" "$root/dev/pts" "$root$shared"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount --bind "$shared" "$root$shared"
: >"$root/etc/fstab"
rm -f "$root/usr/sbin/policy-rc.d" "$root/var/lib/man-db/auto-update"
rm -rf "$root"/usr/lib/systemd/system/*.wants "$root"/etc/systemd/system/*.wants
rm -rf "$root"/usr/lib/systemd/system-generators "$root"/etc/systemd/system-generators
mkdir -p "$root/etc/systemd/system"
cat >"$root/etc/systemd/system/lab.target" <<END
[Unit]
DefaultDependencies=no
Wants=systemd-journald.service
END
exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    chroot "$root" /lib/systemd/systemd --system --unit=lab.target --log-target=journal --show-status=no
"#;

/// A running system. Dropping it ends every process in it, and its files are gone.
#[derive(Debug)]
pub struct Machine {
    netns: Netns,
    process: Process,
    /// The number of its systemd, here.
    init: u32,
}

impl Machine {
    /// Starts it; the lab's directory is seen inside under the same name.
    ///
    /// # Errors
    /// A tool is missing, or it is not up within 30 s.
    pub fn boot(lab: &Lab) -> Result<Self> {
        let netns = lab.topology.lb.clone();
        let work = lab.directory().join("machine");
        std::fs::create_dir_all(&work)?;
        let cgroup = cgroups()?.join(lab.id());
        let shown = cgroup.display();
        // All of it is dead by then.
        lab.undo_with(&format!("find {shown} -depth -type d -exec rmdir {{}} +"))?;
        std::fs::create_dir(&cgroup).with_context(|| format!("create {shown}"))?;
        let mut command = netns.command("sh")?;
        // Into a control group of its own first: that one is the root of what it sees.
        let enter = "echo $$ >\"$1/cgroup.procs\"; shift; exec \"$@\"";
        let namespaces = ["--mount", "--pid", "--cgroup", "--uts", "--ipc"];
        command
            .args(["-c", enter, "sh"])
            .arg(&cgroup)
            .arg("unshare")
            .args(namespaces)
            .args(["--fork", "--kill-child", "sh", "-c", BOOT, "sh"])
            .args([&work, lab.directory()]);
        let log = lab.directory().join("machine.log");
        let mut process = Process::start("systemd in a lab", command, &log)?;
        let mut init = None;
        process.wait_until("its first process", Duration::from_secs(10), |process| {
            init = child(process.id());
            init.is_some()
        })?;
        let mut machine = Self {
            netns,
            init: init.context("it was there")?,
            process,
        };
        machine.wait_until_up()?;
        Ok(machine)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let begun = Instant::now();
        while !self
            .run(&["systemctl", "is-active", "lab.target"])?
            .status
            .success()
        {
            if begun.elapsed() > here(Duration::from_secs(30)) {
                bail!(
                    "systemd is not up after 30 s, by the pace of the machine:\n{}",
                    self.process.tail()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Runs a command inside, to its end.
    ///
    /// # Errors
    /// It can't be started. How it ended is in the output.
    pub fn run(&self, command: &[&str]) -> Result<Output> {
        let root = format!("/proc/{}/root", self.init);
        let target = self.init.to_string();
        Command::new("nsenter")
            .args(["--target", &target, "--mount", "--pid", "--net", "--cgroup"])
            .args(["--uts", "--ipc"])
            .args([format!("--root={root}"), format!("--wd={root}")])
            .args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"])
            .args(command)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("start {command:?} in the machine"))
    }

    /// Runs a command that must succeed, and returns both of its outputs.
    ///
    /// # Errors
    /// It failed; the message has its output and the journal's end.
    pub fn succeed(&self, command: &[&str]) -> Result<String> {
        let output = self.run(command)?;
        let said = text(&output);
        if !output.status.success() {
            let journal = self.run(&["journalctl", "--no-pager", "--lines=40"]);
            let journal = journal.map_or_else(|error| error.to_string(), |output| text(&output));
            bail!("{command:?}: {}:\n{said}\n{journal}", output.status);
        }
        Ok(said)
    }

    /// A file inside.
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Where it is on the network.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }
}

/// Everything that a command wrote.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Where control groups of version 2 are mounted, beside those of version 1 or alone.
fn cgroups() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| Path::new(path).to_owned())
    });
    found.context("no control groups of version 2 are mounted here")
}

/// The only child of a process, once there is one.
fn child(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.trim().parse().ok()
}
