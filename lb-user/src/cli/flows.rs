//! `mqlb flows`

use clap::Args;

use super::output::print;
use super::table::Table;
use super::{AgentAddress, Failure, client};
use crate::admin::model::{FlowFilter, Flows};
use crate::admin::percent_encode;
use crate::config::show_duration;

#[derive(Args, Debug)]
pub(super) struct Options {
    /// Most flows to list
    #[arg(long, value_name = "N", default_value_t = FlowFilter::DEFAULT_LIMIT as u64,
        value_parser = clap::value_parser!(u64).range(1..=FlowFilter::MAX_LIMIT as u64))]
    limit: u64,
    /// Only those of this backend
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    #[command(flatten)]
    address: AgentAddress,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: Options) -> Result<(), Failure> {
    let mut path = format!("/api/v1/flows?limit={}", options.limit);
    if let Some(backend) = &options.backend {
        path += &format!("&backend={}", percent_encode(backend.as_bytes()));
    }
    let answer = client::get(&options.address, &path)?;
    if options.json {
        return Ok(print(&answer.raw())?);
    }
    Ok(print(&show(&answer.parse()?))?)
}

fn show(flows: &Flows) -> String {
    let mut table = Table::new([
        "CLIENT",
        "VIP",
        "SOURCE",
        "BACKEND",
        "ADDRESS",
        "STATE",
        ">IDLE",
        ">PKTS UP",
        ">BYTES UP",
        ">PKTS DOWN",
        ">BYTES DOWN",
        "ID HASH",
    ]);
    for flow in &flows.flows {
        table.row([
            flow.client.to_string(),
            flow.vip.to_string(),
            flow.snat.to_string(),
            flow.backend.clone(),
            flow.backend_address.to_string(),
            flow.state.clone(),
            show_duration(std::time::Duration::from_secs(flow.idle_seconds)),
            flow.packets_up.to_string(),
            flow.bytes_up.to_string(),
            flow.packets_down.to_string(),
            flow.bytes_down.to_string(),
            flow.client_id_hash.clone().unwrap_or_else(|| "-".into()),
        ]);
    }
    table.render()
}
