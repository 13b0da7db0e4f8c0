//! `cargo xtask verify`: what the verifier says about the programs, here and in other kernels.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::vm::guest::{Acceleration, Guest};
use crate::vm::kernel::{self, Kernel};
use crate::workspace::{Metadata, cargo, show};
use crate::{root, vm};

/// The verifier gives up at a million instructions; newer kernels walk more than older ones, so a
/// program stays well below.
const LIMIT: u32 = 400_000;

#[derive(clap::Args)]
pub struct Args {
    /// Instead of this kernel: boot the newest of a series of Debian 12, such as 6.1, or "newest" (Debian unstable),
    /// in a virtual machine; repeatable
    #[arg(long = "kernel", value_name = "KERNEL")]
    pub kernels: Vec<String>,
}

/// A program, and how many instructions the verifier walked.
#[derive(Debug, PartialEq, Eq)]
struct Verified {
    program: String,
    instructions: u32,
}

/// # Errors
/// A kernel refused a program, or walked [`LIMIT`] instructions or more.
pub fn run(args: &Args) -> Result<()> {
    let loader = build_loader()?;
    if args.kernels.is_empty() {
        return report("this kernel", &verify_here(&loader)?);
    }
    let mut failed = Vec::new();
    for series in &args.kernels {
        let verdict = kernel::fetch(series, &vm::kernels()?)
            .and_then(|kernel| report(&kernel.name, &verify_elsewhere(&kernel, &loader)?));
        if let Err(error) = verdict {
            eprintln!("xtask: kernel {series}: {error:#}");
            failed.push(series.as_str());
        }
    }
    if !failed.is_empty() {
        bail!("the programs do not pass on {}", failed.join(", "));
    }
    Ok(())
}

/// Loads the programs into this kernel and checks the result against [`LIMIT`].
///
/// # Errors
/// As for [`run`].
pub fn gate() -> Result<()> {
    run(&Args {
        kernels: Vec::new(),
    })
}

/// Builds what loads the programs.
///
/// # Errors
/// The build failed.
pub fn build_loader() -> Result<PathBuf> {
    cargo([
        "build",
        "--release",
        "--package",
        "lb-user",
        "--example",
        "load",
    ])?;
    Ok(Metadata::read()?
        .target_directory()?
        .join("release/examples/load"))
}

fn verify_here(loader: &Path) -> Result<Vec<Verified>> {
    let mut command = root::command(loader, "to load the XDP programs into the kernel", &[])?;
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start `{}`", show(&command)))?;
    if !output.status.success() {
        bail!("this kernel does not take the programs ({})", output.status);
    }
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn verify_elsewhere(kernel: &Kernel, loader: &Path) -> Result<Vec<Verified>> {
    let directory = vm::directory()?;
    let guest = Guest {
        kernel,
        acceleration: Acceleration::detect(),
        name: "verify",
        directory: &directory,
        megabytes: 1536,
        devices: Vec::new(),
        job: &vm::quoted(loader),
        limit: Duration::from_secs(300),
    };
    let mut output = String::new();
    let code = guest.run(|line| output.extend([line, "\n"]))?;
    if code != 0 {
        bail!("{}", output.trim());
    }
    std::fs::remove_dir_all(&directory).context("clean up")?;
    parse(&output)
}

/// `output` is what the loader prints: "name instructions" a line.
fn parse(output: &str) -> Result<Vec<Verified>> {
    let verified: Option<Vec<_>> = output
        .lines()
        .map(|line| {
            let (program, instructions) = line.trim().split_once(' ')?;
            Some(Verified {
                program: program.to_owned(),
                instructions: instructions.parse().ok()?,
            })
        })
        .collect();
    verified
        .filter(|programs| !programs.is_empty())
        .with_context(|| format!("the loader reported no programs but: {output:?}"))
}

fn report(kernel: &str, verified: &[Verified]) -> Result<()> {
    for Verified {
        program,
        instructions,
    } in verified
    {
        println!("{kernel}: {program}: the verifier walked {instructions} instructions");
    }
    let above: Vec<_> = verified
        .iter()
        .filter(|one| one.instructions >= LIMIT)
        .collect();
    if above.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = above.iter().map(|one| one.program.as_str()).collect();
    bail!(
        "{kernel}: {} must stay below {LIMIT} instructions",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaders_lines_are_read() {
        let expected = [
            Verified {
                program: "mqlb".to_owned(),
                instructions: 211_000,
            },
            Verified {
                program: "mqlb_pass".to_owned(),
                instructions: 2,
            },
        ];
        assert_eq!(
            parse("mqlb 211000\nmqlb_pass 2\r\n").expect("well-formed"),
            expected
        );
        assert!(parse("").is_err(), "no program is no success");
        assert!(parse("mqlb 1\nKernel panic\n").is_err());
    }

    #[test]
    fn the_limit_is_a_limit() {
        let walked = |instructions| {
            [Verified {
                program: "mqlb".to_owned(),
                instructions,
            }]
        };
        assert!(report("k", &walked(LIMIT - 1)).is_ok());
        assert!(report("k", &walked(LIMIT)).is_err());
    }
}
