//! HAProxy in the balancer's namespace, to compare with: sticky by MQTT client identifier, as EMQX's
//! documentation recommends it.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::balancer::Options;
use crate::lab::Lab;
use crate::plan::MQTT_PORT;
use crate::process::Process;

/// A running HAProxy. Dropping it kills it.
#[derive(Debug)]
pub struct HaProxy {
    _process: Process,
}

impl HaProxy {
    /// Starts HAProxy at the VIP and waits until it serves.
    ///
    /// # Errors
    /// It is not installed, or does not serve within 10 s.
    pub fn start(lab: &Lab, options: &Options) -> Result<Self> {
        let file = lab.directory().join("haproxy.cfg");
        std::fs::write(&file, configuration(lab, options))
            .with_context(|| format!("write {}", file.display()))?;
        let netns = &lab.topology.lb;
        let mut command = netns.command("/usr/sbin/haproxy")?;
        command.arg("-db").arg("-f").arg(&file);
        let mut process = Process::start("haproxy", command, &lab.directory().join("haproxy.log"))?;
        let vip = lab.topology.plan.vip().sockets(MQTT_PORT);
        process.wait_until("an open port", Duration::from_secs(10), |_| {
            let open =
                |vip: &SocketAddr| TcpStream::connect_timeout(vip, Duration::from_secs(1)).is_ok();
            netns.enter(|| vip.iter().all(open)).unwrap_or(false)
        })?;
        Ok(Self { _process: process })
    }
}

fn configuration(lab: &Lab, options: &Options) -> String {
    let [v4, v6] = lab.topology.plan.vip().sockets(MQTT_PORT);
    let mut text = format!(
        "defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 1h\n  timeout server 1h\n  \
         timeout client-fin 30s\n  retries 3\n  option redispatch 1\n\
         listen mqtt\n  bind {v4}\n  bind {v6}\n  \
         tcp-request inspect-delay 10s\n  \
         tcp-request content reject unless {{ req.payload(0,0),mqtt_is_valid }}\n  \
         balance roundrobin\n  stick-table type string len 64 size 1m expire 30m\n  \
         stick on req.payload(0,0),mqtt_field_value(connect,client_identifier)\n"
    );
    let proxy = if options.proxy_protocol {
        " send-proxy-v2"
    } else {
        ""
    };
    let check = if options.health {
        " check inter 1s"
    } else {
        ""
    };
    for n in 0..lab.topology.brokers.len() {
        text += &format!(
            "  server {} {} weight {}{check}{proxy}\n",
            Lab::broker_name(n),
            lab.topology.plan.broker(n).sockets(MQTT_PORT)[0],
            options.weights.get(n).unwrap_or(&1),
        );
    }
    text
}
