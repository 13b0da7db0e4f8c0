//! `mqlb unload`

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;

use super::Failure;
use crate::config;

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(super) struct Options {
    /// The configuration file of the agent whose data path is removed
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its [agent] name, if pin_dir is left at its default
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

pub(super) fn run(options: Options) -> Result<(), Failure> {
    let pin_dir = match (&options.config, &options.name) {
        (Some(file), _) => config::load_agent(file)?.1.pin_dir,
        (None, name) => {
            let name = name.as_deref().unwrap_or("default");
            config::default_pin_dir(name).ok_or_else(|| {
                Failure::Usage(anyhow!(
                    "no agent can be named {name:?}; mqlb status shows the name"
                ))
            })?
        }
    };
    Ok(remove(&pin_dir)?)
}

/// Removes links and maps that are pinned under `pin_dir`.
fn remove(pin_dir: &Path) -> anyhow::Result<()> {
    anyhow::bail!(
        "removal is not wired to this command yet; {} is as it was",
        pin_dir.display()
    )
}
