//! `mqlb run`

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::Failure;
use crate::{agent, config};

#[derive(Args, Debug)]
pub(super) struct Options {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Also log what the XDP programs say (built with the feature `kernel-log`; slows them down)
    #[arg(long)]
    kernel_log: bool,
}

pub(super) fn run(options: Options) -> Result<(), Failure> {
    let config = config::load(&options.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    Ok(runtime.block_on(agent::run(config, options.kernel_log))?)
}
