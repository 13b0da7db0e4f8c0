//! Programs that are newer than the distribution's, for the tests of docker-compose.yml: the HAProxy that it
//! names, and Docker Compose 2. Unpacked from Debian's unstable suite into `target/newer-packages/root`;
//! nothing is installed, and apt's own lists and sources stay as they are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::{Archive, output};
use crate::workspace;

const PACKAGES: [&str; 2] = ["haproxy", "docker-compose"];

/// Why there is nothing, for the tests to tell.
const UNAVAILABLE: &str = "UNAVAILABLE";

fn directory() -> PathBuf {
    workspace::root().join("target/newer-packages")
}

/// Unpacks the programs, or notes why it can't: the tests then do without, and say so.
///
/// # Errors
/// The target directory is not writable.
pub fn ensure() -> Result<()> {
    let directory = directory();
    if directory.join("root").is_dir() || directory.join(UNAVAILABLE).exists() {
        return Ok(());
    }
    eprintln!(
        "xtask: unpacking {} from Debian unstable, for tests",
        PACKAGES.join(" and ")
    );
    // Another set-up may be under way: the last one to finish renames, and the others find it done.
    let work = directory.join(format!("work-{}", std::process::id()));
    std::fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    let unpacked = unpack(&work);
    let outcome = match unpacked {
        Ok(unpacked) => match std::fs::rename(&unpacked, directory.join("root")) {
            Err(error) if !directory.join("root").is_dir() => Err(error).context("rename"),
            _ => Ok(()),
        },
        Err(error) => {
            let file = directory.join(UNAVAILABLE);
            eprintln!(
                "xtask: {error:#}\nxtask: going on without; remove {} to try again",
                file.display()
            );
            std::fs::write(&file, format!("{error:#}\n"))
                .with_context(|| format!("write {}", file.display()))
        }
    };
    std::fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    outcome
}

/// Downloads the packages with their libraries into `work`, and returns the directory they are unpacked in.
fn unpack(work: &Path) -> Result<PathBuf> {
    let archive = Archive::open(work, &["http://deb.debian.org/debian unstable"])?;
    let plan = output(
        archive
            .command("apt-get")
            .args(["install", "--simulate", "--no-install-recommends"])
            .args(PACKAGES),
    )
    .context("find the packages in Debian unstable")?;
    let packages = needed(&plan);
    let debs = work.join("debs");
    std::fs::create_dir(&debs)?;
    output(
        archive
            .command("apt-get")
            .arg("download")
            .args(&packages)
            .current_dir(&debs),
    )
    .context("download packages of Debian unstable")?;
    let unpacked = work.join("root");
    for deb in std::fs::read_dir(&debs)? {
        let mut dpkg = Command::new("dpkg");
        output(dpkg.arg("--extract").arg(deb?.path()).arg(&unpacked)).context("unpack")?;
    }
    Ok(unpacked)
}

/// Of what apt would install, the programs and the libraries: the rest is for a system of its own.
fn needed(plan: &str) -> Vec<&str> {
    plan.lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next())
        .filter(|name| PACKAGES.contains(name) || name.starts_with("lib") || *name == "zlib1g")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_and_libraries_are_taken() {
        let plan = "NOTE: simulation\nInst libc6 (2.43-7 Debian:unstable [amd64]) []\n\
                    Inst passwd (1:4.20.3-1 Debian:unstable [amd64])\nInst haproxy (3.2.26-1 Debian)\n\
                    Inst zlib1g (1:1.3 Debian)\nConf libc6 (2.43-7 Debian:unstable [amd64])\n";
        assert_eq!(needed(plan), ["libc6", "haproxy", "zlib1g"]);
    }
}
