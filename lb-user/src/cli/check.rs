//! `mqlb check`

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::output::{print, print_json};
use super::table::Table;
use super::{Failure, output};
use crate::config::{
    self, Backend, Check, Config, Health, Kind, Listener, Policy, Tls, show_duration,
};

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
    let warnings = config.warnings();
    if options.json {
        let config = describe(&config);
        print_json(&json!({ "ok": true, "file": file, "config": config, "warnings": warnings }))?;
    } else {
        print(&format!(
            "{file} is right. It would run:\n\n{}",
            summary(&config)
        ))?;
        for warning in warnings {
            eprintln!("warning: {warning}");
        }
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
        limits,
        ..
    } = config;
    let sources = match &snat.addresses[..] {
        [] => "the preferred source of each route".to_owned(),
        addresses => join(addresses),
    };
    let (low, high) = (snat.ports.start(), snat.ports.end());
    let linger = show_duration(bindings.linger);
    let (blocked_sources, blocked_clients) =
        (limits.blocked_sources.len(), limits.blocked_clients.len());
    let lines = [
        (
            "agent",
            format!("{}, pinned in {}", agent.name, agent.pin_dir.display()),
        ),
        ("admin", format!("http://{}", admin.http)),
        (
            "xdp",
            format!(
                "{} (mode {}), {} connections at most, set up by the kernel: {}",
                xdp.interfaces.join(", "),
                xdp.mode.as_str(),
                xdp.max_flows,
                xdp.set_up.as_str()
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
        (
            "blocked",
            format!("{blocked_sources} source prefixes, {blocked_clients} client identifiers"),
        ),
    ];
    for (key, value) in lines {
        writeln!(out, "{key:<9} {value}").expect("a String takes everything");
    }
    for listener in &config.listeners {
        if let Some(tls) = &listener.tls {
            writeln!(out, "{:<9} {}: {tls}", "tls", listener.name)
                .expect("a String takes everything");
        }
    }
    let mut listeners = Table::new([
        "LISTENER",
        "KIND",
        "VIP",
        "POOL",
        "DATAPATH",
        "SOURCE",
        "PROXY",
        "TRUSTED",
        ">MAX FLOWS",
    ]);
    for listener in &config.listeners {
        listeners.row([
            listener.name.clone(),
            listener.kind.to_string(),
            join(&listener.bind),
            config.pool(listener.pool).name.clone(),
            listener.datapath.as_str().to_owned(),
            listener.source.as_str().to_owned(),
            listener.proxy_protocol.as_str().to_owned(),
            match &[&listener.trusted_proxies[..], &listener.trusted_edges].concat()[..] {
                [] => "-".to_owned(),
                trusted => join(trusted),
            },
            limit(listener.max_flows),
        ]);
    }
    let mut pools = Table::new([
        "POOL",
        "POLICY",
        "HEALTH",
        "SLOW START",
        "RESETS",
        "SOURCES",
        "CLIENTS",
    ]);
    let mut backends = Table::new(["POOL", "BACKEND", "ADDRESS", ">WEIGHT", ">MAX FLOWS"]);
    for pool in &config.pools {
        pools.row([
            pool.name.clone(),
            pool.policy.to_string(),
            pool.health.as_ref().map_or("-".to_owned(), health),
            show_duration(pool.slow_start),
            pool.reset_rate
                .map_or("at once".to_owned(), |rate| format!("{rate}/s")),
            pool.sources.to_string(),
            limit(pool.client_connects),
        ]);
        for backend in &pool.backends {
            backends.row([
                pool.name.clone(),
                backend.name.clone(),
                join(&backend.addresses),
                backend.weight.to_string(),
                limit(backend.max_flows),
            ]);
        }
    }
    format!(
        "{out}\n{}\n{}\n{}",
        listeners.render(),
        pools.render(),
        backends.render()
    )
}

/// A limit, or what stands for none.
fn limit<T: ToString>(limit: Option<T>) -> String {
    limit.map_or("-".to_owned(), |limit| limit.to_string())
}

fn health(health: &Health) -> String {
    format!("{} every {}", health.check, show_duration(health.interval))
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
            "kind": listener.kind.as_str(),
            "path": listener.kind.websocket().map(|websocket| &websocket.path),
            "ws_port": listener.kind.websocket().map(|websocket| websocket.port),
            "http_port": listener.kind.dashboard(),
            "routes": match &listener.kind {
                Kind::TlsPassthrough(routes) => routes.0.iter().cloned().collect(),
                Kind::Mqtt | Kind::Ws(_) | Kind::Http { .. } => BTreeMap::new(),
            },
            "bind": listener.bind,
            "pool": config.pool(listener.pool).name,
            "datapath": listener.datapath.as_str(),
            "source": listener.source.as_str(),
            "proxy_protocol": listener.proxy_protocol.as_str(),
            "tls": listener.tls.as_ref().map(describe_tls),
            "sticky": listener.sticky.as_str(),
            "trusted_proxies": listener.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "trusted_edges": listener.trusted_edges.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "max_flows": listener.max_flows,
        })
    };
    let pools = config.pools.iter().map(|pool| {
        let value = json!({
            "policy": pool.policy.as_str(),
            "max_load": match pool.policy {
                Policy::Consistent { max_load } => Some(max_load),
                Policy::RoundRobin | Policy::LeastConnections => None,
            },
            "slow_start": show_duration(pool.slow_start),
            "reset_rate": pool.reset_rate.map(|rate| format!("{rate}/s")),
            "sources": {
                "ipv4_prefix": pool.sources.v4_prefix,
                "ipv6_prefix": pool.sources.v6_prefix,
                "max_flows": pool.sources.max_flows,
                "connects": pool.sources.connects.as_ref().map(ToString::to_string),
            },
            "client_connects": pool.client_connects.as_ref().map(ToString::to_string),
            "health": pool.health.as_ref().map(describe_health),
            "backend": pool.backends.iter().map(describe_backend).collect::<Vec<_>>(),
        });
        (pool.name.clone(), value)
    });
    json!({
        "admin": { "http": admin.http },
        "agent": { "name": agent.name, "pin_dir": agent.pin_dir, "state_dir": agent.state_dir },
        "xdp": { "interfaces": xdp.interfaces, "mode": xdp.mode.as_str(), "max_flows": xdp.max_flows, "set_up": xdp.set_up.as_str() },
        "snat": { "addresses": snat.addresses, "ports": format!("{}-{}", snat.ports.start(), snat.ports.end()) },
        "bindings": { "capacity": bindings.capacity, "linger": show_duration(bindings.linger) },
        "timeouts": {
            "sniff": show_duration(timeouts.sniff),
            "handshake": show_duration(timeouts.handshake),
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
            "refusal_rate": limits.refusal_rate,
            "blocked_sources": limits.blocked_sources.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "blocked_clients": limits.blocked_clients,
        },
        "listener": config.listeners.iter().map(listener).collect::<Vec<_>>(),
        "pool": pools.collect::<serde_json::Map<_, _>>(),
    })
}

