//! `mqlb-lab`: the lab as a program, for `cargo xtask run`.

mod clients;
mod live;
mod run;

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

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
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(options) => run::run(&options),
        Command::Clients(options) => clients::run(&options),
        Command::Broker { addresses } => broker(&addresses),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mqlb-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn broker(addresses: &[SocketAddr]) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter("warn")
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(lb_tests::embedded::serve(addresses))
}
