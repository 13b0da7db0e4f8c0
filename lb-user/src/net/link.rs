//! Network devices.

use rtnetlink::Handle;
use rtnetlink::packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
    VlanProtocol, XdpAttached,
};

use super::{NetError, Result, netlink};

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Ethernet address; zeros if the device is not [`ethernet`](Self::ethernet) or is `lo`.
    pub mac: [u8; 6],
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// For a VLAN device whose parent is in this namespace. One whose parent is elsewhere tags
    /// frames out of sight: it is used like a plain device.
    pub vlan: Option<Vlan>,
    /// Administratively up (IFF_UP); says nothing of the carrier.
    pub up: bool,
    /// Frames on it have an Ethernet header with real addresses (not `lo`, tunnels …).
    pub ethernet: bool,
    /// An XDP program runs in its driver (native mode).
    pub xdp_native: bool,
}

/// The tag that a VLAN device puts on frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vlan {
    /// Index of the device that the tagged frames leave by.
    pub parent: u32,
    /// VLAN identifier, 1 to 4094.
    pub id: u16,
    /// The tag's EtherType, host byte order: 0x8100 (802.1Q) or 0x88a8 (802.1ad).
    pub ethertype: u16,
}

/// # Errors
/// [`NetError::NoLink`] if there is none of that name.
pub async fn by_name(handle: &Handle, name: &str) -> Result<Link> {
    let answers = handle.link().get().match_name(name).execute();
    let link = netlink::first(|| format!("cannot look up device {name}"), answers).await?;
    link.map(Link::from)
        .ok_or_else(|| NetError::NoLink(name.to_owned()))
}

/// # Errors
/// [`NetError::NoLink`] if there is none of that index.
pub async fn by_index(handle: &Handle, index: u32) -> Result<Link> {
    let answers = handle.link().get().match_index(index).execute();
    let link = netlink::first(|| format!("cannot look up device number {index}"), answers).await?;
    link.map(Link::from)
        .ok_or_else(|| NetError::NoLink(format!("of index {index}")))
}

/// All devices of the namespace.
pub async fn links(handle: &Handle) -> Result<Vec<Link>> {
    let links = netlink::all(
        || "cannot list devices".to_owned(),
        handle.link().get().execute(),
    )
    .await?;
    Ok(links.into_iter().map(Link::from).collect())
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: [0; 6],
            mtu: 0,
            vlan: None,
            up: message.header.flags.contains(LinkFlags::Up),
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            xdp_native: false,
        };
        let mut parent = None;
        let mut parent_elsewhere = false;
        let mut tag = None;
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(address) => {
                    link.mac = address.try_into().unwrap_or_default()
                }
                LinkAttribute::Link(index) => parent = Some(index),
                LinkAttribute::LinkNetNsId(_) => parent_elsewhere = true,
                LinkAttribute::LinkInfo(infos) => tag = vlan_tag(&infos),
                LinkAttribute::Xdp(xdp) => {
                    link.xdp_native = xdp.iter().any(|x| {
                        matches!(
                            x,
                            LinkXdp::Attached(XdpAttached::Driver | XdpAttached::Hardware)
                        )
                    });
                }
                _ => {}
            }
        }
        if let (Some(parent), Some((id, ethertype)), false) = (parent, tag, parent_elsewhere) {
            link.vlan = Some(Vlan {
                parent,
                id,
                ethertype,
            });
        }
        link
    }
}

/// Identifier and EtherType of a VLAN device; `None` for other kinds of device.
fn vlan_tag(infos: &[LinkInfo]) -> Option<(u16, u16)> {
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    })?;
    let id = data.iter().find_map(|attribute| match attribute {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let protocol = data.iter().find_map(|attribute| match attribute {
        InfoVlan::Protocol(protocol) => Some(*protocol),
        _ => None,
    });
    Some((id, protocol.unwrap_or(VlanProtocol::Ieee8021Q).into()))
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
    use rtnetlink::packet_route::RouteNetlinkMessage;

    use super::*;

    /// An attribute as on the wire: length, type, value, padding to four bytes.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// RTM_NEWLINK for `eth0.42` with the numbers of linux/if_link.h, and `more` attributes.
    fn vlan_device(more: &[u8]) -> Link {
        let data = [
            attribute(1, &42u16.to_ne_bytes()),
            attribute(5, &0x88a8u16.to_be_bytes()),
        ]
        .concat();
        let info = [attribute(1, b"vlan\0"), attribute(2, &data)].concat();
        let attributes = [
            attribute(libc::IFLA_IFNAME, b"eth0.42\0"),
            attribute(libc::IFLA_ADDRESS, &[2, 0, 0, 0, 0x42, 1]),
            attribute(libc::IFLA_MTU, &1496u32.to_ne_bytes()),
            attribute(libc::IFLA_LINK, &3u32.to_ne_bytes()),
            attribute(libc::IFLA_LINKINFO, &info),
            more.to_vec(),
        ]
        .concat();
        // struct ifinfomsg: family and padding, ARPHRD_ETHER, index, IFF_UP, change mask.
        let mut body = [0u16.to_ne_bytes(), 1u16.to_ne_bytes()].concat();
        body.extend([9u32, 1, 0].map(u32::to_ne_bytes).concat());
        body.extend(attributes);
        let mut message = (16 + body.len() as u32).to_ne_bytes().to_vec();
        message.extend(libc::RTM_NEWLINK.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        match NetlinkMessage::deserialize(&message).unwrap().payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => message.into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_vlan_device_is_read_from_the_wire() {
        let expected = Link {
            index: 9,
            name: "eth0.42".to_owned(),
            mac: [2, 0, 0, 0, 0x42, 1],
            mtu: 1496,
            vlan: Some(Vlan {
                parent: 3,
                id: 42,
                ethertype: 0x88a8,
            }),
            up: true,
            ethernet: true,
            xdp_native: false,
        };
        assert_eq!(vlan_device(&[]), expected);
    }

    #[test]
    fn a_parent_in_another_namespace_is_not_taken_for_one_here() {
        let elsewhere = attribute(libc::IFLA_LINK_NETNSID, &0i32.to_ne_bytes());
        assert_eq!(vlan_device(&elsewhere).vlan, None);
    }
}
