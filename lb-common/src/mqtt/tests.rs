//! The sniffer on packets written out byte by byte. One table a topic: what it shows, the packet, the verdict.

use super::*;

type Verdict = Result<Sniff<'static>, Reject>;

/// A CONNECT with a remaining length of one byte.
fn packet(body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let len = u8::try_from(body.len()).unwrap();
    assert!(len < 0x80);
    [&[0x10, len], &body[..]].concat()
}

#[track_caller]
fn connect(input: &[u8]) -> Connect<'_> {
    match sniff(input) {
        Ok(Sniff::Connect(connect)) => connect,
        other => panic!("{other:?}"),
    }
}

/// The bytes are rejected, and their prefixes before the last byte are not: the verdict comes at once.
#[track_caller]
fn assert_rejected_by_last_byte(what: &str, input: &[u8], reject: Reject) {
    assert_eq!(sniff(input), Err(reject), "{what}");
    for end in 0..input.len() {
        assert!(
            sniff(&input[..end]).is_ok(),
            "{what}: rejected too early, at byte {end}"
        );
    }
}

#[test]
fn mqtt_3_1_1() {
    let input = b"\x10\x10\0\x04MQTT\x04\x02\0\x3C\0\x04abcd";
    let expected = Connect {
        protocol: Protocol::V311,
        bridge: false,
        clean_start: true,
        keep_alive: 60,
        client_id: b"abcd",
        client_id_end: 18,
        packet_len: 18,
        complete: true,
    };
    assert_eq!(connect(input), expected);
}

#[test]
fn mqtt_3_1() {
    let input = b"\x10\x10\0\x06MQIsdp\x03\0\xFF\xFF\0\x02ab";
    let expected = Connect {
        protocol: Protocol::V31,
        bridge: false,
        clean_start: false,
        keep_alive: 65_535,
        client_id: b"ab",
        client_id_end: 18,
        packet_len: 18,
        complete: true,
    };
    assert_eq!(connect(input), expected);
}

#[test]
fn mqtt_5_with_everything() {
    let input = packet(&[
        b"\0\x04MQTT\x05\xEE\0\x0A",
        b"\x08\x11\0\0\0\x0A\x21\0\x14", // session expiry, receive maximum
        b"\0\x03abc",
        b"\x05\x18\0\0\0\x05", // will delay
        b"\0\x03a/b\0\x02\xFF\x00\0\x04user\0\x03\x00\x01\xFF",
    ]);
    let connect = connect(&input);
    assert_eq!(
        (connect.protocol, connect.client_id),
        (Protocol::V5, &b"abc"[..])
    );
    assert_eq!(
        (connect.client_id_end, connect.packet_len),
        (26, input.len())
    );
    assert!(connect.clean_start && connect.complete);
}

#[test]
fn what_is_not_mqtt_is_rejected_on_its_first_byte() {
    for first_bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..], // TLS ClientHello
        b"GET / HTTP/1.1\r\n",
        b"CONNECT broker:1883 HTTP/1.1\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"SSH-2.0-OpenSSH_10.0\r\n",
        b"\x30\x05\0\x01aXY", // PUBLISH
        b"\xC0\x00",          // PINGREQ
        b"\x11\x10",          // CONNECT with a reserved bit
        b"\0",
    ] {
        assert_rejected_by_last_byte("not a CONNECT", &first_bytes[..1], Reject::NotConnect);
        assert_eq!(sniff(first_bytes), Err(Reject::NotConnect));
    }
    assert_eq!(sniff(b""), Ok(Sniff::Incomplete));
}

