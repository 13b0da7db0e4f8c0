//! HTTP: WebSockets for MQTT ([`super::ws`]); with `kind = "http"` also the statistics at `/stats`, and the
//! backends' dashboards at all other paths ([`forward`]).
//!
//! A connection that waits for a request is silent, and counts as that until the request has come: no longer than
//! `[timeouts] sniff`, and the oldest first if there are too many.

mod body;
mod forward;
pub(super) mod forwarded;
pub(super) mod headers;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use lb_common::layout::Verdict;

use super::listening::mapped;
use super::set_up::{Arrived, Open, limits_sources, source};
use super::silent::Place;
use super::stream::Stream;
use super::ws::{self, Granted};
use super::{Common, Options};
use body::{Body, Busy, text, whole};
use forward::Upstream;
use forwarded::Forwarded;

/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// Most kept of a body that the other side doesn't take.
const MAX_BUFFER: usize = 32 << 10;
const STATISTICS: &str = "/stats";

/// One client's connection.
struct Session {
    common: Arc<Common>,
    options: Arc<Options>,
    arrived: Arrived,
    /// It came by TLS.
    secure: bool,
    place: Mutex<Option<Place>>,
    /// A request has come.
    spoken: AtomicBool,
    /// The WebSocket that it becomes, and whose.
    granted: Mutex<Option<(OnUpgrade, Granted, Arrived)>>,
    /// The backend that had its last request.
    upstream: tokio::sync::Mutex<Option<Upstream>>,
}

/// Serves a connection to its end, or until it is an open WebSocket.
pub(super) async fn serve(
    common: Arc<Common>,
    options: Arc<Options>,
    stream: Stream,
    arrived: Arrived,
    place: Place,
) -> Option<Open> {
    let session = Arc::new(Session {
        secure: stream.is_tls(),
        common,
        options,
        arrived,
        place: Mutex::new(Some(place)),
        spoken: false.into(),
        granted: Mutex::default(),
        upstream: tokio::sync::Mutex::default(),
    });
    let limit = Duration::from_nanos(session.common.settings().sniff_timeout);
    let asked = session.clone();
    let service = service_fn(move |request| {
        let session = asked.clone();
        async move { Ok::<_, Infallible>(session.answer(request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limit)
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_BUFFER)
        .preserve_header_case(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    let count = |verdict| session.common.desk.count(verdict, 0);
    if let Err(error) = served {
        tracing::debug!("{}: {error}", session.arrived.addresses.0);
        if error.is_parse() {
            count(Verdict::RejectHttp).await;
        } else if !session.spoken.load(Relaxed) {
            count(if error.is_timeout() {
                Verdict::SniffTimeout
            } else {
                Verdict::ClosedEarly
            })
            .await;
        }
        return None;
    }
    let granted = session.granted().take();
    let Some((upgrade, granted, arrived)) = granted else {
        if !session.spoken.load(Relaxed) {
            count(Verdict::ClosedEarly).await;
        }
        return None;
    };
    let upgraded = upgrade.await.ok()?;
    let parts = upgraded.downcast::<TokioIo<Stream>>().ok()?;
    let place = session.place().take()?;
    ws::set_up(
        &session.common,
        &session.options,
        &arrived,
        &granted,
        (parts.io.into_inner(), parts.read_buf.into()),
        place,
    )
    .await
}

impl Session {
    fn place(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn granted(&self) -> MutexGuard<'_, Option<(OnUpgrade, Granted, Arrived)>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        self.spoken.store(true, Relaxed);
        // A connection of an edge has requests of many clients.
        let mut arrived = self.arrived.clone();
        let (peer, edges) = (arrived.addresses.0, &self.options.edges);
        let forwarded = Forwarded::of(peer, self.secure, edges, request.headers());
        arrived.addresses.0 = forwarded.client;
        let client = mapped(forwarded.client.ip());
        // Blocked since it connected, perhaps.
        if self.common.rules.get().sources.hold(&client) {
            self.common.desk.count(Verdict::SourceBlocked, 0).await;
            return last(text(StatusCode::FORBIDDEN, "blocked"));
        }
        let path = request.uri().path();
        let wanted = ws::upgrade::is_wanted(request.headers());
        let for_mqtt = self
            .options
            .kind
            .websocket()
            .is_some_and(|w| w.path == path);
        if wanted && for_mqtt {
            return self.websocket(request, arrived, forwarded).await;
        }
        let front = self.options.kind.dashboard().is_some();
        if wanted || !front {
            self.common.desk.count(Verdict::RejectWsUpgrade, 0).await;
            return last(if for_mqtt {
                upgrade_required("MQTT over WebSocket is served here: ask for an upgrade")
            } else {
                text(StatusCode::NOT_FOUND, "no WebSocket is served at this path")
            });
        }
        let busy = Busy::new(self.clone());
        let answer = match (request.method(), path) {
            (_, STATISTICS) => match self.common.statistics.get() {
                Some(pages) => pages.answer(&request).await.map(whole),
                None => text(StatusCode::SERVICE_UNAVAILABLE, "the agent is starting"),
            },
            (&Method::CONNECT, _) => last(text(
                StatusCode::METHOD_NOT_ALLOWED,
                "this is no such proxy",
            )),
            _ => self.forward(request, &arrived, &forwarded).await,
        };
        busy.until_sent(answer)
    }

    /// Grants a WebSocket; the connection is one when the answer has gone.
    async fn websocket(
        &self,
        mut request: Request<Incoming>,
        arrived: Arrived,
        forwarded: Forwarded,
    ) -> Response<Body> {
        let vip = arrived.vip;
        if self.options.asks_later(self.arrived.addresses.0)
            && limits_sources(&self.common, vip)
            && let Err(verdict) = source(&self.common, vip, forwarded.client).await
        {
            self.common.desk.count(verdict, 0).await;
            let mut answer = text(StatusCode::TOO_MANY_REQUESTS, "too many connections");
            let later = HeaderValue::from_static("1");
            answer.headers_mut().insert(RETRY_AFTER, later);
            return last(answer);
        }
        let (response, protocol) = match ws::upgrade::grant(&request) {
            Ok(granted) => granted,
            Err((status, why)) => {
                self.common.desk.count(Verdict::RejectWsUpgrade, 0).await;
                return last(if status == StatusCode::UPGRADE_REQUIRED {
                    upgrade_required(why)
                } else {
                    text(status, why)
                });
            }
        };
        let Some(accept) = response.headers().get(SEC_WEBSOCKET_ACCEPT).cloned() else {
            return last(text(StatusCode::INTERNAL_SERVER_ERROR, "no handshake"));
        };
        let upgrade = hyper::upgrade::on(&mut request);
        let granted = Granted {
            head: request.into_parts().0,
            protocol,
            accept,
            forwarded,
        };
        *self.granted() = Some((upgrade, granted, arrived));
        response.map(|()| {
            use http_body_util::BodyExt as _;
            Empty::new().map_err(|never| match never {}).boxed()
        })
    }
}

/// 426, with what the client should ask for (RFC 9110, section 15.5.22; RFC 6455, section 4.4).
fn upgrade_required(why: &'static str) -> Response<Body> {
    let mut answer = text(StatusCode::UPGRADE_REQUIRED, why);
    let headers = answer.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    answer
}

/// The connection ends with this answer.
fn last(mut answer: Response<Body>) -> Response<Body> {
    let close = HeaderValue::from_static("close");
    answer.headers_mut().insert(CONNECTION, close);
    answer
}
