//! Requests for the backends' dashboards. A browser stays with one backend, which a cookie names; each of its
//! connections has one of ours, so that a PROXY header can say whose it is.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::header::{CACHE_CONTROL, EXPECT, HOST, HeaderValue, SET_COOKIE};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use lb_common::layout::Verdict;
use tokio::io::AsyncWriteExt as _;

use super::body::{Body, streamed, text};
use super::forwarded::Forwarded;
use super::headers::{self, NODE_COOKIE, take_node};
use super::{MAX_HEAD, Session};
use crate::config::ProxyProtocol;
use crate::proxy::desk::{Page, Wish};
use crate::proxy::set_up::{Arrived, dial, proxy_header};

/// For a backend to begin its answer once it has the request.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a backend's dashboard.
pub(super) struct Upstream {
    address: SocketAddr,
    /// Whose it is, as a PROXY header said; `None`: none did.
    client: Option<SocketAddr>,
    sender: SendRequest<Incoming>,
}

impl Session {
    /// Passes a request on, and the answer back.
    pub(super) async fn forward(
        &self,
        mut request: Request<Incoming>,
        arrived: &Arrived,
        forwarded: &Forwarded,
    ) -> Response<Body> {
        let named = take_node(request.headers_mut());
        self.prepare(&mut request, forwarded);
        let client = self.tells().then_some(arrived.addresses.0);
        let mut wish = Wish {
            listener: arrived.vip,
            v4: arrived.addresses.1.is_ipv4(),
            node: named.clone(),
            tried: Vec::new(),
        };
        // Requests of one connection come one after the other.
        let mut upstream = self.upstream.lock().await;
        let (page, sent) = loop {
            let Some(page) = self.common.desk.page(wish.clone()).await.flatten() else {
                self.common.desk.count(Verdict::HttpNoBackend, 0).await;
                return text(StatusCode::SERVICE_UNAVAILABLE, "no node can be reached");
            };
            let Some(address) = self.options.kind.dashboard().map(|port| {
                let mut address = page.address;
                address.set_port(port);
                address
            }) else {
                return text(StatusCode::NOT_FOUND, "there is no dashboard here");
            };
            let same = |u: &Upstream| (u.address, u.client) == (address, client);
            let kept = upstream.take().filter(same);
            let kept = kept.filter(|u| !u.sender.is_closed());
            let fresh = kept.is_none();
            let connection = match kept {
                Some(kept) => Some(kept),
                None => self.connect(address, arrived).await,
            };
            let Some(mut connection) = connection else {
                self.common.desk.count(Verdict::BackendFailed, 0).await;
                wish.tried.push(page.slot);
                continue;
            };
            let ready = connection.sender.ready().await;
            let answered = match ready {
                Ok(()) => {
                    let sending = connection.sender.try_send_request(request);
                    tokio::time::timeout(PATIENCE, sending).await
                }
                // The backend closed it meanwhile: another one, then.
                Err(_) if !fresh => continue,
                Err(_) => {
                    wish.tried.push(page.slot);
                    continue;
                }
            };
            match answered {
                Ok(Ok(response)) => {
                    *upstream = Some(connection);
                    break (page, response);
                }
                Ok(Err(mut error)) => match error.take_message() {
                    // It has not been sent.
                    Some(unsent) => {
                        request = unsent;
                        if fresh {
                            wish.tried.push(page.slot);
                        }
                    }
                    None => {
                        self.common.desk.count(Verdict::HttpFailed, 0).await;
                        return text(StatusCode::BAD_GATEWAY, "the node broke off");
                    }
                },
                Err(_) => {
                    self.common.desk.count(Verdict::HttpFailed, 0).await;
                    return text(StatusCode::GATEWAY_TIMEOUT, "the node doesn't answer");
                }
            }
        };
        drop(upstream);
        self.common.desk.count(Verdict::HttpForwarded, 0).await;
        let mut response = sent.map(streamed);
        headers::strip(response.headers_mut());
        if named.as_deref() != Some(&*page.name) {
            stay(&page, forwarded.secure, &mut response);
        }
        response
    }

    /// Makes a request one that a backend can be sent.
    fn prepare(&self, request: &mut Request<Incoming>, forwarded: &Forwarded) {
        headers::strip(request.headers_mut());
        // Answered by us already.
        request.headers_mut().remove(EXPECT);
        // A URI with an authority overrules the header (RFC 9112, section 3.2.2).
        if let Some(host) = request.uri().authority() {
            if let Ok(host) = HeaderValue::from_str(host.as_str()) {
                request.headers_mut().insert(HOST, host);
            }
        } else if !request.headers().contains_key(HOST) {
            let here = self.arrived.addresses.1.to_string();
            if let Ok(here) = HeaderValue::from_str(&here) {
                request.headers_mut().insert(HOST, here);
            }
        }
        let root = PathAndQuery::from_static("/");
        let path = request.uri().path_and_query().cloned().unwrap_or(root);
        *request.uri_mut() = Uri::from(path);
        *request.version_mut() = Version::HTTP_11;
        forwarded.write(request.headers_mut(), false);
    }

    /// Whether nodes are told by PROXY headers whose connection they have.
    fn tells(&self) -> bool {
        self.options.proxy_protocol != ProxyProtocol::Off
    }

    /// `None`: it can't be reached.
    async fn connect(&self, address: SocketAddr, arrived: &Arrived) -> Option<Upstream> {
        let limit = Duration::from_nanos(self.common.settings().connect_timeout);
        let client = arrived.addresses.0;
        let connected = async {
            let mut tcp = dial(address, &self.options, client.port()).await.ok()?;
            let header = proxy_header(&self.options, arrived);
            tcp.write_all(&header).await.ok()?;
            let mut builder = Builder::new();
            builder.preserve_header_case(true).max_header_size(MAX_HEAD);
            builder.handshake(TokioIo::new(tcp)).await.ok()
        };
        let (sender, connection) = tokio::time::timeout(limit, connected).await.ok()??;
        // It ends with its sender, or when the backend closes.
        tokio::spawn(connection);
        let client = self.tells().then_some(client);
        Some(Upstream {
            address,
            client,
            sender,
        })
    }
}

/// Has the browser come back to this node.
fn stay(page: &Page, secure: bool, response: &mut Response<Body>) {
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!(
        "{NODE_COOKIE}={}; Path=/; HttpOnly; SameSite=Lax{secure}",
        page.name
    );
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(SET_COOKIE, cookie);
        // Nobody else should get the cookie out of a cache.
        let private = HeaderValue::from_static("private");
        response
            .headers_mut()
            .entry(CACHE_CONTROL)
            .or_insert(private);
    }
}
