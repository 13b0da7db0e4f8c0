//! What set-up must be told: per listener, and for all.

use lb_common::layout::IdleLimits;
use lb_common::limits::rate::Pace;
use lb_common::mqtt;
use lb_common::siphash;

/// Source address of connections to backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// One of ours, from [`super::Choice::snat`] and [`Settings::ports`].
    Snat,
    /// The client's.
    Client,
}

/// Settings of a listener. The first four repeat what its SYN-ACKs say (`layout::Endpoint`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Window scale promised to clients that scale.
    pub window_scale: u8,
    /// Window announced in SYN-ACKs, in bytes.
    pub window: u16,
    /// MSS announced in SYN-ACKs.
    pub mss: u16,
    /// SACK is permitted in SYN-ACKs (to clients that ask).
    pub sack: bool,
    /// Source address towards the backends.
    pub source: Source,
    /// Put a PROXY protocol v2 header in front.
    pub proxy_protocol: bool,
    /// Clients speak TLS, which is passed through: a ClientHello comes in place of the CONNECT.
    pub tls: bool,
}

/// Settings for all connections. Times in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// This agent's number, another one than that of the agent before it.
    pub agent: u32,
    /// Key of the client identifier's hash.
    pub client_key: siphash::Key,
    /// Added to our timestamp clock, as in `layout::Settings`.
    pub timestamp_offset: u32,
    /// First and last port of the SNAT range.
    pub ports: (u16, u16),
    /// Limits of what a CONNECT may be.
    pub mqtt: mqtt::Limits,
    /// From a client's first data to its whole identifier.
    pub sniff_timeout: u64,
    /// For one backend to answer a SYN.
    pub connect_timeout: u64,
    /// Silence after which a connection ends.
    pub idle: IdleLimits,
    /// Most bytes kept for one connection.
    pub sniff_bytes: usize,
    /// Most bytes kept for all connections together.
    pub total_bytes: usize,
    /// Most connections in set-up.
    pub connections: usize,
    /// Most connections of one address (IPv6: one /64) that are being read.
    pub per_source: usize,
    /// CONNACKs that refuse, `None` for none at all; who can't be told so gets a RST.
    pub refusals: Option<Pace>,
}

/// Nanoseconds of a millisecond.
pub(super) const MS: u64 = 1_000_000;
/// Nanoseconds of a second.
pub(super) const SECOND: u64 = 1000 * MS;

impl Settings {
    /// Our timestamp clock (RFC 7323): milliseconds, the XDP program's SYN-ACKs use the same.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "timestamps wrap by definition"
    )]
    pub const fn clock(&self, now_ns: u64) -> u32 {
        ((now_ns / MS) as u32).wrapping_add(self.timestamp_offset)
    }

    /// Hash of a client identifier; 0 only for the empty one, which binds to nothing.
    #[must_use]
    pub fn client_hash(&self, identifier: &[u8]) -> u64 {
        if identifier.is_empty() {
            0
        } else {
            siphash::bytes(&self.client_key, identifier).max(1)
        }
    }
}

impl Default for Settings {
    /// The defaults of the configuration file; keys and offset are zero and must be set.
    fn default() -> Self {
        Self {
            agent: 0,
            client_key: [0; 2],
            timestamp_offset: 0,
            ports: (10_000, 60_999),
            mqtt: mqtt::Limits::DEFAULT,
            sniff_timeout: 10 * SECOND,
            connect_timeout: 3 * SECOND,
            idle: IdleLimits {
                grace: 10 * SECOND,
                least: 0,
                zero: 3600 * SECOND,
            },
            sniff_bytes: 128 << 10,
            total_bytes: 64 << 20,
            connections: 65_536,
            per_source: 8_192,
            refusals: Some(Pace::new(10_000, 10_000)),
        }
    }
}
