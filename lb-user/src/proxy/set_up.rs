//! From a client's first byte to a backend that has its CONNECT.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use lb_common::layout::Verdict;
use lb_common::mqtt::{self, Protocol, Refused, Sniff};
use lb_common::tls;
use tokio::net::{TcpSocket, TcpStream};

use super::desk::{Ask, Client, Excess};
use super::listening::{canonical, mapped};
use super::refuse::refuse;
use super::silent::Place;
use super::stream::{Stream, read_more, reset};
use super::tls::Session;
use super::{Common, Options, header, http};
use crate::config::{Kind, Sticky};
use crate::dataplane::{From, Opened, Registered};
use crate::select::shared_hash;
use crate::setup::{Failure, NoChoice, Settings, hello, verdict};

/// A connection that is ready to be relayed.
pub(super) struct Open {
    pub client: Stream,
    pub backend: TcpStream,
    /// What the backend has to get first.
    pub first: Vec<u8>,
    /// And the client.
    pub back: Vec<u8>,
    pub registered: Registered,
}

/// Where a connection came in, and how.
#[derive(Clone, Debug)]
pub(super) struct Arrived {
    /// Number of the VIP.
    pub vip: u8,
    /// Who connected to us, and where.
    pub here: (SocketAddr, SocketAddr),
    /// The client's and the VIP's address, perhaps as a trusted balancer says.
    pub addresses: (SocketAddr, SocketAddr),
    /// What a TLS handshake told.
    pub session: Option<Arc<Session>>,
    /// What the client is known by, if it isn't its identifier.
    pub known_by: Option<Arc<str>>,
}

/// A CONNECT, read.
pub(super) struct Read {
    pub client: Client,
    pub protocol: Protocol,
    pub keep_alive: u16,
    /// The server that it asks for, where TLS is passed through.
    pub server: Option<Arc<str>>,
    /// From the CONNECT on.
    pub bytes: Vec<u8>,
}

/// Counts itself while it lives.
pub(super) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    pub fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Relaxed);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// `None`: the client was not served, and knows.
pub(super) async fn set_up(
    common: Arc<Common>,
    tcp: TcpStream,
    peer: SocketAddr,
    vip: u8,
    place: Place,
) -> Option<Open> {
    let (settings, served) = (common.settings(), common.served(vip)?);
    let options = served.options.clone();
    // Small packets, and each of them matters.
    let _ = tcp.set_nodelay(true);
    let limit = Duration::from_nanos(settings.sniff_timeout);
    let arrival = arrival(&common, &options, &tcp, peer, vip);
    let arrival = tokio::time::timeout(limit, arrival).await;
    let mut arrived = match arrival.unwrap_or(Err(Verdict::SniffTimeout)) {
        Ok(arrived) => arrived,
        Err(verdict) => {
            common.desk.count(verdict, 0).await;
            reset(&tcp);
            return None;
        }
    };
    let mut stream = match &served.tls {
        None => Stream::Plain(tcp),
        Some(server) => match server.handshake(tcp, options.handshake).await {
            Ok((stream, session)) => {
                let by_name = options.sticky == Sticky::Cn;
                let name = session.common_name.as_deref().filter(|_| by_name);
                arrived.known_by = name.map(Arc::from);
                arrived.session = Some(Arc::new(session));
                stream
            }
            Err(verdict) => {
                common.desk.count(verdict, 0).await;
                return None;
            }
        },
    };
    if options.kind.websocket().is_some() {
        return http::serve(common, options, stream, arrived, place).await;
    }
    let passed = matches!(options.kind, Kind::TlsPassthrough(_));
    let read = read(&settings, &mut stream, &arrived, passed);
    let read = tokio::time::timeout(limit, read).await;
    drop(place);
    let read = match read.unwrap_or(Err(Verdict::SniffTimeout)) {
        Ok(read) => read,
        Err(verdict) => {
            common.desk.count(verdict, 0).await;
            stream.reset();
            return None;
        }
    };
    match common.desk.admit(read.client).await? {
        Ok(()) => {}
        Err(denied) => {
            turn_away(&common, stream, &read, passed, denied.verdict()).await;
            return None;
        }
    }
    let _connecting = Counted::new(&common.connecting);
    let plain = Plain {
        options: &options,
        port: arrived.addresses.0.port(),
    };
    let (backend, slot) = match connect(&common, &settings, &read, None, &plain).await? {
        Ok(found) => found,
        Err(why) => {
            turn_away(&common, stream, &read, passed, why).await;
            return None;
        }
    };
    let registered = opened(&common, &arrived, &read, &backend, slot).await?;
    let mut first = proxy_header(&options, &arrived);
    first.extend_from_slice(&read.bytes);
    Some(Open {
        client: stream,
        backend,
        first,
        back: Vec::new(),
        registered,
    })
}

/// Refuses a client, in MQTT's terms unless its TLS is `passed` through.
async fn turn_away(common: &Common, stream: Stream, read: &Read, passed: bool, no: No) {
    if passed {
        common.desk.count(no.0, 0).await;
        stream.reset();
    } else {
        refuse(common, stream, read.protocol, no).await;
    }
}

