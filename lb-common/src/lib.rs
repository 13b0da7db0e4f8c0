#![cfg_attr(not(test), no_std)]
//! What the kernel side and the user side of mqlb share: the layouts of the maps, and the pure
//! packet logic. Everything here compiles unchanged into the XDP program and into user space, where
//! it is unit-tested, property-tested and fuzzed. Nothing allocates, nothing panics.
//!
//! - [`layout`]: keys and values of the maps, records of the ring buffer
//! - [`wire`]: Ethernet, IP and TCP headers, and a packet parsed from a slice
//! - [`checksum`], [`siphash`]: the arithmetic
//! - [`cookie`], [`handshake`]: SYN to SYN-ACK without state
//! - [`opening`]: from a client's first data to the splice: the SYN, the numbers of the recipes
//! - [`rewrite`], [`window`]: the splice
//! - [`limits`]: rates, connections at a time, repetitions
//! - [`mqtt`], [`websocket`]: what clients say first, and in which frames
//! - [`tls`]: the name that a TLS client asks for
//! - [`reset`]: any segment turned into the RST that answers it

pub mod checksum;
pub mod cookie;
pub mod handshake;
pub mod layout;
pub mod limits;
pub mod mqtt;
pub mod opening;
pub mod options;
pub mod proxy_v2;
pub mod reset;
pub mod rewrite;
pub mod siphash;
pub mod tls;
pub mod websocket;
pub mod window;
pub mod wire;
