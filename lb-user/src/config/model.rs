//! The configuration as the rest of the agent sees it: valid, with defaults filled in, names resolved.
//!
//! A [`Config`] is only made by [`super::parse`] and [`super::load`], so whoever holds one need not check it
//! again: names are unique, every listener's pool exists, every listener's address family has a
//! backend, addresses and ports are usable.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::routes::Routes;
use super::tls::Tls;

/// A whole configuration file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub admin: Admin,
    pub agent: Agent,
    pub xdp: Xdp,
    pub snat: Snat,
    pub bindings: Bindings,
    pub timeouts: Timeouts,
    pub limits: Limits,
    pub listeners: Vec<Listener>,
    /// In the file's order; a [`PoolId`] is an index into this.
    pub pools: Vec<Pool>,
}

impl Config {
    /// The pool that `id` names.
    pub fn pool(&self, id: PoolId) -> &Pool {
        &self.pools[id.0]
    }

    /// Whether clients of a listener may go to the pool with this index.
    pub fn leads(&self, listener: &Listener, pool: usize) -> bool {
        let by_name = |routes: &Routes| routes.0.iter().any(|(_, p)| *p == self.pools[pool].name);
        listener.pool.0 == pool
            || matches!(&listener.kind, Kind::TlsPassthrough(routes) if by_name(routes))
    }

    /// What doesn't keep the agent from running, but clients from being served.
    pub fn warnings(&self) -> Vec<String> {
        let now = std::time::SystemTime::now();
        let of = |listener: &Listener| {
            let complaints = listener.tls.iter().flat_map(|tls| tls.complaints(now));
            complaints
                .map(|c| format!("listener {}: {c}", listener.name))
                .collect::<Vec<_>>()
        };
        let waiting = |pool: &Pool| {
            let of = |what: &String| format!("pool {}: {what}; it is asked again", pool.name);
            pool.waiting.iter().map(of).collect::<Vec<_>>()
        };
        let certificates = self.listeners.iter().flat_map(of);
        certificates
            .chain(self.pools.iter().flat_map(waiting))
            .collect()
    }

    /// Says which data path serves the listeners that take either, once it is known whether XDP runs.
    pub fn settle(&mut self, xdp: bool) {
        for listener in &mut self.listeners {
            if listener.datapath == Datapath::Auto {
                listener.datapath = match listener.only() {
                    Some(only) => only,
                    None if xdp => Datapath::Xdp,
                    None => Datapath::Proxy,
                };
            }
        }
    }
}

/// `[admin]`: where the HTTP interface listens.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    pub http: SocketAddr,
    /// Asked for at `/stats`, together with [`Admin::STATS_USER`]; `None`: nobody is asked.
    pub stats_password: Option<String>,
}

impl Admin {
    /// Who may see the statistics.
    pub const STATS_USER: &str = "stats";
}

/// `[agent]`: what tells two agents on one host apart, and where they keep things.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    pub name: String,
    /// Directory on a BPF file system that maps and links are pinned under.
    pub pin_dir: PathBuf,
    /// Directory for what must survive a restart but is no map.
    pub state_dir: PathBuf,
}

/// `[xdp]`: where the programs are attached, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Xdp {
    /// Names of network interfaces, at least one if a listener uses [`Datapath::Xdp`].
    pub interfaces: Vec<String>,
    pub mode: Mode,
    /// Most client connections at a time; each takes two entries of the flow map.
    pub max_flows: u32,
    pub set_up: SetUp,
}

/// Whose connections the XDP program sets up by itself, where it can; the agent those of all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetUp {
    /// Those of clients that are bound to a backend, and of new ones where backends take turns.
    All,
    /// Those of clients that are bound to a backend.
    Known,
    /// Nobody's.
    None,
}

impl SetUp {
    /// As written in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Known => "known",
            Self::None => "none",
        }
    }
}

/// How an XDP program is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Native, or with a warning generic where the driver cannot.
    Auto,
    Native,
    Generic,
}

