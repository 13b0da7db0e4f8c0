//! `cargo xtask`: every developer command of mqlb.
//!
//! Each command first does the set-up that it needs ([`setup`]). Everything runs as the user who
//! typed the command; only what touches the system or the kernel goes through sudo ([`root`]).
//! Progress goes to stderr, so that stdout holds only what was asked for.

mod bench;
mod compose;
mod dist;
mod lint;
mod root;
mod run;
mod setup;
mod test;
mod verify;
mod vm;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use setup::Need;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing for all the other commands (they also do it by themselves)
    Setup,
    /// Build target/release/mqlb, self-contained: the XDP programs are embedded
    Build,
    /// Build packages into target/dist: for Debian and Ubuntu, and a static tarball
    ///
    /// The maintainer is named by DEBFULLNAME and DEBEMAIL, as for Debian's own tools.
    Dist(dist::Args),
    /// Build, then run the lab: clients, balancer and brokers in namespaces (where there is no way to root: on
    /// the loopback interface)
    #[command(disable_help_flag = true)]
    Run {
        /// Passed to `mqlb-lab run`; `cargo xtask run --help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Measure mqlb beside HAProxy and the kernel's own forwarding, and write a report into target/bench
    #[command(disable_help_flag = true)]
    Bench {
        /// Passed to `mqlb-lab bench`; `cargo xtask bench --help` lists them. `--write` also writes BENCHMARKS.md
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Formatting, lints, unit tests, then the tests that need a kernel (as root)
    Test(test::Args),
    /// Format the sources
    Fmt,
    /// Check formatting and lints
    Lint,
    /// Load the XDP programs and say what the verifier makes of them, here or in other kernels
    Verify(verify::Args),
    /// The tests under other kernels
    #[command(subcommand)]
    Vm(vm::Command),
    /// Make and check the .env of docker-compose.yml
    #[command(subcommand)]
    Compose(compose::Command),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the tests need.
const TEST: &[Need] = &[
    Need::Build,
    Need::Kernel,
    Need::Compose,
    Need::Clients,
    Need::Package,
    Need::Service,
];

fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Setup => {
            setup::ensure(TEST)?;
            setup::ensure(&[Need::Static])?;
            eprintln!("xtask: everything is in place");
            Ok(())
        }
        Command::Build => {
            setup::ensure(&[Need::Build])?;
            let mqlb = run::build_mqlb()?;
            eprintln!("xtask: built {}", mqlb.display());
            Ok(())
        }
        Command::Dist(args) => dist::make(&args),
        Command::Run { mut args } => {
            let unprivileged = run::is_unprivileged(&mut args);
            setup::ensure(match unprivileged {
                true => &[Need::Build],
                false => &[Need::Build, Need::Kernel],
            })?;
            run::lab(&args, unprivileged)
        }
        Command::Bench { args } => {
            setup::ensure(&[Need::Build, Need::Kernel, Need::Bench])?;
            bench::run(&args)
        }
        Command::Test(args) => {
            setup::ensure(TEST)?;
            test::run(&args)
        }
        Command::Fmt => workspace::cargo(["fmt", "--all"]),
        Command::Lint => {
            setup::ensure(&[Need::Build])?;
            lint::formatting()?;
            lint::clippy()
        }
        Command::Verify(args) => {
            let elsewhere = !args.kernels.is_empty();
            setup::ensure(&[Need::Build, if elsewhere { Need::Vm } else { Need::Kernel }])?;
            verify::run(&args)
        }
        Command::Vm(vm::Command::Test(args)) => {
            if args.qemu {
                setup::ensure(TEST)?;
                setup::ensure(&[Need::Vm])?;
            }
            vm::run(&args)
        }
        Command::Compose(command) => compose::run(&command),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_passes_every_flag_through() {
        let cli = Cli::parse_from([
            "xtask",
            "run",
            "--once",
            "--json",
            "--clients",
            "10",
            "--help",
        ]);
        let Command::Run { args } = cli.command else {
            panic!("not `run`")
        };
        assert_eq!(args, ["--once", "--json", "--clients", "10", "--help"]);
    }
}
