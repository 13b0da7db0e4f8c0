//! Stock kernels from the distribution's packages, unpacked but not installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace;

pub struct Kernel {
    /// The package it comes from: "linux-image-6.1.0-56-cloud-amd64".
    pub package: String,
    pub image: PathBuf,
}

/// The newest kernel of `series` ("6.1") that apt offers, unpacked below `directory`.
///
/// # Errors
/// There is no apt here, it offers no such kernel, or the package cannot be had.
pub fn fetch(series: &str, directory: &Path) -> Result<Kernel> {
    let names = Command::new("apt-cache")
        .args(["pkgnames", &format!("linux-image-{series}.")])
        .output()
        .context("other kernels come from Debian's and Ubuntu's packages: start apt-cache")?;
    let names = String::from_utf8_lossy(&names.stdout).into_owned();
    let package = newest(series, names.lines())
        .with_context(|| format!("apt offers no kernel {series} (is `apt-get update` due?)"))?
        .to_owned();
    let unpacked = directory.join(&package);
    if image(&unpacked).is_none() {
        download(&package, &unpacked).with_context(|| format!("fetch {package}"))?;
    }
    let image = image(&unpacked).with_context(|| format!("{package} holds no boot/vmlinuz"))?;
    Ok(Kernel { package, image })
}

fn image(unpacked: &Path) -> Option<PathBuf> {
    std::fs::read_dir(unpacked.join("boot"))
        .ok()?
        .find_map(|entry| {
            let entry = entry.ok()?;
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("vmlinuz")
                .then(|| entry.path())
        })
}

fn download(package: &str, unpacked: &Path) -> Result<()> {
    std::fs::create_dir_all(unpacked)?;
    eprintln!("xtask: downloading {package}");
    workspace::run(
        Command::new("apt-get")
            .args(["download", package])
            .current_dir(unpacked),
    )?;
    let archive = std::fs::read_dir(unpacked)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    // Only the kernel: the modules, most of the package, are not needed to load a program.
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
    let mut unpack = Command::new("tar");
    unpack
        .args(["-x", "--wildcards", "./boot/vmlinuz-*"])
        .current_dir(unpacked)
        .stdin(tar);
    workspace::run(&mut unpack)?;
    if !content.wait().context("wait for dpkg-deb")?.success() {
        bail!("dpkg-deb could not read {}", archive.display());
    }
    std::fs::remove_file(&archive).context("remove the package")
}

/// The newest of the image packages of `series`. Those for clouds are the smallest, with the same
/// sources; debug symbols, real-time and unsigned kernels are not what machines run.
fn newest<'a>(series: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let prefix = format!("linux-image-{series}.");
    let flavour = |name: &str| {
        let small = name.ends_with("-cloud-amd64");
        let odd = ["-rt-", "-dbg", "-unsigned", "-template"]
            .iter()
            .any(|part| name.contains(part));
        let plain = name.ends_with("-amd64") || name.ends_with("-generic");
        (plain && !odd).then_some(small)
    };
    names
        .filter(|name| name.starts_with(&prefix))
        .filter_map(|name| Some((flavour(name)?, numbers(&name[prefix.len()..]), name)))
        .max()
        .map(|(_, _, name)| name)
}

/// The numbers in a version, to compare by: "0-56-cloud-amd64" → [0, 56].
fn numbers(version: &str) -> Vec<u32> {
    let release = version.split("-cloud").next().unwrap_or(version);
    let release = release.strip_suffix("-amd64").unwrap_or(release);
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERED: [&str; 9] = [
        "linux-image-6.1.0-9-cloud-amd64",
        "linux-image-6.1.0-56-cloud-amd64",
        "linux-image-6.1.0-56-cloud-amd64-unsigned",
        "linux-image-6.1.0-57-amd64",
        "linux-image-6.1.0-57-rt-amd64",
        "linux-image-6.12-cloud-amd64",
        "linux-image-6.12.99+deb12-cloud-amd64",
        "linux-image-6.12.117+deb12-cloud-amd64",
        "linux-image-6.12.117+deb12-cloud-amd64-dbg",
    ];

    #[test]
    fn newest_is_by_number_not_by_letter() {
        assert_eq!(
            newest("6.1", OFFERED.into_iter()),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(
            newest("6.12", OFFERED.into_iter()),
            Some("linux-image-6.12.117+deb12-cloud-amd64")
        );
    }

    #[test]
    fn a_series_is_not_a_prefix_of_another() {
        assert_eq!(
            newest("6", OFFERED.into_iter()).map(|name| name.contains("6.1")),
            Some(true)
        );
        assert_eq!(newest("6.2", OFFERED.into_iter()), None);
        assert_eq!(
            newest("6.1", ["linux-image-6.12.1-cloud-amd64"].into_iter()),
            None
        );
    }

    #[test]
    fn without_a_cloud_flavour_the_plain_one() {
        let ubuntu = [
            "linux-image-6.8.0-31-generic",
            "linux-image-6.8.0-100-generic",
            "linux-image-6.8.0-31-lowlatency",
        ];
        assert_eq!(
            newest("6.8", ubuntu.into_iter()),
            Some("linux-image-6.8.0-100-generic")
        );
    }
}
