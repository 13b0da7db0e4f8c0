//! The answer to a CONNECT that no backend can take.

use super::Protocol;

/// A CONNACK that says "server unavailable", in the version that the client speaks.
///
/// MQTT 5: reason code 0x88, no properties (section 3.2.2.2). 3.1 and 3.1.1: return code 3 (section 3.2.2.3).
/// The server closes the connection behind it [MQTT-3.2.2-7].
pub const fn refusal(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::V31 | Protocol::V311 => &[0x20, 2, 0, 3],
        Protocol::V5 => &[0x20, 3, 0, 0x88, 0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use mqttbytes::{v4, v5};

    #[test]
    fn clients_read_server_unavailable() {
        for protocol in [Protocol::V31, Protocol::V311] {
            let connack = v4::read(&mut BytesMut::from(refusal(protocol)), 16).unwrap();
            let expected = v4::ConnAck::new(v4::ConnectReturnCode::ServiceUnavailable, false);
            assert_eq!(connack, v4::Packet::ConnAck(expected));
        }
        let connack = v5::read(&mut BytesMut::from(refusal(Protocol::V5)), 16).unwrap();
        let expected = v5::ConnAck::new(v5::ConnectReturnCode::ServerUnavailable, false);
        assert_eq!(connack, v5::Packet::ConnAck(expected));
    }
}
