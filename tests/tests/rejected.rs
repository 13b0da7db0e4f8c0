//! First bytes that are no CONNECT, or not a valid one, never reach a broker.

mod common;

use std::io::ErrorKind;

use lb_tests::raw::{self, Connect};

/// The counter that rises, and the bytes that make it rise.
fn first_bytes() -> Vec<(&'static str, Vec<u8>)> {
    let changed = |change: fn(&mut Connect)| {
        let mut connect = Connect::new("client");
        change(&mut connect);
        connect.encode()
    };
    vec![
        (
            "reject_not_connect",
            b"GET / HTTP/1.1\r\nHost: example\r\n\r\n".to_vec(),
        ),
        // The head of a TLS 1.2 record with a ClientHello (RFC 5246, sections 6.2.1 and 7.4).
        (
            "reject_not_connect",
            b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03".to_vec(),
        ),
        ("reject_not_connect", raw::publish("topic", b"too early")),
        ("reject_protocol_name", changed(|c| c.protocol = "MQTX")),
        ("reject_protocol_level", changed(|c| c.level = 6)),
        ("reject_flags", changed(|c| c.extra_flags = 0x01)),
        (
            "reject_empty_client_id",
            changed(|c| {
                c.client_id.clear();
                c.clean_session = false;
            }),
        ),
        // Five bytes of remaining length (MQTT 3.1.1, section 2.2.3: at most four).
        (
            "reject_remaining_length",
            b"\x10\xff\xff\xff\xff\x01".to_vec(),
        ),
    ]
}

#[test]
fn malformed_first_bytes_are_reset_and_counted_and_no_broker_sees_them() {
    let lab = common::lab_with_brokers(2);
    let balancer = common::balance(&lab, &common::unchecked());
    let before = common::connections_seen(&lab);
    for vip in lab.topology.plan.vip().addresses() {
        for (counter, bytes) in first_bytes() {
            let count = || balancer.mqlb().map(|mqlb| mqlb.counter(counter).unwrap());
            let counted_before = count();
            let mut stream = raw::open(&lab, vip, &bytes).unwrap();
            match raw::read(&mut stream, &mut [0]) {
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
                // HAProxy closes in order when it has read everything.
                Ok(0) if balancer.mqlb().is_none() => {}
                other => panic!("{counter} to {vip}: {other:?} in place of a reset"),
            }
            if let (Some(before), Some(after)) = (counted_before, count()) {
                assert!(after > before, "{counter} to {vip}: {after} after {before}");
            }
        }
    }
    assert_eq!(
        common::connections_seen(&lab),
        before,
        "connections at the brokers"
    );

    // The same path, with a valid CONNECT: the log does show connections.
    let vip = lab.topology.plan.vip().addresses()[0];
    let connect = Connect::new("client").encode();
    let mut stream = raw::open(&lab, vip, &connect).unwrap();
    common::expect_connack(&mut stream);
    assert_eq!(common::connections_seen(&lab), before + 1);
}
