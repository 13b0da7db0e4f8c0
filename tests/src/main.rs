//! `mqlb-lab`: the lab as a program, for `cargo xtask run`.

mod clients;
mod guest;
mod live;
mod run;
mod stage;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lb_tests::{bench, emqx};

/// Network namespaces with MQTT clients, mqlb and brokers.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the lab, connect a fleet of clients through mqlb, and show what goes where.
    Run(run::Options),
    /// Connect clients, say so, and keep them connected: a fleet in a process of its own, which has its
    /// own limit of open files.
    Clients(clients::Options),
    /// Serve MQTT: the lab starts itself like this, once for each embedded broker.
    Broker {
        /// Address and port to listen at.
        #[arg(long = "listen", required = true)]
        addresses: Vec<SocketAddr>,
    },
    /// Measure mqlb beside HAProxy, nftables and the kernel's own forwarding, and write a report.
    Bench(bench::Options),
    /// Answer MQTT clients with as little effort as possible: the brokers of `bench`.
    #[command(hide = true)]
    Responder {
        /// Address and port to listen at.
        #[arg(long = "listen", required = true)]
        addresses: Vec<SocketAddr>,
    },
    /// Be one of two virtual machines that `cargo xtask vm test` boots.
    #[command(subcommand, hide = true)]
    Guest(guest::Role),
    /// Stand in for an EMQX node: `foreground` or `ctl status`, with EMQX's environment variables. Also
    /// what this program does when it is called `emqx`.
    Emqx {
        #[arg(required = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match arguments().command {
        Command::Run(options) => run::run(&options),
        Command::Clients(options) => clients::run(&options),
        Command::Guest(role) => guest::run(&role),
        Command::Broker { addresses } => broker(&addresses),
        Command::Bench(options) => bench::run(&options),
        Command::Responder { addresses } => bench::responder::serve(&addresses),
        Command::Emqx { arguments } => {
            log_warnings();
            emqx::program::run(&arguments)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mqlb-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Arguments {
    let mut words: Vec<_> = std::env::args_os().collect();
    let called = words
        .first()
        .and_then(|program| Path::new(program).file_name());
    if called.is_some_and(|name| name == "emqx") {
        words.insert(1, "emqx".into());
    }
    Arguments::parse_from(words)
}

fn broker(addresses: &[SocketAddr]) -> Result<()> {
    log_warnings();
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(lb_tests::embedded::serve(addresses, &[]))
}

fn log_warnings() {
    tracing_subscriber::fmt()
        .with_env_filter("warn")
        .with_writer(std::io::stderr)
        .init();
}
