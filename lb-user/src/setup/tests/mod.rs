//! Set-up against small, strict TCPs on both sides.

mod backend;
mod client;
mod crash;
mod failures;
mod hello;
mod kernel;
mod late;
mod limits;
mod numbers;
mod path_mtu;
mod prefix;
mod property;
mod shapes;
mod sniffing;
mod takeover;
mod world;

use backend::Backend;
use client::Client;
use world::World;

/// An MQTT 3.1.1 CONNECT with a client identifier and, if it isn't empty, a user name and password.
pub(super) fn connect(identifier: &str, keep_alive: u16, password: &[u8]) -> Vec<u8> {
    let field = |bytes: &[u8]| {
        let mut field = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
        field.extend(bytes);
        field
    };
    let mut body = b"\x00\x04MQTT\x04".to_vec();
    body.push(if password.is_empty() { 2 } else { 0xc2 });
    body.extend(keep_alive.to_be_bytes());
    body.extend(field(identifier.as_bytes()));
    if !password.is_empty() {
        body.extend(field(b"user"));
        body.extend(field(password));
    }
    packet(0x10, &body)
}

/// An MQTT 5 CONNECT with a property.
pub(super) fn connect_v5(identifier: &str) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x05\x02\x00\x3c\x05\x11\x00\x00\x00\x0a".to_vec();
    body.extend(u16::try_from(identifier.len()).unwrap().to_be_bytes());
    body.extend(identifier.as_bytes());
    packet(0x10, &body)
}

/// A control packet: first byte, remaining length, body.
pub(super) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut len = body.len();
    loop {
        let low = u8::try_from(len & 127).unwrap();
        len >>= 7;
        out.push(low | if len > 0 { 128 } else { 0 });
        if len == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

/// Bytes that don't repeat soon.
pub(super) fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7919 % 251) as u8).collect()
}
