//! mqlb's user side.

pub mod config;
pub mod net;

/// The XDP programs as an ELF object, built by `build.rs`.
pub static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mqlb-xdp"));
