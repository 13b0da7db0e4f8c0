//! The lab: network namespaces with clients, a balancer and brokers, for `cargo xtask run` and the
//! end-to-end tests.
//!
//! - [`lab`]: one lab, from creation to clean-up; [`topology`] lays its wires, [`plan`] says who has
//!   which address, [`registry`] keeps labs apart and removes dead ones, [`netns`], [`process`] and
//!   [`wire`] are what they are built from.
//! - [`cards`]: network cards in place of veth pairs at the balancer.
//! - [`broker`]: mosquitto, or a broker library ([`embedded`]) in a process of its own; [`sockets`]
//!   counts what is connected to one; [`stand_in`] is a backend that speaks no MQTT after the CONNECT.
//! - [`loopback`]: the same without namespaces and without root, with mqlb's proxy.
//! - [`balancer`]: [`mqlb`], or [`haproxy`] to compare with; [`http`] reads mqlb's status.
//! - [`recipe`]: HAProxy as docker-compose.yml runs it, in front of stand-ins for EMQX nodes ([`emqx`]);
//!   [`websocket`] is MQTT's other transport, [`dns`] a private network's name server, [`docker`] an engine
//!   of the test's own.
//! - [`machine`]: a system of its own with systemd, for the package; [`service`]: what stands in for one.
//! - [`talkers`]: clients that notice each message that is lost; [`other_build`]: an mqlb with other programs.
//! - [`flood`]: what attackers send, at full rate; [`pace`]: how slow the machine is.
//! - [`bench`]: mqlb measured beside others.
//! - [`fleet`]: many MQTT clients ([`client`]) at once, how long they take ([`latency`]) and whether they
//!   [`comeback`]; [`raw`] is one TCP connection, byte by byte.

pub mod balancer;
pub mod bench;
pub mod broker;
pub mod cards;
pub mod client;
pub mod comeback;
pub mod dns;
pub mod docker;
pub mod embedded;
pub mod emqx;
pub mod fleet;
pub mod flood;
pub mod haproxy;
pub mod http;
pub mod lab;
pub mod latency;
pub mod loopback;
pub mod machine;
pub mod mqlb;
pub mod netns;
pub mod other_build;
pub mod pace;
mod packet_socket;
pub mod plan;
pub mod process;
pub mod raw;
pub mod recipe;
pub mod registry;
pub mod service;
pub mod sockets;
pub mod stand_in;
pub mod talkers;
pub mod topology;
pub mod websocket;
pub mod wire;
mod xdp_pass;
