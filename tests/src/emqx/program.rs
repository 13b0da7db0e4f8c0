//! The stand-in as a program: `emqx foreground` and `emqx ctl status`, as in EMQX's image.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::dashboard;
use crate::broker::NAME_TOPIC;
use crate::client::{Connection, Protocol, Seen};
use crate::embedded;

/// What EMQX's variables say, as far as the stand-in knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The node's name without `emqx@`.
    pub host: String,
    pub mqtt: SocketAddr,
    pub websocket: SocketAddr,
    pub dashboard: SocketAddr,
}

impl Settings {
    /// Reads the variables, by `variable`, as EMQX does.
    ///
    /// # Errors
    /// One is missing that a cluster needs, or is not of the form that EMQX takes.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let required = |name: &str| {
            variable(name)
                .filter(|value| !value.is_empty())
                .with_context(|| format!("{name} is not set"))
        };
        let name = required("EMQX_NODE_NAME")?;
        let host = name
            .strip_prefix("emqx@")
            .with_context(|| format!("EMQX_NODE_NAME is {name}, not emqx@HOST"))?;
        let dotted = host.contains('.') || host.contains(':');
        if !dotted {
            bail!("EMQX_NODE_NAME is {name}: an Erlang node's long name needs a dot or an address");
        }
        let cookie = required("EMQX_NODE__COOKIE")?;
        if cookie.len() > 255 {
            bail!(
                "EMQX_NODE__COOKIE has {} characters: Erlang takes 255",
                cookie.len()
            );
        }
        required("EMQX_DASHBOARD__DEFAULT_PASSWORD")?;
        let seeds = required("EMQX_CLUSTER__STATIC__SEEDS")?;
        let strategy = required("EMQX_CLUSTER__DISCOVERY_STRATEGY")?;
        let listed = |seed: &str| seed.trim() == name;
        if strategy != "static" || !seeds.trim_matches(['[', ']']).split(',').any(listed) {
            bail!("discovery is {strategy} with the seeds {seeds}, and {name} is none of them");
        }
        let address = |name: &str, default: u16| match variable(name) {
            None => Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, default))),
            Some(value) => bind(&value).with_context(|| format!("{name} is {value}")),
        };
        Ok(Self {
            host: host.to_owned(),
            mqtt: address("EMQX_LISTENERS__TCP__DEFAULT__BIND", 1883)?,
            websocket: address("EMQX_LISTENERS__WS__DEFAULT__BIND", 8083)?,
            dashboard: address("EMQX_DASHBOARD__LISTENERS__HTTP__BIND", 18083)?,
        })
    }
}

/// An address with its port. Values are HOCON, where an address of IPv6 is a string only in quotes.
fn bind(value: &str) -> Result<SocketAddr> {
    let quoted = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    if quoted.is_none() && value.starts_with('[') {
        bail!("that is the beginning of a HOCON array: put it in double quotes");
    }
    let value = quoted.unwrap_or(value);
    value.parse().context("no ADDRESS:PORT")
}

/// Runs `emqx ARGUMENTS…`.
///
/// # Errors
/// Unknown arguments, wrong variables, a port that is taken; for `ctl status`, a node that does not serve.
pub fn run(arguments: &[String]) -> Result<()> {
    let settings = Settings::read(|name| std::env::var(name).ok())?;
    let runtime = tokio::runtime::Runtime::new()?;
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["foreground"] => runtime.block_on(foreground(settings)),
        ["ctl", "status"] => runtime.block_on(status(settings.dashboard)),
        _ => bail!(
            "`emqx {}` is nothing that the stand-in knows",
            arguments.join(" ")
        ),
    }
}

async fn foreground(settings: Settings) -> Result<()> {
    // As EMQX does, it answers 503 until it serves.
    let status = Arc::new(AtomicU16::new(503));
    let (mqtt, websocket) = ([settings.mqtt], [settings.websocket]);
    tokio::try_join!(
        embedded::serve(&mqtt, &websocket),
        dashboard::serve(
            settings.dashboard,
            settings.host.clone(),
            Arc::clone(&status)
        ),
        async {
            announce(&settings).await?;
            status.store(200, Relaxed);
            Ok(())
        },
    )?;
    Ok(())
}

/// Leaves the node's name for its clients, as soon as the broker serves.
async fn announce(settings: &Settings) -> Result<()> {
    let mqtt = within(settings.mqtt);
    for _ in 0..200 {
        if tokio::net::TcpStream::connect(mqtt).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut connection = Connection::new(Protocol::V4, "node", mqtt, Duration::from_secs(60));
    let handle = connection.handle();
    handle.publish(NAME_TOPIC, settings.host.as_bytes(), true)?;
    while connection.next().await? != Seen::PublishAcknowledged {}
    handle.disconnect()?;
    while connection.next().await? != Seen::Disconnected {}
    Ok(())
}

async fn status(dashboard: SocketAddr) -> Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(within(dashboard)).await?;
    stream
        .write_all(b"GET /api/v5/status HTTP/1.0\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    if !answer.starts_with("HTTP/1.1 200 ") {
        bail!("{}", answer.lines().next().unwrap_or_default());
    }
    Ok(())
}

/// How the process itself reaches what listens at `address`: `[::]` takes IPv4 too, and not every container
/// has IPv6 on its loopback interface.
fn within(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        return SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(changes: &[(&str, &str)]) -> Result<Settings> {
        Settings::read(|name| {
            let changed = changes.iter().find(|(given, _)| *given == name);
            let value = match (changed, name) {
                (Some((_, value)), _) => value,
                (None, "EMQX_NODE_NAME") => "emqx@emqx1.internal",
                (None, "EMQX_NODE__COOKIE" | "EMQX_DASHBOARD__DEFAULT_PASSWORD") => "secret",
                (None, "EMQX_CLUSTER__DISCOVERY_STRATEGY") => "static",
                (None, "EMQX_CLUSTER__STATIC__SEEDS") => "[emqx@emqx1.internal,emqx@b.internal]",
                _ => return None,
            };
            Some((*value).to_owned())
        })
    }

    #[test]
    fn variables_are_taken_as_emqx_takes_them() {
        let settings = read(&[("EMQX_LISTENERS__TCP__DEFAULT__BIND", "\"[::]:1884\"")]).unwrap();
        assert_eq!(settings.host, "emqx1.internal");
        assert_eq!(settings.mqtt, "[::]:1884".parse().unwrap());
        assert_eq!(settings.websocket, "0.0.0.0:8083".parse().unwrap());
        for (name, value) in [
            ("EMQX_LISTENERS__TCP__DEFAULT__BIND", "[::]:1883"),
            ("EMQX_NODE_NAME", "emqx@emqx1"),
            ("EMQX_NODE_NAME", "emqx@c.internal"),
            ("EMQX_NODE__COOKIE", ""),
            ("EMQX_CLUSTER__DISCOVERY_STRATEGY", "manual"),
        ] {
            assert!(read(&[(name, value)]).is_err(), "{name}={value}");
        }
    }
}
