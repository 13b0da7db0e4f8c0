//! CONNECT in every shape that TCP can give it, with mosquitto as the judge.

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use lb_tests::balancer::Options;
use lb_tests::raw::{self, Connect};

/// Runs `send` on a new connection over IPv4 and one over IPv6, and then `check`.
fn over_both_families(send: impl Fn(&mut TcpStream), check: impl Fn(&mut TcpStream)) {
    let lab = common::lab_with_brokers(2);
    let _balancer = common::balance(&lab, &Options::default());
    for vip in lab.topology.plan.vip().addresses() {
        let mut stream = raw::connect(&lab, vip).unwrap();
        send(&mut stream);
        check(&mut stream);
        // The session is a whole one: both directions work after the CONNACK.
        let topic = format!("shape/{vip}");
        stream.write_all(&raw::subscribe(7, &topic)).unwrap();
        assert_eq!(
            raw::read_packet(&mut stream).unwrap(),
            (0x90, vec![0, 7, 0])
        );
        stream.write_all(&raw::publish(&topic, b"hello")).unwrap();
        expect_publish(&mut stream, &topic, b"hello");
    }
}

fn expect_publish(stream: &mut TcpStream, topic: &str, payload: &[u8]) {
    let (first, body) = raw::read_packet(stream).unwrap();
    assert_eq!(first, 0x30);
    assert_eq!(&body[2..], [topic.as_bytes(), payload].concat());
}

fn byte_by_byte(stream: &mut TcpStream, bytes: &[u8]) {
    for byte in bytes {
        stream.write_all(&[*byte]).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn one_segment() {
    let connect = Connect::new("one-segment").encode();
    over_both_families(
        |stream| stream.write_all(&connect).unwrap(),
        common::expect_connack,
    );
}

#[test]
fn a_password_of_20_kb() {
    let mut connect = Connect::new("long-password");
    connect.login = Some(("user".into(), vec![b'p'; 20_000]));
    let connect = connect.encode();
    over_both_families(
        |stream| stream.write_all(&connect).unwrap(),
        common::expect_connack,
    );
}

#[test]
fn a_will_of_64_kb() {
    let mut connect = Connect::new("long-will");
    connect.will = Some(("will/topic".into(), vec![b'w'; 65_535]));
    let connect = connect.encode();
    over_both_families(
        |stream| stream.write_all(&connect).unwrap(),
        common::expect_connack,
    );
}

#[test]
fn byte_by_byte_at_once() {
    let connect = Connect::new("byte-by-byte").encode();
    over_both_families(
        |stream| {
            stream.set_nodelay(true).unwrap();
            byte_by_byte(stream, &connect);
        },
        common::expect_connack,
    );
}

/// Nagle's algorithm sends the second byte only after the first is acknowledged.
#[test]
fn byte_by_byte_under_nagle() {
    let connect = Connect::new("nagle").encode();
    over_both_families(
        |stream| {
            stream.set_nodelay(false).unwrap();
            byte_by_byte(stream, &connect);
        },
        common::expect_connack,
    );
}

#[test]
fn a_long_password_in_small_pieces() {
    let mut connect = Connect::new("pieces");
    connect.login = Some(("user".into(), vec![b'p'; 5_000]));
    let connect = connect.encode();
    over_both_families(
        |stream| {
            stream.set_nodelay(true).unwrap();
            for piece in connect.chunks(100) {
                stream.write_all(piece).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
        },
        common::expect_connack,
    );
}

#[test]
fn pipelined_with_subscribe_and_publish() {
    let pipelined = [
        Connect::new("pipelined").encode(),
        raw::subscribe(1, "pipeline"),
        raw::publish("pipeline", b"at once"),
    ]
    .concat();
    over_both_families(
        |stream| stream.write_all(&pipelined).unwrap(),
        |stream| {
            common::expect_connack(stream);
            assert_eq!(raw::read_packet(stream).unwrap(), (0x90, vec![0, 1, 0]));
            expect_publish(stream, "pipeline", b"at once");
        },
    );
}

#[test]
fn mqtt_3_1() {
    let mut connect = Connect::new("old");
    connect.protocol = "MQIsdp";
    connect.level = 3;
    let connect = connect.encode();
    over_both_families(
        |stream| stream.write_all(&connect).unwrap(),
        common::expect_connack,
    );
}
