//! Debian's package archive, whatever this machine's own sources are: lists and sources of apt in a directory of
//! ours; nothing is installed, and the system's apt stays as it is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{root, workspace};

/// Debian's archive is signed with one of these keys.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt, with its state in a directory of ours.
pub struct Archive {
    config: PathBuf,
}

impl Archive {
    /// Reads the package lists of `suites`, each an address and a suite ("http://… unstable"), into `work`.
    ///
    /// # Errors
    /// There is no apt here, Debian's keys are missing, or the archive can't be reached.
    pub fn open(work: &Path, suites: &[&str]) -> Result<Self> {
        for program in ["apt-get", "dpkg"] {
            if root::find(program).is_none() {
                bail!("there is no {program} here to get Debian's packages with");
            }
        }
        if !Path::new(KEYRING).exists() {
            bail!(
                "{KEYRING} is missing (package debian-archive-keyring): Debian's packages can't be verified"
            );
        }
        let archive = Self {
            config: configure(work, suites)?,
        };
        output(archive.command("apt-get").arg("update")).context("read Debian's package lists")?;
        Ok(archive)
    }

    /// `apt-get` or `apt-cache`, for this archive.
    pub fn command(&self, program: &str) -> Command {
        let mut apt = Command::new(program);
        apt.env("APT_CONFIG", &self.config).env("LC_ALL", "C.UTF-8");
        apt
    }
}

/// A configuration of apt with everything in `work`, as if nothing was installed.
fn configure(work: &Path, suites: &[&str]) -> Result<PathBuf> {
    for directory in ["lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(work.join(directory))?;
    }
    std::fs::write(work.join("status"), "")?;
    let sources: String = suites
        .iter()
        .map(|suite| format!("deb [signed-by={KEYRING}] {suite} main\n"))
        .collect();
    std::fs::write(work.join("sources.list"), sources)?;
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

/// Runs `command` and returns what it prints.
///
/// # Errors
/// It failed; the message holds what it said.
pub fn output(command: &mut Command) -> Result<String> {
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
