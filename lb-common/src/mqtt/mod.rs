//! The MQTT sniffer: a CONNECT is read as far as the client identifier, and validated as far as it is there.
//!
//! [`sniff`] looks at the first bytes of a TCP stream and keeps no state: the caller calls it again when more
//! bytes have come. Checks are made in the order of the bytes and each as soon as its bytes are there, so
//! that a verdict never changes: [`Sniff::Incomplete`] becomes a [`Connect`] or a [`Reject`], a [`Connect`]
//! only becomes `complete` or, if what follows the identifier is malformed, a [`Reject`]. Nothing behind the
//! CONNECT (pipelined packets) is looked at.
//!
//! What is checked, and what two brokers and the decoder `mqttbytes` 0.6 do with an offender. EMQX is 5.x in
//! its default configuration, `strict` what EMQX does with `mqtt.strict_mode` (the default from 6.3 on).
//! Sections are those of MQTT 5, those of 3.1.1 are the same but for properties.
//!
//! | offender | source | here | mqttbytes | EMQX | mosquitto |
//! |---|---|---|---|---|---|
//! | another packet, TLS, HTTP | 3.1 [MQTT-3.1.0-1] | `NotConnect` | reject | reject | reject |
//! | reserved bits of the first byte | 2.1.3 [MQTT-2.2.2-2] | `NotConnect` | pass | strict | reject, not 3.1 |
//! | remaining length of five bytes | 1.5.5 | `BadRemainingLength` | reject | pass | reject |
//! | remaining length that isn't minimal | 1.5.5 [MQTT-1.5.5-1] | pass | pass | pass | pass |
//! | property length that isn't minimal | 1.5.5 [MQTT-1.5.5-1] | pass | pass | pass | reject |
//! | remaining length too short for the fields | 3.1.2 | `BadRemainingLength` | reject | reject | reject |
//! | remaining length above the limit | 3.2.2.3.6 | `OversizedPacket` | reject | reject | reject |
//! | name not `MQTT` or `MQIsdp` | 3.1.2.1 [MQTT-3.1.2-1] | `BadProtocolName` | reject, `MQIsdp` too | reject | reject |
//! | level and name don't match | 3.1.2.2 [MQTT-3.1.2-2] | `BadProtocolLevel` | reject, 3 too | reject | reject |
//! | level with bit 7 (mosquitto bridges) | none | pass, `bridge` | reject | pass | pass |
//! | reserved connect flag | 3.1.2.3 [MQTT-3.1.2-3] | `BadFlags` | pass | reject | reject, not 3.1 |
//! | will QoS or retain without will, QoS 3 | 3.1.2.6 [MQTT-3.1.2-11 to 13] | `BadFlags` | reject | reject | QoS 3 |
//! | password without user name, 3.1 and 3.1.1 | 3.1.1: 3.1.2.9 [MQTT-3.1.2-22] | `BadFlags` | pass | strict | reject |
//! | property of another packet | 2.2.2.2 | `BadProperties` | reject | if unknown everywhere | reject |
//! | property twice, not User Property | 3.1.2.11, 3.1.3.2 | `BadProperties` | pass | strict | reject |
//! | Receive Maximum 0, Maximum Packet Size 0 | 3.1.2.11.3, .4 | `BadProperties` | pass | the first | reject |
//! | Request Problem/Response Information > 1 | 3.1.2.11.6, .7 | `BadProperties` | pass | reject | reject |
//! | Payload Format Indicator > 1 | 3.1.3.2.3 | `BadProperties` | pass | pass | reject |
//! | Response Topic empty or with wildcards | 3.3.2.3.5 [MQTT-3.3.2-14] | `BadProperties` | pass | pass | wildcards |
//! | Authentication Data without Method | 3.1.2.11.10 | `BadProperties` | pass | pass | pass |
//! | ill-formed UTF-8, surrogates | 1.5.4 [MQTT-1.5.4-1] | by field | reject | strict | reject |
//! | U+0000 | 1.5.4 [MQTT-1.5.4-2] | by field | pass | strict | reject |
//! | other control characters, non-characters | 1.5.4, "may" | pass | pass | strict | reject |
//! | empty identifier, 3.1 | 3.1: CONNECT | `EmptyClientId` | reject as 3.1 | reject | reject |
//! | empty identifier without clean session, 3.1.1 | 3.1.1: 3.1.3.1 [MQTT-3.1.3-8] | `EmptyClientId` | pass | reject | reject |
//! | empty identifier without clean start, 5 | 3.1.3.1 allows it | pass | pass | CONNACK 0x85 | pass |
//! | identifier above 23 characters | 3.1.3.1 [MQTT-3.1.3-5], "may" | pass | pass | pass | pass |
//! | identifier above the limit | 3.1.3.1 | `OversizedClientId` | pass | reject | pass |
//! | will topic empty or with wildcards | 4.7.3, 3.3.2.1 [MQTT-3.3.2-2] | `BadPayload` | pass | reject | reject |
//! | flag without its field | 3.1.3 | `BadRemainingLength` | reject | reject | reject, not 3.1 |
//! | password that isn't UTF-8 | 3.1.3.6 is binary | pass | reject | strict | pass |
//! | bytes behind the last field | 3.1.3 | `BadPayload` | pass | reject | reject |
//!
//! Where a broker may be configured either way and the standard doesn't forbid it, the packet passes: the
//! broker answers with a reason, the balancer could only reset.

