//! Installing packages on Debian and Ubuntu.

use std::ffi::OsStr;

use anyhow::{Context, Result};

use super::distro::Distro;
use super::tools::LLVM;
use crate::{root, workspace};

/// Runs as root with the packages as arguments. Packages are configured with services held back
/// (invoke-rc.d and deb-systemd-invoke ask policy-rc.d): installing mosquitto for the tests must
/// not open a port. A policy of the administrator's own stays as it is.
const INSTALL: &str = r#"set -eu  # install packages
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
apt-get install --yes --no-install-recommends "$@"
for package in "$@"; do
    # Enabled by its package for the next boot; it was not here before, so nobody relies on it.
    case $package in
        mosquitto | haproxy) services=$package ;;
        docker.io) services="docker containerd" ;;
        *) services= ;;
    esac
    for service in $services; do
        if command -v systemctl >/dev/null; then
            systemctl disable "$service.service"
            if [ "$service" = docker ]; then systemctl disable docker.socket; fi
        elif command -v update-rc.d >/dev/null && [ -e "/etc/init.d/$service" ]; then
            update-rc.d "$service" disable
        fi
    done
done"#;

/// Runs as root with the suite's code name and the LLVM version as arguments.
const ADD_LLVM: &str = r#"set -eu  # add apt.llvm.org
export DEBIAN_FRONTEND=noninteractive
apt-get install --yes --no-install-recommends ca-certificates curl
mkdir -p /etc/apt/keyrings
curl -fsSL https://apt.llvm.org/llvm-snapshot.gpg.key -o /etc/apt/keyrings/apt.llvm.org.asc
echo "deb [signed-by=/etc/apt/keyrings/apt.llvm.org.asc] https://apt.llvm.org/$1/ llvm-toolchain-$1-$2 main" \
    >"/etc/apt/sources.list.d/llvm-$2.list"
apt-get update"#;

/// Installs `packages`; services that they bring are neither started nor enabled.
///
/// # Errors
/// There is no way to root, or apt failed.
pub fn install(packages: &[&str], distro: &Distro) -> Result<()> {
    let why = format!("to install packages: {}", packages.join(" "));
    // No way to root is no reason to go on with old package lists.
    root::command("apt-get", &why, &[])?;
    eprintln!("xtask: installing {}", packages.join(" "));
    // A third-party repository that fails must not stop us; if ours fails, the install says so.
    if let Err(error) = script("apt-get update", &why, &[]) {
        eprintln!("xtask: {error:#}; going on with the package lists that are here");
    }
    let llvm = format!("llvm-{LLVM}-dev");
    if packages.contains(&llvm.as_str()) && !is_known(&llvm) {
        let codename = distro.codename.as_deref().with_context(|| {
            format!("{} has no package {llvm}, and its code name is unknown: install LLVM {LLVM} by hand", distro.name)
        })?;
        eprintln!(
            "xtask: {} has no package {llvm}: adding the LLVM project's repository, apt.llvm.org",
            distro.name
        );
        script(ADD_LLVM, &why, &[codename, &LLVM.to_string()]).with_context(|| {
            format!("LLVM {LLVM} can also be installed by hand: https://apt.llvm.org")
        })?;
    }
    script(INSTALL, &why, packages).context("the packages could not be installed")
}

/// apt knows a version of `package` that it could install.
fn is_known(package: &str) -> bool {
    let output = std::process::Command::new("apt-cache")
        .args(["show", "--no-all-versions", package])
        .output();
    output.is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
}

fn script(text: &str, why: &str, args: &[&str]) -> Result<()> {
    let mut shell = root::command("sh", why, &[("LC_ALL", OsStr::new("C.UTF-8"))])?;
    workspace::run(shell.args(["-c", text, "sh"]).args(args))
}