/// What is sent to a backend before anything else.
pub(super) fn proxy_header(options: &Options, arrived: &Arrived) -> Vec<u8> {
    let session = arrived.session.as_deref();
    header::write(options.proxy_protocol, arrived.addresses, session)
}

/// Notes that a client is connected to the backend in a slot; `None`: that has gone already.
pub(super) async fn opened(
    common: &Common,
    arrived: &Arrived,
    read: &Read,
    backend: &TcpStream,
    slot: u16,
) -> Option<Registered> {
    let backend = (backend.local_addr().ok()?, backend.peer_addr().ok()?);
    common.desk.tell(Ask::Opened(read.client, slot)).await;
    let registered = common.proxied.register(&Opened {
        // Who counts and blocks clients must see the real one.
        client: arrived.addresses,
        told: arrived.addresses != arrived.here,
        backend,
        slot,
        listener: arrived.vip,
        id: read.client.id,
        idle_limit: common.settings().idle.limit(read.keep_alive),
    });
    registered.live().read(From::Client, read.bytes.len());
    Some(registered)
}

/// The addresses of the client and of the VIP, perhaps as a trusted balancer says, of a client that may begin a
/// connection.
async fn arrival(
    common: &Common,
    options: &Options,
    tcp: &TcpStream,
    peer: SocketAddr,
    vip: u8,
) -> Result<Arrived, Verdict> {
    let gone = |_: io::Error| Verdict::ClosedEarly;
    let here = (peer, canonical(tcp.local_addr().map_err(gone)?));
    let mut addresses = here;
    if options.trusted.iter().any(|p| p.holds(peer.ip())) {
        addresses = header::take(tcp).await?.unwrap_or(addresses);
        if common.rules.get().sources.hold(&mapped(addresses.0.ip())) {
            return Err(Verdict::SourceBlocked);
        }
    }
    if !options.asks_later(addresses.0) && limits_sources(common, vip) {
        if !matches!(tcp.peek(&mut [0]).await, Ok(1)) {
            return Err(Verdict::ClosedEarly);
        }
        source(common, vip, addresses.0).await?;
    }
    Ok(Arrived {
        vip,
        here,
        addresses,
        session: None,
        known_by: None,
    })
}

/// Reads as far as the client identifier; where TLS is `passed` through, to the server's name.
async fn read(
    settings: &Settings,
    stream: &mut Stream,
    arrived: &Arrived,
    passed: bool,
) -> Result<Read, Verdict> {
    let mut bytes = Vec::new();
    loop {
        match read_more(stream, &mut bytes, settings.sniff_bytes).await {
            Ok(0) | Err(_) => return Err(Verdict::ClosedEarly),
            Ok(_) => {}
        }
        let read = if passed {
            Read::of_hello(settings, arrived, &bytes)?
        } else {
            Read::of_connect(settings, arrived, &bytes)?
        };
        match read {
            Some(read) => return Ok(Read { bytes, ..read }),
            None if bytes.len() >= settings.sniff_bytes => {
                return Err(Verdict::RejectOversizedPacket);
            }
            None => {}
        }
    }
}

impl Read {
    /// What a CONNECT says, without its bytes.
    pub fn new(settings: &Settings, arrived: &Arrived, connect: &mqtt::Connect<'_>) -> Self {
        let known_by = arrived.known_by.as_deref();
        let name = known_by.map_or(connect.client_id, str::as_bytes);
        Self {
            client: Client {
                listener: arrived.vip,
                v4: arrived.addresses.1.is_ipv4(),
                id: settings.client_hash(name),
                shared: shared_hash(name),
            },
            protocol: connect.protocol,
            keep_alive: connect.keep_alive,
            server: None,
            bytes: Vec::new(),
        }
    }

    /// What a client's first bytes say, without them; `None`: more has to come.
    fn of_connect(
        settings: &Settings,
        arrived: &Arrived,
        bytes: &[u8],
    ) -> Result<Option<Self>, Verdict> {
        match mqtt::sniff_within(bytes, &settings.mqtt) {
            Err(reject) => Err(verdict(reject)),
            Ok(Sniff::Incomplete) => Ok(None),
            Ok(Sniff::Connect(connect)) => Ok(Some(Self::new(settings, arrived, &connect))),
        }
    }

    /// The same of a ClientHello.
    fn of_hello(
        settings: &Settings,
        arrived: &Arrived,
        bytes: &[u8],
    ) -> Result<Option<Self>, Verdict> {
        let server = match tls::sniff(bytes) {
            Err(reject) => return Err(hello::verdict(reject)),
            Ok(tls::Sniff::Incomplete) => return Ok(None),
            Ok(tls::Sniff::Hello(server)) => server,
        };
        let (client, vip) = arrived.addresses;
        let name = hello::known_by(&mapped(client.ip()), server.as_ref());
        Ok(Some(Self {
            client: Client {
                listener: arrived.vip,
                v4: vip.is_ipv4(),
                id: settings.client_hash(&name),
                shared: shared_hash(&name),
            },
            // Nobody hears it.
            protocol: Protocol::V311,
            // TLS doesn't say.
            keep_alive: 0,
            server: server.map(|name| Arc::from(name.as_str())),
            bytes: Vec::new(),
        }))
    }
}

