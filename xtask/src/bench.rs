//! `cargo xtask bench`: mqlb measured beside HAProxy and the kernel's own forwarding.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::root;
use crate::workspace::{self, Metadata, cargo};

/// The option that stands for "into the repository's own report".
const WRITE: &str = "--write";

/// Builds everything in release and becomes `mqlb-lab bench`, as root: signals and the exit code are its own.
///
/// # Errors
/// The build failed, or there is no way to root. On success it does not return.
pub fn run(args: &[OsString]) -> Result<()> {
    cargo([
        "build",
        "--release",
        "--package",
        "lb-user",
        "--bin",
        "mqlb",
        "--example",
        "nanoseconds",
        "--package",
        "lb-tests",
        "--bin",
        "mqlb-lab",
    ])?;
    let target = Metadata::read()?.target_directory()?;
    let release = target.join("release");
    let typed = typed(args);
    let env = [
        ("MQLB_BIN", release.join("mqlb").into_os_string()),
        ("MQLB_BENCH_COMMAND", typed.into()),
    ];
    let env = env
        .each_ref()
        .map(|(name, value)| (*name, value.as_os_str()));
    let why = "to create the lab's network namespaces and load XDP programs into them";
    let mut bench = root::command(release.join("mqlb-lab"), why, &env)?;
    bench
        .arg("bench")
        .args(with_paths(args, workspace::root(), &target));
    Err(bench.exec()).context("start the benchmarks")
}

/// What the user typed, for the report.
fn typed(args: &[OsString]) -> String {
    let mut text = String::from("cargo xtask bench");
    for arg in args {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

/// The arguments as the lab takes them: it doesn't know where the repository and cargo's directory are.
fn with_paths(args: &[OsString], root: &Path, target: &Path) -> Vec<OsString> {
    let mut all = vec!["--out".into(), target.join("bench").into_os_string()];
    // What is given twice counts as it is given last.
    if args
        .iter()
        .any(|arg| arg == "--out" || arg.to_string_lossy().starts_with("--out="))
    {
        all.clear();
    }
    for arg in args {
        all.push(arg.clone());
        if arg == WRITE {
            all.push(root.join("BENCHMARKS.md").into_os_string());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_means_the_repositorys_report() {
        let args = ["--quick", "--write"].map(OsString::from);
        let passed = with_paths(&args, Path::new("/r"), Path::new("/t"));
        assert_eq!(
            passed,
            [
                "--out",
                "/t/bench",
                "--quick",
                "--write",
                "/r/BENCHMARKS.md"
            ]
        );
        assert_eq!(typed(&args), "cargo xtask bench --quick --write");
        let args = ["--out=x".into()];
        assert_eq!(
            with_paths(&args, Path::new("/r"), Path::new("/t")),
            ["--out=x"]
        );
    }
}
