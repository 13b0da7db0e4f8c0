//! Which way the kernel would send a packet.

use std::net::IpAddr;

use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{NetError, Result, by_index, netlink};

/// The kernel's answer to "how do I reach this address" (`ip route get`), policy rules included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The device of the route; for a VLAN this is the VLAN device.
    pub ifindex: u32,
    /// `None`: the destination is on link. An IPv4 route may have an IPv6 gateway (RFC 5549).
    pub gateway: Option<IpAddr>,
    /// The source address that the host's own packets would have.
    pub source: IpAddr,
    /// Largest IP packet, bytes: the route's metric or learnt path MTU, else the device's.
    pub mtu: u32,
}

/// Asks the kernel for the way to `dest`.
///
/// # Errors
/// [`NetError::NoRoute`] also for blackhole, prohibit and unreachable routes; [`NetError::NotAHost`]
/// if `dest` is an address of this host, a broadcast or a multicast address.
pub async fn route_to(handle: &Handle, dest: IpAddr) -> Result<Route> {
    let what = || format!("cannot look up the route to {dest}");
    let answers = handle.route().get(query(dest)).execute();
    let found = match netlink::first(what, answers).await {
        Ok(found) => found,
        Err(NetError::Netlink { what, source }) => {
            return Err(match netlink::os_error(&source) {
                Some(reason) => NetError::NoRoute { dest, reason },
                None => NetError::Netlink { what, source },
            });
        }
        Err(error) => return Err(error),
    };
    let no_route = |errno| NetError::NoRoute {
        dest,
        reason: std::io::Error::from_raw_os_error(errno),
    };
    let message = found.ok_or_else(|| no_route(libc::ENETUNREACH))?;
    match message.header.kind {
        RouteType::Unicast => {}
        // The IPv6 side answers some of these as a route where IPv4 answers with an error.
        RouteType::Unreachable | RouteType::BlackHole | RouteType::Prohibit | RouteType::Throw => {
            return Err(no_route(libc::EHOSTUNREACH));
        }
        kind => {
            return Err(NetError::NotAHost {
                dest,
                kind: format!("{kind:?}").to_lowercase(),
            });
        }
    }

    let fields = Fields::from(&message);
    let ifindex = fields.ifindex.ok_or_else(|| no_route(libc::ENETUNREACH))?;
    let link = by_index(handle, ifindex).await?;
    let source = fields.source.ok_or(NetError::NoSource {
        dest,
        device: link.name,
    })?;
    let mtu = fields.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu));
    Ok(Route {
        ifindex,
        gateway: fields.gateway,
        source,
        mtu,
    })
}

fn query(dest: IpAddr) -> RouteMessage {
    match dest {
        IpAddr::V4(dest) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(dest, 32)
            .build(),
        IpAddr::V6(dest) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(dest, 128)
            .build(),
    }
}

/// What an answer says, as far as it matters here.
#[derive(Default)]
struct Fields {
    ifindex: Option<u32>,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    /// 0 in the message means "not set".
    mtu: Option<u32>,
}

impl From<&RouteMessage> for Fields {
    fn from(message: &RouteMessage) -> Self {
        let mut fields = Self::default();
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => fields.ifindex = Some(*index),
                RouteAttribute::Gateway(address) => fields.gateway = ip(address),
                RouteAttribute::Via(RouteVia::Inet(address)) => {
                    fields.gateway = Some((*address).into())
                }
                RouteAttribute::Via(RouteVia::Inet6(address)) => {
                    fields.gateway = Some((*address).into())
                }
                RouteAttribute::PrefSource(address) => fields.source = ip(address),
                RouteAttribute::Metrics(metrics) => {
                    fields.mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        fields
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
