//! `mqlb where`

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::Args;

use super::output::print;
use super::{AgentAddress, Failure, client};
use crate::admin::model::Located;
use crate::admin::percent_encode;
use crate::config::show_duration;

#[derive(Args, Debug)]
pub(super) struct Options {
    /// The client identifier of the CONNECT
    #[arg(value_name = "CLIENT-ID")]
    client_id: OsString,
    #[command(flatten)]
    address: AgentAddress,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: Options) -> Result<(), Failure> {
    let path = format!(
        "/api/v1/where?id={}",
        percent_encode(options.client_id.as_bytes())
    );
    let answer = client::get(&options.address, &path)?;
    if options.json {
        return Ok(print(&answer.raw())?);
    }
    Ok(print(&show(&answer.parse()?))?)
}

fn show(located: &Located) -> String {
    let hash = &located.client_id_hash;
    let Some(backend) = &located.backend else {
        return format!(
            "bound to no backend: its next connection is placed by the pool's policy (hash {hash})\n"
        );
    };
    let pool = located
        .pool
        .as_ref()
        .map_or(String::new(), |pool| format!(" in pool {pool}"));
    let connected = if located.connected {
        "connected"
    } else {
        "not connected"
    };
    let seen = located.last_seen_seconds.map_or(String::new(), |seconds| {
        format!(
            ", last seen {} ago",
            show_duration(std::time::Duration::from_secs(seconds))
        )
    });
    format!("{backend}{pool}, {connected}{seen} (hash {hash})\n")
}
