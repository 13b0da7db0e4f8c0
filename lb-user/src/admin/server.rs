//! The HTTP/1 server: sockets, time-outs and limits.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Pages;

/// Connections at a time; further ones wait in the accept queue.
const MAX_CONNECTIONS: usize = 256;
/// For a request's head to come in, also on an idle kept-alive connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// After that long a connection takes no further request …
const CONNECTION_AGE: Duration = Duration::from_secs(60);
/// … and after that much longer it is cut, so that nobody who reads slowly holds it for ever.
const CONNECTION_GRACE: Duration = Duration::from_secs(15);
/// Largest head of a request, in bytes; it may hold a long client identifier, percent-encoded.
const MAX_HEAD: usize = 64 * 1024;

/// The admin interface, bound but not serving yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

/// The admin address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for the admin interface: {source}; {}", remedy(.source))]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "is another agent running? write another port in [admin] http, or stop what listens there (ss -ltnp)"
        }
        io::ErrorKind::AddrNotAvailable => "write an address of this host in [admin] http",
        io::ErrorKind::PermissionDenied => "write a port from 1024 in [admin] http",
        _ => "check [admin] http",
    }
}

impl Server {
    /// Starts to listen; clients are answered by [`Server::serve`].
    pub async fn bind(address: SocketAddr) -> Result<Server, BindError> {
        let error = |source| BindError { address, source };
        let listener = TcpListener::bind(address).await.map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        Ok(Server { listener, address })
    }

    /// Where it listens; with the port that was chosen if the configured one was 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` is done; connections that are open then are cut.
    pub async fn serve(self, pages: Pages, shutdown: impl Future<Output = ()>) {
        // Its drop aborts what is left.
        let mut connections = tokio::task::JoinSet::new();
        let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut shutdown = pin!(shutdown);
        loop {
            let next = async {
                let permit = free
                    .clone()
                    .acquire_owned()
                    .await
                    .expect("the semaphore is never closed");
                (self.listener.accept().await, permit)
            };
            tokio::select! {
                () = &mut shutdown => return,
                Some(_) = connections.join_next() => {}
                (accepted, permit) = next => match accepted {
                    Ok((stream, peer)) => {
                        let pages = pages.seen_from(peer.ip());
                        connections.spawn(async move {
                            let _permit = permit;
                            if let Err(error) = connection(stream, pages).await {
                                tracing::debug!(%peer, %error, "admin connection");
                            }
                        });
                    }
                    Err(error) => {
                        // Out of descriptors, for example: it does not pass by trying at once.
                        tracing::warn!(%error, "cannot accept admin connections");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }
}

async fn connection(stream: TcpStream, pages: Pages) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let pages = pages.clone();
        async move { Ok::<_, Infallible>(pages.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    if let Ok(done) = timeout(CONNECTION_AGE, &mut connection).await {
        return done;
    }
    connection.as_mut().graceful_shutdown();
    timeout(CONNECTION_GRACE, connection)
        .await
        .unwrap_or(Ok(()))
}
