//! `cargo xtask build` and `cargo xtask run`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

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

/// Builds `mqlb` and the lab, then becomes the lab, as root: signals and the exit code are its own.
///
/// # Errors
/// The build failed, or there is no way to root. On success it does not return.
pub fn lab(args: &[OsString]) -> Result<()> {
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
    let mut lab = root::command(
        release.join("mqlb-lab"),
        why,
        &[("MQLB_BIN", mqlb.as_os_str())],
    )?;
    let error = lab.arg("run").args(args).exec();
    Err(error).context("start the lab")
}
