//! From a client's first data to the splice: what the agent and the XDP program do alike when they
//! connect a client to a backend.
//!
//! - [`syn`]: the SYN that mirrors the client's
//! - [`ack`]: our ACK of its SYN-ACK, with or without the CONNECT
//! - [`numbers`]: what the recipes add, once the backend has answered

pub mod ack;
pub mod numbers;
pub mod syn;

pub use ack::Ack;
pub use numbers::{Numbers, may_splice};
pub use syn::Syn;