/// `[snat]`: the source of connections to the backends, for listeners with [`Source::Snat`].
#[derive(Clone, Debug, PartialEq)]
pub struct Snat {
    /// Empty: the preferred source address of the route to each backend. Otherwise it holds an
    /// address of every family that a listener with [`Source::Snat`] has.
    pub addresses: Vec<IpAddr>,
    pub ports: RangeInclusive<u16>,
}

/// `[bindings]`: which client identifier belongs to which backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Bindings {
    /// Most identifiers remembered; the least recently used goes first.
    pub capacity: u32,
    /// How long an identifier is remembered after its client left.
    pub linger: Duration,
}

/// `[timeouts]`
#[derive(Clone, Debug, PartialEq)]
pub struct Timeouts {
    /// From the client's first data to a whole client identifier.
    pub sniff: Duration,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For one attempt to connect to one backend, retransmitted SYNs included.
    pub connect: Duration,
    /// Added to 1.5 × the keep-alive of a CONNECT before an idle flow is ended.
    pub grace: Duration,
    /// Shorter keep-alives count as this, for brokers that set their own (MQTT 5).
    pub keepalive_least: Duration,
    /// Idle limit of flows whose CONNECT has keep-alive 0, that is: no keep-alive.
    pub keepalive_zero: Duration,
    /// How long a flow's entries stay after both sides closed (TIME_WAIT).
    pub closed: Duration,
    /// Longest time from one question about a DNS name to the next.
    pub dns: Duration,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Longest client identifier accepted, in bytes.
    pub client_id: usize,
    /// Most bytes of a CONNECT read while looking for its client identifier.
    pub sniff_bytes: usize,
    /// RSTs sent a second for packets that belong to no flow.
    pub rst_rate: u32,
    /// CONNACKs sent a second that refuse a client.
    pub refusal_rate: u32,
    /// Sources whose packets are dropped.
    pub blocked_sources: Vec<Prefix>,
    /// Client identifiers that are refused.
    pub blocked_clients: Vec<String>,
}

/// An address prefix, host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    pub address: IpAddr,
    /// Length in bits of the address's own family: up to 32 or 128.
    pub length: u8,
}

impl Prefix {
    /// Whether an address, as a socket has it, lies within.
    pub fn holds(&self, address: IpAddr) -> bool {
        let same = address.is_ipv4() == self.address.is_ipv4();
        let masked = Self {
            address,
            length: self.length,
        }
        .masked();
        same && masked.address == self.address
    }

    /// The prefix that holds the address: with the bits behind its length 0.
    pub fn masked(self) -> Self {
        let host = |bits: u32| bits.saturating_sub(u32::from(self.length));
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(host(32)).unwrap_or(0);
                IpAddr::from((u32::from(v4) & mask).to_be_bytes())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(host(128)).unwrap_or(0);
                IpAddr::from((u128::from(v6) & mask).to_be_bytes())
            }
        };
        Self { address, ..self }
    }
}

/// Events a second on average, and how many may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub per_second: u32,
    /// At least 1.
    pub burst: u32,
}

/// What one source prefix may do to a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceLimits {
    /// Addresses with this many equal leading bits are one source.
    pub v4_prefix: u8,
    /// The same for IPv6.
    pub v6_prefix: u8,
    /// Connections at a time; `None`: no limit.
    pub max_flows: Option<u32>,
    /// CONNECTs; `None`: no limit.
    pub connects: Option<Rate>,
}

impl SourceLimits {
    /// No limit.
    pub const NONE: Self = Self {
        v4_prefix: 32,
        v6_prefix: 64,
        max_flows: None,
        connects: None,
    };
}

