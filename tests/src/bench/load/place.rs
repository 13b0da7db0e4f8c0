//! Where a client is served: the benchmarks' brokers tell, to who subscribes to `name`.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result};

use super::PATIENCE;
use crate::bench::packets;

/// The address that the client's broker listens at.
///
/// # Errors
/// The connection ended, or the broker is none of the benchmarks'.
pub fn of(mut stream: &TcpStream) -> Result<String> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&crate::raw::subscribe(1, packets::NAME))?;
    let mut suback = [0; 5];
    stream.read_exact(&mut suback)?;
    let (_, body) = crate::raw::read_packet(&mut stream)?;
    let name = body
        .get(2 + packets::NAME.len()..)
        .context("a PUBLISH of its name")?;
    Ok(String::from_utf8(name.to_vec())?)
}
