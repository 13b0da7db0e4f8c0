//! HTTP from inside a namespace: the balancer's own interface, and what it passes on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::netns::Netns;

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// Status line and header.
    pub head: String,
    pub body: String,
}

impl Response {
    /// The value of a header field, whose name is compared without regard to case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (given, value) = line.split_once(':')?;
            given.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// The body that `GET path` answers with.
///
/// # Errors
/// No answer within 5 s, or its status is not 200.
pub fn get(netns: &Netns, server: SocketAddr, path: &str) -> Result<String> {
    netns.enter(|| get_here(server, path))?
}

/// As [`get`], from the namespace of this thread.
///
/// # Errors
/// As for [`get`].
pub fn get_here(server: SocketAddr, path: &str) -> Result<String> {
    let response = request_here(server, "GET", path, &[])?;
    if response.status != 200 {
        let Response { head, body, .. } = response;
        let status = head.lines().next().unwrap_or_default();
        bail!("GET http://{server}{path}: {status}: {body}");
    }
    Ok(response.body)
}

/// Sends a request with header fields and no body, and asks for an answer that ends with the connection.
///
/// # Errors
/// No answer within 5 s, or none of HTTP's form.
pub fn request(
    netns: &Netns,
    server: SocketAddr,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
) -> Result<Response> {
    netns.enter(|| request_here(server, method, path, fields))?
}

fn request_here(
    server: SocketAddr,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
) -> Result<Response> {
    let mut message =
        format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n");
    for (name, value) in fields {
        message += &format!("{name}: {value}\r\n");
    }
    message += "\r\n";
    let exchange = || -> std::io::Result<String> {
        let timeout = Duration::from_secs(5);
        let mut stream = TcpStream::connect_timeout(&server, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.write_all(message.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().with_context(|| format!("{method} http://{server}{path}"))?;
    parse(&answer).with_context(|| format!("{method} http://{server}{path}: {answer:?}"))
}

fn parse(answer: &str) -> Result<Response> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("no end of the header")?;
    let status = head.split(' ').nth(1).context("no status")?;
    let mut response = Response {
        status: status.parse().context("the status")?,
        head: head.to_owned(),
        body: body.to_owned(),
    };
    if response.header("transfer-encoding") == Some("chunked") {
        response.body = joined(body)?;
    }
    Ok(response)
}

/// The chunks of a body (RFC 9112, section 7.1) joined.
fn joined(mut body: &str) -> Result<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").context("no size of a chunk")?;
        let size = usize::from_str_radix(size, 16).context("the size of a chunk")?;
        if size == 0 {
            return Ok(whole);
        }
        whole += rest.get(..size).context("the body ends within a chunk")?;
        body = rest[size..]
            .strip_prefix("\r\n")
            .context("no end of a chunk")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let answer = "HTTP/1.1 302 Found\r\nLocation:  /stats\r\n\r\nbody";
        let response = parse(answer).unwrap();
        assert_eq!(response.status, 302);
        assert_eq!(response.header("location"), Some("/stats"));
        assert_eq!(response.header("cookie"), None);
        assert_eq!(response.body, "body");
        assert!(parse("HTTP/1.1 200 OK\r\n").is_err());
    }

    #[test]
    fn chunks_are_joined() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let response = parse(&format!("{head}3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n")).unwrap();
        assert_eq!(response.body, "abc0123456789");
        assert!(parse(&format!("{head}3\r\nab")).is_err());
    }
}