/// `[[listener]]`: VIPs that clients connect to.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: String,
    pub kind: Kind,
    /// At least one; no VIP occurs twice in a [`Config`]. 0.0.0.0 and [::] only with [`Datapath::Proxy`].
    pub bind: Vec<SocketAddr>,
    pub pool: PoolId,
    pub datapath: Datapath,
    pub source: Source,
    pub proxy_protocol: ProxyProtocol,
    /// `None`: what clients send is not encrypted, or not to us. Not with [`Datapath::Xdp`].
    pub tls: Option<Tls>,
    pub sticky: Sticky,
    /// Balancers in front of this one, which must send a PROXY protocol header first. Not with
    /// [`Datapath::Xdp`].
    pub trusted_proxies: Vec<Prefix>,
    /// Balancers in front of this one that speak HTTP, and whose X-Forwarded-For is believed. Only with
    /// [`Kind::Ws`] and [`Kind::Http`].
    pub trusted_edges: Vec<Prefix>,
    /// Most connections at a time; `None`: no limit of its own.
    pub max_flows: Option<u32>,
}

/// What clients speak to a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Mqtt,
    /// MQTT over WebSocket.
    Ws(WebSocket),
    /// HTTP: WebSocket as above, the statistics, and the backends' dashboards.
    Http {
        websocket: WebSocket,
        /// Port of the dashboards, on the backends' addresses.
        dashboard: u16,
    },
    /// TLS that the backends end. Clients whose server has no route go to the listener's own pool.
    TlsPassthrough(Routes),
}

/// MQTT over WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocket {
    /// Of the URL; begins with `/`.
    pub path: String,
    /// The backends' port for it, on their addresses.
    pub port: u16,
}

impl Kind {
    /// As written in the file.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Ws(_) => "ws",
            Self::Http { .. } => "http",
            Self::TlsPassthrough(_) => "tls-passthrough",
        }
    }

    /// Whether XDP can read what is needed of it.
    pub fn suits_xdp(&self) -> bool {
        matches!(self, Self::Mqtt | Self::TlsPassthrough(_))
    }

    /// Where WebSockets are to be had, if at all.
    pub fn websocket(&self) -> Option<&WebSocket> {
        match self {
            Self::Mqtt | Self::TlsPassthrough(_) => None,
            Self::Ws(websocket) | Self::Http { websocket, .. } => Some(websocket),
        }
    }

    /// Port of the backends' dashboards, if they are to be had.
    pub fn dashboard(&self) -> Option<u16> {
        match self {
            Self::Http { dashboard, .. } => Some(*dashboard),
            Self::Mqtt | Self::Ws(_) | Self::TlsPassthrough(_) => None,
        }
    }
}

impl Listener {
    /// The one data path that can do what the listener wants; `None`: either can.
    pub fn only(&self) -> Option<Datapath> {
        match self {
            Self {
                datapath: given @ (Datapath::Xdp | Datapath::Proxy),
                ..
            } => Some(*given),
            Self { kind, .. } if !kind.suits_xdp() => Some(Datapath::Proxy),
            Self { tls: Some(_), .. } => Some(Datapath::Proxy),
            Self {
                trusted_proxies, ..
            } if !trusted_proxies.is_empty() => Some(Datapath::Proxy),
            Self { source, .. } if *source == Source::Client => Some(Datapath::Xdp),
            Self { .. } => None,
        }
    }
}

/// Which of the two data paths serves a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datapath {
    /// [`Datapath::Xdp`] where it runs, else [`Datapath::Proxy`]; [`Config::settle`] says which.
    Auto,
    Xdp,
    Proxy,
}

/// The PROXY protocol header in front of the client's CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    Off,
    V2,
    /// With what the handshake told, the common name of the client's certificate excepted. Only with [`Tls`].
    V2Ssl,
    /// With the common name, too.
    V2SslCn,
}

/// What a client is known by when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sticky {
    /// The identifier in its CONNECT.
    ClientId,
    /// The common name of its certificate, if it has one. Only with [`Tls`].
    Cn,
}

/// The source address that backends see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An address and port of the balancer, from [`Snat`].
    Snat,
    /// The client's own; backends route back through the balancer.
    Client,
}

/// Index of a pool in [`Config::pools`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub usize);

