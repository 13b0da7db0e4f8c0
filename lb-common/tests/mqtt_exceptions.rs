//! Where `sniff` and mqttbytes differ on purpose, one test each, with mqttbytes' verdict beside ours.

use bytes::BytesMut;
use lb_common::mqtt::{Reject, Sniff, sniff};
use mqttbytes::{Error, v4, v5};

fn v4(packet: &[u8]) -> Result<v4::Packet, Error> {
    v4::read(&mut BytesMut::from(packet), 1 << 20)
}

fn v5(packet: &[u8]) -> Result<v5::Packet, Error> {
    v5::read(&mut BytesMut::from(packet), 1 << 20)
}

fn passes(packet: &[u8]) -> bool {
    matches!(sniff(packet), Ok(Sniff::Connect(connect)) if connect.complete)
}

/// mqttbytes doesn't speak 3.1; EMQX and mosquitto do.
#[test]
fn passes_mqtt_3_1() {
    let packet = b"\x10\x0F\0\x06MQIsdp\x03\x02\0\x3C\0\x01b";
    assert_eq!(v4(packet), Err(Error::InvalidProtocol));
    assert!(passes(packet));
}

/// mosquitto's bridges mark themselves in bit 7 of the level; EMQX and mosquitto accept it.
#[test]
fn passes_the_bridge_bit() {
    let packet = b"\x10\x0D\0\x04MQTT\x84\x02\0\x3C\0\x01b";
    assert_eq!(v4(packet), Err(Error::InvalidProtocolLevel(0x84)));
    assert!(passes(packet));
}

/// A password is binary data (MQTT 3.1.1, section 3.1.3.5; MQTT 5, section 3.1.3.6).
#[test]
fn passes_a_binary_password() {
    let packet = b"\x10\x14\0\x04MQTT\x04\xC2\0\x3C\0\x01b\0\x01u\0\x02\xFF\x00";
    assert_eq!(v4(packet), Err(Error::TopicNotUtf8));
    assert!(passes(packet));
}

#[test]
fn rejects_reserved_bits_of_the_first_byte() {
    let packet = b"\x18\x0D\0\x04MQTT\x04\x02\0\x3C\0\x01b";
    assert!(v4(packet).is_ok());
    assert_eq!(sniff(packet), Err(Reject::NotConnect));
}

#[test]
fn rejects_the_reserved_flag() {
    let packet = b"\x10\x0D\0\x04MQTT\x04\x03\0\x3C\0\x01b";
    assert!(v4(packet).is_ok());
    assert_eq!(sniff(packet), Err(Reject::BadFlags));
}

#[test]
fn rejects_a_password_without_user_name_before_5() {
    let packet = b"\x10\x10\0\x04MQTT\x04\x42\0\x3C\0\x01b\0\x01p";
    assert!(v4(packet).is_ok());
    assert_eq!(sniff(packet), Err(Reject::BadFlags));
}

#[test]
fn rejects_an_empty_identifier_without_clean_session_in_3_1_1() {
    let packet = b"\x10\x0C\0\x04MQTT\x04\0\0\x3C\0\0";
    assert!(v4(packet).is_ok());
    assert_eq!(sniff(packet), Err(Reject::EmptyClientId));
}

#[test]
fn rejects_u_0000() {
    let packet = b"\x10\x0E\0\x04MQTT\x04\x02\0\x3C\0\x02b\0";
    assert!(v4(packet).is_ok());
    assert_eq!(sniff(packet), Err(Reject::BadClientId));
}

#[test]
fn rejects_wildcards_in_the_will_topic() {
    let packet = b"\x10\x12\0\x04MQTT\x04\x06\0\x3C\0\x01b\0\x01#\0\0";
    assert!(v4(packet).is_ok());
    assert_eq!(sniff(packet), Err(Reject::BadPayload));
}

#[test]
fn rejects_bytes_behind_the_last_field() {
    let packet = b"\x10\x0E\0\x04MQTT\x04\x02\0\x3C\0\x01b?";
    assert!(v4(packet).is_ok());
    assert_eq!(sniff(packet), Err(Reject::BadPayload));
}

#[test]
fn rejects_unsound_properties() {
    let packets: [&[u8]; 4] = [
        b"\x10\x11\0\x04MQTT\x05\x02\0\x3C\x03\x21\0\0\0\x01b", // Receive Maximum 0
        b"\x10\x12\0\x04MQTT\x05\x02\0\x3C\x04\x17\x01\x17\x01\0\x01b", // Request Problem Information twice
        b"\x10\x12\0\x04MQTT\x05\x02\0\x3C\x04\x16\0\x01d\0\x01b",      // Authentication Data alone
        b"\x10\x12\0\x04MQTT\x05\x02\0\x3C\x01\x22\0\x0A\0\x02bb",      // longer than its section
    ];
    for packet in packets {
        assert!(v5(packet).is_ok(), "{packet:x?}");
        assert_eq!(sniff(packet), Err(Reject::BadProperties), "{packet:x?}");
    }
}
