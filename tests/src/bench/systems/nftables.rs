//! DNAT to the brokers in turn, by nftables in the balancer's namespace.

use anyhow::Result;

use crate::lab::Lab;
use crate::plan::MQTT_PORT;

/// Loads the rules; they go with the namespace.
///
/// # Errors
/// `nft` is missing, or the kernel lacks NAT.
pub fn load(lab: &Lab) -> Result<()> {
    let plan = lab.topology.plan;
    let vip = plan.vip().v4;
    let brokers = lab.topology.brokers.len();
    let map: Vec<_> = (0..brokers)
        .map(|n| format!("{n} : {}", plan.broker(n).v4))
        .collect();
    lab.topology.lb.nft(&format!(
        "table ip bench {{\n chain prerouting {{\n type nat hook prerouting priority dstnat;\n \
         ip daddr {vip} tcp dport {MQTT_PORT} dnat to numgen inc mod {brokers} map {{ {} }}\n }}\n}}\n",
        map.join(", ")
    ))
}
