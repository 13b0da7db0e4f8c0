//! One check of one address: what it finds, within its time.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use lb_common::proxy_v2;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::judge::State;
use super::{Target, http, mqtt, tcp};
use crate::config::Check;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub state: State,
    /// For people: what was asked and what came of it.
    pub reason: String,
    /// It was asked whether it is being evacuated, and knows no such question.
    pub no_availability: bool,
}

impl Finding {
    /// Nothing to complain of, or to remember.
    pub fn up(reason: impl Into<String>) -> Self {
        Self {
            state: State::Up,
            reason: reason.into(),
            no_availability: false,
        }
    }
}

/// Why a check didn't find its backend alive.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It didn't do what a live one does in time; the text says what.
    #[error("{0}")]
    Backend(String),
    /// This host couldn't check it; that says nothing about the backend.
    #[error("{what}: {source}")]
    Here { what: String, source: io::Error },
}

/// What a check may take, as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    timeout: Duration,
}

impl Deadline {
    pub fn after(timeout: Duration) -> Self {
        Self {
            at: Instant::now() + timeout,
            timeout,
        }
    }

    /// Waits for `step`, if there is time; `what` names it.
    ///
    /// # Errors
    /// [`Failure::Backend`] when the time is over.
    pub async fn wait<T>(self, what: &str, step: impl Future<Output = T>) -> Result<T, Failure> {
        let late = |_| Failure::Backend(format!("{what} timed out after {:?}", self.timeout));
        tokio::time::timeout_at(self.at, step).await.map_err(late)
    }

    /// The same for a step that may fail by itself.
    ///
    /// # Errors
    /// [`Failure::Backend`] when the time is over; else as [`failed`] sorts them.
    pub async fn io<T>(
        self,
        what: &str,
        step: impl Future<Output = io::Result<T>>,
    ) -> Result<T, Failure> {
        self.wait(what, step)
            .await?
            .map_err(|error| failed(what, error))
    }
}

/// Whose fault `error` is.
pub fn failed(what: &str, error: io::Error) -> Failure {
    // No descriptor, memory or source port (or address) left. Clients' connections need none of
    // them, so a backend must not be taken from them for that.
    let ours = [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOMEM,
        libc::ENOBUFS,
        libc::EADDRNOTAVAIL,
        libc::EADDRINUSE,
    ];
    if error
        .raw_os_error()
        .is_some_and(|code| ours.contains(&code))
    {
        return Failure::Here {
            what: what.to_owned(),
            source: error,
        };
    }
    let said = match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        io::ErrorKind::ConnectionReset => "reset".to_owned(),
        io::ErrorKind::UnexpectedEof => "closed by the other side".to_owned(),
        _ => error.to_string(),
    };
    Failure::Backend(format!("{what}: {said}"))
}

/// Checks `target` once; `identifier` is the client identifier of MQTT checks, `availability` whether to ask
/// for that too, if it is configured. Takes no longer than the target's timeout.
///
/// # Errors
/// [`Failure`]: it is down, or nobody knows.
pub async fn check(
    target: &Target,
    identifier: &mqtt::Identifier,
    availability: bool,
) -> Result<Finding, Failure> {
    let deadline = Deadline::after(target.health.timeout);
    let at = |port: Option<u16>| {
        SocketAddr::new(target.address.ip(), port.unwrap_or(target.address.port()))
    };
    // Another port than the clients' is another listener of the broker, without a PROXY header.
    let proxy = |address: SocketAddr| target.proxy_protocol && address == target.address;
    match &target.health.check {
        Check::Http {
            port,
            path,
            availability: question,
        } => {
            let question = question.as_deref().filter(|_| availability);
            http::check(at(Some(*port)), path, question, deadline).await
        }
        Check::Tcp { port } => tcp::check(at(*port), proxy(at(*port)), deadline).await,
        Check::Mqtt { port } => {
            mqtt::check(at(*port), proxy(at(*port)), identifier, deadline).await
        }
    }
}

/// Connects, from whatever address and port the host's stack chooses.
pub async fn connect(address: SocketAddr, deadline: Deadline) -> Result<TcpStream, Failure> {
    let what = format!("connect to :{}", address.port());
    let stream = deadline.io(&what, TcpStream::connect(address)).await?;
    // What is written is whole; there is nothing to wait for.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// The PROXY header of a check, naming the connection's own ends, just as it does for a client.
///
/// Not with the command LOCAL, which is made for health checks (specification, section 2.2): without
/// addresses EMQX (esockd 5.17) takes what follows, the CONNECT, for them, and mosquitto 2.1 closes the
/// connection; with addresses they are ignored or used as those of PROXY.
pub fn proxy_header(stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut header = [0; proxy_v2::MAX_LEN];
    let length = proxy_v2::encode(stream.local_addr()?, stream.peer_addr()?, &mut header);
    Ok(header[..length].to_vec())
}
