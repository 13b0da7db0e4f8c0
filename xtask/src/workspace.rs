//! The workspace: where it is, where cargo builds, and cargo itself.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The workspace's root directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
}

/// A `cargo` to be run at the workspace's root.
pub fn cargo_command() -> Command {
    // Cargo sets CARGO to itself for what it runs; inside a rustup toolchain that is the pinned one.
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // Set by `cargo run` for us, not for what we start.
    for inherited in [
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_PKG_NAME",
    ] {
        command.env_remove(inherited);
    }
    command
}

/// Runs cargo with its output on our stderr.
///
/// # Errors
/// Cargo could not be started, or failed.
pub fn cargo<I: IntoIterator<Item = impl AsRef<OsStr>>>(args: I) -> Result<()> {
    let mut command = cargo_command();
    run(command.args(args))
}

/// Runs `command` with its output on our stderr: stdout is for what was asked for.
///
/// # Errors
/// It could not be started, or failed.
pub fn run(command: &mut Command) -> Result<()> {
    let stderr = std::io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .context("duplicate stderr")?;
    let shown = show(command);
    let status = command
        .stdout(Stdio::from(stderr))
        .status()
        .with_context(|| format!("start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// The command as one would type it, for messages.
pub fn show(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    // The scripts that we give to `sh -c` have many lines; the first one names the step.
    text.lines().next().unwrap_or_default().to_owned()
}

/// What `cargo metadata` knows about the workspace.
pub struct Metadata(Value);

impl Metadata {
    /// # Errors
    /// Cargo failed (a broken manifest), or printed no JSON.
    pub fn read() -> Result<Self> {
        let output = cargo_command()
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .stderr(Stdio::inherit())
            .output()
            .context("start cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata failed ({})", output.status);
        }
        Ok(Self(
            serde_json::from_slice(&output.stdout).context("read the output of cargo metadata")?,
        ))
    }

    /// Cargo's target directory.
    ///
    /// # Errors
    /// The metadata do not say.
    pub fn target_directory(&self) -> Result<PathBuf> {
        Ok(self.0["target_directory"]
            .as_str()
            .context("cargo metadata names no target directory")?
            .into())
    }

    /// The version of `package`.
    ///
    /// # Errors
    /// There is no such package.
    pub fn version(&self, package: &str) -> Result<String> {
        let mut packages = self.0["packages"].as_array().into_iter().flatten();
        let found = packages.find(|candidate| candidate["name"] == package);
        let version = found.and_then(|package| package["version"].as_str());
        Ok(version
            .with_context(|| format!("cargo metadata knows no package {package}"))?
            .to_owned())
    }

    /// Names of the targets of `kind` ("test", "bin", "example", …) in `package`.
    pub fn targets(&self, package: &str, kind: &str) -> Vec<&str> {
        let packages = self.0["packages"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        packages
            .iter()
            .filter(|candidate| candidate["name"] == package)
            .flat_map(|found| {
                found["targets"]
                    .as_array()
                    .map(Vec::as_slice)
                    .unwrap_or_default()
            })
            .filter(|target| {
                target["kind"]
                    .as_array()
                    .is_some_and(|kinds| kinds.iter().any(|k| k == kind))
            })
            .filter_map(|target| target["name"].as_str())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_names_the_targets() {
        let metadata = Metadata(serde_json::json!({"target_directory": "/t", "packages": [
            {"name": "a", "targets": [{"name": "lib", "kind": ["lib"]}, {"name": "e2e", "kind": ["test"]}]},
            {"name": "b", "targets": [{"name": "other", "kind": ["test"]}]},
        ]}));
        assert_eq!(metadata.targets("a", "test"), ["e2e"]);
        assert!(metadata.targets("c", "test").is_empty());
        assert_eq!(
            metadata.target_directory().expect("it is there"),
            Path::new("/t")
        );
    }

    #[test]
    fn the_root_is_the_workspace() {
        assert!(root().join("lb-ebpf/Cargo.toml").exists());
    }
}
