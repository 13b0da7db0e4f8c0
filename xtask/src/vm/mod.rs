//! `cargo xtask vm test`: the tests under other kernels, in virtual machines.

pub mod guest;
mod initramfs;
pub mod kernel;
mod nic;
mod pair;
mod suite;
mod vagrant;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::setup::{self, Need};
use crate::workspace::Metadata;
use guest::{Acceleration, Guest};
pub use initramfs::quoted;
use kernel::Kernel;
use suite::{Built, Results, Wires};

/// The long-term series that mqlb is made for.
const KERNELS: [&str; 2] = ["6.1", "6.12"];

#[derive(clap::Subcommand)]
pub enum Command {
    /// Run the tests in virtual machines: with Vagrant, or with --qemu without
    Test(Args),
}

#[derive(clap::Args)]
pub struct Args {
    /// Boot the kernels in qemu, on this machine's files
    #[arg(long)]
    pub qemu: bool,
    /// A series of Debian 12 ("6.1", "6.12"), "newest" (Debian unstable) or "host"; repeatable
    #[arg(long = "kernel", value_name = "KERNEL", default_values_t = KERNELS.map(str::to_owned))]
    pub kernels: Vec<String>,
    /// Only these parts [default: all]
    #[arg(long = "part", value_enum, value_delimiter = ',')]
    pub parts: Vec<Part>,
    /// What fits into a few minutes
    #[arg(long)]
    pub quick: bool,
    /// Only tests in these files of lb-user/tests and tests/tests ("splice"), with parts veth and virtio
    #[arg(
        long = "file",
        value_name = "FILE",
        value_delimiter = ',',
        conflicts_with = "quick"
    )]
    pub files: Vec<String>,
    /// KVM or software emulation [default: KVM where it is usable]
    #[arg(long, value_enum)]
    pub acceleration: Option<Acceleration>,
    /// Only tests whose name contains one of these (with parts veth and virtio)
    pub filters: Vec<String>,
}

/// Of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// The whole suite in one guest, labs on veth
    Veth,
    /// The tests of labs whose balancer has virtio-net cards
    Virtio,
    /// The balancer in a guest of its own, clients and brokers in another
    Guests,
}

/// Where guests have their files.
pub fn directory() -> Result<PathBuf> {
    Ok(Metadata::read()?
        .target_directory()?
        .join(format!("vm/{}", std::process::id())))
}

/// Where unpacked kernels are.
pub fn kernels() -> Result<PathBuf> {
    Ok(Metadata::read()?.target_directory()?.join("kernels"))
}

/// # Errors
/// A test failed, or a guest did; all have been run and summed up.
pub fn run(args: &Args) -> Result<()> {
    if !args.qemu {
        return vagrant::run(&args.kernels, &args.filters);
    }
    let acceleration = args.acceleration.unwrap_or_else(Acceleration::detect);
    if acceleration == Acceleration::Tcg {
        eprintln!("xtask: KVM isn't usable here: software emulation, which takes its time");
    }
    let parts = match args.parts.as_slice() {
        [] if args.filters.is_empty() && args.files.is_empty() => {
            vec![Part::Veth, Part::Virtio, Part::Guests]
        }
        [] => vec![Part::Veth, Part::Virtio],
        chosen => chosen.to_vec(),
    };
    // First, because it fails more often than the build.
    let directory = kernels()?;
    let kernels: Vec<_> = args
        .kernels
        .iter()
        .map(|name| (name, kernel::fetch(name, &directory)))
        .collect();
    let files = match args.quick {
        true => suite::QUICK.map(str::to_owned).to_vec(),
        false => args.files.clone(),
    };
    let built = Built::build(&files)?;
    let mut failed = Vec::new();
    for (name, kernel) in kernels {
        let outcome =
            kernel.and_then(|kernel| parts_of(&parts, &kernel, args, &built, acceleration));
        if let Err(error) = outcome {
            eprintln!("xtask: kernel {name}: {error:#}");
            failed.push(name.as_str());
        }
    }
    for (name, why) in suite::LEFT_OUT {
        println!("left out: {name}, which {why}");
    }
    if !failed.is_empty() {
        bail!("failed on {}", failed.join(", "));
    }
    Ok(())
}

/// Why [`gate`] can't run on this machine, if it can't.
pub fn gate_impossible() -> Option<&'static str> {
    let possible = cfg!(target_arch = "x86_64") && setup::installs_by_itself();
    (!possible).then_some("the kernels' packages and the machines need Debian or Ubuntu on x86_64")
}

/// What every run of the tests has time for: the part `guests` on the kernels that are supported longest. Each
/// guest has a limit of its own, of one minute with KVM and of six without.
///
/// # Errors
/// As for [`run`].
pub fn gate() -> Result<()> {
    setup::ensure(&[Need::Vm])?;
    run(&Args {
        qemu: true,
        kernels: KERNELS.map(str::to_owned).to_vec(),
        parts: vec![Part::Guests],
        quick: true,
        files: Vec::new(),
        acceleration: None,
        filters: Vec::new(),
    })
}

/// Runs every part, whatever became of the one before.
fn parts_of(
    parts: &[Part],
    kernel: &Kernel,
    args: &Args,
    built: &Built,
    acceleration: Acceleration,
) -> Result<()> {
    let directory = directory()?;
    let mut failed = Vec::new();
    for part in parts {
        let name = format!("{part:?}").to_lowercase();
        let what = format!("{}, {name}", kernel.name);
        eprintln!("\nxtask: {what} ({acceleration:?})");
        let start = Instant::now();
        let (wires, devices) = match part {
            Part::Veth => (Wires::Veth, Vec::new()),
            Part::Virtio => (Wires::Virtio, nic::inside(2 * suite::CARD_SETS)),
            Part::Guests => {
                if let Err(error) = pair::run(kernel, built, acceleration, &directory) {
                    eprintln!("xtask: {what}: {error:#}");
                    failed.push(name);
                }
                println!("{what}: {:.0} s", start.elapsed().as_secs_f64());
                continue;
            }
        };
        let guest = Guest {
            kernel,
            acceleration,
            name: &name,
            directory: &directory,
            megabytes: 3072,
            devices,
            job: &built.job(wires, &args.filters, acceleration),
            limit: Duration::from_secs(if args.quick { 100 } else { 1800 })
                * acceleration.slowness(),
        };
        let mut results = Results::default();
        let ended = guest.run(|line| {
            if results.hear(line) {
                println!("{line}");
            }
        });
        println!("\n{what}, {:.0} s:", start.elapsed().as_secs_f64());
        if let Err(error) = results.finish(&what).and(ended) {
            eprintln!("xtask: {error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        // The console's output is of interest only if something went wrong.
        let _ = std::fs::remove_dir_all(&directory);
        return Ok(());
    }
    bail!("failed: {}", failed.join(", "))
}