fn describe_tls(tls: &Tls) -> Value {
    let certificates = tls.certificates.iter();
    let clients = tls.clients.as_ref();
    json!({
        "cert": certificates.clone().map(|c| &c.file).collect::<Vec<_>>(),
        "key": certificates.map(|c| &c.key_file).collect::<Vec<_>>(),
        "client_ca": clients.map(|c| &c.authorities.file),
        "client_crl": clients.and_then(|c| c.revoked.as_ref()).map(|r| &r.file),
        "client_auth": clients.map(|c| if c.required { "required" } else { "optional" }),
        "alpn": tls.alpn,
    })
}

fn describe_health(health: &Health) -> Value {
    let (kind, port, path, availability) = match &health.check {
        Check::Http {
            port,
            path,
            availability,
        } => ("http", Some(*port), Some(path), availability.as_ref()),
        Check::Tcp { port } => ("tcp", *port, None, None),
        Check::Mqtt { port } => ("mqtt", *port, None, None),
    };
    json!({
        "kind": kind,
        "port": port,
        "path": path,
        "availability": availability,
        "interval": show_duration(health.interval),
        "timeout": show_duration(health.timeout),
        "rise": health.rise,
        "fall": health.fall,
        "jitter": health.jitter,
    })
}

fn describe_backend(backend: &Backend) -> Value {
    let addresses: Vec<_> = backend
        .addresses
        .iter()
        .map(|address| address.socket)
        .collect();
    json!({
        "name": backend.name,
        "address": addresses,
        "weight": backend.weight,
        "max_flows": backend.max_flows,
    })
}