#[test]
fn rejected_on_the_byte_that_shows_it() {
    use Reject::*;
    let rows: &[(&str, &[u8], Reject)] = &[
        (
            "no room for the shortest CONNECT",
            b"\x10\x0B",
            BadRemainingLength,
        ),
        (
            "five bytes of length",
            b"\x10\xFF\xFF\xFF\xFF",
            BadRemainingLength,
        ),
        ("above 1 MiB", b"\x10\x81\x80\x40", OversizedPacket),
        (
            "name of 256 bytes and more",
            b"\x10\x20\x01",
            BadProtocolName,
        ),
        ("name of five bytes", b"\x10\x20\0\x05", BadProtocolName),
        ("name in lower case", b"\x10\x20\0\x04MQTt", BadProtocolName),
        ("another name", b"\x10\x20\0\x06MQX", BadProtocolName),
        (
            "no room for the long name",
            b"\x10\x0D\0\x06",
            BadRemainingLength,
        ),
        (
            "level 3 is not MQTT's",
            b"\x10\x20\0\x04MQTT\x03",
            BadProtocolLevel,
        ),
        ("level 6", b"\x10\x20\0\x04MQTT\x06", BadProtocolLevel),
        (
            "level 4 is not MQIsdp's",
            b"\x10\x20\0\x06MQIsdp\x04",
            BadProtocolLevel,
        ),
        (
            "level with bit 4",
            b"\x10\x20\0\x04MQTT\x14",
            BadProtocolLevel,
        ),
        ("reserved flag", b"\x10\x20\0\x04MQTT\x04\x03", BadFlags),
        (
            "will QoS without will",
            b"\x10\x20\0\x04MQTT\x04\x0A",
            BadFlags,
        ),
        (
            "will retain without will",
            b"\x10\x20\0\x04MQTT\x05\x22",
            BadFlags,
        ),
        ("will QoS 3", b"\x10\x20\0\x04MQTT\x05\x1E", BadFlags),
        (
            "password without user name, 3.1.1",
            b"\x10\x20\0\x04MQTT\x04\x42",
            BadFlags,
        ),
        (
            "password without user name, 3.1",
            b"\x10\x20\0\x06MQIsdp\x03\x42",
            BadFlags,
        ),
        (
            "no room for the properties",
            b"\x10\x0C\0\x04MQTT\x05\x02",
            BadRemainingLength,
        ),
        (
            "no room for user name and password",
            b"\x10\x0F\0\x04MQTT\x04\xC2",
            BadRemainingLength,
        ),
        (
            "no room for the will",
            b"\x10\x0F\0\x04MQTT\x04\x06",
            BadRemainingLength,
        ),
        (
            "no room for the will of 5",
            b"\x10\x11\0\x04MQTT\x05\x06",
            BadRemainingLength,
        ),
        (
            "properties too long",
            b"\x10\x0E\0\x04MQTT\x05\x02\0\x3C\x02",
            BadRemainingLength,
        ),
        (
            "unknown property",
            b"\x10\x20\0\x04MQTT\x05\x02\0\x3C\x02\x00",
            BadProperties,
        ),
        (
            "property of a will",
            b"\x10\x20\0\x04MQTT\x05\x02\0\x3C\x05\x18",
            BadProperties,
        ),
        (
            "property behind its section",
            b"\x10\x20\0\x04MQTT\x05\x02\0\x3C\x02\x21",
            BadProperties,
        ),
        (
            "identifier behind the packet",
            b"\x10\x10\0\x04MQTT\x04\x02\0\x3C\0\x05",
            BadRemainingLength,
        ),
        (
            "bytes behind the identifier",
            b"\x10\x10\0\x04MQTT\x04\x02\0\x3C\0\x03",
            BadPayload,
        ),
        (
            "identifier not UTF-8",
            b"\x10\x20\0\x04MQTT\x04\xC2\0\x3C\0\x0Aab\xFF",
            BadClientId,
        ),
        (
            "identifier with a surrogate",
            b"\x10\x20\0\x04MQTT\x04\xC2\0\x3C\0\x0A\xED\xA0",
            BadClientId,
        ),
        (
            "identifier with U+0000",
            b"\x10\x20\0\x04MQTT\x04\xC2\0\x3C\0\x0Aa\0",
            BadClientId,
        ),
        (
            "identifier cut in a character",
            b"\x10\x0E\0\x04MQTT\x04\x02\0\x3C\0\x02a\xC3",
            BadClientId,
        ),
        (
            "no identifier in 3.1",
            b"\x10\x0E\0\x06MQIsdp\x03\x02\0\x3C\0\0",
            EmptyClientId,
        ),
        (
            "no identifier and no clean session",
            b"\x10\x0C\0\x04MQTT\x04\0\0\x3C\0\0",
            EmptyClientId,
        ),
        (
            "will topic empty",
            b"\x10\x20\0\x04MQTT\x04\x06\0\x3C\0\x01a\0\0",
            BadPayload,
        ),
        (
            "will topic with wildcard",
            b"\x10\x20\0\x04MQTT\x04\x06\0\x3C\0\x01a\0\x05a/#",
            BadPayload,
        ),
        (
            "will topic not UTF-8",
            b"\x10\x20\0\x04MQTT\x04\x06\0\x3C\0\x01a\0\x05\xC0",
            BadPayload,
        ),
        (
            "will topic too long",
            b"\x10\x14\0\x04MQTT\x04\x06\0\x3C\0\x01a\0\x04",
            BadRemainingLength,
        ),
        (
            "will property of a CONNECT",
            b"\x10\x20\0\x04MQTT\x05\x06\0\x3C\0\0\x01a\x05\x11",
            BadProperties,
        ),
        (
            "bytes behind the will",
            b"\x10\x14\0\x04MQTT\x04\x06\0\x3C\0\x01a\0\x01t\0\x01",
            BadPayload,
        ),
        (
            "user name not UTF-8",
            b"\x10\x20\0\x04MQTT\x04\x82\0\x3C\0\x01a\0\x11\x80",
            BadPayload,
        ),
        (
            "user name with U+0000",
            b"\x10\x20\0\x04MQTT\x04\x82\0\x3C\0\x01a\0\x11u\0",
            BadPayload,
        ),
        (
            "bytes behind the user name",
            b"\x10\x12\0\x04MQTT\x04\x82\0\x3C\0\x01a\0\x02",
            BadPayload,
        ),
        (
            "bytes behind the password",
            b"\x10\x14\0\x04MQTT\x04\xC2\0\x3C\0\x01a\0\0\0\x02",
            BadPayload,
        ),
        (
            "password too long",
            b"\x10\x14\0\x04MQTT\x04\xC2\0\x3C\0\x01a\0\0\0\x04",
            BadRemainingLength,
        ),
    ];
    for (what, input, reject) in rows {
        assert_rejected_by_last_byte(what, input, *reject);
    }
}

