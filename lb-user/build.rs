//! Builds the XDP programs for the BPF target and leaves them in `OUT_DIR` to be embedded.
//!
//! aya-build does nearly this, but fixes the compiler's flags: it has no room for `-Ctarget-cpu=v3`,
//! whose 32-bit jumps make the program a tenth shorter.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

fn main() -> anyhow::Result<()> {
    let var = |name: &str| std::env::var(name).with_context(|| format!("cargo did not set {name}"));
    let (arch, out) = (var("CARGO_CFG_TARGET_ARCH")?, var("OUT_DIR")?);
    let endian = if var("CARGO_CFG_TARGET_ENDIAN")? == "big" {
        "eb"
    } else {
        "el"
    };
    let target = format!("bpf{endian}-unknown-none");
    let target_dir = Path::new(&out).join("ebpf");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for part in ["lb-ebpf", "lb-common", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", workspace.join(part).display());
    }
    let flags = [
        // aya-ebpf needs to know whose registers a context holds.
        &format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // Linux 6.1 takes it; v4 needs 6.6.
        "-Ctarget-cpu=v3",
        // Packet headers are at odd offsets by nature, and every kernel whose architecture has
        // efficient unaligned access takes such loads and stores (x86-64, arm64).
        "-Clink-arg=--cpu-features=+alu32,+allows-misaligned-mem-access",
    ];
    let mut cargo = Command::new(var("CARGO")?);
    cargo
        .current_dir(&workspace)
        .args([
            "build",
            "--release",
            "--package",
            "lb-ebpf",
            "--bin",
            "mqlb-xdp",
        ])
        .args(["--target", &target, "-Zbuild-std=core", "--target-dir"])
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // Lets the pinned stable compiler use -Zbuild-std; only here, or other crates would believe
        // that they are built by a nightly.
        .env("RUSTC_BOOTSTRAP", "1")
        .env_remove("RUSTC")
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    if std::env::var_os("CARGO_FEATURE_KERNEL_LOG").is_some() {
        cargo.args(["--features", "log"]);
    }
    let status = cargo
        .status()
        .context("cannot run cargo for the BPF target")?;
    ensure!(
        status.success(),
        "the XDP programs don't build; is bpf-linker there (`cargo xtask setup`)?"
    );
    let built = target_dir.join(target).join("release/mqlb-xdp");
    std::fs::copy(&built, Path::new(&out).join("mqlb-xdp"))
        .with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(())
}
