//! The licences of the libraries in the program, which ask to be passed on with it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{stdout, target};
use crate::workspace::cargo_command;

/// Each library with its version, its licence, and the texts that lie in its sources.
pub fn of_libraries() -> Result<String> {
    let mut tree = cargo_command();
    tree.args(["tree", "--package", "lb-user", "--edges", "normal"])
        .args(["--target", &target(), "--prefix", "none"])
        .args(["--format", "{p}"]);
    let linked = stdout(&mut tree)?;
    let mut metadata = cargo_command();
    let metadata = stdout(metadata.args(["metadata", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("read cargo's metadata")?;
    let mut text = "mqlb is built from these libraries, among others of its own.\n".to_owned();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        // What has no source is the workspace's own.
        if package["source"].is_null() {
            continue;
        }
        let field = |name: &str| package[name].as_str().unwrap_or_default();
        let named = format!("{} v{}", field("name"), field("version"));
        if !linked.lines().any(|line| is(line, &named)) {
            continue;
        }
        let licence = match field("license") {
            "" => "see below",
            licence => licence,
        };
        write!(text, "\n{}\n{named}: {licence}\n", "=".repeat(72))?;
        let manifest = Path::new(field("manifest_path"));
        let directory = manifest
            .parent()
            .context("a manifest lies in a directory")?;
        for licence in texts(directory)? {
            write!(text, "\n{}\n", licence.trim_end())?;
        }
    }
    Ok(text)
}

/// `line` of `cargo tree` is about the package: `name v1.2.3`, perhaps ` (proc-macro)` or ` (*)` after it.
fn is(line: &str, named: &str) -> bool {
    line.strip_prefix(named)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

/// The licence files in a package's directory, in order of their names.
fn texts(directory: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(directory);
    let entries = entries.with_context(|| format!("read {}", directory.display()))?;
    let mut files: Vec<_> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().to_uppercase();
            let is_text = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "COPYRIGHT"];
            is_text.iter().any(|start| name.starts_with(start)) && entry.path().is_file()
        })
        .map(|entry| entry.path())
        .collect();
    files.sort();
    let read = files.iter().map(|file| {
        let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_about_one_version() {
        assert!(is("clap v4.6.7", "clap v4.6.7"));
        assert!(is("clap_derive v4.6.7 (proc-macro)", "clap_derive v4.6.7"));
        assert!(!is("clap v4.6.70", "clap v4.6.7"));
        assert!(!is("clap_lex v4.6.7", "clap v4.6.7"));
    }
}
