//! Ethernet, IP and TCP as they stand on the wire.
//!
//! The header structs have byte arrays only (network order, alignment 1), so any three of them can
//! be laid over packet bytes. [`Packet`] is a whole frame parsed once from a slice, for user space;
//! the XDP program does the same over packet pointers.

mod emit;
mod eth;
mod icmp;
mod ip;
mod packet;
mod tcp;

pub use emit::{Emit, SynOptions, emit};
pub use eth::{ETH_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, VLAN_LEN, is_vlan, payload};
pub use icmp::TooBig;
pub use ip::{
    IPV4_LEN, IPV6_LEN, Ipv4, Ipv6, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, is_v6_extension,
};
pub use packet::{Packet, ParseError};
pub use tcp::{TCP_LEN, TCP_MAX, Tcp, flag};
