//! The lab: network namespaces with clients, a balancer and brokers, for `cargo xtask run` and the
//! end-to-end tests.
//!
//! - [`lab`]: one lab, from creation to clean-up; [`topology`] lays its wires, [`plan`] says who has
//!   which address, [`registry`] keeps labs apart and removes dead ones, [`netns`], [`process`] and
//!   [`wire`] are what they are built from.
//! - [`broker`]: mosquitto, or a broker library ([`embedded`]) in a process of its own; [`sockets`]
//!   counts what is connected to one; [`stand_in`] is a backend that speaks no MQTT after the CONNECT.
//! - [`balancer`]: [`mqlb`], or [`haproxy`] to compare with; [`http`] reads mqlb's status.
//! - [`flood`]: what attackers send, at full rate.
//! - [`fleet`]: many MQTT clients ([`client`]) at once and how long they take ([`latency`]); [`raw`] is
//!   one TCP connection, byte by byte.

pub mod balancer;
pub mod broker;
pub mod client;
pub mod embedded;
pub mod fleet;
pub mod flood;
pub mod haproxy;
pub mod http;
pub mod lab;
pub mod latency;
pub mod mqlb;
pub mod netns;
mod packet_socket;
pub mod plan;
pub mod process;
pub mod raw;
pub mod registry;
pub mod sockets;
pub mod stand_in;
pub mod topology;
pub mod wire;
mod xdp_pass;
