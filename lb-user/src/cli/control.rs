//! The commands that change a running agent: they go over its control socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::Failure;
use super::output::{print, print_json};
use crate::admin::control::{self, Command, Reply};
use crate::admin::model::ErrorBody;
use crate::config;

/// A reload may have to wait for DNS.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_ANSWER: usize = 1 << 24;

/// Which agent of this host is meant, and how its answer is shown.
#[derive(Args, Debug)]
pub(super) struct Target {
    /// The agent's configuration file [default: the agent named "default"]
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    config: Option<PathBuf>,
    /// Its [agent] name, if state_dir is left at its default
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct Drain {
    /// A backend: NAME, or POOL/NAME
    backend: String,
    /// End live connections at this pace, such as 500/s; without it they stay until they end by themselves
    #[arg(long, value_name = "N/s", value_parser = rate)]
    rate: Option<u32>,
    #[command(flatten)]
    target: Target,
}

#[derive(Args, Debug)]
pub(super) struct OneBackend {
    /// A backend: NAME, or POOL/NAME
    backend: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Args, Debug)]
pub(super) struct Weight {
    /// A backend: NAME, or POOL/NAME
    backend: String,
    /// Its share of new clients, 0 to 65535, or "config" for what the configuration says
    #[arg(value_name = "N", value_parser = weight)]
    weight: NewWeight,
    #[command(flatten)]
    target: Target,
}

#[derive(Args, Debug)]
pub(super) struct Plain {
    #[command(flatten)]
    target: Target,
}

/// `None`: the configuration's.
#[derive(Clone, Debug)]
struct NewWeight(Option<u16>);

fn weight(text: &str) -> Result<NewWeight, String> {
    if text == "config" {
        return Ok(NewWeight(None));
    }
    text.parse()
        .map(|weight| NewWeight(Some(weight)))
        .map_err(|_| "write a whole number from 0 to 65535, or \"config\"".to_owned())
}

/// `500/s`, or just `500`.
fn rate(text: &str) -> Result<u32, String> {
    text.strip_suffix("/s")
        .unwrap_or(text)
        .parse()
        .ok()
        .filter(|rate| (1..=1_000_000).contains(rate))
        .ok_or_else(|| {
            "write connections a second, from 1/s to 1000000/s, such as 500/s".to_owned()
        })
}

pub(super) fn drain(options: Drain) -> Result<(), Failure> {
    let Drain {
        backend,
        rate,
        target,
    } = options;
    tell(&target, &Command::Drain { backend, rate })
}

pub(super) fn ready(options: OneBackend) -> Result<(), Failure> {
    let OneBackend { backend, target } = options;
    tell(&target, &Command::Ready { backend })
}

pub(super) fn disable(options: OneBackend) -> Result<(), Failure> {
    let OneBackend { backend, target } = options;
    tell(&target, &Command::Disable { backend })
}

pub(super) fn set_weight(options: Weight) -> Result<(), Failure> {
    let Weight {
        backend,
        weight,
        target,
    } = options;
    let weight = weight.0;
    tell(&target, &Command::Weight { backend, weight })
}

pub(super) fn reload(options: Plain) -> Result<(), Failure> {
    tell(&options.target, &Command::Reload)
}

/// Stopping an agent that doesn't run is done already.
pub(super) fn stop(options: Plain) -> Result<(), Failure> {
    let target = &options.target;
    if std::os::unix::net::UnixStream::connect(socket(target)?).is_err_and(|e| absent(&e)) {
        return show(
            target,
            &Reply {
                done: vec!["no agent runs; a data path that one left goes on".to_owned()],
            },
        );
    }
    tell(target, &Command::Stop)
}

/// Sends a command and shows what it did.
pub(super) fn tell(target: &Target, command: &Command) -> Result<(), Failure> {
    let socket = socket(target)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let reply = runtime.block_on(async {
        tokio::time::timeout(ANSWER_TIMEOUT, exchange(&socket, command))
            .await
            .unwrap_or_else(|_| {
                let seconds = ANSWER_TIMEOUT.as_secs();
                Err(Failure::Failed(anyhow!(
                    "the agent did not answer within {seconds} s"
                )))
            })
    })?;
    show(target, &reply)
}

fn show(target: &Target, reply: &Reply) -> Result<(), Failure> {
    if target.json {
        return Ok(print_json(reply)?);
    }
    Ok(print(
        &reply
            .done
            .iter()
            .fold(String::new(), |text, line| text + line + "\n"),
    )?)
}

fn socket(target: &Target) -> Result<PathBuf, Failure> {
    let state_dir = match (&target.config, &target.name) {
        (Some(file), _) => config::load_agent(file)?.1.state_dir,
        (None, name) => {
            let name = name.as_deref().unwrap_or("default");
            config::default_state_dir(name).ok_or_else(|| {
                Failure::Usage(anyhow!(
                    "no agent can be named {name:?}; mqlb status shows the name"
                ))
            })?
        }
    };
    Ok(control::socket(&state_dir))
}

/// Nobody listens: no agent runs.
fn absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused)
}

async fn exchange(socket: &Path, command: &Command) -> Result<Reply, Failure> {
    let stream = UnixStream::connect(socket).await.map_err(|error| {
        let hint = if absent(&error) {
            "does the agent run? (mqlb run; --config or --name say which one)"
        } else {
            "are you root?"
        };
        Failure::Failed(anyhow!(
            "cannot talk to the agent at {}: {error}; {hint}",
            socket.display()
        ))
    })?;
    let (status, body) = post(stream, command).await?;
    if status.is_success() {
        let reply = serde_json::from_slice(&body)
            .context("cannot read the agent's answer: is it another version of mqlb?")?;
        return Ok(reply);
    }
    let refusal = serde_json::from_slice::<ErrorBody>(&body).map_or_else(
        |_| format!("the agent answered {status}"),
        |body| body.error,
    );
    Err(if status == StatusCode::BAD_REQUEST {
        Failure::Usage(anyhow!(refusal))
    } else {
        Failure::Failed(anyhow!(refusal))
    })
}

async fn post(stream: UnixStream, command: &Command) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("talking to the agent")?;
    let driver = tokio::spawn(connection);
    let request = Request::post(control::PATH)
        .header(hyper::header::HOST, "mqlb")
        .body(Full::<Bytes>::from(serde_json::to_vec(command)?))?;
    let response = sender
        .send_request(request)
        .await
        .context("talking to the agent")?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    let body = body.map_err(|error| anyhow!("talking to the agent: {error}"))?;
    driver.abort();
    Ok((status, body.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_weights() {
        assert_eq!(rate("500/s"), Ok(500));
        assert_eq!(rate("7"), Ok(7));
        for wrong in ["0/s", "-1/s", "500/m", "", "/s", "1000001"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        assert_eq!(weight("0").unwrap().0, Some(0));
        assert_eq!(weight("config").unwrap().0, None);
        assert!(weight("65536").is_err());
    }
}
