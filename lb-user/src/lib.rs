//! mqlb's user side.

pub mod admin;
pub mod cli;
pub mod config;
pub mod net;
pub mod select;
pub mod setup;

/// The XDP programs as an ELF object, built by `build.rs`.
pub static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mqlb-xdp"));
