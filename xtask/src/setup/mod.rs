//! Set-up: what is missing, and how it gets here.
//!
//! Presence is seen from files only, so that a run with nothing to do costs next to nothing. On
//! Debian and Ubuntu the missing pieces are installed; elsewhere the exact commands are printed.

mod apt;
pub mod archive;
mod clients;
mod distro;
mod linker;
mod newer;
mod tools;

use std::path::Path;

use anyhow::{Context, Result, bail};
use distro::{Distro, Family};

use crate::{root, workspace};

/// What a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// To build everything.
    Build,
    /// To build bpf-linker; follows from [`Need::Build`] where that is missing.
    Linker,
    /// To run things that touch the kernel: the lab and the tests.
    Kernel,
    /// To run the tests of docker-compose.yml.
    Compose,
    /// To run the tests with clients of others.
    Clients,
    /// To compare with.
    Bench,
    /// To boot other kernels.
    Vm,
    /// To build the static program.
    Static,
    /// To make packages.
    Package,
    /// To test them.
    Service,
}

/// Makes sure that everything for `needs` is here.
///
/// # Errors
/// Something is missing and could not be installed; the message says what to do.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let build_linker = needs.contains(&Need::Build) && !linker::is_installed();
    let mut needs = needs.to_vec();
    if build_linker {
        needs.push(Need::Linker);
    }
    let mut missing = tools::missing(&needs, tools::Proof::holds);
    if Distro::detect().name.contains("Ubuntu") {
        // The test says there that it can't run.
        missing.retain(|tool| tool.proof != tools::BROWSER);
    }
    if !missing.is_empty() || build_linker {
        install(&missing, build_linker)?;
    }
    if needs.contains(&Need::Build) {
        rust_src()?;
    }
    if needs.contains(&Need::Static) {
        rust_std()?;
    }
    if needs.contains(&Need::Kernel) {
        bpffs()?;
    }
    if needs.contains(&Need::Clients) {
        clients::ensure()?;
    }
    if needs.contains(&Need::Compose) {
        newer::ensure()?;
    }
    Ok(())
}

/// Whether this is one of the systems where what is missing is installed.
pub fn installs_by_itself() -> bool {
    Distro::detect().family == Family::Debian && root::find("apt-get").is_some()
}

fn install(missing: &[&tools::Tool], build_linker: bool) -> Result<()> {
    let distro = Distro::detect();
    for tool in missing {
        eprintln!("xtask: {} is missing: {}", name(tool.proof), tool.purpose);
    }
    if !installs_by_itself() {
        bail!("{}", by_hand(missing, build_linker, &distro));
    }
    if !missing.is_empty() {
        apt::install(&tools::packages(missing, Family::Debian), &distro)?;
        let still: Vec<_> = missing
            .iter()
            .filter(|tool| !tool.proof.holds())
            .map(|tool| name(tool.proof))
            .collect();
        if !still.is_empty() {
            bail!(
                "the packages are installed, but {} did not come with them",
                still.join(", ")
            );
        }
    }
    if build_linker {
        linker::install()?;
        if !linker::is_installed() {
            bail!(
                "bpf-linker was built but `bpf-linker --version` fails: is cargo's bin directory in PATH?"
            );
        }
    }
    Ok(())
}

fn name(proof: tools::Proof) -> &'static str {
    match proof {
        tools::Proof::Program(name)
        | tools::Proof::File(name)
        | tools::Proof::PythonModule(name) => name,
    }
}

/// What to type where we don't install by ourselves.
fn by_hand(missing: &[&tools::Tool], build_linker: bool, distro: &Distro) -> String {
    let mut text = format!(
        "{} is not one of the systems where this set-up installs by itself (Debian, Ubuntu).",
        distro.name
    );
    let packages = tools::packages(missing, distro.family).join(" ");
    let install = match distro.family {
        Family::Fedora => "sudo dnf install ",
        Family::Arch => "sudo pacman -S --needed ",
        Family::Alpine => "sudo apk add ",
        Family::Debian | Family::Unknown => "",
    };
    text.push_str(" Do this, then repeat the command:");
    if !install.is_empty() && !packages.is_empty() {
        text.push_str(&format!("\n    {install}{packages}"));
    } else {
        for tool in missing.iter().filter(|tool| tool.need != Need::Linker) {
            text.push_str(&format!(
                "\n    install {} ({})",
                name(tool.proof),
                tool.purpose
            ));
        }
    }
    if build_linker {
        text.push_str(&format!("\n    {}", linker::prebuilt()));
    }
    text
}

