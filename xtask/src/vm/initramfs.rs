//! The first file system of a guest: busybox, the modules that lead to the host's files, and the job.
//!
//! The guest then sees the host's files, read-only, with a layer of its own above them that is gone at its end. So
//! programs and libraries are this machine's, and what cargo built is where cargo left it; nothing is installed
//! in an image that could grow old.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::kernel::Kernel;
use crate::{root, workspace};

/// Begins the line with the job's exit code.
pub const EXIT: &str = "xtask-vm:exit ";

/// The name of the port that the job's output goes to.
pub const PORT: &str = "mqlb.output";

/// The tag of the host's files.
pub const FILES: &str = "host";

/// What the guest's first process needs, in one kernel or another; all other modules are loaded by the kernel when
/// they are asked for.
const MODULES: [&str; 7] = [
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    "overlay",
    "virtio_console",
    "virtio_rng",
    "virtio_net",
];

const INIT: &str = r#"#!/bin/busybox sh
set -e
PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done </order
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=524288 @FILES@ /lower
mount -t tmpfs upper /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work root /new
for place in proc sys dev; do mount --move "/$place" "/new/$place"; done
cp /job /new/xtask-vm
exec switch_root /new /bin/sh /xtask-vm
"#;

/// Runs as process 1 among the host's files, before the job and after it.
const AROUND: &str = r#"export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name")" = @PORT@ ] && exec >"/dev/${port##*/}" 2>&1
done
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
chmod 1777 /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
mkdir -p /dev/shm /dev/pts /run/netns /lib/modules/@RELEASE@
mount -t tmpfs shm /dev/shm
mount -t devpts devpts /dev/pts
mount --bind @MODULES@ /lib/modules/@RELEASE@
ln -sf /proc/self/fd /dev/fd
hostname mqlb-vm
ip link set lo up
ulimit -Hn 1048576
# There is no network, so the host's name servers can't even be asked.
rm -f /etc/resolv.conf
echo 'nameserver 127.0.0.1' >/etc/resolv.conf
(
@JOB@
) </dev/null
echo "xtask-vm:exit $?"
# What is in the port's queue gets out before the machine is gone.
sync
sleep 1
echo o >/proc/sysrq-trigger
sleep 60
"#;

/// Makes the archive `file` for a guest under `kernel` that runs `job`, lines of shell, as root.
///
/// # Errors
/// A tool or a module is missing.
pub fn make(kernel: &Kernel, job: &str, file: &Path) -> Result<()> {
    let tree = Scratch::create(file.with_extension("tree"))?;
    for directory in [
        "proc", "sys", "dev", "bin", "lower", "upper", "new", "modules",
    ] {
        std::fs::create_dir_all(tree.0.join(directory))?;
    }
    let busybox = root::find("busybox").context("there is no busybox")?;
    std::fs::copy(&busybox, tree.0.join("bin/busybox"))?;
    let order = modules(kernel, &tree.0.join("modules"))?;
    std::fs::write(tree.0.join("order"), order)?;
    let init = tree.0.join("init");
    std::fs::write(&init, INIT.replace("@FILES@", FILES))?;
    std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755))?;
    let around = AROUND
        .replace("@PORT@", PORT)
        .replace("@RELEASE@", &kernel.release())
        .replace("@MODULES@", &quoted(&kernel.modules))
        .replace("@JOB@", job);
    std::fs::write(tree.0.join("job"), around)?;
    let pack = r#"find . | LC_ALL=C sort | cpio --quiet --reproducible -o -H newc >"$1""#;
    workspace::run(
        Command::new("sh")
            .args(["-c", pack, "sh"])
            .arg(file)
            .current_dir(&tree.0),
    )
}

/// For the shell.
pub fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// Copies [`MODULES`] and what they depend on into `directory`, and returns their names in the order of loading.
fn modules(kernel: &Kernel, directory: &Path) -> Result<String> {
    let modprobe = root::find("modprobe").context("there is no modprobe (package kmod)")?;
    // <base>/lib/modules/<release>
    let base = kernel
        .modules
        .ancestors()
        .nth(3)
        .context("modules lie in lib/modules")?;
    let mut order = Vec::new();
    for module in MODULES {
        let mut ask = Command::new(&modprobe);
        ask.arg("-d").arg(base).arg("-S").arg(kernel.release());
        let output = ask
            .args(["--show-depends", module])
            .output()
            .context("start modprobe")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{} has no module {module}: {}", kernel.name, said.trim());
        }
        for path in files(&String::from_utf8_lossy(&output.stdout)) {
            let name = copy(&path, directory)?;
            if !order.contains(&name) {
                order.push(name);
            }
        }
    }
    Ok(order.join("\n") + "\n")
}

/// `output` is modprobe's: "insmod FILE" or "builtin NAME" a line.
fn files(output: &str) -> Vec<PathBuf> {
    output
        .lines()
        .filter_map(|line| Some(line.strip_prefix("insmod ")?.trim().into()))
        .collect()
}

/// Copies a module, unpacked, and returns its name.
fn copy(module: &Path, directory: &Path) -> Result<String> {
    let name = module.file_name().context("a module has a name")?;
    let name = name.to_string_lossy();
    let unpacker = match name.rsplit_once('.') {
        Some((_, "xz")) => "xz",
        Some((_, "zst")) => "zstd",
        _ => "cat",
    };
    let plain = name.trim_end_matches(".xz").trim_end_matches(".zst");
    let to = std::fs::File::create(directory.join(plain))?;
    let mut unpack = Command::new(unpacker);
    if unpacker != "cat" {
        unpack.arg("-dc");
    }
    let status = unpack
        .arg(module)
        .stdout(Stdio::from(to))
        .status()
        .with_context(|| format!("start {unpacker}"))?;
    if !status.success() {
        bail!("{unpacker} can't read {}", module.display());
    }
    Ok(plain.to_owned())
}

/// A directory that goes when we are done with it.
struct Scratch(PathBuf);

impl Scratch {
    fn create(path: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("xtask: remove {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modprobe_names_files_and_what_is_built_in() {
        let output =
            "builtin virtio\ninsmod /k/net/9p/9pnet.ko \ninsmod /k/net/9p/9pnet_virtio.ko.xz\n";
        let expected = ["/k/net/9p/9pnet.ko", "/k/net/9p/9pnet_virtio.ko.xz"];
        assert_eq!(files(output), expected.map(PathBuf::from));
    }

    #[test]
    fn paths_are_safe_in_the_shell() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
