//! `cargo xtask build` and `cargo xtask run`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::root;
use crate::workspace::{Metadata, cargo};

/// Builds `mqlb` in release and returns its path.
///
/// # Errors
/// The build failed.
pub fn build_mqlb() -> Result<PathBuf> {
    cargo([
        "build",
        "--release",
        "--package",
        "lb-user",
        "--bin",
        "mqlb",
    ])?;
    Ok(Metadata::read()?.target_directory()?.join("release/mqlb"))
}

/// Whether these arguments of `mqlb-lab run` need no root; the user may not have said so where there is no way to
/// root, so it adds what says it.
pub fn is_unprivileged(args: &mut Vec<OsString>) -> bool {
    const OPTION: &str = "--unprivileged";
    let asks = |text: &str| args.iter().any(|arg| arg == text);
    if asks(OPTION) || asks("--help") || asks("-h") {
        return true;
    }
    if root::is_possible() {
        return false;
    }
    eprintln!(
        "xtask: no way to root here (neither root nor a sudo that works): clients go through mqlb's proxy on the \
         loopback interface. As root, XDP steers them in network namespaces"
    );
    args.push(OPTION.into());
    true
}

/// Builds `mqlb` and the lab, then becomes the lab, as root unless it is `unprivileged`: signals and the exit code
/// are its own.
///
/// # Errors
/// The build failed, or there is no way to root. On success it does not return.
pub fn lab(args: &[OsString], unprivileged: bool) -> Result<()> {
    cargo([
        "build",
        "--release",
        "--package",
        "lb-user",
        "--bin",
        "mqlb",
        "--package",
        "lb-tests",
        "--bin",
        "mqlb-lab",
    ])?;
    let release = Metadata::read()?.target_directory()?.join("release");
    let why = "to create the lab's network namespaces and load XDP programs into them";
    let mqlb = release.join("mqlb");
    let program = release.join("mqlb-lab");
    let mut lab = if unprivileged {
        let mut lab = Command::new(program);
        lab.env("MQLB_BIN", mqlb);
        lab
    } else {
        root::command(program, why, &[("MQLB_BIN", mqlb.as_os_str())])?
    };
    let error = lab.arg("run").args(args).exec();
    Err(error).context("start the lab")
}
