//! What the XDP program must know to send a packet towards an address: device, Ethernet header, MTU.

use std::net::IpAddr;
use std::time::Duration;

use rtnetlink::Handle;

use super::{Link, NetError, Result, Vlan, by_index, neighbour, route_to};

/// 802.1Q, the only tag that the packet path writes.
const ETHERTYPE_VLAN: u16 = 0x8100;

/// The next hop towards an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The device that XDP transmits on: the parent if the route goes out of a VLAN device.
    pub ifindex: u32,
    /// Address of the route's device (a VLAN device may have its own).
    pub src_mac: [u8; 6],
    pub dst_mac: [u8; 6],
    /// VLAN identifier that the frame must carry in an 802.1Q tag.
    pub vlan: Option<u16>,
    /// Largest IP packet on this way, bytes.
    pub mtu: u32,
    /// Source address that the host would use.
    pub source: IpAddr,
    /// The neighbour that `dst_mac` belongs to, the gateway or the destination itself, and the
    /// device it is on: what [`neighbour::release`] takes.
    pub neighbour: IpAddr,
    pub neighbour_ifindex: u32,
}

/// Finds the next hop to `dest`, asking the network for its link address for at most `timeout`.
pub async fn hop_to(handle: &Handle, dest: IpAddr, timeout: Duration) -> Result<Hop> {
    let route = route_to(handle, dest).await?;
    let link = usable(by_index(handle, route.ifindex).await?)?;
    let (ifindex, vlan) = match link.vlan {
        None => (link.index, None),
        Some(vlan) => tagged(&link, vlan, by_index(handle, vlan.parent).await?)?,
    };
    let neighbour = route.gateway.unwrap_or(dest);
    let dst_mac = neighbour::resolve(handle, link.index, neighbour, timeout).await?;
    Ok(Hop {
        ifindex,
        src_mac: link.mac,
        dst_mac,
        vlan,
        mtu: route.mtu,
        source: route.source,
        neighbour,
        neighbour_ifindex: link.index,
    })
}

fn usable(link: Link) -> Result<Link> {
    if !link.ethernet {
        return Err(NetError::NotEthernet { device: link.name });
    }
    if !link.up {
        return Err(NetError::LinkDown { device: link.name });
    }
    Ok(link)
}

/// Device and VLAN identifier for frames of VLAN device `link`, which leave by `parent`.
fn tagged(link: &Link, vlan: Vlan, parent: Link) -> Result<(u32, Option<u16>)> {
    if vlan.ethertype != ETHERTYPE_VLAN || parent.vlan.is_some() {
        return Err(NetError::StackedVlan {
            device: link.name.clone(),
        });
    }
    Ok((usable(parent)?.index, Some(vlan.id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, vlan: Option<Vlan>) -> Link {
        let name = format!("eth{index}");
        Link {
            index,
            name,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            vlan,
            up: true,
            ethernet: true,
            xdp_native: false,
        }
    }

    #[test]
    fn frames_of_a_vlan_device_leave_by_its_parent() {
        let vlan = Vlan {
            parent: 2,
            id: 42,
            ethertype: 0x8100,
        };
        assert_eq!(
            tagged(&link(5, Some(vlan)), vlan, link(2, None)).unwrap(),
            (2, Some(42))
        );
    }

    #[test]
    fn a_parent_that_is_down_is_named() {
        let vlan = Vlan {
            parent: 2,
            id: 42,
            ethertype: 0x8100,
        };
        let parent = Link {
            up: false,
            ..link(2, None)
        };
        let error = tagged(&link(5, Some(vlan)), vlan, parent).unwrap_err();
        assert_eq!(
            error.to_string(),
            "device eth2 is down: bring it up with `ip link set eth2 up`"
        );
    }

    #[test]
    fn two_tags_or_a_service_tag_are_refused() {
        let inner = Vlan {
            parent: 5,
            id: 7,
            ethertype: 0x8100,
        };
        let outer = Vlan {
            parent: 2,
            id: 42,
            ethertype: 0x8100,
        };
        let error = tagged(&link(6, Some(inner)), inner, link(5, Some(outer))).unwrap_err();
        assert!(
            matches!(&error, NetError::StackedVlan { device } if device == "eth6"),
            "{error}"
        );
        let service = Vlan {
            parent: 2,
            id: 9,
            ethertype: 0x88a8,
        };
        let error = tagged(&link(7, Some(service)), service, link(2, None)).unwrap_err();
        assert!(
            matches!(&error, NetError::StackedVlan { device } if device == "eth7"),
            "{error}"
        );
    }
}