/// `[pool.NAME]`: backends of which any may serve a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub name: String,
    pub policy: Policy,
    /// `None`: no active checks.
    pub health: Option<Health>,
    /// How long a backend that comes back takes to get its full share; zero: at once.
    pub slow_start: Duration,
    /// Connections a second that are ended when their backend goes down; `None`: all at once.
    pub reset_rate: Option<u32>,
    pub sources: SourceLimits,
    /// CONNECTs with one client identifier; `None`: no limit.
    pub client_connects: Option<Rate>,
    pub unresolved: Unresolved,
    /// At least one, at least one with a weight above 0, names and addresses unique in the pool; but see
    /// [`Pool::waiting`].
    pub backends: Vec<Backend>,
    /// What is not among [`Pool::backends`] yet, or with one family only, because a name stands for no
    /// address: the backend, and why. Only with [`Unresolved::Wait`].
    pub waiting: Vec<String>,
}

/// What a name that can't be resolved is, at the start and at a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// A mistake in the file.
    Error,
    /// A backend that is still to come.
    Wait,
}

impl Unresolved {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Wait => "wait",
        }
    }
}

/// How a pool chooses a backend for a client that is bound to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Smooth weighted round robin.
    RoundRobin,
    /// Fewest live connections in proportion to the weight.
    LeastConnections,
    /// Weighted rendezvous hashing of the client identifier with bounded load.
    Consistent {
        /// Most connections of a backend, in percent of its fair share; more than 100.
        max_load: u32,
    },
}

/// `health = { … }`: how a pool's backends are checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    pub check: Check,
    /// From the start of one check to the start of the next.
    pub interval: Duration,
    /// For one check as a whole; at most `interval`.
    pub timeout: Duration,
    /// Successful checks in a row that bring a backend up, at least 1.
    pub rise: u32,
    /// Failed checks in a row that take a backend down, at least 1.
    pub fall: u32,
    /// The interval varies by up to this many percent, so that checks spread.
    pub jitter: u32,
}

/// What one health check does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// `GET path`; 200 is up. `GET availability` too, if set: 503 means that the node is being
    /// evacuated, 404 that it knows no such thing.
    Http {
        port: u16,
        path: String,
        availability: Option<String>,
    },
    /// A TCP connection; `None`: to the backend's own port.
    Tcp { port: Option<u16> },
    /// An MQTT CONNECT; `None`: to the backend's own port.
    Mqtt { port: Option<u16> },
}

/// `[[pool.NAME.backend]]`: one broker node.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub name: String,
    /// One or two, at most one of each address family.
    pub addresses: Vec<BackendAddress>,
    /// 0: takes no new clients, only those bound to it.
    pub weight: u16,
    /// Most connections at a time; `None`: no limit.
    pub max_flows: Option<u32>,
}

impl Backend {
    /// The address for clients that connect over IPv4.
    pub fn ipv4(&self) -> Option<SocketAddr> {
        self.addresses
            .iter()
            .map(|address| address.socket)
            .find(SocketAddr::is_ipv4)
    }

    /// The address for clients that connect over IPv6.
    pub fn ipv6(&self) -> Option<SocketAddr> {
        self.addresses
            .iter()
            .map(|address| address.socket)
            .find(SocketAddr::is_ipv6)
    }
}

/// Where a backend listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendAddress {
    pub socket: SocketAddr,
    /// The DNS name that `socket` was resolved from, if the file has one.
    pub host: Option<String>,
}

impl Mode {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Auto => "auto",
            Mode::Native => "native",
            Mode::Generic => "generic",
        }
    }
}

impl Datapath {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Datapath::Auto => "auto",
            Datapath::Xdp => "xdp",
            Datapath::Proxy => "proxy",
        }
    }
}

impl ProxyProtocol {
    /// Whether there is a header at all.
    pub fn is_sent(self) -> bool {
        self != Self::Off
    }

    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::V2 => "v2",
            Self::V2Ssl => "v2-ssl",
            Self::V2SslCn => "v2-ssl-cn",
        }
    }
}

impl Sticky {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientId => "client-id",
            Self::Cn => "cn",
        }
    }
}

impl Source {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Snat => "snat",
            Source::Client => "client",
        }
    }
}

impl Policy {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::RoundRobin => "round-robin",
            Policy::LeastConnections => "least-connections",
            Policy::Consistent { .. } => "consistent",
        }
    }
}
