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
use lb_common::proxy_v2;
use tokio::net::{TcpSocket, TcpStream};

use super::desk::{Ask, Client, Excess};
use super::listening::mapped;
use super::refuse::refuse;
use super::silent::Place;
use super::stream::{Stream, read_more, reset};
use super::{Common, Options, header};
use crate::dataplane::{From, Opened, Registered};
use crate::select::shared_hash;
use crate::setup::{Failure, NoChoice, Settings, verdict};

/// A connection that is ready to be relayed.
pub(super) struct Open {
    pub client: Stream,
    pub backend: TcpStream,
    /// What the backend has to get first.
    pub first: Vec<u8>,
    pub registered: Registered,
}

/// A CONNECT, read.
struct Read {
    client: Client,
    protocol: Protocol,
    keep_alive: u16,
    /// The client's and the VIP's address, perhaps as a trusted balancer says.
    addresses: (SocketAddr, SocketAddr),
    /// From the CONNECT on.
    bytes: Vec<u8>,
}

/// Counts itself while it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
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
    let (settings, options) = (common.settings(), common.options(vip)?);
    // Small packets, and each of them matters.
    let _ = tcp.set_nodelay(true);
    let limit = Duration::from_nanos(settings.sniff_timeout);
    let arrival = arrival(&common, &options, &tcp, peer, vip);
    let arrival = tokio::time::timeout(limit, arrival).await;
    let addresses = match arrival.unwrap_or(Err(Verdict::SniffTimeout)) {
        Ok(addresses) => addresses,
        Err(verdict) => {
            common.desk.count(verdict, 0).await;
            reset(&tcp);
            return None;
        }
    };
    let mut stream = Stream::Plain(tcp);
    let read = read(&settings, &mut stream, addresses, vip);
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
            refuse(&common, stream, read.protocol, denied.verdict()).await;
            return None;
        }
    }
    let _connecting = Counted::new(&common.connecting);
    let (backend, slot) = match connect(&common, &settings, &options, &read).await? {
        Ok(found) => found,
        Err(why) => {
            refuse(&common, stream, read.protocol, why).await;
            return None;
        }
    };
    let _ = backend.set_nodelay(true);
    let (Ok(local), Ok(remote), Ok(here)) = (
        backend.local_addr(),
        backend.peer_addr(),
        stream.tcp().local_addr(),
    ) else {
        // Either has gone already.
        return None;
    };
    common.desk.tell(Ask::Opened(read.client, slot)).await;
    let registered = common.proxied.register(&Opened {
        // Who counts and blocks clients must see the real one. Its tuple is unique only as long as one
        // balancer stands before us.
        client: if options.trusted.is_empty() {
            (peer, here)
        } else {
            read.addresses
        },
        backend: (local, remote),
        slot,
        listener: vip,
        id: read.client.id,
        idle_limit: settings.idle.limit(read.keep_alive),
    });
    registered.live().read(From::Client, read.bytes.len());
    let mut first = Vec::new();
    if options.proxy_protocol {
        let mut header = [0; proxy_v2::MAX_LEN];
        let len = proxy_v2::encode(read.addresses.0, read.addresses.1, &mut header);
        first.extend_from_slice(&header[..len]);
    }
    first.extend_from_slice(&read.bytes);
    Some(Open {
        client: stream,
        backend,
        first,
        registered,
    })
}

/// The addresses of the client and of the VIP, perhaps as a trusted balancer says, of a client that may begin a
/// connection.
async fn arrival(
    common: &Common,
    options: &Options,
    tcp: &TcpStream,
    peer: SocketAddr,
    vip: u8,
) -> Result<(SocketAddr, SocketAddr), Verdict> {
    let gone = |_: io::Error| Verdict::ClosedEarly;
    let mut addresses = (peer, tcp.local_addr().map_err(gone)?);
    if options.trusted.iter().any(|p| p.holds(peer.ip())) {
        addresses = header::take(tcp).await?.unwrap_or(addresses);
        if common.rules.get().sources.hold(&mapped(addresses.0.ip())) {
            return Err(Verdict::SourceBlocked);
        }
    }
    source(common, tcp, vip, addresses.0).await?;
    Ok(addresses)
}

