//! Notices that links, addresses, routes or neighbours changed, so that next hops are looked up anew.
//!
//! The kernel's socket buffer is the queue. When it overflows (ENOBUFS) the events are lost, and
//! "everything may have changed" is reported instead.

use std::collections::HashMap;
use std::ops::BitOrAssign;
use std::time::Duration;

use bytes::BytesMut;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::time::{Instant, timeout_at};

use super::{NetError, Result, neighbour};

/// `struct nlmsghdr`: length (u32), type (u16), flags (u16), sequence, port (u32), native order.
const HEADER: usize = 16;
/// The kernel fills at most a page or 8 kB with one event; a longer one would only lose its tail.
const DATAGRAM: usize = 32 * 1024;

const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];

/// What kinds of things changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    pub links: bool,
    pub addresses: bool,
    /// Routes, next-hop objects or routing rules.
    pub routes: bool,
    /// A neighbour got another link address, got its first one, or lost it.
    pub neighbours: bool,
}

impl Change {
    /// What is reported after a loss of events.
    pub const EVERYTHING: Self = Self {
        links: true,
        addresses: true,
        routes: true,
        neighbours: true,
    };

    pub fn any(self) -> bool {
        self != Self::default()
    }
}

impl BitOrAssign for Change {
    fn bitor_assign(&mut self, other: Self) {
        self.links |= other.links;
        self.addresses |= other.addresses;
        self.routes |= other.routes;
        self.neighbours |= other.neighbours;
    }
}

/// A subscription to the changes of one network namespace.
pub struct Watch {
    socket: TokioSocket,
    /// How long further events are gathered after the first.
    settle: Duration,
    gathered: Change,
    /// When `gathered` is to be reported; `None` while there is nothing.
    due: Option<Instant>,
    neighbours: Neighbours,
}

impl Watch {
    /// Subscribes in the calling thread's network namespace. Events within `settle` of the first are
    /// reported together.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(settle: Duration) -> Result<Self> {
        let failed = || NetError::io("cannot subscribe to network changes on netlink");
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(failed())?;
        socket
            .socket_mut()
            .bind(&SocketAddr::new(0, 0))
            .map_err(failed())?;
        for group in GROUPS {
            socket
                .socket_mut()
                .add_membership(group as u32)
                .map_err(failed())?;
        }
        Ok(Self {
            socket,
            settle,
            gathered: Change::default(),
            due: None,
            neighbours: Neighbours::default(),
        })
    }

    /// Waits until something changed. Nothing is lost if the future is dropped before it is ready.
    ///
    /// # Errors
    /// Only if the socket itself fails; an overflow is reported as [`Change::EVERYTHING`].
    pub async fn changed(&mut self) -> Result<Change> {
        loop {
            let change = match self.due {
                None => self.next().await?,
                Some(due) => {
                    // The clock is asked too: under a constant stream of events `next` is always ready.
                    let next = if Instant::now() < due {
                        timeout_at(due, self.next()).await.ok()
                    } else {
                        None
                    };
                    let Some(change) = next else {
                        self.due = None;
                        return Ok(std::mem::take(&mut self.gathered));
                    };
                    change?
                }
            };
            self.gathered |= change;
            if change.any() && self.due.is_none() {
                self.due = Some(Instant::now() + self.settle);
            }
        }
    }

    /// One datagram's worth of change, possibly none.
    async fn next(&mut self) -> Result<Change> {
        let mut datagram = BytesMut::with_capacity(DATAGRAM);
        match self.socket.recv(&mut datagram).await {
            Ok(()) => Ok(self.neighbours.classify(&datagram)),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.neighbours = Neighbours::default();
                Ok(Change::EVERYTHING)
            }
            Err(error) => Err(NetError::io("cannot read network changes from netlink")(
                error,
            )),
        }
    }
}

/// Link addresses last reported, by device and address. The kernel announces every step of an
/// entry's life (reachable, stale, probe, reachable …); only those that change the link address
/// matter. Bounded as the kernel's own table is: what it forgets it announces, and goes here too.
#[derive(Default)]
struct Neighbours(HashMap<(u32, NeighbourKey), [u8; 6]>);

/// An address in the form that messages carry it, IPv4-mapped where it is IPv4.
type NeighbourKey = std::net::Ipv6Addr;

