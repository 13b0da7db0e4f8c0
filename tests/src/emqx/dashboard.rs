//! The stand-in's HTTP side: `/api/v5/status`, and a page that names the node for everything else.
//!
//! `PUT /stand-in/status/NUMBER` sets what `/api/v5/status` answers from then on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longest head of a request, in bytes.
const LONGEST: usize = 16 << 10;

/// # Errors
/// The address cannot be bound.
pub async fn serve(address: SocketAddr, name: String, status: Arc<AtomicU16>) -> Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen at {address}"))?;
    loop {
        let (stream, _) = listener.accept().await.context("accept")?;
        let (name, status) = (name.clone(), Arc::clone(&status));
        tokio::spawn(async move {
            // A client that breaks off is its own business.
            let _ = answer(stream, &name, &status).await;
        });
    }
}

async fn answer(mut stream: TcpStream, name: &str, status: &AtomicU16) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < LONGEST {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split(' ');
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let (code, body) = match (method, path) {
        ("GET", "/api/v5/status") => {
            let code = status.load(Relaxed);
            (
                code,
                format!("Node emqx@{name} is started\nemqx is running"),
            )
        }
        ("PUT", path) => match path.strip_prefix("/stand-in/status/").map(str::parse) {
            Some(Ok(code)) => {
                status.store(code, Relaxed);
                (200, String::new())
            }
            _ => (404, String::new()),
        },
        // What the balancer added to the request is for the test to see.
        _ => (200, format!("dashboard of {name}\n{head}")),
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {code} Stand-in\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    Ok(())
}
