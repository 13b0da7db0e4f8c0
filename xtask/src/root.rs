//! Root for the few steps that need it: as we are, or through sudo.

use std::ffi::OsStr;
use std::io::IsTerminal as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;

use anyhow::{Result, bail};

/// Variables that the programs we start as root should see; sudo drops everything else.
const PASSED_ON: [&str; 5] = ["MQLB_BIN", "RUST_LOG", "RUST_BACKTRACE", "NO_COLOR", "TERM"];

/// The effective user is root.
pub fn is_root() -> bool {
    // The owner of a process's directory is its effective user.
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Whether [`command`] has a chance: we are root, or there is a sudo that lets us or can ask for a password.
pub fn is_possible() -> bool {
    let allowed = || {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "true"]).stdin(Stdio::null());
        let output = sudo.output();
        output.is_ok_and(|output| output.status.success())
    };
    is_root() || find("sudo").is_some() && (std::io::stdin().is_terminal() || allowed())
}

/// A command that runs `program` as root. The first time that sudo is needed, says why.
///
/// # Errors
/// Neither root nor sudo; the message says what to do.
pub fn command(program: impl AsRef<OsStr>, why: &str, env: &[(&str, &OsStr)]) -> Result<Command> {
    if is_root() {
        let mut command = Command::new(program);
        command.envs(env.iter().copied());
        return Ok(command);
    }
    if find("sudo").is_none() {
        bail!("root is needed {why}, and there is no sudo here: run this command again as root");
    }
    static SAID: Once = Once::new();
    SAID.call_once(|| eprintln!("xtask: asking sudo for root {why}"));
    let mut command = Command::new("sudo");
    command.args(["--", "env"]);
    let inherited = PASSED_ON
        .iter()
        .filter(|name| !env.iter().any(|(given, _)| given == *name));
    for (name, value) in inherited.filter_map(|name| Some((*name, std::env::var_os(name)?))) {
        command.arg(assignment(name, &value));
    }
    for (name, value) in env {
        command.arg(assignment(name, value));
    }
    command.arg(program);
    Ok(command)
}

fn assignment(name: &str, value: &OsStr) -> std::ffi::OsString {
    let mut text = std::ffi::OsString::from(name);
    text.push("=");
    text.push(value);
    text
}

/// Where `program` is, in `PATH` or in the directories of system tools, which a user's `PATH` on
/// Debian leaves out.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_programs_and_only_programs() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
        assert!(!is_executable(Path::new("/etc/passwd")));
        assert!(!is_executable(Path::new("/usr")));
    }
}