impl Neighbours {
    /// What the messages of one datagram say.
    fn classify(&mut self, mut datagram: &[u8]) -> Change {
        let mut change = Change::default();
        while let Some((length, kind)) = header(datagram) {
            let (message, rest) = datagram.split_at(length.min(datagram.len()));
            match kind {
                libc::RTM_NEWLINK | libc::RTM_DELLINK => change.links = true,
                libc::RTM_NEWADDR | libc::RTM_DELADDR => change.addresses = true,
                libc::RTM_NEWROUTE | libc::RTM_DELROUTE | libc::RTM_NEWRULE | libc::RTM_DELRULE => {
                    change.routes = true;
                }
                libc::RTM_NEWNEIGH | libc::RTM_DELNEIGH => {
                    change.neighbours |= self.differs(message)
                }
                // Next-hop objects (RTM_NEWNEXTHOP …), and whatever else the groups may bring.
                _ => change.routes = true,
            }
            // Messages are aligned to four bytes.
            datagram = rest
                .get(length.next_multiple_of(4) - length..)
                .unwrap_or_default();
        }
        change
    }

    /// Whether a neighbour message says something new, which is then remembered.
    fn differs(&mut self, message: &[u8]) -> bool {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) else {
            return true;
        };
        let (message, gone) = match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
                (message, false)
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(message)) => {
                (message, true)
            }
            _ => return true,
        };
        if !matches!(
            message.header.family,
            AddressFamily::Inet | AddressFamily::Inet6
        ) {
            return false; // a bridge's forwarding table
        }
        let address = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                    Some(address.to_ipv6_mapped())
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(*address),
                _ => None,
            });
        let Some(address) = address else { return true };
        let key = (message.header.ifindex, address);
        match neighbour::mac_of(&message).filter(|_| !gone) {
            Some(mac) => self.0.insert(key, mac) != Some(mac),
            None => self.0.remove(&key).is_some(),
        }
    }
}

/// Length and type of the first message, if there is a whole header.
fn header(datagram: &[u8]) -> Option<(usize, u16)> {
    let (length, kind) = (datagram.get(..4)?, datagram.get(4..6)?);
    let length = u32::from_ne_bytes(length.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(kind.try_into().ok()?);
    (length >= HEADER).then_some((length, kind))
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::NetlinkHeader;
    use rtnetlink::packet_route::link::LinkMessage;
    use rtnetlink::packet_route::neighbour::{NeighbourMessage, NeighbourState};

    use super::*;

    const NEIGHBOURS: Change = Change {
        links: false,
        addresses: false,
        routes: false,
        neighbours: true,
    };

    fn bytes(message: RouteNetlinkMessage) -> Vec<u8> {
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), message.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn neighbour(state: NeighbourState, mac: Option<u8>) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = 3;
        message.header.state = state;
        message
            .attributes
            .push(NeighbourAttribute::Destination(NeighbourAddress::Inet(
                [10, 77, 1, 2].into(),
            )));
        message.attributes.extend(
            mac.map(|last| NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, last])),
        );
        message
    }

    #[test]
    fn only_a_change_of_the_link_address_counts() {
        let mut known = Neighbours::default();
        let steps = [
            (NeighbourState::Incomplete, None, false),
            (NeighbourState::Reachable, Some(1), true),
            (NeighbourState::Stale, Some(1), false),
            (NeighbourState::Probe, Some(1), false),
            (NeighbourState::Reachable, Some(2), true),
            (NeighbourState::Failed, None, true),
            (NeighbourState::Incomplete, None, false),
            (NeighbourState::Failed, None, false),
            (NeighbourState::Reachable, Some(2), true),
        ];
        for (index, (state, mac, expected)) in steps.into_iter().enumerate() {
            let change = known.classify(&bytes(RouteNetlinkMessage::NewNeighbour(neighbour(
                state, mac,
            ))));
            assert_eq!(
                change,
                if expected {
                    NEIGHBOURS
                } else {
                    Change::default()
                },
                "step {index}: {state:?}"
            );
        }
        // The kernel's last word on an entry still carries the address that it had.
        let gone = bytes(RouteNetlinkMessage::DelNeighbour(neighbour(
            NeighbourState::Stale,
            Some(2),
        )));
        assert_eq!(known.classify(&gone), NEIGHBOURS);
        assert!(known.0.is_empty());
    }

    #[test]
    fn every_message_of_a_datagram_is_read() {
        let mut datagram = bytes(RouteNetlinkMessage::NewNeighbour(neighbour(
            NeighbourState::Reachable,
            Some(1),
        )));
        datagram.extend(bytes(RouteNetlinkMessage::NewLink(LinkMessage::default())));
        let change = Neighbours::default().classify(&datagram);
        assert_eq!(
            change,
            Change {
                links: true,
                ..NEIGHBOURS
            }
        );
    }

    #[test]
    fn a_torn_datagram_neither_hangs_nor_hides_a_change() {
        let whole = bytes(RouteNetlinkMessage::NewNeighbour(neighbour(
            NeighbourState::Reachable,
            Some(1),
        )));
        for cut in 0..whole.len() {
            let change = Neighbours::default().classify(&whole[..cut]);
            // From six bytes on the type is known.
            assert_eq!(change.neighbours, cut >= 6, "cut after {cut} bytes");
        }
    }
}
