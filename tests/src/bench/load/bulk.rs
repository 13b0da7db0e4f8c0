//! Bulk data on one connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::PATIENCE;
use crate::bench::packets;

const PAYLOAD: usize = 64 * 1024;

/// Sends at least `bytes` to the broker and waits until it has them; gives the time.
///
/// # Errors
/// The connection ended.
pub fn up(mut stream: &TcpStream, bytes: usize) -> Result<Duration> {
    block(stream)?;
    let packet = packets::publish("bulk", &vec![b'b'; PAYLOAD], None);
    let start = Instant::now();
    for _ in 0..bytes.div_ceil(PAYLOAD) {
        stream.write_all(&packet).context("send bulk data")?;
    }
    // Its answer says that all that was before it has come.
    stream.write_all(&crate::raw::PING)?;
    let mut answer = packets::PINGRESP;
    stream
        .read_exact(&mut answer)
        .context("wait for the end of bulk data")?;
    Ok(start.elapsed())
}

/// Gets `bytes` from the broker; gives the time.
///
/// # Errors
/// The connection ended.
pub fn down(mut stream: &TcpStream, bytes: usize) -> Result<Duration> {
    block(stream)?;
    let start = Instant::now();
    stream.write_all(&crate::raw::subscribe(1, &format!("bulk/{bytes}")))?;
    let mut suback = [0; 5];
    stream.read_exact(&mut suback).context("wait for SUBACK")?;
    let whole = bytes / PAYLOAD;
    let sizes =
        std::iter::repeat_n(PAYLOAD, whole).chain(Some(bytes % PAYLOAD).filter(|rest| *rest > 0));
    let mut left: usize = sizes
        .map(|size| packets::publish("bulk", &vec![b'b'; size], None).len())
        .sum();
    let mut buffer = vec![0; 256 * 1024];
    while left > 0 {
        let most = left.min(buffer.len());
        match stream.read(&mut buffer[..most]).context("read bulk data")? {
            0 => anyhow::bail!("the connection was closed with {left} bytes to come"),
            read => left -= read,
        }
    }
    Ok(start.elapsed())
}

fn block(stream: &TcpStream) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream.set_write_timeout(Some(PATIENCE))?)
}
