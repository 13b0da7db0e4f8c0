//! `mqlb-lab clients`.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;
use lb_tests::fleet::{self, Fleet};
use lb_tests::netns::Netns;
use lb_tests::process::raise_descriptor_limit;

#[derive(Args)]
pub struct Options {
    /// Namespace to connect from.
    #[arg(long)]
    netns: String,
    /// Address and port to connect to; clients take them in turn.
    #[arg(long = "server", required = true)]
    servers: Vec<SocketAddr>,
    /// Number of the first client.
    #[arg(long, default_value_t = 0)]
    first: u32,
    /// How many clients connect.
    #[arg(long)]
    count: u32,
    /// Most connection attempts under way.
    #[arg(long, default_value_t = 64)]
    parallel: usize,
}

/// Connects the clients, prints a line, and stays until it is killed.
///
/// # Errors
/// A client failed to connect.
pub fn run(options: &Options) -> Result<()> {
    raise_descriptor_limit()?;
    let fleet = Fleet::new(
        &Netns::existing(options.netns.clone())?,
        fleet::Options {
            parallel: options.parallel,
            ..fleet::Options::new(options.servers.clone())
        },
    )?;
    let round = fleet.connect(options.first..options.first + options.count)?;
    round.check()?;
    println!(
        "connected {} in {:?}, p50 {:?} p99 {:?}",
        round.placed.len(),
        round.elapsed,
        round.latencies.percentile(50),
        round.latencies.percentile(99)
    );
    loop {
        std::thread::park();
    }
}
