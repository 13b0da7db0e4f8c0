//! The broker of the benchmarks: it answers, on one thread, with as few system calls as it can, so that what is
//! measured is what lies between client and broker. It keeps no sessions and routes no messages.
//!
//! CONNECT is answered by CONNACK, PINGREQ by PINGRESP, PUBLISH with QoS 1 by PUBACK, SUBSCRIBE by SUBACK and,
//! if the filter is `bulk/N`, by N bytes of PUBLISH, if it is `name`, by the broker's address; other packets are taken
//! and forgotten.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use super::packets;

/// What is read at once; also the payload of a bulk PUBLISH.
const BUFFER: usize = 64 * 1024;

struct Connection {
    stream: TcpStream,
    /// Of a packet that has not come as a whole: its beginning, unless it is being skipped.
    partial: Vec<u8>,
    /// Bytes of a large packet that are still to come and of no interest.
    skip: usize,
    /// What the client did not take yet.
    unsent: Vec<u8>,
    /// Bytes of bulk data still to be made.
    bulk: usize,
}

/// Serves at `addresses` until it is killed.
///
/// # Errors
/// An address can't be bound, or the process is out of descriptors.
pub fn serve(addresses: &[SocketAddr]) -> Result<()> {
    crate::process::raise_descriptor_limit()?;
    let mut poll = Poll::new()?;
    let mut listeners = Vec::new();
    for address in addresses {
        let mut listener = listen(*address).with_context(|| format!("listen at {address}"))?;
        let token = Token(listeners.len());
        poll.registry()
            .register(&mut listener, token, Interest::READABLE)?;
        listeners.push(listener);
    }
    let first = listeners.len();
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; BUFFER];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            let Token(token) = event.token();
            let Some(slot) = token.checked_sub(first) else {
                accept(&poll, &listeners[token], first, &mut connections, &mut free)?;
                continue;
            };
            let Some(connection) = &mut connections[slot] else {
                continue;
            };
            if !connection.go_on(&mut buffer, event.is_read_closed()) {
                connections[slot] = None;
                free.push(slot);
            }
        }
    }
}

/// A listener whose queue takes a storm: the library's own takes 1024.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM.nonblocking(), None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(65_535)?;
    Ok(TcpListener::from_std(socket.into()))
}

fn accept(
    poll: &Poll,
    listener: &TcpListener,
    first: usize,
    connections: &mut Vec<Option<Connection>>,
    free: &mut Vec<usize>,
) -> Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // Gone before it was accepted.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error).context("accept"),
        };
        stream.set_nodelay(true)?;
        let slot = free.pop().unwrap_or_else(|| {
            connections.push(None);
            connections.len() - 1
        });
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry()
            .register(&mut stream, Token(first + slot), interest)?;
        connections[slot] = Some(Connection {
            stream,
            partial: Vec::new(),
            skip: 0,
            unsent: Vec::new(),
            bulk: 0,
        });
    }
}

impl Connection {
    /// Reads and answers all that there is, the end too if the client has closed; false: the connection is over.
    fn go_on(&mut self, buffer: &mut [u8], closed: bool) -> bool {
        if !self.flush() {
            return false;
        }
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) => return false,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            };
            if !self.take(&buffer[..read]) || !self.flush() {
                return false;
            }
            if read < buffer.len() && !closed {
                // The event is edge-triggered, and more will be another edge (epoll(7)).
                return true;
            }
        }
    }

    /// False: the client said DISCONNECT, or no MQTT.
    fn take(&mut self, bytes: &[u8]) -> bool {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        let mut bytes = &bytes[skipped..];
        let joined: Vec<u8>;
        if !self.partial.is_empty() {
            joined = [&std::mem::take(&mut self.partial), bytes].concat();
            bytes = &joined;
        }
        while !bytes.is_empty() {
            let Some((head, length)) = packets::head(bytes) else {
                self.partial = bytes.to_vec();
                return true;
            };
            let whole = head + length;
            if bytes.len() < whole && bytes[0] >> 1 != packets::PUBLISH_QOS_0 {
                self.partial = bytes.to_vec();
                return true;
            }
            let here = whole.min(bytes.len());
            self.skip = whole - here;
            if !self.answer(bytes[0], &bytes[head..here]) {
                return false;
            }
            bytes = &bytes[here..];
        }
        true
    }

    fn answer(&mut self, first: u8, body: &[u8]) -> bool {
        match first >> 4 {
            1 => self.unsent.extend(packets::CONNACK),
            3 if first & 0x06 == 0x02 => {
                let Some(id) = packets::publish_id(body) else {
                    return false;
                };
                self.unsent.extend(packets::puback(id));
            }
            8 => {
                let Some((id, filter)) = packets::subscription(body) else {
                    return false;
                };
                self.unsent.extend([0x90, 3, id[0], id[1], 0]);
                if filter == packets::NAME {
                    let name = self.stream.local_addr().map(|address| address.to_string());
                    let name = name.unwrap_or_default();
                    self.unsent
                        .extend(packets::publish(packets::NAME, name.as_bytes(), None));
                } else if let Some(bytes) = filter.strip_prefix("bulk/") {
                    self.bulk += bytes.parse().unwrap_or(0);
                }
            }
            12 => self.unsent.extend(packets::PINGRESP),
            14 => return false,
            _ => {}
        }
        true
    }

    /// Sends what is to be sent, as far as it is taken.
    fn flush(&mut self) -> bool {
        loop {
            if self.unsent.is_empty() && self.bulk > 0 {
                let packet = packets::publish("bulk", &vec![b'b'; BUFFER.min(self.bulk)], None);
                self.bulk -= BUFFER.min(self.bulk);
                self.unsent = packet;
            }
            if self.unsent.is_empty() {
                return true;
            }
            match self.stream.write(&self.unsent) {
                Ok(written) => {
                    self.unsent.drain(..written);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
    }
}
