//! The kernel's reader of CONNECTs against the agent's: on every length of identifier, on what real clients
//! send, on random packets, whole and damaged.

mod glance_oracle;
mod mqtt_generate;
#[expect(dead_code, reason = "only `framed` is needed here")]
mod mqtt_oracle;

use glance_oracle::{check, glance};
use lb_common::mqtt::{LONGEST_ID, Seen};
use mqtt_generate::{any_connect, mutation};
use mqtt_oracle::framed;
use proptest::{collection::vec, prelude::*};

fn field(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// A CONNECT of level 4 or 5 around these parts.
fn connect(level: u8, flags: u8, properties: &[u8], payload: &[&[u8]]) -> Vec<u8> {
    let mut body = [b"\0\x04MQTT", &[level, flags, 0, 60][..]].concat();
    if level == 5 {
        body.push(u8::try_from(properties.len()).unwrap());
        body.extend(properties);
    }
    for part in payload {
        body.extend(*part);
    }
    framed(&body)
}

#[test]
fn every_length_of_identifier() {
    for len in 0..=300usize {
        // Characters that differ, so that a wrong offset shows.
        let id: Vec<u8> = (0..len).map(|i| b'!' + (i % 90) as u8).collect();
        for level in [4, 5] {
            for tail in [&b""[..], b"\xff\xff\x00\x01pipelined"] {
                let mut bytes = connect(level, 2, b"", &[&field(&id)]);
                bytes.extend(tail);
                let expected = match len {
                    0 => Seen::Anonymous,
                    1..=256 => Seen::Connect,
                    _ => Seen::Oversized,
                };
                assert_eq!(check(&bytes), expected, "{len} {level}");
            }
        }
    }
    assert_eq!(LONGEST_ID, 256);
}

#[test]
fn the_limit_of_the_configuration() {
    let bytes = connect(4, 2, b"", &[&field(b"twelve bytes")]);
    let mut it = Box::new(lb_common::mqtt::Glance::EMPTY);
    assert_eq!(it.read_all(&bytes, &[1, 2], 12), Seen::Connect);
    assert_eq!(it.read_all(&bytes, &[1, 2], 11), Seen::Oversized);
}

/// What paho, mosquitto, MQTT.js, ESP-IDF and the like send must not go to the agent.
#[test]
fn real_clients_are_read() {
    let id = field(b"device-0001-abcdef-23by");
    let (user, password) = (field(b"user"), field(&[0, 0xff, 0x80, b'x']));
    let jwt = field(&[b'j'; 900]);
    let (topic, message) = (field(b"status/device-1"), field(b"offline \xff"));
    let expiry = b"\x11\x00\x00\x0e\x10";
    let all = b"\x11\xff\xff\xff\xff\x21\x00\x14\x27\x00\x10\x00\x00\x22\x00\x0a\x17\x01\x19\x00";
    let plain: [Vec<u8>; 12] = [
        connect(4, 0x02, b"", &[&id]),
        connect(4, 0x00, b"", &[&id]),
        connect(4, 0xc2, b"", &[&id, &user, &password]),
        connect(4, 0xc2, b"", &[&id, &user, &jwt]),
        connect(4, 0x82, b"", &[&id, &user]),
        connect(4, 0xee, b"", &[&id, &topic, &message, &user, &password]),
        connect(5, 0x02, b"", &[&id]),
        connect(5, 0x02, expiry, &[&id]),
        connect(5, 0xc0, all, &[&id, &user, &password]),
        connect(5, 0x42, b"\x21\x00\x14", &[&id, &jwt]),
        connect(5, 0x2e, expiry, &[&id, b"\0", &topic, &message]),
        connect(
            5,
            0x26,
            expiry,
            &[&id, b"\x07\x18\x00\x00\x00\x1e\x01\x01", &topic, &message],
        ),
    ];
    for bytes in &plain {
        assert_eq!(check(bytes), Seen::Connect, "{bytes:x?}");
        for cut in 1..bytes.len() {
            assert_eq!(check(&bytes[..cut]), Seen::Split, "{cut} of {bytes:x?}");
        }
    }
}

#[test]
fn what_is_not_quite_sure_is_declined() {
    let id = field(b"id");
    let declined = [
        // Not a CONNECT; MQTT 3.1; a bridge; level 6.
        b"\x30\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00".to_vec(),
        framed(b"\0\x06MQIsdp\x03\x02\0\x3c\0\x02id"),
        connect(0x84, 2, b"", &[&id]),
        connect(6, 2, b"", &[&id]),
        // Flags: reserved, QoS 3, QoS or retain without will, password alone before MQTT 5.
        connect(4, 3, b"", &[&id]),
        connect(4, 0x1e, b"", &[&id, &field(b"t"), &field(b"m")]),
        connect(4, 0x0a, b"", &[&id]),
        connect(4, 0x22, b"", &[&id]),
        connect(4, 0x42, b"", &[&id, &field(b"p")]),
        // Text that is no ASCII, or has U+0000; a topic that is empty or has wildcards.
        connect(4, 2, b"", &[&field("é".as_bytes())]),
        connect(4, 2, b"", &[&field(b"sixteen byte\0 id")]),
        connect(4, 2, b"", &[&field(b"a\0")]),
        connect(4, 0x82, b"", &[&id, &field(b"us\xc3\xa9r")]),
        connect(4, 0x82, b"", &[&id, &field(b"u\0")]),
        connect(4, 6, b"", &[&id, &field(b""), &field(b"m")]),
        connect(4, 6, b"", &[&id, &field(b"a/+"), &field(b"m")]),
        connect(4, 6, b"", &[&id, &field(b"longer/topic/#"), &field(b"m")]),
        // Properties: of another packet, twice, zero, not 0 or 1, text, cut.
        connect(5, 2, b"\x01\x00", &[&id]),
        connect(5, 2, b"\x22\x00\x01\x22\x00\x01", &[&id]),
        connect(5, 2, b"\x21\x00\x00", &[&id]),
        connect(5, 2, b"\x27\x00\x00\x00\x00", &[&id]),
        connect(5, 2, b"\x17\x02", &[&id]),
        connect(5, 2, b"\x26\x00\x01k\x00\x01v", &[&id]),
        connect(5, 2, b"\x11\x00\x00", &[&id]),
        connect(5, 2, b"\x51\x00\x00\x00\x00", &[&id]),
        // Bytes behind the last field, or too few.
        connect(4, 2, b"", &[&id, b"x"]),
        connect(4, 0x82, b"", &[&id, b"\0\x05user"]),
        connect(4, 2, b"", &[b"\0\x05id"]),
    ];
    for bytes in &declined {
        assert_eq!(check(bytes), Seen::Unusual, "{bytes:x?}");
    }
}

#[test]
fn a_remaining_length_of_two_bytes_need_not_be_minimal() {
    let short = connect(4, 2, b"", &[&field(b"id")]);
    let mut long = short.clone();
    long[1] |= 0x80;
    long.insert(2, 0);
    assert_eq!(check(&long), Seen::Connect);
    assert_eq!(glance(&long, 0).1.client, glance(&short, 0).1.client);
    // Three bytes are left to the sniffer.
    long[2] = 0x80;
    long.insert(3, 0);
    assert_eq!(check(&long), Seen::Unusual);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn random_connects(encoded in any_connect(), more in vec(any::<u8>(), 0..50)) {
        check(&encoded.bytes);
        check(&[&encoded.bytes[..], &more].concat());
    }

    #[test]
    fn damaged_connects(encoded in any_connect(), donor in any_connect(), damage in vec(mutation(), 1..4)) {
        let mut bytes = encoded.bytes;
        for one in &damage {
            one.apply(&mut bytes, &donor.bytes);
        }
        check(&bytes);
    }

    /// Damage to what the glance does read, so that most of it lands where it looks.
    #[test]
    fn damaged_plain_connects(level in 4u8..=5, id in "[ -~]{1,40}", user in "[ -~]{0,20}", at: prop::sample::Index, with: u8) {
        let mut bytes = connect(level, 0xc2, b"\x21\x00\x14\x11\x00\x00\x00\x09", &[&field(id.as_bytes()), &field(user.as_bytes()), &field(b"\xff\0")]);
        prop_assert_eq!(check(&bytes), Seen::Connect);
        let at = at.index(bytes.len());
        bytes[at] = with;
        check(&bytes);
    }

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..300)) {
        check(&bytes);
        check(&framed(&bytes));
        let head = [&b"\0\x04MQTT"[..], &bytes].concat();
        check(&framed(&head));
    }
}