/// Reads as far as the client identifier.
async fn read(
    settings: &Settings,
    stream: &mut Stream,
    addresses: (SocketAddr, SocketAddr),
    vip: u8,
) -> Result<Read, Verdict> {
    let mut bytes = Vec::new();
    loop {
        match read_more(stream, &mut bytes, settings.sniff_bytes).await {
            Ok(0) | Err(_) => return Err(Verdict::ClosedEarly),
            Ok(_) => {}
        }
        match mqtt::sniff_within(&bytes, &settings.mqtt) {
            Err(reject) => return Err(verdict(reject)),
            Ok(Sniff::Incomplete) if bytes.len() >= settings.sniff_bytes => {
                return Err(Verdict::RejectOversizedPacket);
            }
            Ok(Sniff::Incomplete) => {}
            Ok(Sniff::Connect(connect)) => {
                let client = Client {
                    listener: vip,
                    v4: addresses.1.is_ipv4(),
                    id: settings.client_hash(connect.client_id),
                    shared: shared_hash(connect.client_id),
                };
                return Ok(Read {
                    client,
                    protocol: connect.protocol,
                    keep_alive: connect.keep_alive,
                    addresses,
                    bytes,
                });
            }
        }
    }
}

/// Whether the source may begin a connection, if anything is limited. Only one that sends something does.
async fn source(
    common: &Common,
    tcp: &TcpStream,
    vip: u8,
    client: SocketAddr,
) -> Result<(), Verdict> {
    let limited = common
        .rules
        .get()
        .listeners
        .get(usize::from(vip))
        .is_some_and(|l| l.source_flows != 0 || l.source_pace.interval != 0);
    if !limited {
        return Ok(());
    }
    if !matches!(tcp.peek(&mut [0]).await, Ok(1)) {
        return Err(Verdict::ClosedEarly);
    }
    match common.desk.source(vip, client.ip()).await {
        Some(Ok(())) => Ok(()),
        Some(Err(Excess::TooOften)) => Err(Verdict::SourceRate),
        Some(Err(Excess::TooMany)) => Err(Verdict::SourceFull),
        None => Err(Verdict::ClosedEarly),
    }
}

/// A refusal: how it is counted, and what the client hears.
type No = (Verdict, Refused);

/// Connects to the backend that is chosen, or the next one, and so on. `None`: the agent is stopping.
async fn connect(
    common: &Common,
    settings: &Settings,
    options: &Options,
    read: &Read,
) -> Option<Result<(TcpStream, u16), No>> {
    let mut tried = Vec::new();
    loop {
        let target = match common.desk.choose(read.client, tried.clone()).await? {
            Ok(target) => target,
            Err(NoChoice::NoneLeft) => {
                return Some(Err((Verdict::NoBackend, Refused::Unavailable)));
            }
            Err(NoChoice::Full) => return Some(Err((Verdict::BackendsFull, Refused::Quota))),
        };
        let limit = Duration::from_nanos(settings.connect_timeout);
        let attempt = dial(target.address, options, read.addresses.0.port());
        let failure = match tokio::time::timeout(limit, attempt).await {
            Ok(Ok(stream)) => return Some(Ok((stream, target.slot))),
            Ok(Err(error)) => match error.raw_os_error() {
                Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE | libc::EMFILE | libc::ENFILE) => {
                    tracing::warn!("no connection to {}: {error}", target.address);
                    return Some(Err((Verdict::NoPort, Refused::Unavailable)));
                }
                Some(libc::EHOSTUNREACH | libc::ENETUNREACH) => Failure::Unreachable,
                _ => Failure::Refused,
            },
            Err(_) => Failure::Silent,
        };
        common.desk.count(Verdict::BackendFailed, 0).await;
        common.desk.tell(Ask::Failed(target.slot, failure)).await;
        tried.push(target.slot);
    }
}

/// Connects, from one of our source addresses if there are any of the family.
async fn dial(to: SocketAddr, options: &Options, spread: u16) -> io::Result<TcpStream> {
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
