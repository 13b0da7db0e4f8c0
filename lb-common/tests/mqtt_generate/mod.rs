//! Random valid CONNECTs, encoded by mqttbytes, and what can happen to them.

#![allow(
    dead_code,
    reason = "every test file compiles this module and uses another part of it"
)]

use bytes::{Bytes, BytesMut};
use lb_common::mqtt::Protocol;
use mqttbytes::{QoS, v4, v5};
use proptest::{collection::vec, option, prelude::*, sample::Index};

use crate::mqtt_oracle::framed;

/// An encoded CONNECT and what `sniff` must find in it.
#[derive(Debug, Clone)]
pub struct Encoded {
    pub bytes: Vec<u8>,
    pub protocol: Protocol,
    pub client_id: String,
    pub keep_alive: u16,
    pub clean_start: bool,
}

/// Text without U+0000, of `0..max` characters.
fn text(max: usize) -> impl Strategy<Value = String> {
    let character = any::<char>().prop_map(|c| if c == '\0' { '0' } else { c });
    vec(character, 0..max).prop_map(String::from_iter)
}

fn client_id() -> impl Strategy<Value = String> {
    prop_oneof![
        40 => text(40),
        20 => (0..=300usize).prop_map(|len| "i".repeat(len)),
        1 => (0..=65_535usize).prop_map(|len| "L".repeat(len)),
        1 => Just("L".repeat(65_535)),
    ]
}

fn topic() -> impl Strategy<Value = String> {
    "[a-z/$é]{1,40}"
}

fn quality() -> impl Strategy<Value = QoS> {
    prop_oneof![
        Just(QoS::AtMostOnce),
        Just(QoS::AtLeastOnce),
        Just(QoS::ExactlyOnce)
    ]
}

/// User name and password; mqttbytes leaves an empty one out.
fn login() -> impl Strategy<Value = (String, String)> {
    (
        text(20).prop_map(|name| format!("u{name}")),
        prop_oneof![40 => text(20), 1 => Just("p".repeat(20_000))],
    )
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![40 => vec(any::<u8>(), 0..200), 1 => Just(vec![0xA5; 65_535])]
}

fn binary() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..30).prop_map(Bytes::from)
}

fn user_properties() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((text(10), text(10)), 0..4)
}

pub fn v4_connect() -> impl Strategy<Value = Encoded> {
    let will = (topic(), payload(), quality(), any::<bool>())
        .prop_map(|(topic, payload, qos, retain)| v4::LastWill::new(topic, payload, qos, retain));
    let login = login().prop_map(|(name, password)| v4::Login::new(name, password));
    (
        client_id(),
        any::<u16>(),
        any::<bool>(),
        option::of(will),
        option::of(login),
    )
        .prop_map(|(client_id, keep_alive, clean, last_will, login)| {
            // [MQTT-3.1.3-7]: without an identifier the session must be clean.
            let clean_start = clean || client_id.is_empty();
            let connect = v4::Connect {
                protocol: mqttbytes::Protocol::V4,
                keep_alive,
                client_id: client_id.clone(),
                clean_session: clean_start,
                last_will,
                login,
            };
            let mut bytes = BytesMut::new();
            connect.write(&mut bytes).expect("fits");
            Encoded {
                bytes: bytes.to_vec(),
                protocol: Protocol::V311,
                client_id,
                keep_alive,
                clean_start,
            }
        })
}

fn will_properties() -> impl Strategy<Value = v5::WillProperties> {
    (
        option::of(any::<u32>()),
        option::of(0..=1u8),
        option::of(any::<u32>()),
        option::of(text(10)),
        option::of(topic()),
        option::of(binary()),
        user_properties(),
    )
        .prop_map(
            |(delay, format, expiry, content_type, response_topic, correlation_data, user)| {
                v5::WillProperties {
                    delay_interval: delay,
                    payload_format_indicator: format,
                    message_expiry_interval: expiry,
                    content_type,
                    response_topic,
                    correlation_data,
                    user_properties: user,
                }
            },
        )
}

