//! The answer to a CONNECT that is not served.

use super::Protocol;

/// Why it isn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No backend can take the client.
    Unavailable,
    /// A limit is reached.
    Quota,
    /// The client identifier is on the block list.
    Banned,
}

/// A CONNACK that says why, in the version that the client speaks.
///
/// MQTT 5: reason code 0x88 (server unavailable), 0x97 (quota exceeded) or 0x8A (banned), no properties
/// (section 3.2.2.2). 3.1 and 3.1.1: return code 3 (server unavailable) or 5 (not authorized; section 3.2.2.3).
/// The server closes the connection behind it [MQTT-3.2.2-7].
pub const fn refusal(protocol: Protocol, why: Refused) -> &'static [u8] {
    match (protocol, why) {
        (Protocol::V5, Refused::Unavailable) => &[0x20, 3, 0, 0x88, 0],
        (Protocol::V5, Refused::Quota) => &[0x20, 3, 0, 0x97, 0],
        (Protocol::V5, Refused::Banned) => &[0x20, 3, 0, 0x8a, 0],
        (_, Refused::Unavailable | Refused::Quota) => &[0x20, 2, 0, 3],
        (_, Refused::Banned) => &[0x20, 2, 0, 5],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use mqttbytes::{v4, v5};

    #[test]
    fn clients_read_why() {
        for (why, old, new) in [
            (
                Refused::Unavailable,
                v4::ConnectReturnCode::ServiceUnavailable,
                v5::ConnectReturnCode::ServerUnavailable,
            ),
            (
                Refused::Quota,
                v4::ConnectReturnCode::ServiceUnavailable,
                v5::ConnectReturnCode::QuotaExceeded,
            ),
            (
                Refused::Banned,
                v4::ConnectReturnCode::NotAuthorized,
                v5::ConnectReturnCode::Banned,
            ),
        ] {
            for protocol in [Protocol::V31, Protocol::V311] {
                let bytes = refusal(protocol, why);
                let connack = v4::read(&mut BytesMut::from(bytes), 16).unwrap();
                let expected = v4::ConnAck::new(old, false);
                assert_eq!(connack, v4::Packet::ConnAck(expected), "{why:?}");
            }
            let bytes = refusal(Protocol::V5, why);
            let connack = v5::read(&mut BytesMut::from(bytes), 16).unwrap();
            let expected = v5::ConnAck::new(new, false);
            assert_eq!(connack, v5::Packet::ConnAck(expected), "{why:?}");
        }
    }
}
