//! `mqlb check`

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::output::{print, print_json};
use super::table::Table;
use super::{Failure, output};
use crate::config::{self, Backend, Check, Config, Health, Listener, show_duration};

#[derive(Args, Debug)]
pub(super) struct Options {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: Options) -> Result<(), Failure> {
    let file = options.config.display().to_string();
    let config = match config::load(&options.config) {
        Ok(config) => config,
        Err(error) => {
            if options.json {
                let problems = error.problems();
                output::print_json(&json!({ "ok": false, "file": file, "problems": problems }))?;
            }
            return Err(error.into());
        }
    };
    if options.json {
        print_json(&json!({ "ok": true, "file": file, "config": describe(&config) }))?;
    } else {
        print(&format!(
            "{file} is right. It would run:\n\n{}",
            summary(&config)
        ))?;
    }
    Ok(())
}

fn summary(config: &Config) -> String {
    let mut out = String::new();
    let Config {
        admin,
        agent,
        xdp,
        snat,
        bindings,
        ..
    } = config;
    let sources = match &snat.addresses[..] {
        [] => "the preferred source of each route".to_owned(),
        addresses => join(addresses),
    };
    let (low, high) = (snat.ports.start(), snat.ports.end());
    let linger = show_duration(bindings.linger);
    let lines = [
        (
            "agent",
            format!("{}, pinned in {}", agent.name, agent.pin_dir.display()),
        ),
        ("admin", format!("http://{}", admin.http)),
        (
            "xdp",
            format!(
                "{} (mode {}), {} connections at most",
                xdp.interfaces.join(", "),
                xdp.mode.as_str(),
                xdp.max_flows
            ),
        ),
        ("snat", format!("{sources}, ports {low}-{high}")),
        (
            "bindings",
            format!(
                "{} at most, kept for {linger} after a client left",
                bindings.capacity
            ),
        ),
    ];
    for (key, value) in lines {
        writeln!(out, "{key:<9} {value}").expect("a String takes everything");
    }
    let mut listeners = Table::new(["LISTENER", "VIP", "POOL", "DATAPATH", "SOURCE", "PROXY"]);
    for listener in &config.listeners {
        listeners.row([
            listener.name.clone(),
            join(&listener.bind),
            config.pool(listener.pool).name.clone(),
            listener.datapath.as_str().to_owned(),
            listener.source.as_str().to_owned(),
            proxy_protocol(listener).to_owned(),
        ]);
    }
    let mut backends = Table::new(["POOL", "POLICY", "HEALTH", "BACKEND", "ADDRESS", ">WEIGHT"]);
    for pool in &config.pools {
        for backend in &pool.backends {
            backends.row([
                pool.name.clone(),
                pool.policy.as_str().to_owned(),
                pool.health.as_ref().map_or("-".to_owned(), health),
                backend.name.clone(),
                join(&backend.addresses),
                backend.weight.to_string(),
            ]);
        }
    }
    format!("{out}\n{}\n{}", listeners.render(), backends.render())
}

fn health(health: &Health) -> String {
    let every = show_duration(health.interval);
    match &health.check {
        Check::Http { port, path, .. } => format!("http :{port}{path} every {every}"),
        Check::Tcp { port } => format!("tcp{} every {every}", show_port(*port)),
        Check::Mqtt { port } => format!("mqtt{} every {every}", show_port(*port)),
    }
}

fn show_port(port: Option<u16>) -> String {
    port.map_or(String::new(), |port| format!(" :{port}"))
}

fn proxy_protocol(listener: &Listener) -> &'static str {
    if listener.proxy_protocol { "v2" } else { "off" }
}

fn join<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The configuration with all defaults, in the words of the file.
fn describe(config: &Config) -> Value {
    let Config {
        admin,
        agent,
        xdp,
        snat,
        bindings,
        timeouts,
        limits,
        ..
    } = config;
    let listener = |listener: &Listener| {
        json!({
            "name": listener.name,
            "bind": listener.bind,
            "pool": config.pool(listener.pool).name,
            "datapath": listener.datapath.as_str(),
            "source": listener.source.as_str(),
            "proxy_protocol": proxy_protocol(listener),
        })
    };
    let pools = config.pools.iter().map(|pool| {
        let value = json!({
            "policy": pool.policy.as_str(),
            "health": pool.health.as_ref().map(describe_health),
            "backend": pool.backends.iter().map(describe_backend).collect::<Vec<_>>(),
        });
        (pool.name.clone(), value)
    });
    json!({
        "admin": { "http": admin.http },
        "agent": { "name": agent.name, "pin_dir": agent.pin_dir, "state_dir": agent.state_dir },
        "xdp": { "interfaces": xdp.interfaces, "mode": xdp.mode.as_str(), "max_flows": xdp.max_flows },
        "snat": { "addresses": snat.addresses, "ports": format!("{}-{}", snat.ports.start(), snat.ports.end()) },
        "bindings": { "capacity": bindings.capacity, "linger": show_duration(bindings.linger) },
        "timeouts": {
            "sniff": show_duration(timeouts.sniff),
            "connect": show_duration(timeouts.connect),
            "grace": show_duration(timeouts.grace),
            "keepalive_least": show_duration(timeouts.keepalive_least),
            "keepalive_zero": show_duration(timeouts.keepalive_zero),
            "closed": show_duration(timeouts.closed),
        },
        "limits": {
            "client_id": limits.client_id,
            "sniff_bytes": limits.sniff_bytes,
            "rst_rate": limits.rst_rate,
        },
        "listener": config.listeners.iter().map(listener).collect::<Vec<_>>(),
        "pool": pools.collect::<serde_json::Map<_, _>>(),
    })
}

fn describe_health(health: &Health) -> Value {
    let (kind, port, path) = match &health.check {
        Check::Http { port, path, .. } => ("http", Some(*port), Some(path)),
        Check::Tcp { port } => ("tcp", *port, None),
        Check::Mqtt { port } => ("mqtt", *port, None),
    };
    json!({
        "kind": kind,
        "port": port,
        "path": path,
        "interval": show_duration(health.interval),
        "timeout": show_duration(health.timeout),
        "rise": health.rise,
        "fall": health.fall,
    })
}

fn describe_backend(backend: &Backend) -> Value {
    let addresses: Vec<_> = backend
        .addresses
        .iter()
        .map(|address| address.socket)
        .collect();
    json!({ "name": backend.name, "address": addresses, "weight": backend.weight })
}
