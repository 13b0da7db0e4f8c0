//! Reads the balancer's HTTP interface from inside its namespace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::netns::Netns;

/// The body that `GET path` answers with. Speaks HTTP/1.0: the answer ends with the connection.
///
/// # Errors
/// No answer within 5 s, or its status is not 200.
pub fn get(netns: &Netns, server: SocketAddr, path: &str) -> Result<String> {
    let answer = netns.enter(|| -> std::io::Result<String> {
        let timeout = Duration::from_secs(5);
        let mut stream = TcpStream::connect_timeout(&server, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    let answer = answer.with_context(|| format!("GET http://{server}{path}"))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("GET http://{server}{path}: no end of the header: {answer:?}"))?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("GET http://{server}{path}: {status}: {body}");
    }
    Ok(body.to_owned())
}
