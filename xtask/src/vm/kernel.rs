//! Kernels for virtual machines: the distribution's packages, unpacked but not installed, or this machine's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup::archive::{Archive, output};
use crate::{root, workspace};

/// Of a package, what a guest may need; the rest is drivers of devices that it hasn't.
const PARTS: [&str; 12] = [
    "./boot/vmlinuz-*",
    "./lib/modules/*/modules.*",
    "./lib/modules/*/kernel/arch/*",
    "./lib/modules/*/kernel/crypto/*",
    "./lib/modules/*/kernel/drivers/block/loop.*",
    "./lib/modules/*/kernel/drivers/char/hw_random/*",
    "./lib/modules/*/kernel/drivers/char/virtio_console.*",
    "./lib/modules/*/kernel/drivers/net/*",
    "./lib/modules/*/kernel/drivers/virtio/*",
    "./lib/modules/*/kernel/fs/*",
    "./lib/modules/*/kernel/lib/*",
    "./lib/modules/*/kernel/net/*",
];

/// Holds the package's name.
const PACKAGE: &str = "package";

/// Where both of the long-term series that are supported are.
const STABLE: [&str; 2] = [
    "http://deb.debian.org/debian bookworm",
    "http://deb.debian.org/debian-security bookworm-security",
];

const UNSTABLE: [&str; 1] = ["http://deb.debian.org/debian unstable"];

pub struct Kernel {
    /// Where it comes from: "linux-image-6.1.0-56-amd64".
    pub name: String,
    pub image: PathBuf,
    /// The directory of its modules, whose name is the kernel's release.
    pub modules: PathBuf,
}

impl Kernel {
    /// What `uname -r` says under it.
    pub fn release(&self) -> String {
        self.modules
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }
}

/// The kernel called `name`: `host` is this machine's, `newest` the newest of Debian unstable, anything else a series
/// of Debian 12 ("6.1"), of which it is the newest. It is unpacked into `directory/name` and stays there: remove that
/// to get a newer one.
///
/// # Errors
/// There is no apt here, Debian has no such kernel, or the package cannot be had.
pub fn fetch(name: &str, directory: &Path) -> Result<Kernel> {
    if name == "host" {
        return host(directory);
    }
    let unpacked = directory.join(name);
    if !unpacked.is_dir() {
        download(name, directory, &unpacked).with_context(|| format!("fetch kernel {name}"))?;
    }
    let found = |part: &str, prefix| {
        only(&unpacked.join(part), prefix)
            .with_context(|| format!("{} is not complete: remove it", unpacked.display()))
    };
    Ok(Kernel {
        name: std::fs::read_to_string(unpacked.join(PACKAGE))?,
        image: found("boot", "vmlinuz")?,
        modules: found("lib/modules", "")?,
    })
}

/// This machine's kernel, if it has its image in /boot.
fn host(directory: &Path) -> Result<Kernel> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let release = release.trim();
    let installed = PathBuf::from(format!("/boot/vmlinuz-{release}"));
    let modules = PathBuf::from(format!("/lib/modules/{release}"));
    if !installed.is_file() || !modules.is_dir() {
        bail!(
            "the running kernel is {release}, but {} and {} are not both here, so it can't be booted: \
             `cargo xtask test` is the suite on it",
            installed.display(),
            modules.display()
        );
    }
    let mut image = installed.clone();
    if std::fs::File::open(&installed).is_err() {
        // Ubuntu's are root's alone.
        std::fs::create_dir_all(directory)?;
        image = directory.join(format!("vmlinuz-{release}"));
        let mut copy = root::command("install", "to read the kernel's image", &[])?;
        workspace::run(copy.args(["-m", "644"]).arg(&installed).arg(&image))?;
    }
    Ok(Kernel {
        name: format!("this machine's {release}"),
        image,
        modules,
    })
}

/// The file in `directory` whose name begins with `prefix`.
fn only(directory: &Path, prefix: &str) -> Option<PathBuf> {
    std::fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
}

