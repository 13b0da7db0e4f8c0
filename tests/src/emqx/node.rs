//! Stand-in nodes in the brokers' namespaces of a lab.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::http;
use crate::lab::{Lab, own_binary};
use crate::netns::Netns;
use crate::plan::MQTT_PORT;
use crate::process::Process;
use crate::sockets;

pub const WEBSOCKET_PORT: u16 = 8083;
pub const DASHBOARD_PORT: u16 = 18083;

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub struct Node {
    /// What its clients learn from the lab's retained message: `emqx1.internal`.
    pub name: String,
    netns: Netns,
    process: Process,
}

impl Node {
    /// Starts node `n`, from 0, and waits until it serves.
    ///
    /// # Errors
    /// A port is taken, or it does not serve within 20 s.
    pub fn start(lab: &Lab, n: usize) -> Result<Self> {
        let netns = lab.topology.brokers[n].clone();
        let name = Self::name(n);
        let mut command = netns.command(own_binary()?)?;
        command.args(["emqx", "foreground"]).envs([
            ("EMQX_NODE_NAME", format!("emqx@{name}").as_str()),
            ("EMQX_NODE__COOKIE", "of the test"),
            ("EMQX_DASHBOARD__DEFAULT_PASSWORD", "of the test"),
            ("EMQX_CLUSTER__DISCOVERY_STRATEGY", "static"),
            ("EMQX_CLUSTER__STATIC__SEEDS", &seeds(lab)),
            ("EMQX_LISTENERS__TCP__DEFAULT__BIND", "\"[::]:1883\""),
            ("EMQX_LISTENERS__WS__DEFAULT__BIND", "\"[::]:8083\""),
            ("EMQX_DASHBOARD__LISTENERS__HTTP__BIND", "\"[::]:18083\""),
        ]);
        let log = lab.directory().join(format!("{name}.log"));
        let process = Process::start(&name, command, &log)?;
        let mut node = Self {
            name,
            netns,
            process,
        };
        let netns = node.netns.clone();
        node.process
            .wait_until("status 200", Duration::from_secs(20), |_| {
                http::get(&netns, local(DASHBOARD_PORT), "/api/v5/status").is_ok()
            })?;
        Ok(node)
    }

    /// Starts a node in every broker's namespace.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_all(lab: &Lab) -> Result<Vec<Self>> {
        (0..lab.topology.brokers.len())
            .map(|n| Self::start(lab, n))
            .collect()
    }

    /// The name of node `n`, from 0.
    pub fn name(n: usize) -> String {
        format!("{}.internal", Lab::broker_name(n))
    }

    /// Established MQTT connections, counted in the node's namespace.
    ///
    /// # Errors
    /// The node is dead.
    pub fn connections(&self) -> Result<usize> {
        sockets::established(self.process.id(), MQTT_PORT)
            .with_context(|| format!("count connections of {}", self.name))
    }

    /// The same over WebSocket.
    ///
    /// # Errors
    /// The node is dead.
    pub fn websockets(&self) -> Result<usize> {
        sockets::established(self.process.id(), WEBSOCKET_PORT)
            .with_context(|| format!("count WebSocket connections of {}", self.name))
    }

    /// Sets what the health check sees: 200 or 503.
    ///
    /// # Errors
    /// The node is dead.
    pub fn set_status(&self, status: u16) -> Result<()> {
        let path = format!("/stand-in/status/{status}");
        let answer = http::request(&self.netns, local(DASHBOARD_PORT), "PUT", &path, &[])?;
        ensure!(answer.status == 200, "PUT {path}: {}", answer.head);
        Ok(())
    }

    /// Kills the node; its namespace and address stay, so connecting to it is refused.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

fn seeds(lab: &Lab) -> String {
    let names: Vec<_> = (0..lab.topology.brokers.len())
        .map(|n| format!("emqx@{}", Node::name(n)))
        .collect();
    format!("[{}]", names.join(","))
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port))
}
