//! The few MQTT 3.1.1 packets of the benchmarks, as bytes.

/// CONNACK: no session, accepted (section 3.2).
pub const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
/// Section 3.14.
pub const DISCONNECT: [u8; 2] = [0xe0, 0];
/// Section 3.13.
pub const PINGRESP: [u8; 2] = [0xd0, 0];
/// The first byte of a PUBLISH with QoS 0, without its retain flag.
pub const PUBLISH_QOS_0: u8 = 0x30 >> 1;

/// Whoever subscribes to it is told the broker's address.
pub const NAME: &str = "name";

/// CONNECT with a clean session and a keep-alive that no benchmark outlasts (section 3.1).
pub fn connect(id: &str) -> Vec<u8> {
    let mut connect = crate::raw::Connect::new(id);
    connect.keep_alive = 3600;
    connect.encode()
}

/// PUBLISH, with QoS 1 if it has a packet identifier (section 3.3).
pub fn publish(topic: &str, payload: &[u8], id: Option<u16>) -> Vec<u8> {
    let mut body = Vec::with_capacity(payload.len() + topic.len() + 4);
    body.extend(
        u16::try_from(topic.len())
            .expect("a short topic")
            .to_be_bytes(),
    );
    body.extend(topic.as_bytes());
    body.extend(id.map(u16::to_be_bytes).into_iter().flatten());
    body.extend(payload);
    let mut packet = vec![if id.is_some() { 0x32 } else { 0x30 }];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length & 0x7f).expect("seven bits");
        length >>= 7;
        packet.push(low | if length > 0 { 0x80 } else { 0 });
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

/// PUBACK (section 3.4).
pub fn puback(id: [u8; 2]) -> [u8; 4] {
    [0x40, 2, id[0], id[1]]
}

/// The packet identifier of a PUBLISH with QoS 1, from what follows its remaining length.
pub fn publish_id(body: &[u8]) -> Option<[u8; 2]> {
    let topic = usize::from(u16::from_be_bytes(*body.first_chunk()?));
    body.get(2 + topic..)?.first_chunk().copied()
}

/// Packet identifier and first filter of a SUBSCRIBE, from what follows its remaining length (section 3.8).
pub fn subscription(body: &[u8]) -> Option<([u8; 2], &str)> {
    let (id, rest) = body.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let filter = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    Some((*id, std::str::from_utf8(filter).ok()?))
}

/// Bytes before a packet's body, and of its body (section 2.2.3); `None`: more must come first.
pub fn head(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((2 + at, length));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_read_as_it_was_written() {
        for payload in [0, 100, 200, 70_000] {
            let packet = publish("a/b", &vec![7; payload], Some(0x1234));
            let (start, length) = head(&packet).unwrap();
            assert_eq!(packet.len(), start + length);
            assert_eq!(publish_id(&packet[start..]), Some([0x12, 0x34]));
            assert_eq!(packet[0], 0x32);
        }
        assert_eq!(head(&[0x30]), None);
        assert_eq!(head(&[0x30, 0x80]), None);
    }

    #[test]
    fn a_subscription_is_read() {
        let packet = crate::raw::subscribe(5, "bulk/100");
        assert_eq!(subscription(&packet[2..]), Some(([0, 5], "bulk/100")));
        assert_eq!(subscription(&packet[2..6]), None);
    }
}