mod connect;
mod fixed_header;
mod flags;
mod glance;
mod properties;
mod reader;
mod refusal;
mod reject;
#[cfg(test)]
mod tests;
mod utf8;

pub use glance::{Glance, LONGEST_ID, ROOM, Seen};
pub use refusal::{Refused, refusal};
pub use reject::Reject;

/// Version of MQTT that the CONNECT asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// 3.1: name `MQIsdp`, level 3.
    V31,
    /// 3.1.1: name `MQTT`, level 4.
    V311,
    /// 5: name `MQTT`, level 5.
    V5,
}

/// A CONNECT, read at least as far as its client identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    pub protocol: Protocol,
    /// Bit 7 of the level: mosquitto's mark for a connection from another broker.
    pub bridge: bool,
    /// Clean Start (5) or Clean Session (3.1, 3.1.1).
    pub clean_start: bool,
    /// Keep alive in seconds, 0: none.
    pub keep_alive: u16,
    /// UTF-8 without U+0000, never cut; empty: the broker makes one up.
    pub client_id: &'a [u8],
    /// Offset in the input one past the identifier.
    pub client_id_end: usize,
    /// Bytes of the whole CONNECT, its fixed header included; may be more than have arrived.
    pub packet_len: usize,
    /// The whole packet was in the input and is sound to its last byte.
    pub complete: bool,
}

/// What the first bytes are, as far as they can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniff<'a> {
    /// A CONNECT so far, but the client identifier has not arrived whole.
    Incomplete,
    Connect(Connect<'a>),
}

/// Sizes above which a CONNECT is rejected, before its bytes are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Client identifier in bytes; the encoding ends at 65,535.
    pub client_id: usize,
    /// Remaining length in bytes, that is the packet without its fixed header, which is what EMQX's
    /// `max_packet_size` counts.
    pub packet: usize,
}

impl Limits {
    /// EMQX's defaults: `max_clientid_len = 65535`, `max_packet_size = 1MB`.
    pub const DEFAULT: Self = Self {
        client_id: 65_535,
        packet: 1 << 20,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Reads the CONNECT at the start of a TCP stream, within [`Limits::DEFAULT`].
///
/// `first_bytes` are the contiguous first bytes of the stream, from none to more than the CONNECT.
///
/// # Errors
/// The first thing that is wrong, as soon as the bytes show it.
pub fn sniff(first_bytes: &[u8]) -> Result<Sniff<'_>, Reject> {
    sniff_within(first_bytes, &Limits::DEFAULT)
}

/// [`sniff`] within limits of the caller's choice.
///
/// # Errors
/// As [`sniff`].
pub fn sniff_within<'a>(first_bytes: &'a [u8], limits: &Limits) -> Result<Sniff<'a>, Reject> {
    connect::read(first_bytes, limits)
}
