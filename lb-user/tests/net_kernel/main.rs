//! `mqlb::net` against the kernel, in network namespaces that each test makes for itself.
//!
//! They need root. Without it they say so and pass; as root they all run.

mod hop;
mod namespace;
mod packet;
mod ports;
mod probe;
mod watch;
