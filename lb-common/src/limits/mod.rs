//! Limits: who may begin a connection, and how often.
//!
//! - [`rate`]: events a second, with one word of state
//! - [`credit`]: connections at a time, without a counter that could drift
//! - [`source`]: client addresses counted together
//! - [`client`]: CONNECTs of one client identifier
//! - [`repeat`]: the same segment handed to the agent again and again

pub mod client;
pub mod credit;
pub mod rate;
pub mod repeat;
pub mod source;
