//! mqlb's user side: the agent that sets connections up and keeps the data path, and the command line.
//!
//! - [`config`]: the configuration file, [`dns`]: the names in it; [`cli`]: the commands; [`admin`]: the HTTP interface
//! - [`agent`]: the running agent, made of
//!   [`setup`] (connection set-up for XDP, without I/O), [`proxy`] (the other data path), [`select`] (the choice of a backend),
//!   [`health`] (checks of the backends), [`dataplane`] (programs and maps) and [`net`] (links, routes,
//!   neighbours, raw frames)

pub mod admin;
pub mod agent;
pub mod cli;
pub mod config;
pub mod dataplane;
pub mod dns;
pub mod health;
pub mod net;
pub mod proxy;
pub mod select;
pub mod setup;

/// The XDP programs as an ELF object, built by `build.rs`.
pub static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mqlb-xdp"));
