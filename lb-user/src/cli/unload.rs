//! `mqlb unload`

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::Args;

use super::Failure;
use crate::config;
use crate::dataplane::{Lock, Unloaded, unload};

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
    let (pin_dir, state_dir) = match (&options.config, &options.name) {
        (Some(file), _) => {
            let agent = config::load_agent(file)?.1;
            (agent.pin_dir, agent.state_dir)
        }
        (None, name) => {
            let name = name.as_deref().unwrap_or("default");
            let unnameable = || {
                Failure::Usage(anyhow!(
                    "no agent can be named {name:?}; mqlb status shows the name"
                ))
            };
            let pin_dir = config::default_pin_dir(name).ok_or_else(unnameable)?;
            (
                pin_dir,
                config::default_state_dir(name).ok_or_else(unnameable)?,
            )
        }
    };
    Ok(remove(&pin_dir, &state_dir)?)
}

/// Removes the data path, unless an agent works on it.
fn remove(pin_dir: &Path, state_dir: &Path) -> anyhow::Result<()> {
    if !pin_dir.exists() {
        println!("nothing to remove: there is no {}", pin_dir.display());
        return Ok(());
    }
    let _lock = Lock::take(state_dir)?;
    match unload(pin_dir)? {
        Unloaded::Removed => println!(
            "the data path in {} is removed; its sessions are over",
            pin_dir.display()
        ),
        Unloaded::Nothing => println!("nothing to remove: there is no {}", pin_dir.display()),
    }
    Ok(())
}
