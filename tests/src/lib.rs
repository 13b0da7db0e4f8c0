//! The lab: network namespaces with clients, a balancer and brokers, for `cargo xtask run` and the
//! end-to-end tests.
//!
//! - [`lab`]: one lab, from creation to clean-up; [`topology`] lays its wires, [`plan`] says who has
//!   which address, [`registry`] keeps labs apart and removes dead ones, [`netns`], [`process`] and
//!   [`wire`] are what they are built from.
//! - [`broker`]: mosquitto, or a broker library ([`embedded`]) in a process of its own; [`sockets`]
//!   counts what is connected to one; [`stand_in`] is a backend that speaks no MQTT after the CONNECT.
//! - [`mqlb`] and [`haproxy`]: the balancers.
//! - [`fleet`]: many MQTT clients ([`client`]) at once; [`raw`] is one TCP connection, byte by byte.

pub mod broker;
pub mod client;
pub mod embedded;
pub mod fleet;
pub mod haproxy;
pub mod http;
pub mod lab;
pub mod latency;
pub mod mqlb;
pub mod netns;
pub mod plan;
pub mod process;
pub mod registry;
pub mod sockets;
pub mod topology;
