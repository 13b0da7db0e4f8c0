//! The command line: `mqlb COMMAND`. Exit codes: 0 done, 1 failed, 2 wrong use or configuration.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::config::ConfigError;

mod check;
mod client;
mod control;
mod documents;
mod flows;
mod locate;
mod output;
mod run;
mod status;
mod table;
mod unload;

/// MQTT load balancer in XDP: steers clients to brokers by their client identifier.
#[derive(Debug, Parser)]
#[command(name = "mqlb", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attach the programs and serve clients, in the foreground
    Run(run::Options),
    /// Say what a configuration file would run, or everything that is wrong with it
    Check(check::Options),
    /// Show listeners, backends and counters of a running agent
    Status(status::Options),
    /// Show which backend a client identifier belongs to
    Where(locate::Options),
    /// List live client connections
    Flows(flows::Options),
    /// Give a backend no new clients; with --rate, also end its live connections at that pace
    Drain(control::Drain),
    /// Let a backend take clients again
    Ready(control::OneBackend),
    /// Take a backend out: no new clients, and its live connections end
    Disable(control::OneBackend),
    /// Give a backend another share of new clients
    Weight(control::Weight),
    /// Refuse addresses or a client identifier and cut off who is there; alone: show who is blocked
    Block(control::Block),
    /// Let addresses or a client identifier connect again
    Unblock(control::Block),
    /// Let the agent read its configuration file again
    Reload(control::Plain),
    /// End the agent; the data path and its sessions go on
    Stop(control::Plain),
    /// Remove the data path: every connection through it is lost
    Unload(unload::Options),
    /// Write the man pages and the shells' completions, for packages
    #[command(hide = true)]
    Documents(documents::Options),
}

/// How a command finds the agent.
#[derive(Args, Debug)]
struct AgentAddress {
    /// The agent's admin interface [default: the one of --config, $MQLB_ADMIN, or http://127.0.0.1:8888]
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    admin: Option<String>,
    /// The agent's configuration file, to take [admin] http from
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Why a command ends with a code other than 0.
enum Failure {
    /// Exit code 2. Its message starts with the file's name, as editors like it.
    Config(ConfigError),
    /// Wrong use otherwise: exit code 2.
    Usage(anyhow::Error),
    /// Exit code 1.
    Failed(anyhow::Error),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::Config(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Failed(error)
    }
}

/// Runs the command that `arguments` (with the program's name in front) ask for.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    match log().and_then(|()| dispatch(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Config(error)) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
        Err(Failure::Usage(error)) => {
            eprintln!("mqlb: {error:#}");
            ExitCode::from(2)
        }
        Err(Failure::Failed(error)) => {
            eprintln!("mqlb: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(options) => run::run(options),
        Command::Check(options) => check::run(options),
        Command::Status(options) => status::run(options),
        Command::Where(options) => locate::run(options),
        Command::Flows(options) => flows::run(options),
        Command::Drain(options) => control::drain(options),
        Command::Ready(options) => control::ready(options),
        Command::Disable(options) => control::disable(options),
        Command::Weight(options) => control::set_weight(options),
        Command::Block(options) => control::block(options),
        Command::Unblock(options) => control::unblock(options),
        Command::Reload(options) => control::reload(options),
        Command::Stop(options) => control::stop(options),
        Command::Unload(options) => unload::run(options),
        Command::Documents(options) => documents::run(&options, Cli::command()),
    }
}

/// Logs go to stderr, filtered by `MQLB_LOG` (`info`, `mqlb=debug`, …).
fn log() -> Result<(), Failure> {
    let wanted = std::env::var("MQLB_LOG").unwrap_or_default();
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .parse(&wanted)
        .map_err(|error| {
            let message = format!(
                "MQLB_LOG={wanted:?} is no log filter: {error}; write MQLB_LOG=debug, for example"
            );
            Failure::Usage(anyhow::Error::msg(message))
        })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // Fails only if a subscriber is set already, by a program that uses this as a library.
    let _ = subscriber.try_init();
    Ok(())
}