#[test]
fn what_real_clients_send_passes() {
    let rows: &[(&str, &[u8], &[u8])] = &[
        (
            "mosquitto bridge, 3.1.1",
            b"\x10\x0D\0\x04MQTT\x84\x02\0\x3C\0\x01b",
            b"b",
        ),
        (
            "mosquitto bridge, 3.1",
            b"\x10\x0F\0\x06MQIsdp\x83\x02\0\x3C\0\x01b",
            b"b",
        ),
        (
            "length of four bytes",
            b"\x10\x8D\x80\x80\0\0\x04MQTT\x04\x02\0\x3C\0\x01b",
            b"b",
        ),
        (
            "no identifier, 3.1.1, clean session",
            b"\x10\x0C\0\x04MQTT\x04\x02\0\0\0\0",
            b"",
        ),
        (
            "no identifier, 5, clean start",
            b"\x10\x0D\0\x04MQTT\x05\x02\0\0\0\0\0",
            b"",
        ),
        (
            "no identifier, 5, no clean start",
            b"\x10\x0D\0\x04MQTT\x05\0\0\0\0\0\0",
            b"",
        ),
        (
            "password alone, 5",
            b"\x10\x11\0\x04MQTT\x05\x42\0\0\0\0\x01b\0\x01p",
            b"b",
        ),
        (
            "user name empty",
            b"\x10\x12\0\x04MQTT\x04\xC2\0\0\0\x01b\0\0\0\x01p",
            b"b",
        ),
        (
            "control character",
            b"\x10\x0E\0\x04MQTT\x04\x02\0\x3C\0\x02b\x01",
            b"b\x01",
        ),
        (
            "4-byte character",
            b"\x10\x10\0\x04MQTT\x04\x02\0\x3C\0\x04\xF0\x9F\x90\x9D",
            "🐝".as_bytes(),
        ),
        (
            "will without payload",
            b"\x10\x12\0\x04MQTT\x04\x06\0\x3C\0\x01b\0\x01t\0\0",
            b"b",
        ),
    ];
    for (what, input, client_id) in rows {
        let connect = connect(input);
        assert_eq!(connect.client_id, *client_id, "{what}");
        assert!(connect.complete, "{what}");
        assert_eq!(connect.bridge, what.contains("bridge"), "{what}");
    }
}

/// An identifier above 23 characters is legal since 3.1.1, and nobody enforces the limit for 3.1.
#[test]
fn an_identifier_of_3_1_may_be_long() {
    let input = packet(&[b"\0\x06MQIsdp\x03\x02\0\x3C\0\x30", &[b'x'; 0x30]]);
    assert_eq!(connect(&input).client_id, [b'x'; 0x30]);
}

/// The identifier is enough to choose a backend: what follows may take long to come.
#[test]
fn found_before_the_packet_is_complete() {
    let input = packet(&[b"\0\x04MQTT\x04\xC6\0\x3C\0\x02id\0\x01t\0\x02pp\0\x01u\0\x03pwd"]);
    let id_end = 16;
    for end in 0..=input.len() {
        match sniff(&input[..end]) {
            Ok(Sniff::Incomplete) => assert!(end < id_end),
            Ok(Sniff::Connect(connect)) => {
                assert!(end >= id_end);
                assert_eq!(
                    (connect.client_id, connect.client_id_end),
                    (&b"id"[..], id_end)
                );
                assert_eq!(
                    (connect.packet_len, connect.complete),
                    (input.len(), end == input.len())
                );
            }
            Err(reject) => panic!("{reject:?} at {end}"),
        }
    }
}

#[test]
fn pipelined_packets_are_not_looked_at() {
    let connect_alone = b"\x10\x0D\0\x04MQTT\x04\x02\0\x3C\0\x01b";
    let subscribe = b"\x82\x06\0\x01\0\x01t\0";
    for more in [&subscribe[..], b"\xFF\xFF\xFF\xFF\xFF", &connect_alone[..]] {
        let input = [connect_alone, more].concat();
        assert_eq!(connect(&input), connect(connect_alone));
    }
}

#[test]
fn limits_are_inclusive() {
    let input: &'static [u8] = b"\x10\x10\0\x04MQTT\x04\x02\0\x3C\0\x04abcd";
    let within =
        |client_id, packet| -> Verdict { sniff_within(input, &Limits { client_id, packet }) };
    assert_eq!(within(4, 16), sniff(input));
    assert_eq!(within(3, 16), Err(Reject::OversizedClientId));
    assert_eq!(within(4, 15), Err(Reject::OversizedPacket));
}

#[test]
fn an_oversized_identifier_is_rejected_by_its_length() {
    let limits = Limits {
        client_id: 8,
        ..Limits::DEFAULT
    };
    let verdict = sniff_within(b"\x10\x20\0\x04MQTT\x04\x82\0\x3C\0\x09", &limits);
    assert_eq!(verdict, Err(Reject::OversizedClientId));
}
