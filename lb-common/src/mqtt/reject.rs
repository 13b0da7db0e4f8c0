//! Why first bytes are not a CONNECT that a broker may see.

use core::fmt;

/// The numbers are stable: counters are indexed by them. 0 is nobody's.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reject {
    /// The first byte is not that of a CONNECT (0x10).
    NotConnect = 1,
    /// The remaining length has more than four bytes, or a field doesn't fit into it.
    BadRemainingLength = 2,
    /// The remaining length is above [`Limits::packet`](super::Limits::packet).
    OversizedPacket = 3,
    /// Neither `MQTT` nor `MQIsdp`.
    BadProtocolName = 4,
    /// Not the level that goes with the name.
    BadProtocolLevel = 5,
    /// Connect flags that are reserved or contradict each other.
    BadFlags = 6,
    /// A property that is unknown, misplaced, repeated, out of range or longer than its section.
    BadProperties = 7,
    /// An identifier that is not UTF-8 or contains U+0000.
    BadClientId = 8,
    /// No identifier where the protocol demands one.
    EmptyClientId = 9,
    /// The identifier is above [`Limits::client_id`](super::Limits::client_id).
    OversizedClientId = 10,
    /// Will topic or user name malformed, or bytes behind the last field.
    BadPayload = 11,
}

impl Reject {
    /// In the order of their numbers, which start at 1.
    pub const ALL: [Self; 11] = [
        Self::NotConnect,
        Self::BadRemainingLength,
        Self::OversizedPacket,
        Self::BadProtocolName,
        Self::BadProtocolLevel,
        Self::BadFlags,
        Self::BadProperties,
        Self::BadClientId,
        Self::EmptyClientId,
        Self::OversizedClientId,
        Self::BadPayload,
    ];

    /// For metrics and logs: `snake_case`, stable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotConnect => "not_connect",
            Self::BadRemainingLength => "bad_remaining_length",
            Self::OversizedPacket => "oversized_packet",
            Self::BadProtocolName => "bad_protocol_name",
            Self::BadProtocolLevel => "bad_protocol_level",
            Self::BadFlags => "bad_flags",
            Self::BadProperties => "bad_properties",
            Self::BadClientId => "bad_client_id",
            Self::EmptyClientId => "empty_client_id",
            Self::OversizedClientId => "oversized_client_id",
            Self::BadPayload => "bad_payload",
        }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotConnect => "the first packet is not an MQTT CONNECT",
            Self::BadRemainingLength => {
                "the remaining length is malformed or too short for the fields of the CONNECT"
            }
            Self::OversizedPacket => "the CONNECT is larger than the limit",
            Self::BadProtocolName => "the protocol name is neither MQTT nor MQIsdp",
            Self::BadProtocolLevel => "the protocol level does not go with the protocol name",
            Self::BadFlags => "the connect flags are reserved or contradict each other",
            Self::BadProperties => {
                "a property is unknown, misplaced, repeated, out of range or too long"
            }
            Self::BadClientId => "the client identifier is not UTF-8 or contains U+0000",
            Self::EmptyClientId => "the client identifier is empty where the protocol demands one",
            Self::OversizedClientId => "the client identifier is longer than the limit",
            Self::BadPayload => {
                "the will or user name is malformed, or bytes follow the last field of the CONNECT"
            }
        })
    }
}

impl core::error::Error for Reject {}

#[cfg(test)]
mod tests {
    use super::Reject;

    #[test]
    fn numbers_are_contiguous_and_names_are_unique() {
        for (index, reject) in Reject::ALL.into_iter().enumerate() {
            assert_eq!(reject as usize, index + 1);
            assert!(
                !Reject::ALL[..index]
                    .iter()
                    .any(|other| other.name() == reject.name())
            );
        }
    }
}