fn connect_properties() -> impl Strategy<Value = v5::ConnectProperties> {
    (
        option::of(any::<u32>()),
        option::of(1..=u16::MAX),
        option::of(1..=u32::MAX),
        option::of(any::<u16>()),
        option::of(0..=1u8),
        option::of(0..=1u8),
        user_properties(),
        option::of((text(10), option::of(binary()))),
    )
        .prop_map(
            |(expiry, receive, size, alias, response, problem, user, authentication)| {
                let (method, data) =
                    authentication.map_or((None, None), |(method, data)| (Some(method), data));
                v5::ConnectProperties {
                    session_expiry_interval: expiry,
                    receive_maximum: receive,
                    max_packet_size: size,
                    topic_alias_max: alias,
                    request_response_info: response,
                    request_problem_info: problem,
                    user_properties: user,
                    authentication_method: method,
                    authentication_data: data,
                }
            },
        )
}

pub fn v5_connect() -> impl Strategy<Value = Encoded> {
    let will = (
        topic(),
        payload(),
        quality(),
        any::<bool>(),
        option::of(will_properties()),
    )
        .prop_map(|(topic, payload, qos, retain, properties)| {
            let mut will = v5::LastWill::new(topic, payload, qos, retain);
            will.properties = properties;
            will
        });
    // MQTT 5 lets a password come without a user name.
    let login = (login(), any::<bool>()).prop_map(|((name, password), anonymous)| {
        v5::Login::new(if anonymous { String::new() } else { name }, password)
    });
    let head = (
        client_id(),
        any::<u16>(),
        any::<bool>(),
        option::of(connect_properties()),
    );
    (head, option::of(will), option::of(login)).prop_map(
        |((client_id, keep_alive, clean_start, properties), last_will, login)| {
            let connect = v5::Connect {
                protocol: mqttbytes::Protocol::V5,
                keep_alive,
                client_id: client_id.clone(),
                clean_session: clean_start,
                last_will,
                login,
                properties,
            };
            let mut bytes = BytesMut::new();
            connect.write(&mut bytes).expect("fits");
            Encoded {
                bytes: bytes.to_vec(),
                protocol: Protocol::V5,
                client_id,
                keep_alive,
                clean_start,
            }
        },
    )
}

/// 3.1 differs from 3.1.1 in name and level, and demands an identifier. mqttbytes doesn't write it.
pub fn v31_connect() -> impl Strategy<Value = Encoded> {
    v4_connect()
        .prop_filter("3.1 demands an identifier", |v4| !v4.client_id.is_empty())
        .prop_map(|v4| {
            let name = v4
                .bytes
                .windows(4)
                .position(|four| four == b"MQTT")
                .expect("a CONNECT");
            let body = [b"\0\x06MQIsdp\x03", &v4.bytes[name + 5..]].concat();
            Encoded {
                bytes: framed(&body),
                protocol: Protocol::V31,
                ..v4
            }
        })
}

pub fn any_connect() -> impl Strategy<Value = Encoded> {
    prop_oneof![v31_connect(), v4_connect(), v5_connect()]
}

/// Damage; positions are taken relative to the length.
#[derive(Debug, Clone)]
pub enum Mutation {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Truncate(Index),
    /// Replaces everything from the first position on by the donor from the second position on.
    Splice(Index, Index),
    /// Gives the packet the remaining length that fits what has become of it.
    Reframe,
}

pub fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), 0..8u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        2 => at().prop_map(Mutation::Remove),
        1 => at().prop_map(Mutation::Truncate),
        1 => (at(), at()).prop_map(|(from, to)| Mutation::Splice(from, to)),
        4 => Just(Mutation::Reframe),
    ]
}

impl Mutation {
    pub fn apply(&self, bytes: &mut Vec<u8>, donor: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Flip(at, bit) => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Self::Set(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Self::Insert(at, byte) => bytes.insert(at.index(bytes.len()), *byte),
            Self::Remove(at) => {
                bytes.remove(at.index(bytes.len()));
            }
            Self::Truncate(at) => bytes.truncate(at.index(bytes.len())),
            Self::Splice(from, to) => {
                bytes.truncate(from.index(bytes.len()));
                bytes.extend_from_slice(&donor[to.index(donor.len())..]);
            }
            Self::Reframe => {
                let digits = bytes
                    .iter()
                    .skip(1)
                    .take_while(|&&byte| byte & 0x80 != 0)
                    .count();
                *bytes = framed(bytes.get(2 + digits..).unwrap_or_default());
            }
        }
    }
}
