//! The client's side of WebSocket (RFC 6455), as far as MQTT over it needs.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::netns::Netns;

/// A stream of MQTT bytes over WebSocket frames.
pub struct WebSocket<S> {
    stream: S,
    /// What of received frames was not read yet.
    received: Vec<u8>,
}

impl WebSocket<std::net::TcpStream> {
    /// Connects from `netns` and upgrades at `path`. Reads and writes give up after 20 s.
    ///
    /// # Errors
    /// No connection, or no upgrade.
    pub fn connect(netns: &Netns, server: SocketAddr, path: &str) -> Result<Self> {
        let timeout = Duration::from_secs(20);
        let stream = netns
            .enter(|| std::net::TcpStream::connect_timeout(&server, timeout))?
            .with_context(|| format!("connect to {server}"))?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Self::upgrade(stream, &server.to_string(), path)
    }
}

impl<S: Read + Write> WebSocket<S> {
    /// Upgrades a connection to a WebSocket with MQTT's subprotocol (MQTT 5, section 6).
    ///
    /// # Errors
    /// The server refuses.
    pub fn upgrade(mut stream: S, host: &str, path: &str) -> Result<Self> {
        // The key and its answer are those of RFC 6455, section 1.3.
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: mqtt\r\n\r\n"
        )?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            let read = stream.read_exact(&mut byte);
            read.with_context(|| String::from_utf8_lossy(&head).into_owned())?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head);
        ensure!(head.starts_with("HTTP/1.1 101 "), "no upgrade: {head}");
        ensure!(
            head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            "not the answer to our key: {head}"
        );
        Ok(Self {
            stream,
            received: Vec::new(),
        })
    }

    /// Reads one frame (section 5.2), which is short and unmasked.
    fn frame(&mut self) -> io::Result<()> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head)?;
        let length = match head[1] {
            126 => {
                let mut length = [0; 2];
                self.stream.read_exact(&mut length)?;
                usize::from(u16::from_be_bytes(length))
            }
            length @ ..126 => usize::from(length),
            _ => return Err(io::Error::other("a frame that is masked or too long")),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload)?;
        match head[0] {
            // A binary message, or the continuation of one; final or not.
            0x82 | 0x02 | 0x80 | 0x00 => self.received.extend(payload),
            0x88 => return Err(io::ErrorKind::UnexpectedEof.into()),
            other => return Err(io::Error::other(format!("a frame that begins {other:#x}"))),
        }
        Ok(())
    }
}

impl<S: Read + Write> Read for WebSocket<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.received.is_empty() {
            self.frame()?;
        }
        let length = buffer.len().min(self.received.len());
        buffer[..length].copy_from_slice(&self.received[..length]);
        self.received.drain(..length);
        Ok(length)
    }
}

impl<S: Read + Write> Write for WebSocket<S> {
    /// Sends one binary message. Clients have to mask (section 5.3); a mask of zeros changes nothing.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut frame = vec![0x82];
        // A length takes as few bytes as it can.
        match u8::try_from(bytes.len()) {
            Ok(length @ ..126) => frame.push(0x80 | length),
            _ => {
                let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
                frame.push(0x80 | 126);
                frame.extend(length.to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(bytes);
        self.stream.write_all(&frame)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
