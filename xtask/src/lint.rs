//! Formatting and clippy, warnings being errors.

use anyhow::Result;

use crate::workspace::{cargo, cargo_command, run};

/// # Errors
/// Some file is not formatted.
pub fn formatting() -> Result<()> {
    cargo(["fmt", "--all", "--check"])
}

/// # Errors
/// Clippy has something to say.
pub fn clippy() -> Result<()> {
    cargo(["clippy", "--all-targets", "--", "-D", "warnings"])?;
    // The programs only compile for the BPF target, as lb-user's build script builds them.
    let mut programs = cargo_command();
    programs
        .args([
            "clippy",
            "--package",
            "lb-ebpf",
            "--bins",
            "--target",
            "bpfel-unknown-none",
            "-Zbuild-std=core",
        ])
        .args(["--", "-D", "warnings"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        );
    run(&mut programs)
}
