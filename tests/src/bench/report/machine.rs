//! Where a run was made, and with what.

use std::process::Command;

use anyhow::Result;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct Machine {
    pub processor: String,
    pub cpus: usize,
    /// Bytes.
    pub memory: u64,
    pub kernel: String,
    pub distribution: String,
    /// Of this repository; `unknown` outside of one.
    pub commit: String,
    pub date: String,
}

impl Machine {
    /// # Errors
    /// `/proc` is not there.
    pub fn here() -> Result<Self> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
        let meminfo = std::fs::read_to_string("/proc/meminfo")?;
        let kilobytes = value(&meminfo, "MemTotal", ':')
            .and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let distribution = value(&release, "PRETTY_NAME", '=').unwrap_or("unknown");
        Ok(Self {
            processor: value(&cpuinfo, "model name", ':')
                .unwrap_or("unknown")
                .to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            memory: 1024 * kilobytes.unwrap_or(0),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            distribution: distribution.trim_matches('"').to_owned(),
            commit: commit(),
            date: said(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]))
                .unwrap_or_default(),
        })
    }
}

/// What stands behind a key in the first line that begins with it.
fn value<'a>(text: &'a str, key: &str, separator: char) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(separator)?;
        (name.trim() == key).then(|| value.trim())
    })
}

/// The commit that is checked out; git refuses to tell root about a checkout of somebody else's otherwise.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let directory = env!("CARGO_MANIFEST_DIR");
        said(
            Command::new("git")
                .args(["-c", "safe.directory=*", "-C", directory])
                .args(arguments),
        )
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".into();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => commit + ", with changes",
    }
}

fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found() {
        assert_eq!(
            value("a : b\nmodel name\t: X 1\n", "model name", ':'),
            Some("X 1")
        );
        assert_eq!(value("", "model name", ':'), None);
    }
}
