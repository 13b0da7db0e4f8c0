//! MQTT byte by byte over plain TCP, for what a client library would not send.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpSocket;

use crate::lab::Lab;
use crate::plan::MQTT_PORT;

/// Until a read or a write gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// CONNACK of MQTT 3.1.1: no session, accepted (section 3.2).
pub const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

/// A CONNECT packet of MQTT 3.1, 3.1.1 or, without any property, 5 (section 3.1).
#[derive(Clone, Debug)]
pub struct Connect {
    pub protocol: &'static str,
    pub level: u8,
    pub client_id: String,
    pub clean_session: bool,
    /// Topic and payload.
    pub will: Option<(String, Vec<u8>)>,
    /// User name and password.
    pub login: Option<(String, Vec<u8>)>,
    /// Or-ed into the connect flags.
    pub extra_flags: u8,
    /// In seconds.
    pub keep_alive: u16,
}

impl Connect {
    /// MQTT 3.1.1 with a clean session and nothing optional.
    pub fn new(client_id: &str) -> Self {
        Self {
            protocol: "MQTT",
            level: 4,
            client_id: client_id.into(),
            clean_session: true,
            will: None,
            login: None,
            extra_flags: 0,
            keep_alive: 60,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut flags = self.extra_flags | u8::from(self.clean_session) << 1;
        if self.will.is_some() {
            flags |= 0x04;
        }
        if self.login.is_some() {
            flags |= 0xc0;
        }
        let mut body = Vec::new();
        field(&mut body, self.protocol.as_bytes());
        body.extend([self.level, flags]);
        body.extend(self.keep_alive.to_be_bytes());
        // MQTT 5: properties, and those of the will.
        let properties: &[u8] = if self.level == 5 { &[0] } else { &[] };
        body.extend(properties);
        field(&mut body, self.client_id.as_bytes());
        if self.will.is_some() {
            body.extend(properties);
        }
        for (first, second) in [&self.will, &self.login].into_iter().flatten() {
            field(&mut body, first.as_bytes());
            field(&mut body, second);
        }
        packet(0x10, &body)
    }
}

/// SUBSCRIBE to one filter with QoS 0 (section 3.8).
pub fn subscribe(id: u16, filter: &str) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    field(&mut body, filter.as_bytes());
    body.push(0);
    packet(0x82, &body)
}

/// PUBLISH with QoS 0 (section 3.3).
pub fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    field(&mut body, topic.as_bytes());
    body.extend(payload);
    packet(0x30, &body)
}

/// Reads one MQTT packet: its first byte, and what follows the remaining length (section 2.2.3).
///
/// # Errors
/// The connection ended or failed, or the remaining length is longer than four bytes.
pub fn read_packet(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut first = [0];
    stream.read_exact(&mut first)?;
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            let mut body = vec![0; length];
            stream.read_exact(&mut body)?;
            return Ok((first[0], body));
        }
    }
    Err(io::Error::other("a remaining length of five bytes"))
}

/// Reads what is there. A process that is stopped and continued, as by a snapshot of its machine, has its reads
/// with a time limit interrupted (signal(7)): that is no end of a connection.
///
/// # Errors
/// The connection failed, or its time limit is over.
pub fn read(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// PINGREQ and PINGRESP (sections 3.12, 3.13).
pub const PING: [u8; 2] = [0xc0, 0];
pub const PONG: [u8; 2] = [0xd0, 0];

/// Connects from one of the clients' addresses ([`Topology::add_client`](crate::topology::Topology)) to the
/// VIP of its family. Reads and writes give up after 20 s.
///
/// # Errors
/// No SYN-ACK within `limit`, or a RST.
pub fn connect_from(lab: &Lab, source: IpAddr, limit: Duration) -> io::Result<TcpStream> {
    let vip = lab.topology.plan.vip();
    let server = match source {
        IpAddr::V4(_) => SocketAddr::from((vip.v4, MQTT_PORT)),
        IpAddr::V6(_) => SocketAddr::from((vip.v6, MQTT_PORT)),
    };
    let connect = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stream = runtime.block_on(async {
            let socket = match source {
                IpAddr::V4(_) => TcpSocket::new_v4()?,
                IpAddr::V6(_) => TcpSocket::new_v6()?,
            };
            socket.bind((source, 0).into())?;
            tokio::time::timeout(limit, socket.connect(server)).await?
        })?;
        stream.into_std()
    };
    let stream = lab
        .topology
        .clients
        .enter(connect)
        .map_err(io::Error::other)??;
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Connects from the clients' namespace to the VIP. Reads and writes give up after 20 s.
///
/// # Errors
/// The connection could not be made.
pub fn connect(lab: &Lab, vip: IpAddr) -> Result<TcpStream> {
    let server = SocketAddr::new(vip, MQTT_PORT);
    let timeout = PATIENCE;
    // A socket stays in the namespace it was opened in, whoever uses it.
    let stream = lab
        .topology
        .clients
        .enter(|| TcpStream::connect_timeout(&server, timeout))?
        .with_context(|| format!("connect to {server}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

/// Connects, sends `bytes` in one write, and returns the connection.
///
/// # Errors
/// The connection could not be made or written to.
pub fn open(lab: &Lab, vip: IpAddr, bytes: &[u8]) -> Result<TcpStream> {
    let mut stream = connect(lab, vip)?;
    stream.set_nodelay(true)?;
    stream.write_all(bytes).context("send the first bytes")?;
    Ok(stream)
}

/// A packet from its first byte and what follows the remaining length.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length & 0x7f).expect("seven bits");
        length >>= 7;
        if length == 0 {
            packet.push(low);
            break;
        }
        packet.push(low | 0x80);
    }
    packet.extend(body);
    packet
}

/// A string or binary data with its length in front (section 1.5.3).
fn field(body: &mut Vec<u8>, value: &[u8]) {
    let length = u16::try_from(value.len()).expect("at most 65,535 bytes");
    body.extend(length.to_be_bytes());
    body.extend(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_read_as_it_was_written() {
        for length in [0, 127, 128, 16_383, 16_384, 70_000] {
            let body = vec![7; length];
            let read = read_packet(&mut packet(0x30, &body).as_slice()).unwrap();
            assert_eq!(read, (0x30, body));
        }
    }

    #[test]
    fn connect_is_the_bytes_of_the_standard() {
        let mut connect = Connect::new("id");
        let packet = connect.encode();
        assert_eq!(packet, b"\x10\x0e\0\x04MQTT\x04\x02\0\x3c\0\x02id");
        connect.level = 5;
        connect.will = Some(("t".into(), b"p".to_vec()));
        let packet = connect.encode();
        let expected = b"\x10\x16\0\x04MQTT\x05\x06\0\x3c\0\0\x02id\0\0\x01t\0\x01p";
        assert_eq!(packet, expected);
    }
}
