//! What changes a running agent: commands over a Unix socket in its state directory, which only root
//! may write to. The HTTP interface beside it asks nobody who they are, so it changes nothing.
//!
//! A command is one HTTP request, `POST /v1/command` with a JSON [`Command`]; the answer is a [`Reply`]
//! or an [`ErrorBody`], with 400 for what was asked wrongly and 500 for what failed.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::model::ErrorBody;

/// Where commands are posted.
pub const PATH: &str = "/v1/command";
/// For a command to come in.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest body of a command, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// Commands at a time.
const MAX_CONNECTIONS: usize = 32;

/// What an operator can tell a running agent. Backends are named `BACKEND` or `POOL/BACKEND`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// No new clients; with a rate, live connections end at that many a second.
    Drain { backend: String, rate: Option<u32> },
    /// Takes clients again, after `drain` or `disable`.
    Ready { backend: String },
    /// No new clients, and live connections end.
    Disable { backend: String },
    /// Another share of new clients; `None`: the configuration's.
    Weight {
        backend: String,
        weight: Option<u16>,
    },
    /// The configuration file is read again.
    Reload,
    /// The agent ends; the data path stays.
    Stop,
}

/// What was done, a line for each thing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub done: Vec<String>,
}

/// Why a command was not carried out; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It asks for something that there isn't, or its configuration is wrong.
    #[error("{0}")]
    Wrong(String),
    /// It couldn't be done.
    #[error("{0}")]
    Failed(String),
}

/// A command and where its answer goes.
pub type Order = (Command, oneshot::Sender<Result<Reply, Refusal>>);

/// The socket of an agent with this state directory.
#[must_use]
pub fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// The socket, bound but not serving yet. Removed when it is dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {path} for commands: {source}; is [agent] state_dir writable, and shorter than 90 bytes?"
)]
pub struct ControlError {
    path: PathBuf,
    source: io::Error,
}

impl Control {
    /// Makes the socket, in place of one that an earlier agent left. The caller holds the lock of
    /// `state_dir`, so nobody else listens there.
    pub fn bind(state_dir: &Path) -> Result<Self, ControlError> {
        let path = socket(state_dir);
        // Under another name first: nobody may connect before the permissions are right.
        let new = state_dir.join("control.new");
        let made = || {
            match std::fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&new)?;
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
            std::fs::rename(&new, &path)?;
            Ok(listener)
        };
        match made() {
            Ok(listener) => Ok(Self { listener, path }),
            Err(source) => Err(ControlError { path, source }),
        }
    }

    /// Hands commands on for ever.
    pub async fn serve(self, orders: mpsc::Sender<Order>) {
        let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(permit) = free.clone().acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let orders = orders.clone();
                    tokio::spawn(async move {
                        let _permit = permit;
                        if let Err(error) = connection(stream, orders).await {
                            tracing::debug!(%error, "control connection");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept commands");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Its absence tells the command line that no agent runs.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn connection(stream: UnixStream, orders: mpsc::Sender<Order>) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let orders = orders.clone();
        async move { Ok::<_, Infallible>(answer(request, orders).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(request: Request<Incoming>, orders: mpsc::Sender<Order>) -> Response<Full<Bytes>> {
    match carry_out(request, orders).await {
        Ok(reply) => json(StatusCode::OK, &reply),
        Err(Refusal::Wrong(error)) => json(StatusCode::BAD_REQUEST, &ErrorBody { error }),
        Err(Refusal::Failed(error)) => {
            json(StatusCode::INTERNAL_SERVER_ERROR, &ErrorBody { error })
        }
    }
}

async fn carry_out(
    request: Request<Incoming>,
    orders: mpsc::Sender<Order>,
) -> Result<Reply, Refusal> {
    if request.method() != Method::POST || request.uri().path() != PATH {
        return Err(Refusal::Wrong(format!("only POST {PATH} is known here")));
    }
    let body = Limited::new(request.into_body(), MAX_BODY);
    let read = tokio::time::timeout(HEAD_TIMEOUT, body.collect()).await;
    let body = read
        .map_err(|_| Refusal::Wrong("the command did not come in time".to_owned()))?
        .map_err(|error| Refusal::Wrong(format!("the command could not be read: {error}")))?
        .to_bytes();
    let command = serde_json::from_slice(&body).map_err(|error| {
        Refusal::Wrong(format!(
            "this agent does not know the command ({error}); is it another version than mqlb here?"
        ))
    })?;
    let (reply, answer) = oneshot::channel();
    let gone = |_| Refusal::Failed("the agent is stopping".to_owned());
    orders.send((command, reply)).await.map_err(|_| gone(()))?;
    answer.await.map_err(|_| gone(()))?
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let text =
        serde_json::to_string(body).expect("the types here have no maps with odd keys") + "\n";
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("application/json"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_read_as_they_are_written() {
        let command: Command =
            serde_json::from_str(r#"{"command":"drain","backend":"emqx1","rate":500}"#).unwrap();
        assert_eq!(
            command,
            Command::Drain {
                backend: "emqx1".into(),
                rate: Some(500)
            }
        );
        let text = serde_json::to_string(&Command::Reload).unwrap();
        assert_eq!(text, r#"{"command":"reload"}"#);
    }

    #[tokio::test]
    async fn only_the_owner_may_use_the_socket_and_it_goes_with_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        // What a killed agent left is no obstacle.
        drop(std::os::unix::net::UnixListener::bind(socket(dir.path())).unwrap());
        let control = Control::bind(dir.path()).unwrap();
        let mode = std::fs::metadata(socket(dir.path())).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        drop(control);
        assert!(!socket(dir.path()).exists());
    }
}
