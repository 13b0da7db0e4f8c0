//! `cargo xtask dist`: packages of mqlb, in `target/dist` with their SHA-256 sums: one for Debian and
//! Ubuntu, and a tarball for everything else. Both hold the same static program (musl), so neither
//! depends on the C library of the machine that built it.
//!
//! The Debian package is laid out here and packed by `dpkg-deb`: the whole of debhelper or cargo-deb would
//! bring scripts that stop and start services, and what ours must not do is half of what it is for
//! (`packaging/debian`).

mod debian;
mod files;
mod licences;
mod tarball;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup::{self, Need};
use crate::workspace::{self, Metadata, cargo, run, show};

#[derive(clap::Args)]
pub struct Args {
    /// Make the Debian package only, of this program, and build nothing (for tests)
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the packages go [default: target/dist]
    #[arg(long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
    /// The Debian package's revision
    #[arg(long, value_name = "N", default_value_t = 1)]
    revision: u32,
}

/// In `packaging`.
const UNITS: [&str; 2] = ["mqlb.service", "mqlb-pins.service"];

/// What is packed.
struct Release {
    /// Cargo's, `0.1.0`.
    version: String,
    revision: u32,
    program: PathBuf,
    /// How the Debian package is compressed, as `dpkg-deb` calls it.
    compression: &'static str,
    /// What `mqlb documents` wrote: `man1/` and `completions/`.
    documents: PathBuf,
    /// Names, licences and licence texts of the libraries in the program.
    third_party: String,
    /// Of everything in the packages, seconds since 1970: the same source gives the same packages.
    time: u64,
}

/// # Errors
/// The build failed, or a tool for packages.
pub fn make(args: &Args) -> Result<()> {
    let mut needs = vec![Need::Package];
    if args.binary.is_none() {
        needs.extend([Need::Build, Need::Static]);
    }
    setup::ensure(&needs)?;
    let metadata = Metadata::read()?;
    let target_directory = metadata.target_directory()?;
    let output = match &args.output {
        Some(output) => std::path::absolute(output)?,
        None => target_directory.join("dist"),
    };
    let work = output.join(format!("work-{}", std::process::id()));
    let program = match &args.binary {
        Some(program) => std::path::absolute(program)?,
        None => build(&target_directory)?,
    };
    std::fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    let made = pack(args, &metadata, program, &work, &output);
    std::fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    let packages = made?;
    sums(&output, &packages)?;
    for package in packages {
        eprintln!("xtask: made {}", output.join(package).display());
    }
    Ok(())
}

/// Makes two revisions of the Debian package of `program`, for the tests of an upgrade. They are in
/// `revision1` and `revision2` of the directory that is returned.
///
/// # Errors
/// As [`make`].
pub fn for_tests(program: &Path) -> Result<PathBuf> {
    let directory = Metadata::read()?
        .target_directory()?
        .join("packages-for-tests");
    for revision in [1, 2] {
        make(&Args {
            binary: Some(program.to_owned()),
            output: Some(directory.join(format!("revision{revision}"))),
            revision,
        })?;
    }
    Ok(directory)
}

/// The target of the static program.
pub fn target() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

/// Builds the static program.
fn build(target_directory: &Path) -> Result<PathBuf> {
    let target = target();
    let package = ["--package", "lb-user", "--bin", "mqlb"];
    let profile = ["--profile", "packaged", "--locked", "--target", &target];
    cargo(["build"].into_iter().chain(package).chain(profile))?;
    Ok(target_directory.join(target).join("packaged/mqlb"))
}

/// Makes the packages and returns their names in `output`.
fn pack(
    args: &Args,
    metadata: &Metadata,
    program: PathBuf,
    work: &Path,
    output: &Path,
) -> Result<Vec<String>> {
    let documents = work.join("documents");
    let mut document = Command::new(&program);
    run(document.arg("documents").arg(&documents))
        .context("the program writes its own man pages")?;
    let release = Release {
        version: metadata.version("lb-user")?,
        revision: args.revision,
        program,
        // dpkg before Debian 12 reads no zstd, which Ubuntu's dpkg-deb would take. Tests have no time for it.
        compression: if args.binary.is_some() { "none" } else { "xz" },
        documents,
        third_party: licences::of_libraries()?,
        time: time()?,
    };
    let mut packages = vec![debian::package(&release, &work.join("deb"), output)?];
    if args.binary.is_none() {
        packages.push(tarball::pack(&release, work, output)?);
    }
    Ok(packages)
}

/// That of the last commit, unless `SOURCE_DATE_EPOCH` says another.
fn time() -> Result<u64> {
    if let Ok(time) = std::env::var("SOURCE_DATE_EPOCH") {
        return time.parse().context("SOURCE_DATE_EPOCH is no number");
    }
    let mut git = Command::new("git");
    let log = ["log", "-1", "--format=%ct"];
    match stdout(git.args(log).current_dir(workspace::root())) {
        Ok(time) => time.trim().parse().context("git names no time"),
        // Sources without their history.
        Err(_) => Ok(std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_secs()),
    }
}

/// Writes `SHA256SUMS` of the packages.
fn sums(output: &Path, packages: &[String]) -> Result<()> {
    let mut sums = Command::new("sha256sum");
    let text = stdout(sums.args(packages).current_dir(output))?;
    std::fs::write(output.join("SHA256SUMS"), text).context("write SHA256SUMS")
}

/// Runs `command` and returns what it prints.
fn stdout(command: &mut Command) -> Result<String> {
    let shown = show(command);
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
