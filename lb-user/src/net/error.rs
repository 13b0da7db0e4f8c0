//! What can go wrong between the agent and the kernel's networking, and what to do about it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rtnetlink::Error as Rtnetlink;

pub type Result<T, E = NetError> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error(
        "no route to {dest} ({reason}): add one with `ip route add {dest} via GATEWAY dev DEVICE`"
    )]
    NoRoute { dest: IpAddr, reason: io::Error },

    #[error(
        "{dest} is a {kind} address here, not another host: write the address of a backend on the network"
    )]
    NotAHost { dest: IpAddr, kind: String },

    #[error(
        "the route to {dest} has no source address: add one with `ip addr add ADDRESS/PREFIX dev {device}`"
    )]
    NoSource { dest: IpAddr, device: String },

    #[error("no network device {0}: `ip link` lists those that exist")]
    NoLink(String),

    #[error("device {device} is down: bring it up with `ip link set {device} up`")]
    LinkDown { device: String },

    #[error(
        "device {device} is not Ethernet, so XDP cannot address frames on it: \
         route by an Ethernet device or use `datapath = \"proxy\"`"
    )]
    NotEthernet { device: String },

    #[error(
        "VLAN device {device} would need more than one 802.1Q tag, and the packet path writes one: \
         use a plain VLAN device or `datapath = \"proxy\"`"
    )]
    StackedVlan { device: String },

    #[error(
        "{ip} does not answer {} on {device}: check that the host is up and in this network \
         (`ip neigh show {ip}`)", solicitation(.ip)
    )]
    NoNeighbour { ip: IpAddr, device: String },

    #[error("{addr} refused the connection: is the broker running and listening there?")]
    Refused { addr: SocketAddr },

    #[error(
        "{addr} did not answer a TCP connection within {timeout:?}: check the host, its firewall and the way back"
    )]
    Silent { addr: SocketAddr, timeout: Duration },

    #[error("cannot connect to {addr}: {source}")]
    Connect { addr: SocketAddr, source: io::Error },

    #[error("{what}: {source}")]
    Netlink { what: String, source: Rtnetlink },

    #[error("{what}: the kernel did not answer on netlink within {timeout:?}")]
    NetlinkSilent { what: String, timeout: Duration },

    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },

    #[error("{path} holds {text:?}, which is not a list of ports")]
    PortList { path: String, text: String },
}

impl NetError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// The protocol that asks for the link address of `ip`.
fn solicitation(ip: &IpAddr) -> &'static str {
    match ip {
        IpAddr::V4(_) => "ARP",
        IpAddr::V6(_) => "neighbour solicitations",
    }
}
