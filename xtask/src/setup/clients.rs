//! Clients for the end-to-end tests that no distribution packages: mqtt.js and paho, in the versions that
//! `tests/clients` pins. They go into `target/test-clients`; nothing else is touched.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace;

fn directory() -> PathBuf {
    workspace::root().join("target/test-clients")
}

/// Installs what isn't there, or is there in another version.
///
/// # Errors
/// A registry can't be reached, or node, npm or python3 (with venv) don't work.
pub fn ensure() -> Result<()> {
    let (sources, directory) = (workspace::root().join("tests/clients"), directory());
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("create {}", directory.display()))?;
    let pinned = |name: &str| std::fs::read(sources.join(name)).unwrap_or_default();
    let done = |name: &str| std::fs::read(directory.join("done").join(name)).ok();
    let lock = pinned("package-lock.json");
    if done("package-lock.json").as_ref() != Some(&lock) {
        eprintln!("xtask: installing mqtt.js, for tests");
        for name in ["package.json", "package-lock.json"] {
            std::fs::write(directory.join(name), pinned(name))?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        workspace::run(npm.current_dir(&directory)).context("mqtt.js could not be installed")?;
        note(&directory, "package-lock.json", &lock)?;
    }
    let wanted = pinned("requirements.txt");
    if done("requirements.txt").as_ref() != Some(&wanted) {
        eprintln!("xtask: installing paho, for tests");
        let venv = directory.join("venv");
        let mut python = Command::new("python3");
        workspace::run(python.args(["-m", "venv", "--clear"]).arg(&venv))
            .context("python3 makes no venv: install python3-venv")?;
        let mut pip = Command::new(venv.join("bin/pip"));
        pip.args(["install", "--quiet", "--requirement"]);
        workspace::run(pip.arg(sources.join("requirements.txt")))
            .context("paho could not be installed")?;
        note(&directory, "requirements.txt", &wanted)?;
    }
    Ok(())
}

/// Notes what was installed, once all of it is.
fn note(directory: &Path, name: &str, pinned: &[u8]) -> Result<()> {
    let done = directory.join("done");
    std::fs::create_dir_all(&done)?;
    std::fs::write(done.join(name), pinned).context("note what was installed")
}
