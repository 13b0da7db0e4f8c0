//! `mqlb run`

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::Failure;
use crate::agent;
use crate::config::File;
use crate::dns::{Answers, Source};

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
    // A reload must find the same file, whatever the working directory is then.
    let path = std::path::absolute(&options.config).context("cannot tell the working directory")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    runtime.block_on(async {
        let file = File::read(&options.config, &Source::system(), &Answers::default()).await?;
        Ok(agent::run(path, file, options.kernel_log).await?)
    })
}
