//! The proxy: the data path for hosts where XDP can't run, and for listeners that want it. Each connection is
//! two sockets and a task here; the rules are the same, and kept by the same loop ([`crate::agent`]).
//!
//! ```text
//!  accept ──▶ silent ──▶ set-up: PROXY header, TLS, CONNECT ──▶ admitted? ──▶ choose, connect ──▶ relay
//!                │ time-out, oldest first                         │ no            │ none left
//!                ▼                                                ▼               ▼
//!               RST                                            CONNACK, FIN     CONNACK, FIN
//! ```
//! - [`listening`]: the sockets that accept; [`silent`]: who hasn't said who it is, oldest first
//! - [`set_up`]: from the first byte to a backend; [`header`]: PROXY headers that trusted balancers send
//! - [`refuse`]: CONNACKs that refuse
//! - [`tls`]: the handshake, and what it tells
//! - [`stream`]: a client's connection, TCP or TLS; [`relay`]: bytes both ways
//! - [`desk`]: what connections ask the loop

mod avoided;
pub mod desk;
mod header;
mod http;
mod listening;
mod refuse;
mod relay;
mod set_up;
mod silent;
mod stream;
mod tls;
mod ws;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::admin::Pages;
use crate::agent::limits::Shared as Rules;
use crate::config::{Kind, Prefix, ProxyProtocol, Sticky, Tls};
use crate::dataplane::Proxied;
use crate::setup::Settings;
use avoided::Avoided;
use desk::{Ask, Desk};
pub use listening::{Bound, Front, Vip};
use silent::Silent;
use tls::Server;

/// What connections have in common.
struct Common {
    settings: RwLock<Settings>,
    /// By the VIP's number.
    served: RwLock<HashMap<u8, Arc<Served>>>,
    rules: Rules,
    proxied: Arc<Proxied>,
    silent: Silent,
    desk: Desk,
    /// State of the rate of refusals.
    refusals: Mutex<u64>,
    connecting: AtomicUsize,
    avoided: Avoided,
    /// Once there are any.
    statistics: OnceLock<Pages>,
}

/// What is configured of a VIP.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub kind: Kind,
    /// The PROXY header that backends get.
    pub proxy_protocol: ProxyProtocol,
    /// `None`: clients don't encrypt.
    pub tls: Option<Tls>,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// What clients are known by.
    pub sticky: Sticky,
    /// Who must send one.
    pub trusted: Vec<Prefix>,
    /// Whose X-Forwarded-For is believed.
    pub edges: Vec<Prefix>,
    /// Source addresses towards backends; empty: the kernel's choice.
    pub sources: Vec<IpAddr>,
}

impl Options {
    /// Whether it is a request that tells who may be asking, and not the connection of `peer` that it comes by.
    fn asks_later(&self, peer: SocketAddr) -> bool {
        // Requests of HTTP needn't have anything to do with MQTT.
        self.kind.dashboard().is_some() || self.edges.iter().any(|edge| edge.holds(peer.ip()))
    }
}

/// What is configured of a VIP, and made of it.
#[derive(Debug)]
struct Served {
    options: Arc<Options>,
    tls: Option<Arc<Server>>,
}

impl Common {
    fn settings(&self) -> Settings {
        *self.settings.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn served(&self, vip: u8) -> Option<Arc<Served>> {
        let served = self.served.read().unwrap_or_else(PoisonError::into_inner);
        served.get(&vip).cloned()
    }
}

/// The proxy's side of the loop: what it is asked.
pub fn asks() -> (mpsc::Sender<Ask>, mpsc::Receiver<Ask>) {
    mpsc::channel(4096)
}
