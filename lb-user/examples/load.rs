//! Loads every embedded program into the running kernel and says what the verifier made of it.
//!
//! `cargo xtask verify` runs this here and in other kernels. One line a program on stdout: its name
//! and the number of instructions that the verifier walked. Nothing is attached or left behind.
//! Needs root and a BPF file system on /sys/fs/bpf.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use aya::EbpfLoader;
use aya::programs::{Program, ProgramError};

/// The maps are pinned by name: they get a directory of their own, away from a running mqlb's.
struct PinDirectory(PathBuf);

impl PinDirectory {
    fn create() -> anyhow::Result<Self> {
        let path = Path::new("/sys/fs/bpf").join(format!("mqlb-load-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| {
            format!(
                "create {} (root? a BPF file system on /sys/fs/bpf?)",
                path.display()
            )
        })?;
        Ok(Self(path))
    }
}

impl Drop for PinDirectory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}

fn main() -> anyhow::Result<()> {
    let pins = PinDirectory::create()?;
    let mut programs = EbpfLoader::new()
        .default_map_pin_directory(&pins.0)
        .load(mqlb::PROGRAMS)
        .context("create the maps")?;
    for (name, program) in programs.programs_mut() {
        let Program::Xdp(program) = program else {
            bail!("{name} is not an XDP program")
        };
        match program.load() {
            Ok(()) => {}
            Err(ProgramError::LoadError {
                io_error,
                verifier_log,
            }) => {
                bail!(
                    "{name} is refused: {io_error}\n{}",
                    last_lines(&verifier_log.to_string())
                );
            }
            Err(error) => return Err(error).context(format!("load {name}")),
        }
        let walked = program
            .info()
            .with_context(|| format!("ask the kernel about {name}"))?
            .verified_instruction_count()
            .context("the kernel does not say what the verifier walked (before 5.16)")?;
        println!("{name} {walked}");
    }
    Ok(())
}

/// The end of a verifier log, where the reason is.
fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
