//! What the admin interface says, as types: the server writes them as JSON, the command line reads
//! them. Fields may be added; those that are here stay.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// `/api/v1/status`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the program, as in `mqlb --version`.
    pub version: String,
    /// `[agent] name`
    pub name: String,
    pub uptime_seconds: u64,
    pub ready: bool,
    /// Generic as soon as one interface is.
    pub mode: XdpMode,
    pub interfaces: Vec<InterfaceStatus>,
    pub listeners: Vec<ListenerStatus>,
    pub pools: Vec<PoolStatus>,
    pub steered: Steered,
    pub flows: FlowUsage,
    pub bindings: BindingUsage,
    pub setups: Setups,
    /// By verdict name; summed over CPUs.
    pub counters: BTreeMap<String, Counter>,
    /// First bytes that were refused, by reason.
    pub rejects: BTreeMap<String, u64>,
}

/// How a program is attached; off: none is, everybody goes through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    Native,
    Generic,
    Off,
}

/// One interface that the program is attached to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub name: String,
    pub mode: XdpMode,
    pub ifindex: u32,
}

/// One `[[listener]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    pub name: String,
    /// As in the configuration: `mqtt`, `ws` …
    pub kind: String,
    /// VIPs: address and port.
    pub bind: Vec<String>,
    pub pool: String,
    /// What serves it: `xdp` or `proxy`.
    pub datapath: String,
    /// As in the configuration: `snat` or `client`.
    pub source: String,
    /// As in the configuration: `off` or `v2`.
    pub proxy_protocol: String,
    /// What it shows its clients; none without TLS.
    #[serde(default)]
    pub certificates: Vec<CertificateStatus>,
}

/// A certificate of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    pub file: String,
    /// The names that it is for.
    pub names: Vec<String>,
    /// Until when clients accept it, in seconds since 1970.
    pub not_after_seconds: u64,
}

/// One `[pool.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStatus {
    pub name: String,
    pub policy: String,
    pub backends: Vec<BackendStatus>,
}

/// One `[[pool.NAME.backend]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStatus {
    pub name: String,
    /// Address and port, at most one of each family.
    pub address: Vec<String>,
    pub state: BackendState,
    /// What the last health checks that changed something said.
    #[serde(default)]
    pub reason: Option<String>,
    /// No longer in the configuration; shown until its last connection is over.
    #[serde(default)]
    pub removed: bool,
    /// As ordered, else as configured.
    pub weight: u32,
    /// Live flows.
    pub flows: u64,
    /// Connections begun to it since the agent started.
    pub assigned_total: u64,
    /// Attempts to connect that failed since the agent started.
    pub failures_total: u64,
}

/// Whether a backend takes clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    Up,
    Down,
    /// Keeps its clients, takes no new ones.
    Draining,
    /// Taken out by hand.
    Disabled,
}

/// Who chose the backend of how many connections since the data path was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steered {
    pub kernel: u64,
    pub agent: u64,
}

/// Live flows, and how many there can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowUsage {
    pub current: u64,
    pub capacity: u64,
}

/// Client identifiers that are bound to a backend, and how many can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingUsage {
    /// `None` where counting would cost too much.
    pub current_estimate: Option<u64>,
    pub capacity: u64,
}

/// Connections that the agent is setting up right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setups {
    /// The client identifier is not complete yet.
    pub sniffing: u64,
    /// A backend has been asked and has not answered yet.
    pub connecting: u64,
}

/// Packets that met one fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    pub packets: u64,
    /// Whole frames.
    pub bytes: u64,
}

/// `/api/v1/where`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// 16 hexadecimal digits; the key of the bindings map. The identifier itself is not kept.
    pub client_id_hash: String,
    /// `None`: bound to no backend.
    pub backend: Option<String>,
    pub pool: Option<String>,
    /// Since the client last connected or sent something.
    pub last_seen_seconds: Option<u64>,
    /// Whether a flow of this client is alive.
    pub connected: bool,
}

/// Which flows are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowFilter {
    /// Most flows returned, at least 1.
    pub limit: usize,
    /// Only those to backends of this name.
    pub backend: Option<String>,
}

impl FlowFilter {
    pub const DEFAULT_LIMIT: usize = 1000;
    pub const MAX_LIMIT: usize = 1_000_000;
}

/// `/api/v1/flows`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flows {
    pub flows: Vec<FlowRow>,
}

/// One client connection. "Up" is from the client to the backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    pub client: SocketAddr,
    pub vip: SocketAddr,
    /// The source that the backend sees; the client's own with `source = "client"`.
    pub snat: SocketAddr,
    pub backend: String,
    pub backend_address: SocketAddr,
    pub state: String,
    pub idle_seconds: u64,
    pub packets_up: u64,
    pub bytes_up: u64,
    pub packets_down: u64,
    pub bytes_down: u64,
    /// `None` for an empty client identifier.
    pub client_id_hash: Option<String>,
}

/// Any other answer under `/api/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: String,
}

impl XdpMode {
    pub fn as_str(self) -> &'static str {
        match self {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
            XdpMode::Off => "off",
        }
    }
}

impl BackendState {
    pub const ALL: [BackendState; 4] = [
        BackendState::Up,
        BackendState::Down,
        BackendState::Draining,
        BackendState::Disabled,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            BackendState::Up => "up",
            BackendState::Down => "down",
            BackendState::Draining => "draining",
            BackendState::Disabled => "disabled",
        }
    }
}
