//! HAProxy as `haproxy/haproxy.cfg` has it, reduced to MQTT and without its log, which would cost it something.

use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::plan::MQTT_PORT;
use crate::process::Process;

/// What keeps a client with its broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stick {
    /// The recipe's: a table of the identifiers' SHA-256.
    Table,
    /// `balance hash`: no memory, but clients move when a broker leaves.
    Hash,
}

/// What differs between its variants.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    pub program: &'a Path,
    pub threads: u8,
    pub stick: Stick,
    pub splice: bool,
}

/// Starts it at the IPv4 VIP and waits until it serves.
///
/// # Errors
/// It is not installed, doesn't know the configuration, or doesn't serve within 20 s.
pub fn start(lab: &Lab, options: Options<'_>) -> Result<Process> {
    let file = lab.directory().join("haproxy.cfg");
    std::fs::write(&file, configuration(lab, options))
        .with_context(|| format!("write {}", file.display()))?;
    let netns = &lab.topology.lb;
    let mut command = netns.command(options.program)?;
    command.arg("-db").arg("-f").arg(&file);
    let mut process = Process::start("haproxy", command, &lab.directory().join("haproxy.log"))?;
    let vip = lab.topology.plan.vip().sockets(MQTT_PORT)[0];
    process.wait_until("an open port", Duration::from_secs(20), |_| {
        let open = || TcpStream::connect_timeout(&vip, Duration::from_secs(1)).is_ok();
        netns.enter(open).unwrap_or(false)
    })?;
    Ok(process)
}

fn configuration(lab: &Lab, options: Options<'_>) -> String {
    let vip = lab.topology.plan.vip().sockets(MQTT_PORT)[0];
    let id = "req.payload(0,0),mqtt_field_value(connect,client_identifier)";
    let stick = match options.stick {
        Stick::Table => format!(
            "balance roundrobin\n  stick-table type binary len 32 size 1m expire 30m\n  stick on {id},sha2(256)"
        ),
        Stick::Hash => format!("balance hash {id}"),
    };
    let splice = if options.splice {
        "\n  option splice-auto"
    } else {
        ""
    };
    let mut text = format!(
        "global\n  nbthread {}\n  tune.bufsize 32768\n\
         defaults\n  mode tcp\n  timeout connect 3s\n  timeout client 24h\n  timeout server 24h\n  \
         timeout client-fin 30s\n  retries 3\n  option redispatch 1\n\
         listen mqtt\n  bind {vip} backlog 65535\n  \
         tcp-request inspect-delay 10s\n  \
         tcp-request content reject unless {{ req.payload(0,0),mqtt_is_valid }}\n  {stick}{splice}\n",
        options.threads
    );
    for n in 0..lab.topology.brokers.len() {
        text += &format!(
            "  server {} {} check inter 1s rise 1 fall 2 on-marked-down shutdown-sessions\n",
            Lab::broker_name(n),
            lab.topology.plan.broker(n).sockets(MQTT_PORT)[0],
        );
    }
    text
}
