//! The balancer in a lab: mqlb, or HAProxy to compare with.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use crate::haproxy::HaProxy;
use crate::lab::Lab;
use crate::mqlb::Mqlb;

/// Which balancer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    #[default]
    Mqlb,
    /// HAProxy, sticky by client identifier. It knows only SNAT.
    Haproxy,
}

/// What of a balancer's configuration differs between labs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The source address that brokers see: `snat` or `client`.
    pub source: &'static str,
    pub proxy_protocol: bool,
    /// `auto`, `native` or `generic`.
    pub mode: &'static str,
    /// One for each backend; missing ones are 1.
    pub weights: Vec<u16>,
    /// Most connections of each backend; missing ones have no limit.
    pub max_flows: Vec<u32>,
    /// The pool's TCP health check, on or off.
    pub health: bool,
    /// More keys of mqlb's `[xdp]`.
    pub xdp: String,
    /// More keys of mqlb's listener.
    pub listener: String,
    /// More keys of mqlb's pool; with `health` among them, that one counts.
    pub pool: String,
    /// Tables to add to `mqlb.toml`.
    pub extra: String,
    /// What mqlb sees in place of `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
    /// What mqlb is started by: a program and its first arguments.
    pub starter: Vec<String>,
    /// Where mqlb's program, configuration and state are, in place of the lab's directory.
    pub directory: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            source: "snat",
            proxy_protocol: false,
            mode: "auto",
            weights: Vec::new(),
            max_flows: Vec::new(),
            health: true,
            xdp: String::new(),
            listener: String::new(),
            pool: String::new(),
            extra: String::new(),
            resolv_conf: None,
            starter: Vec::new(),
            directory: None,
        }
    }
}

/// A running balancer. Dropping it stops it.
#[derive(Debug)]
pub enum Balancer {
    Mqlb(Mqlb),
    HaProxy(HaProxy),
}

impl Balancer {
    /// Starts a balancer and waits until it is ready.
    ///
    /// # Errors
    /// It is not installed or does not become ready.
    pub fn start(kind: Kind, lab: &Lab, options: &Options) -> Result<Self> {
        Ok(match kind {
            Kind::Mqlb => Self::Mqlb(Mqlb::start(lab, options)?),
            Kind::Haproxy => Self::HaProxy(HaProxy::start(lab, options)?),
        })
    }

    /// What only mqlb can do.
    pub fn mqlb(&self) -> Option<&Mqlb> {
        match self {
            Self::Mqlb(mqlb) => Some(mqlb),
            Self::HaProxy(_) => None,
        }
    }
}
