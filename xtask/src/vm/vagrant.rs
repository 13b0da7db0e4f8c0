//! The tests in Vagrant's machines, one for each kernel.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{root, workspace};

/// The kernels that `vagrant/provision.sh` knows.
const KERNELS: [&str; 3] = ["6.1", "6.12", "newest"];

/// Brings a machine up for each of `kernels`, runs the whole suite in it, and halts it.
///
/// # Errors
/// There is no Vagrant, a machine doesn't come up, or the suite failed in one.
pub fn run(kernels: &[String], filters: &[String]) -> Result<()> {
    if root::find("vagrant").is_none() {
        bail!(
            "there is no vagrant here: install it with its libvirt or VirtualBox provider, or do without: \
             `cargo xtask vm test --qemu`"
        );
    }
    if let Some(unknown) = kernels.iter().find(|one| !KERNELS.contains(&one.as_str())) {
        bail!("kernel {unknown}: {} with Vagrant", KERNELS.join(", "));
    }
    let mut failed = Vec::new();
    for kernel in kernels {
        if let Err(error) = suite(kernel, filters) {
            eprintln!("xtask: kernel {kernel}: {error:#}");
            failed.push(kernel.as_str());
        }
    }
    if !failed.is_empty() {
        bail!("failed on {}", failed.join(", "));
    }
    Ok(())
}

fn suite(kernel: &str, filters: &[String]) -> Result<()> {
    workspace::run(vagrant(kernel).arg("up")).context("bring the machine up")?;
    // It may have been up already, with older files.
    let tested = workspace::run(vagrant(kernel).arg("rsync"))
        .context("copy the files")
        .and_then(|()| {
            let mut test = vagrant(kernel);
            let command = format!(
                "cd mqlb && ~/.cargo/bin/cargo xtask test --no-vm{}",
                words(filters)
            );
            // Its exit code is the command's.
            let status = test.args(["ssh", "--command", &command]).status()?;
            if !status.success() {
                bail!("the tests failed ({status})");
            }
            Ok(())
        });
    let halted = workspace::run(vagrant(kernel).arg("halt")).context("halt the machine");
    tested.and(halted)
}

fn vagrant(kernel: &str) -> Command {
    let mut vagrant = Command::new("vagrant");
    vagrant.current_dir(directory()).env("MQLB_KERNEL", kernel);
    vagrant
}

fn directory() -> PathBuf {
    workspace::root().join("vagrant")
}

/// For the shell on the other side.
fn words(filters: &[String]) -> String {
    filters
        .iter()
        .map(|filter| format!(" {}", super::quoted(filter.as_ref())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_provision_script_knows_the_same_kernels() {
        let script = std::fs::read_to_string(directory().join("provision.sh")).expect("readable");
        let vagrantfile =
            std::fs::read_to_string(directory().join("Vagrantfile")).expect("readable");
        for kernel in KERNELS {
            assert!(script.contains(&format!("\n    {kernel})\n")), "{kernel}");
            assert!(vagrantfile.contains(&format!("\"{kernel}\"")), "{kernel}");
        }
    }

    #[test]
    fn filters_are_words_for_the_other_shell() {
        assert_eq!(words(&["a b".into(), "c".into()]), " 'a b' 'c'");
    }
}
