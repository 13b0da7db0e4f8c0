//! `http`: the node's HTTP API says how it is.
//!
//! One connection for each request, which the server closes: a connection kept between checks would show
//! that it still works, not that new ones do.

use std::net::SocketAddr;
use std::pin::pin;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::check::{Deadline, Failure, Finding, connect};
use super::judge::State;

/// Most bytes of a head; the least that hyper takes.
const MAX_HEAD: usize = 8192;
/// Most bytes of a body that are read before the connection is closed all the same.
const MAX_BODY: usize = 64 * 1024;

/// `GET path`, where 200 is up; then `GET availability`, where 503 means that the node is being evacuated and 404
/// that it knows no such question. Another answer to the second says nothing.
pub async fn check(
    address: SocketAddr,
    path: &str,
    availability: Option<&str>,
    deadline: Deadline,
) -> Result<Finding, Failure> {
    let (what, status) = get(address, path, deadline).await?;
    let reason = format!("{what} answered {}", status.as_u16());
    if status != StatusCode::OK {
        return Err(Failure::Backend(reason));
    }
    let mut finding = Finding::up(reason);
    if let Some(question) = availability {
        let (what, status) = get(address, question, deadline).await?;
        match status {
            StatusCode::OK => {}
            StatusCode::SERVICE_UNAVAILABLE => {
                finding.state = State::Evacuating;
                finding.reason = format!("{what} answered 503");
            }
            StatusCode::NOT_FOUND => finding.no_availability = true,
            other => tracing::debug!("{address}: {what} answered {other}, which says nothing"),
        }
    }
    Ok(finding)
}

/// What was asked, and the status of the answer.
async fn get(
    address: SocketAddr,
    path: &str,
    deadline: Deadline,
) -> Result<(String, StatusCode), Failure> {
    let what = format!("GET :{}{path}", address.port());
    let stream = connect(address, deadline).await?;
    let status = deadline
        .wait(&what, exchange(stream, address, path))
        .await?;
    match status {
        Ok(status) => Ok((what, status)),
        Err(error) => Err(Failure::Backend(format!("{what}: {error:#}"))),
    }
}

async fn exchange(
    stream: TcpStream,
    address: SocketAddr,
    path: &str,
) -> anyhow::Result<StatusCode> {
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await?;
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .header(USER_AGENT, concat!("mqlb/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        // Read, so that closing doesn't reset the connection; what it says doesn't matter.
        let _ = Limited::new(response.into_body(), MAX_BODY).collect().await;
        anyhow::Ok(status)
    };
    // Side by side in this task: with it ends the connection.
    let mut connection = pin!(connection);
    let mut answer = pin!(answer);
    tokio::select! {
        status = &mut answer => status,
        // When the connection is at its end, the answer is there, or never comes.
        _ = &mut connection => answer.await,
    }
}
