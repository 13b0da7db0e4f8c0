//! bpf-linker, which links the XDP programs; cargo builds it against the distribution's LLVM.

use std::process::Command;

use anyhow::Result;

use super::tools::LLVM;
use crate::workspace::{cargo_command, run};

/// The version that the eBPF build is known to work with.
pub const VERSION: &str = "0.13.0";

/// bpf-linker is installed, runs (it needs its LLVM at run time) and is recent enough.
pub fn is_installed() -> bool {
    let output = Command::new("bpf-linker").arg("--version").output();
    output.is_ok_and(|output| {
        output.status.success() && is_recent(&String::from_utf8_lossy(&output.stdout))
    })
}

/// `text` is the output of `bpf-linker --version`: "bpf-linker 0.13.0".
fn is_recent(text: &str) -> bool {
    let parse = |version: &str| -> Option<Vec<u32>> {
        version.split('.').map(|part| part.parse().ok()).collect()
    };
    let found = text
        .split_whitespace()
        .nth(1)
        .and_then(|version| parse(version.split(['-', '+']).next()?));
    found >= parse(VERSION) && found.is_some()
}

/// Builds bpf-linker into cargo's `bin` directory.
///
/// # Errors
/// Cargo failed.
pub fn install() -> Result<()> {
    eprintln!("xtask: building bpf-linker {VERSION} (once; a few minutes)");
    let mut install = cargo_command();
    install
        .args([
            "install",
            "bpf-linker",
            "--version",
            VERSION,
            "--locked",
            "--force",
        ])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{LLVM}"),
        ])
        // Without it the build takes the first llvm-config in PATH, of whatever version.
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM}"));
    run(&mut install)
}

/// The command that installs the project's own static build, for systems whose LLVM we don't know.
pub fn prebuilt() -> String {
    format!(
        "curl -fsSL https://github.com/aya-rs/bpf-linker/releases/download/v{VERSION}/bpf-linker-{}-unknown-linux-musl.tar.zst \
         | tar --zstd -x -C ~/.cargo/bin",
        std::env::consts::ARCH
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert!(is_recent("bpf-linker 0.13.0\n"));
        assert!(is_recent("bpf-linker 0.13.1-dev\n"));
        assert!(is_recent("bpf-linker 1.0.0\n"));
        assert!(!is_recent("bpf-linker 0.9.15\n"), "numbers, not strings");
        assert!(!is_recent("bpf-linker\n"));
        assert!(!is_recent("bpf-linker x.y\n"));
        assert!(!is_recent(""));
    }
}
