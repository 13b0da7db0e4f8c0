//! `cargo xtask compose`: the `.env` of docker-compose.yml, made and checked.

mod check;
mod env_file;
mod init;
mod secret;

use anyhow::Result;
use clap::Subcommand;

use crate::workspace;

/// The variables with their defaults and what they mean; `.env` is made out of it.
const SAMPLE: &str = ".env.sample";

/// Cookie that EMQX nodes know each other by, and the password of the dashboard's first user.
const COOKIE: &str = "EMQX_NODE__COOKIE";
const PASSWORD: &str = "EMQX_DASHBOARD__DEFAULT_PASSWORD";

/// Lengths of the secrets that are made, and the least that are accepted. An Erlang cookie may have 255.
const COOKIE_LENGTH: usize = 128;
const PASSWORD_LENGTH: usize = 32;

#[derive(Subcommand)]
pub enum Command {
    /// Write .env with fresh secrets; refuses to overwrite one
    Init(init::Args),
    /// Check .env, and what HAProxy and Docker Compose make of it
    Check,
}

/// # Errors
/// See the commands.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Init(args) => init::run(workspace::root(), args),
        Command::Check => check::run(workspace::root()),
    }
}