/// Whether sources of a VIP's clients are limited.
pub(super) fn limits_sources(common: &Common, vip: u8) -> bool {
    let rules = common.rules.get();
    let limits = rules.listeners.get(usize::from(vip));
    limits.is_some_and(|l| l.source_flows != 0 || l.source_pace.interval != 0)
}

/// Whether the source, which has sent something, may begin a connection.
pub(super) async fn source(common: &Common, vip: u8, client: SocketAddr) -> Result<(), Verdict> {
    match common.desk.source(vip, client.ip()).await {
        Some(Ok(())) => Ok(()),
        Some(Err(Excess::TooOften)) => Err(Verdict::SourceRate),
        Some(Err(Excess::TooMany)) => Err(Verdict::SourceFull),
        None => Err(Verdict::ClosedEarly),
    }
}

/// A refusal: how it is counted, and what the client hears.
pub(super) type No = (Verdict, Refused);

/// Why a backend could not be connected to.
#[derive(Debug)]
pub(super) enum Attempt {
    /// The next one may do.
    Failed(Failure),
    /// There is nothing to connect with.
    Short(io::Error),
}

/// Opens connections to backends.
pub(super) trait Dialler: Sync {
    type Opened: Send;

    fn attempt(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = Result<Self::Opened, Attempt>> + Send;
}

/// Of TCP.
struct Plain<'a> {
    options: &'a Options,
    /// The client's, to spread connections by.
    port: u16,
}

impl Dialler for Plain<'_> {
    type Opened = TcpStream;

    async fn attempt(&self, address: SocketAddr) -> Result<TcpStream, Attempt> {
        dial(address, self.options, self.port).await.map_err(sort)
    }
}

/// What an error of [`dial`] says.
pub(super) fn sort(error: io::Error) -> Attempt {
    match error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE | libc::EMFILE | libc::ENFILE) => {
            Attempt::Short(error)
        }
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH) => Attempt::Failed(Failure::Unreachable),
        _ => Attempt::Failed(Failure::Refused),
    }
}

/// Connects to the backend that is chosen, or the next one, and so on; at `port` if it isn't the backend's own.
/// `None`: the agent is stopping.
pub(super) async fn connect<D: Dialler>(
    common: &Common,
    settings: &Settings,
    read: &Read,
    port: Option<u16>,
    dialler: &D,
) -> Option<Result<(D::Opened, u16), No>> {
    let mut tried = Vec::new();
    let mut avoided = port.map_or(Vec::new(), |port| common.avoided.slots(port));
    loop {
        let passed = [&tried[..], &avoided].concat();
        let mut target = match common
            .desk
            .choose(read.client, read.server.clone(), passed)
            .await?
        {
            Ok(target) => target,
            // One that failed a moment ago is better than none.
            Err(_) if !avoided.is_empty() => {
                avoided.clear();
                continue;
            }
            Err(NoChoice::NoneLeft) => {
                return Some(Err((Verdict::NoBackend, Refused::Unavailable)));
            }
            Err(NoChoice::Full) => return Some(Err((Verdict::BackendsFull, Refused::Quota))),
        };
        if let Some(port) = port {
            target.address.set_port(port);
        }
        let limit = Duration::from_nanos(settings.connect_timeout);
        let mut failure = match tokio::time::timeout(limit, dialler.attempt(target.address)).await {
            Ok(Ok(opened)) => return Some(Ok((opened, target.slot))),
            Ok(Err(Attempt::Failed(failure))) => failure,
            Ok(Err(Attempt::Short(error))) => {
                tracing::warn!("no connection to {}: {error}", target.address);
                return Some(Err((Verdict::NoPort, Refused::Unavailable)));
            }
            Err(_) => Failure::Silent,
        };
        if let Some(port) = port {
            tracing::debug!("{} failed ({failure:?})", target.address);
            common.avoided.note(target.slot, port);
            failure = Failure::OtherPort;
        }
        common.desk.count(Verdict::BackendFailed, 0).await;
        common.desk.tell(Ask::Failed(target.slot, failure)).await;
        tried.push(target.slot);
    }
}

/// Connects, from one of our source addresses if there are any of the family. Small packets go out at once.
pub(super) async fn dial(to: SocketAddr, options: &Options, spread: u16) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    let ours: Vec<_> = options
        .sources
        .iter()
        .filter(|a| a.is_ipv4() == to.is_ipv4())
        .collect();
    if !ours.is_empty() {
        // The port is chosen with the backend's address in mind, so each backend has all ports.
        bind_address_no_port(&socket)?;
        socket.bind(SocketAddr::new(*ours[usize::from(spread) % ours.len()], 0))?;
    }
    let _ = socket.set_nodelay(true);
    socket.connect(to).await
}

/// `IP_BIND_ADDRESS_NO_PORT` (ip(7)), for IPv6 too.
fn bind_address_no_port(socket: &TcpSocket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option is an int, which lives for the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
