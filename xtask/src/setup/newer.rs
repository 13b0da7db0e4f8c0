//! Programs that are newer than the distribution's, for the tests of docker-compose.yml: the HAProxy that it
//! names, and Docker Compose 2. Unpacked from Debian's unstable suite into `target/newer-packages/root`;
//! nothing is installed, and apt's own lists and sources stay as they are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{root, workspace};

const PACKAGES: [&str; 2] = ["haproxy", "docker-compose"];

/// Debian's archive is signed with one of these keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

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
    for program in ["apt-get", "dpkg"] {
        if root::find(program).is_none() {
            bail!("there is no {program} here to get packages of Debian unstable with");
        }
    }
    if !Path::new(KEYRING).exists() {
        bail!(
            "{KEYRING} is missing (package debian-archive-keyring): Debian's packages can't be verified"
        );
    }
    let config = configure(work)?;
    output(apt(&config).arg("update")).context("read the package lists of Debian unstable")?;
    let plan = output(
        apt(&config)
            .args(["install", "--simulate", "--no-install-recommends"])
            .args(PACKAGES),
    )
    .context("find the packages in Debian unstable")?;
    let packages = needed(&plan);
    let debs = work.join("debs");
    std::fs::create_dir(&debs)?;
    output(
        apt(&config)
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

/// A configuration of apt with everything in `work`, as if nothing was installed.
fn configure(work: &Path) -> Result<PathBuf> {
    for directory in ["lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(work.join(directory))?;
    }
    std::fs::write(work.join("status"), "")?;
    std::fs::write(
        work.join("sources.list"),
        format!("deb [signed-by={KEYRING}] http://deb.debian.org/debian unstable main\n"),
    )?;
    let shown = work.display();
    let config = work.join("apt.conf");
    std::fs::write(
        &config,
        format!(
            "Dir::Etc::sourcelist \"{shown}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\nDir::Etc::preferences \"/dev/null\";\n\
             Dir::State::lists \"{shown}/lists\";\nDir::State::status \"{shown}/status\";\n\
             Dir::Cache \"{shown}/cache\";\nAPT::Default-Release \"\";\nAPT::Sandbox::User \"root\";\n\
             Acquire::Languages \"none\";\nAcquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             Acquire::Retries \"2\";\nAcquire::http::Timeout \"30\";\n"
        ),
    )?;
    Ok(config)
}

fn apt(config: &Path) -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("APT_CONFIG", config).env("LC_ALL", "C.UTF-8");
    apt
}

/// Of what apt would install, the programs and the libraries: the rest is for a system of its own.
fn needed(plan: &str) -> Vec<&str> {
    plan.lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next())
        .filter(|name| PACKAGES.contains(name) || name.starts_with("lib") || *name == "zlib1g")
        .collect()
}

fn output(command: &mut Command) -> Result<String> {
    let shown = workspace::show(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start `{shown}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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
