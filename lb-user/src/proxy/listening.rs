//! The sockets that accept clients, as the configuration has them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use lb_common::layout::{Verdict, v4_mapped};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::avoided::Avoided;
use super::desk::{Ask, Desk};
use super::silent::Silent;
use super::tls::Server;
use super::{Common, Options, Served, relay, set_up, stream};
use crate::admin::Pages;
use crate::agent::limits::Shared as Rules;
use crate::dataplane::Proxied;
use crate::setup::Settings;

/// Connections that wait for the proxy to accept them.
const BACKLOG: i32 = 4096;
/// Pause when there is nothing to accept with.
const PAUSE: Duration = Duration::from_millis(50);

/// An address to listen on.
#[derive(Clone, Debug)]
pub struct Vip {
    pub index: u8,
    pub address: SocketAddr,
    pub options: Options,
}

/// Sockets that are bound and wait for [`Front::serve`].
pub struct Bound {
    sockets: Vec<(SocketAddr, std::net::TcpListener)>,
    /// By the VIP's number.
    served: HashMap<u8, Arc<Served>>,
}

/// All sockets. When it is dropped they close; connections go on as long as the process does.
pub struct Front {
    common: Arc<Common>,
    serving: HashMap<SocketAddr, (u8, AbortHandle)>,
}

impl Front {
    /// Listens on nothing yet. `most` is how many silent clients there may be.
    #[must_use]
    pub fn new(
        settings: Settings,
        rules: Rules,
        proxied: Arc<Proxied>,
        asks: mpsc::Sender<Ask>,
        most: usize,
    ) -> Self {
        Self {
            common: Arc::new(Common {
                settings: settings.into(),
                served: std::sync::RwLock::default(),
                rules,
                proxied,
                silent: Silent::new(most),
                desk: Desk(asks),
                refusals: std::sync::Mutex::default(),
                connecting: 0.into(),
                avoided: Avoided::default(),
                statistics: std::sync::OnceLock::new(),
            }),
            serving: HashMap::new(),
        }
    }

    /// Binds those that are new. Nothing is accepted before [`Self::serve`].
    ///
    /// # Errors
    /// An address can't be listened on, or TLS can't be had as configured.
    pub fn bind(&self, vips: &[Vip]) -> anyhow::Result<Bound> {
        let new = vips
            .iter()
            .filter(|vip| !self.serving.contains_key(&vip.address));
        let bind = |vip: &Vip| {
            let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), vip.address.port());
            let both = vip.address.ip().is_unspecified() && vips.iter().all(|v| v.address != v4);
            let socket = bind(vip.address, both).with_context(|| {
                format!("cannot listen on {} (`ss -ltnp` shows who does; an address must be this host's, and ports below 1024 need CAP_NET_BIND_SERVICE)", vip.address)
            })?;
            Ok((vip.address, socket))
        };
        Ok(Bound {
            sockets: new.map(bind).collect::<anyhow::Result<_>>()?,
            served: self.prepare(vips)?,
        })
    }

    /// What will serve each VIP. Where nothing about TLS has changed it stays as it is, so that clients can
    /// resume their sessions.
    fn prepare(&self, vips: &[Vip]) -> anyhow::Result<HashMap<u8, Arc<Served>>> {
        let served = self.common.served.read();
        let served = served.unwrap_or_else(PoisonError::into_inner);
        let mut servers: Vec<_> = served.values().filter_map(|s| s.tls.clone()).collect();
        let mut prepared = HashMap::new();
        for vip in vips {
            let tls = match &vip.options.tls {
                None => None,
                Some(tls) => match servers.iter().find(|s| s.is_of(tls)) {
                    Some(server) => Some(server.clone()),
                    None => {
                        let server = Server::new(tls);
                        let server = server.with_context(|| format!("TLS at {}", vip.address))?;
                        servers.push(Arc::new(server));
                        servers.last().cloned()
                    }
                },
            };
            let options = Arc::new(vip.options.clone());
            prepared.insert(vip.index, Arc::new(Served { options, tls }));
        }
        Ok(prepared)
    }

    /// Accepts on these addresses and no others from now on.
    pub fn serve(&mut self, vips: &[Vip], bound: Bound) {
        *self
            .common
            .served
            .write()
            .unwrap_or_else(PoisonError::into_inner) = bound.served;
        self.serving.retain(|address, (index, task)| {
            let stays = vips
                .iter()
                .any(|v| (v.address, v.index) == (*address, *index));
            if !stays {
                task.abort();
            }
            stays
        });
        for (address, socket) in bound.sockets {
            let Some(vip) = vips.iter().find(|v| v.address == address) else {
                continue;
            };
            match TcpListener::from_std(socket) {
                Ok(listener) => {
                    let task = tokio::spawn(accept(self.common.clone(), listener, vip.index));
                    self.serving
                        .insert(address, (vip.index, task.abort_handle()));
                }
                Err(error) => tracing::error!("{address} can't be served: {error}"),
            }
        }
    }

    /// Takes over what the configuration says for all connections.
    pub fn configure(&self, settings: Settings) {
        *self
            .common
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// What HTTP listeners show as statistics from now on; only the first counts.
    pub fn show(&self, statistics: Pages) {
        let _ = self.common.statistics.set(statistics);
    }

    /// Clients that are being read, and for whom a backend is being connected to.
    #[must_use]
    pub fn set_ups(&self) -> (usize, usize) {
        let connecting = self.common.connecting.load(Relaxed);
        (self.common.silent.count(), connecting)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        for (_, task) in self.serving.values() {
            task.abort();
        }
    }
}

/// `both`: [::] takes IPv4 too, because nothing else does.
fn bind(address: SocketAddr, both: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!both)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// IPv4 as such, also where it came through a socket of IPv6.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// As the rules have addresses.
pub(super) fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4_mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

async fn accept(common: Arc<Common>, listener: TcpListener, vip: u8) {
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => begin(&common, tcp, canonical(peer), vip).await,
            Err(error) => {
                let short = matches!(
                    error.raw_os_error(),
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
                );
                if short && common.silent.give_up_oldest() {
                    common.desk.count(Verdict::SetupEvicted, 0).await;
                    tokio::task::yield_now().await;
                } else {
                    // Else it is the client's: it has gone again.
                    if short {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }
}

async fn begin(common: &Arc<Common>, tcp: TcpStream, peer: SocketAddr, vip: u8) {
    if common.rules.get().sources.hold(&mapped(peer.ip())) {
        common.desk.count(Verdict::SourceBlocked, 0).await;
        return stream::reset(&tcp);
    }
    let evicted = common.silent.begin(|place| {
        let common = common.clone();
        let task = tokio::spawn(async move {
            // Set-up needs much more room than what follows, so it has a box of its own.
            let set_up = Box::pin(set_up::set_up(common, tcp, peer, vip, place));
            if let Some(open) = set_up.await {
                relay::relay(open).await;
            }
        });
        task.abort_handle()
    });
    if evicted {
        common.desk.count(Verdict::SetupEvicted, 0).await;
    }
}
