//! What the agent needs of the kernel's networking: where a packet for a backend leaves the host and
//! what its Ethernet header says, what changes about that, and the few sockets beside the XDP path.
//!
//! Nothing here is global. A socket belongs to the network namespace of the thread that opens it
//! ([`netlink::open`], [`Watch::start`], [`PacketSocket::open`], [`probe`]) and stays there; files
//! under `/proc/sys/net` ([`ports`]) are those of the thread that reads them.

mod error;
mod hop;
mod link;
pub mod neighbour;
pub mod netlink;
mod packet;
pub mod ports;
mod probe;
mod route;
mod watch;

pub use error::{NetError, Result};
pub use hop::{Hop, hop_to};
pub use link::{Link, Vlan, by_index, by_name, links};
pub use packet::PacketSocket;
pub use probe::{PeerTcp, probe};
pub use route::{Route, route_to};
pub use watch::{Change, Watch};
