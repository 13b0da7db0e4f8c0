//! Link addresses of hosts and gateways on the local network (ARP, IPv6 neighbour discovery).
//!
//! The kernel does the asking; it is only told that the entry is in use. Entries are also marked
//! `NTF_EXT_MANAGED` (Linux 5.16), by which the kernel keeps them confirmed for ever: spliced packets
//! pass it by, so it would otherwise believe the neighbour unused and forget it. Older kernels
//! ignore the mark.

use std::net::IpAddr;
use std::time::Duration;

use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    NeighbourState,
};
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::time::Instant;

use futures_util::StreamExt;

use super::{NetError, Result, by_index, netlink};

/// Between two looks at the table while an answer is awaited. On a local network answers come
/// within a millisecond; later ones are not hurried.
const FIRST_LOOK: Duration = Duration::from_millis(2);
const LAST_LOOK: Duration = Duration::from_millis(50);

/// The link address of `ip` on device `ifindex`, confirmed now where the kernel doubts it.
///
/// A permanent or reachable entry answers at once. A doubted one (stale …) is probed, and still
/// answers with what is known if nobody has contradicted it when `timeout` ends, because the kernel
/// would use it too. From then on the kernel keeps the entry confirmed, until [`release`].
///
/// # Errors
/// [`NetError::NoNeighbour`] if nobody answers.
pub async fn resolve(
    handle: &Handle,
    ifindex: u32,
    ip: IpAddr,
    timeout: Duration,
) -> Result<[u8; 6]> {
    let deadline = Instant::now() + timeout;
    if let Some(entry) = get(handle, ifindex, ip).await? {
        if let (true, Some(mac)) = (entry.needs_no_care(), entry.mac) {
            return Ok(mac);
        }
        if entry.is_doubted() {
            // Without this the kernel would give a stale entry five seconds before it probes.
            let probe = message(
                ifindex,
                ip,
                NeighbourState::Probe,
                NeighbourFlags::empty(),
                None,
            );
            send(handle, ip, probe, 0).await?;
        }
    }
    // Not in one message with the probe: an update that says "in use" keeps the entry's state.
    let managed = Some(NeighbourExtFlags::Managed);
    let used = message(
        ifindex,
        ip,
        NeighbourState::None,
        NeighbourFlags::Use,
        managed,
    );
    send(handle, ip, used, NLM_F_CREATE).await?;

    let mut pause = FIRST_LOOK;
    loop {
        let entry = get(handle, ifindex, ip).await?;
        let (state, mac) = entry.map_or((NeighbourState::None, None), |entry| {
            (entry.state, entry.mac)
        });
        let over = Instant::now() >= deadline;
        match (state, mac) {
            (
                NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp,
                Some(mac),
            ) => {
                return Ok(mac);
            }
            (_, Some(mac)) if over => return Ok(mac),
            // The request above started a new round, so this is that round's result.
            (NeighbourState::Failed, _) => break,
            _ if over => break,
            _ => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_LOOK);
    }
    let device = by_index(handle, ifindex).await?.name;
    Err(NetError::NoNeighbour { ip, device })
}

/// Tells the kernel that it need no longer keep `ip` confirmed. No entry is no error.
pub async fn release(handle: &Handle, ifindex: u32, ip: IpAddr) -> Result<()> {
    match get(handle, ifindex, ip).await? {
        Some(entry) if entry.managed => {
            let used = message(ifindex, ip, NeighbourState::None, NeighbourFlags::Use, None);
            send(handle, ip, used, 0).await
        }
        _ => Ok(()),
    }
}

/// One row of the neighbour table.
struct Entry {
    state: NeighbourState,
    /// Known while the kernel would send with it; a failed entry has none.
    mac: Option<[u8; 6]>,
    managed: bool,
    /// Installed by a control plane (EVPN …), which also keeps it right.
    learned: bool,
}

impl Entry {
    /// Nothing to ask and nothing to mark. Marking would also turn a permanent entry into a common
    /// one, and take a learnt one from its owner.
    fn needs_no_care(&self) -> bool {
        match self.state {
            NeighbourState::Permanent | NeighbourState::Noarp => true,
            NeighbourState::Reachable => self.managed || self.learned,
            _ => self.learned,
        }
    }

    /// There is a link address, and the kernel is not sure of it.
    fn is_doubted(&self) -> bool {
        matches!(self.state, NeighbourState::Stale | NeighbourState::Delay)
    }
}

impl From<NeighbourMessage> for Entry {
    fn from(message: NeighbourMessage) -> Self {
        let managed = message.attributes.iter().any(|attribute| {
            matches!(attribute, NeighbourAttribute::ExtFlags(flags) if flags.contains(NeighbourExtFlags::Managed))
        });
        Self {
            state: message.header.state,
            mac: mac_of(&message),
            managed,
            learned: message.header.flags.contains(NeighbourFlags::ExtLearned),
        }
    }
}

/// The Ethernet address in a neighbour message, if it has one.
pub(super) fn mac_of(message: &NeighbourMessage) -> Option<[u8; 6]> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(address) => address.as_slice().try_into().ok(),
            _ => None,
        })
}

/// Reads one entry (RTM_GETNEIGH).
async fn get(handle: &Handle, ifindex: u32, ip: IpAddr) -> Result<Option<Entry>> {
    let what = || format!("cannot look up the neighbour {ip}");
    let wanted = message(
        ifindex,
        ip,
        NeighbourState::None,
        NeighbourFlags::empty(),
        None,
    );
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(wanted));
    request.header.flags = NLM_F_REQUEST;
    let answers = handle
        .clone()
        .request(request)
        .map_err(|source| NetError::Netlink {
            what: what(),
            source,
        })?;
    let answers = answers.map(|answer| match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) => {
            Ok(Entry::from(message))
        }
        NetlinkPayload::Error(error) => Err(rtnetlink::Error::NetlinkError(error)),
        payload => Err(rtnetlink::Error::UnexpectedMessage(NetlinkMessage::new(
            answer.header,
            payload,
        ))),
    });
    netlink::first(what, answers).await
}

/// Changes one entry (RTM_NEWNEIGH).
async fn send(handle: &Handle, ip: IpAddr, message: NeighbourMessage, flags: u16) -> Result<()> {
    let what = || format!("cannot ask for the link address of {ip}");
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let answers = handle
        .clone()
        .request(request)
        .map_err(|source| NetError::Netlink {
            what: what(),
            source,
        })?;
    let answers = answers.map(|answer| match answer.payload {
        NetlinkPayload::Error(error) => Err(rtnetlink::Error::NetlinkError(error)),
        _ => Ok(()),
    });
    // An acknowledgement is not handed on: silence is success.
    netlink::all(what, answers).await.map(drop)
}

fn message(
    ifindex: u32,
    ip: IpAddr,
    state: NeighbourState,
    flags: NeighbourFlags,
    ext_flags: Option<NeighbourExtFlags>,
) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    let (family, destination) = match ip {
        IpAddr::V4(ip) => (AddressFamily::Inet, NeighbourAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(ip)),
    };
    message.header.family = family;
    message.header.ifindex = ifindex;
    message.header.state = state;
    message.header.flags = flags;
    message.header.kind = RouteType::Unspec;
    message
        .attributes
        .push(NeighbourAttribute::Destination(destination));
    message
        .attributes
        .extend(ext_flags.map(NeighbourAttribute::ExtFlags));
    message
}
