//! `mqlb status`

use clap::Args;

use super::output::print;
use super::table::Table;
use super::{AgentAddress, Failure, client};
use crate::admin::model::Status;
use crate::config::{show_duration, show_time};

#[derive(Args, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    address: AgentAddress,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: Options) -> Result<(), Failure> {
    let answer = client::get(&options.address, "/api/v1/status")?;
    if options.json {
        return Ok(print(&answer.raw())?);
    }
    Ok(print(&show(&answer.parse()?))?)
}

fn show(status: &Status) -> String {
    let parts = [
        head(status),
        listeners(status),
        certificates(status),
        backends(status),
        counters(status),
        rejects(status),
    ];
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}

fn head(status: &Status) -> String {
    let ready = if status.ready { "ready" } else { "not ready" };
    let up = show_duration(std::time::Duration::from_secs(status.uptime_seconds));
    let interfaces: Vec<String> = status
        .interfaces
        .iter()
        .map(|it| format!("{} ({})", it.name, it.mode.as_str()))
        .collect();
    let interfaces = match interfaces.is_empty() {
        true => "none: no XDP".to_owned(),
        false => interfaces.join(", "),
    };
    let bindings = match status.bindings.current_estimate {
        Some(current) => format!("about {current} of {}", status.bindings.capacity),
        None => format!("up to {}", status.bindings.capacity),
    };
    let (flows, steered, setups) = (&status.flows, &status.steered, &status.setups);
    format!(
        "mqlb {} {:?}: {ready}, up {up}\n\
         interfaces  {}\n\
         flows       {} of {}\n\
         bindings    {bindings}\n\
         steered     {} by the kernel, {} by the agent\n\
         set-ups     {} sniffing, {} connecting\n",
        status.version,
        status.name,
        interfaces,
        flows.current,
        flows.capacity,
        steered.kernel,
        steered.agent,
        setups.sniffing,
        setups.connecting,
    )
}

fn listeners(status: &Status) -> String {
    let mut table = Table::new([
        "LISTENER", "KIND", "VIP", "POOL", "DATAPATH", "SOURCE", "PROXY",
    ]);
    for it in &status.listeners {
        table.row([
            it.name.clone(),
            it.kind.clone(),
            it.bind.join(", "),
            it.pool.clone(),
            it.datapath.clone(),
            it.source.clone(),
            it.proxy_protocol.clone(),
        ]);
    }
    table.render()
}

/// Those of TLS, if there are any.
fn certificates(status: &Status) -> String {
    let mut table = Table::new(["LISTENER", "CERTIFICATE", "NAMES", "VALID UNTIL"]);
    let mut none = true;
    for listener in &status.listeners {
        for it in &listener.certificates {
            none = false;
            table.row([
                listener.name.clone(),
                it.file.clone(),
                it.names.join(", "),
                show_time(i64::try_from(it.not_after_seconds).unwrap_or(i64::MAX)),
            ]);
        }
    }
    if none { String::new() } else { table.render() }
}

fn backends(status: &Status) -> String {
    let mut table = Table::new([
        "POOL",
        "BACKEND",
        "STATE",
        ">WEIGHT",
        ">FLOWS",
        ">ASSIGNED",
        ">FAILURES",
        "ADDRESS",
    ]);
    for (pool, it) in status
        .pools
        .iter()
        .flat_map(|pool| pool.backends.iter().map(move |it| (pool, it)))
    {
        table.row([
            pool.name.clone(),
            it.name.clone(),
            it.state.as_str().to_owned(),
            it.weight.to_string(),
            it.flows.to_string(),
            it.assigned_total.to_string(),
            it.failures_total.to_string(),
            it.address.join(", "),
        ]);
    }
    table.render()
}

/// What never happened is left out: there are many verdicts.
fn counters(status: &Status) -> String {
    let mut table = Table::new(["VERDICT", ">PACKETS", ">BYTES"]);
    let mut happened = status
        .counters
        .iter()
        .filter(|(_, counter)| counter.packets > 0)
        .peekable();
    if happened.peek().is_none() {
        return String::new();
    }
    for (verdict, counter) in happened {
        table.row([
            verdict.clone(),
            counter.packets.to_string(),
            counter.bytes.to_string(),
        ]);
    }
    table.render()
}

fn rejects(status: &Status) -> String {
    let mut table = Table::new(["REFUSED FOR", ">COUNT"]);
    let mut happened = status
        .rejects
        .iter()
        .filter(|(_, count)| **count > 0)
        .peekable();
    if happened.peek().is_none() {
        return String::new();
    }
    for (reason, count) in happened {
        table.row([reason.clone(), count.to_string()]);
    }
    table.render()
}