/// The sources of `core`, which is built for the BPF target. rust-toolchain.toml lists them, but
/// not every way to install the toolchain reads that.
fn rust_src() -> Result<()> {
    rustup("src/rust/library/core", ["component", "add", "rust-src"])
        .context("the sources of `core` are missing (rustup's component rust-src)")
}

/// The standard library for the static program. It brings musl along.
fn rust_std() -> Result<()> {
    let target = crate::dist::target();
    rustup(&target, ["target", "add", &target])
        .with_context(|| format!("the standard library for {target} is missing"))
}

/// Has rustup do what is missing, if there is no `file` in the toolchain's `lib/rustlib`.
fn rustup(file: &str, args: [&str; 3]) -> Result<()> {
    // Cargo's own path is <sysroot>/bin/cargo when rustup's proxy started it.
    let Some(sysroot) = std::env::var_os("CARGO")
        .and_then(|cargo| Some(Path::new(&cargo).parent()?.parent()?.to_owned()))
    else {
        return Ok(());
    };
    if sysroot.join("lib/rustlib").join(file).exists() {
        return Ok(());
    }
    let mut rustup = std::process::Command::new("rustup");
    workspace::run(rustup.args(args).current_dir(workspace::root()))
}

/// The file system that maps, programs and links are pinned in.
fn bpffs() -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    if has_bpffs(&mounts) {
        return Ok(());
    }
    if !Path::new("/sys/fs/bpf").exists() {
        bail!(
            "/sys/fs/bpf does not exist: this kernel has no BPF file system (CONFIG_BPF_SYSCALL)"
        );
    }
    let why = "to mount the BPF file system on /sys/fs/bpf";
    workspace::run(root::command("mount", why, &[])?.args(["-t", "bpf", "bpf", "/sys/fs/bpf"]))
        .context(why)
}

/// `mounts` is the content of /proc/self/mounts: device, mount point, type, … on each line.
fn has_bpffs(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some("/sys/fs/bpf") && fields.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing_installed() -> Vec<&'static tools::Tool> {
        tools::missing(&[Need::Build, Need::Linker, Need::Kernel], |_| false)
    }

    #[test]
    fn fedora_is_told_what_to_type() {
        let text = by_hand(
            &nothing_installed(),
            true,
            &Distro::parse("ID=fedora\nPRETTY_NAME=\"Fedora Linux 44\""),
        );
        assert!(text.starts_with("Fedora Linux 44 is not one of"));
        assert!(text.contains("\n    sudo dnf install gcc iproute ethtool nftables util-linux procps-ng mosquitto\n"), "{text}");
        assert!(
            text.contains("bpf-linker/releases/download/v0.13.0/"),
            "{text}"
        );
    }

    #[test]
    fn an_unknown_system_is_told_what_is_missing() {
        let missing = tools::missing(&[Need::Kernel], |proof| {
            proof != tools::Proof::Program("nft")
        });
        let text = by_hand(&missing, false, &Distro::parse("ID=nixos\nNAME=NixOS"));
        assert!(
            text.contains("\n    install nft (losing and reordering packets in tests)"),
            "{text}"
        );
        assert!(!text.contains("bpf-linker"), "{text}");
    }

    #[test]
    fn bpffs_is_seen_only_where_it_must_be() {
        assert!(has_bpffs(
            "proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,nosuid 0 0\n"
        ));
        assert!(!has_bpffs(
            "tmpfs /sys/fs/bpf tmpfs rw 0 0\nbpf /mnt/bpf bpf rw 0 0\n"
        ));
    }
}
