//! Asks a running agent over its admin interface.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::HOST;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{AgentAddress, Failure};
use crate::admin::model::ErrorBody;
use crate::config;

const DEFAULT: &str = "http://127.0.0.1:8888";
/// For a connection and for the whole answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Enough for a million flows.
const MAX_ANSWER: usize = 1 << 29;

/// An agent's answer.
pub(super) struct Answer(Bytes);

impl Answer {
    /// The JSON as the agent wrote it, and a newline.
    pub fn raw(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned() + "\n"
    }

    pub fn parse<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_slice(&self.0)
            .context("cannot read the agent's answer: is it another version of mqlb? (--json shows the answer)")
    }
}

/// What the agent says to `GET path`.
pub(super) fn get(address: &AgentAddress, path: &str) -> Result<Answer, Failure> {
    let base = find(address)?;
    let authority = authority(&base).map_err(Failure::Usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    Ok(runtime.block_on(request(&authority, path))?)
}

/// The URL of the agent's admin interface.
fn find(address: &AgentAddress) -> Result<String, Failure> {
    if let Some(url) = &address.admin {
        return Ok(url.clone());
    }
    if let Some(file) = &address.config {
        let (admin, _) = config::load_agent(file)?;
        return Ok(format!("http://{}", reachable(admin.http)));
    }
    Ok(std::env::var("MQLB_ADMIN")
        .ok()
        .filter(|url| !url.is_empty())
        .unwrap_or_else(|| DEFAULT.into()))
}

/// An agent that listens on every address is asked on the loopback one.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Host and port of `http://HOST[:PORT]`.
fn authority(url: &str) -> anyhow::Result<String> {
    let wrong = || anyhow!("{url:?} is no address of an agent; write http://HOST:PORT");
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    if uri.scheme_str() != Some("http") || path != "/" || authority.as_str().contains('@') {
        return Err(wrong());
    }
    Ok(format!(
        "{}:{}",
        authority.host(),
        authority.port_u16().unwrap_or(80)
    ))
}

async fn request(authority: &str, path: &str) -> anyhow::Result<Answer> {
    let hint = "is the agent running? (mqlb run; --admin or --config say where)";
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(authority))
        .await
        .map_err(|_| {
            anyhow!(
                "no answer from {authority} within {} s; {hint}",
                CONNECT_TIMEOUT.as_secs()
            )
        })?
        .map_err(|error| anyhow!("cannot connect to {authority}: {error}; {hint}"))?;
    timeout(ANSWER_TIMEOUT, exchange(stream, authority, path))
        .await
        .map_err(|_| {
            anyhow!(
                "{authority} did not answer within {} s",
                ANSWER_TIMEOUT.as_secs()
            )
        })?
}

async fn exchange(stream: TcpStream, authority: &str, path: &str) -> anyhow::Result<Answer> {
    let what = || format!("asking {authority} for {path}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .with_context(what)?;
    let driver = tokio::spawn(connection);
    let request = Request::get(path)
        .header(HOST, authority)
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.with_context(what)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    let body = body
        .map_err(|error| anyhow!("{}: {error}", what()))?
        .to_bytes();
    driver.abort();
    if status.is_success() {
        return Ok(Answer(body));
    }
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(refusal) => bail!("{authority} refused: {} ({status})", refusal.error),
        Err(_) => bail!("{authority} answered {status}: is that an mqlb agent?"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_agents() {
        for (url, expected) in [
            ("http://127.0.0.1:8888", "127.0.0.1:8888"),
            ("http://lb.example/", "lb.example:80"),
            ("http://[::1]:8888", "[::1]:8888"),
        ] {
            assert_eq!(authority(url).unwrap(), expected);
        }
        for url in [
            "",
            "127.0.0.1:8888",
            "https://127.0.0.1",
            "http://x/api",
            "http://a@b",
            "http://x?y",
            "http://",
        ] {
            assert!(authority(url).is_err(), "{url}");
        }
    }

    #[test]
    fn every_address_is_reached_through_loopback() {
        for (bound, expected) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("10.0.0.1:1", "10.0.0.1:1"),
        ] {
            assert_eq!(reachable(bound.parse().unwrap()), expected.parse().unwrap());
        }
    }
}