/// Unpacks the kernel called `name` into `unpacked`, which appears when it is complete.
fn download(name: &str, directory: &Path, unpacked: &Path) -> Result<()> {
    let (prefix, suites) = match name {
        "newest" => ("linux-image-".to_owned(), &UNSTABLE[..]),
        series => (format!("linux-image-{series}."), &STABLE[..]),
    };
    let work = directory.join(format!("work-{}", std::process::id()));
    let lists = work.join("apt");
    std::fs::create_dir_all(&lists)?;
    let debian = Archive::open(&lists, suites)?;
    let names = output(debian.command("apt-cache").args(["pkgnames", &prefix]))?;
    let package = newest(&prefix, names.lines())
        .with_context(|| format!("Debian has none in {}", suites.join(", ")))?;
    eprintln!("xtask: downloading {package}");
    let mut download = debian.command("apt-get");
    download.args(["download", package]).current_dir(&work);
    output(&mut download)?;
    std::fs::remove_dir_all(&lists).context("clean up")?;
    std::fs::write(work.join(PACKAGE), package)?;
    let archive = std::fs::read_dir(&work)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    let mut content = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(&archive)
        .stdout(Stdio::piped())
        .spawn()
        .context("start dpkg-deb")?;
    let tar = content
        .stdout
        .take()
        .context("the child's stdout is piped")?;
    let mut unpack = Command::new("sh");
    // Not every package has every part, and tar says so: what has to be there is looked for afterwards.
    unpack
        .args(["-c", r#"tar -x --wildcards "$@" || true"#, "sh"])
        .args(PARTS)
        .current_dir(&work)
        .stdin(tar)
        .stderr(Stdio::null());
    workspace::run(&mut unpack)?;
    if !content.wait().context("wait for dpkg-deb")?.success() {
        bail!("dpkg-deb could not read {}", archive.display());
    }
    std::fs::remove_file(&archive).context("remove the package")?;
    let modules = only(&work.join("lib/modules"), "").context("the package holds no modules")?;
    index(&work, &modules)?;
    match std::fs::rename(&work, unpacked) {
        // Another run was quicker.
        Err(_) if unpacked.is_dir() => std::fs::remove_dir_all(&work).context("clean up"),
        other => other.with_context(|| format!("create {}", unpacked.display())),
    }
}

/// Unpacks the modules, because not every guest's busybox can, and lists what depends on what.
fn index(root: &Path, modules: &Path) -> Result<()> {
    let release = modules.file_name().context("modules have a release")?;
    let script = r#"find "$1" -name '*.ko.xz' -print0 | xargs -0 -r xz -d"#;
    workspace::run(
        Command::new("sh")
            .args(["-e", "-c", script, "sh"])
            .arg(modules),
    )?;
    let depmod = root::find("depmod").context("there is no depmod (package kmod)")?;
    workspace::run(Command::new(depmod).arg("-b").arg(root).arg(release))
}

/// The newest of the image packages that begin with `prefix`. Those for clouds have no 9p; debug symbols, real-time
/// and unsigned kernels are not what machines run; and without a third number it is a package that only names others.
fn newest<'a>(prefix: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let is_plain = |name: &str| {
        let odd = ["-rt-", "-cloud-", "-dbg", "-unsigned", "-template"]
            .iter()
            .any(|part| name.contains(part));
        !odd && (name.ends_with("-amd64") || name.ends_with("-generic"))
    };
    names
        .filter(|name| name.starts_with(prefix) && is_plain(name))
        .map(|name| (numbers(&name["linux-image-".len()..]), name))
        .filter(|(numbers, _)| numbers.len() >= 3)
        .max()
        .map(|(_, name)| name)
}

/// The numbers in a version, to compare by: "6.1.0-56-amd64" → [6, 1, 0, 56].
fn numbers(version: &str) -> Vec<u32> {
    let release = version.strip_suffix("-amd64").unwrap_or(version);
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERED: [&str; 10] = [
        "linux-image-6.1.0-9-amd64",
        "linux-image-6.1.0-56-amd64",
        "linux-image-6.1.0-57-amd64-unsigned",
        "linux-image-6.1.0-57-cloud-amd64",
        "linux-image-6.1.0-57-rt-amd64",
        "linux-image-6.12-amd64",
        "linux-image-6.12.99+deb12-amd64",
        "linux-image-6.12.117+deb12-amd64",
        "linux-image-6.12.117+deb12-amd64-dbg",
        "linux-image-amd64",
    ];

    #[test]
    fn newest_is_by_number_not_by_letter() {
        for (prefix, package) in [
            ("linux-image-6.1.", "linux-image-6.1.0-56-amd64"),
            ("linux-image-6.12.", "linux-image-6.12.117+deb12-amd64"),
            ("linux-image-", "linux-image-6.12.117+deb12-amd64"),
        ] {
            assert_eq!(newest(prefix, OFFERED.into_iter()), Some(package));
        }
    }

    #[test]
    fn a_series_is_not_a_prefix_of_another() {
        assert_eq!(newest("linux-image-6.2.", OFFERED.into_iter()), None);
        let other = ["linux-image-6.12.1-amd64"];
        assert_eq!(newest("linux-image-6.1.", other.into_iter()), None);
    }

    #[test]
    fn ubuntus_are_called_generic() {
        let ubuntu = [
            "linux-image-6.8.0-31-generic",
            "linux-image-6.8.0-100-generic",
            "linux-image-6.8.0-31-lowlatency",
        ];
        assert_eq!(
            newest("linux-image-6.8.", ubuntu.into_iter()),
            Some("linux-image-6.8.0-100-generic")
        );
    }
}
