//! docker-compose.yml's balancers with their own configurations, `haproxy/` and `mqlb/`, in front of stand-ins
//! for EMQX nodes: what docs/compose.md promises for MQTT. Each test runs with every real HAProxy there is, and
//! with mqlb.

mod common;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use common::recipe::{EQUAL, at, each, request, session, spread, websockets, with_each};
use lb_tests::emqx::node::{Node, WEBSOCKET_PORT};
use lb_tests::raw::{self, Connect};
use lb_tests::recipe::{FRONT_PORT, Kind, Options};

/// The balancer ends the connection, by FIN or RST, without a byte.
fn expect_end(stream: &mut TcpStream, what: &[u8]) {
    match raw::read(stream, &mut [0]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{other:?} in place of an end, after {what:02x?}"),
    }
}

#[test]
fn ten_clients_on_equal_weights_are_4_3_3() {
    with_each(&Options::weights(EQUAL), |lab, nodes, _| {
        let fleet = lab.fleet().unwrap();
        let round = fleet.connect(0..10).unwrap();
        round.check().unwrap();
        assert_eq!(spread(nodes, Node::connections), [3, 3, 4]);
    });
}

#[test]
fn clients_follow_the_samples_weights_and_return_from_new_ports() {
    with_each(&Options::default(), |lab, nodes, _| {
        let fleet = lab.fleet().unwrap();
        let first = fleet.connect(0..300).unwrap();
        first.check().unwrap();
        for (node, expected) in nodes.iter().zip([150, 60, 90]) {
            let count = node.connections().unwrap();
            assert_eq!(Some(&count), first.per_broker().get(&node.name));
            assert!(count.abs_diff(expected) <= 1, "{}: {count}", node.name);
        }
        // Clients close first, so their ports are in TIME_WAIT and the kernel chooses others.
        fleet.disconnect(0..300).unwrap();
        // In another order than before: who comes first would get another node by turns.
        let second = fleet.connect(150..300).unwrap();
        let third = fleet.connect(0..150).unwrap();
        assert_eq!((second.returned, third.returned), (150, 150));
    });
}

#[test]
fn identifiers_that_share_their_beginning_are_different_clients() {
    // Longer than any length that a table of strings would be given.
    for length in [32, 4000] {
        with_each(&Options::weights(EQUAL), |lab, nodes, _| {
            let fleet = lab
                .fleet_with(|options| options.prefix = "x".repeat(length))
                .unwrap();
            fleet.connect(0..9).unwrap().check().unwrap();
            assert_eq!(spread(nodes, Node::connections), [3, 3, 3]);
            fleet.disconnect(0..9).unwrap();
            let again = |clients| {
                let round = fleet.connect(clients).unwrap();
                round.check().unwrap();
                round.returned
            };
            let shuffled = again(4..9) + again(0..4);
            assert_eq!(shuffled, 9);
        });
    }
}

#[test]
fn clients_without_an_identifier_are_not_one_client() {
    with_each(&Options::weights(EQUAL), |lab, nodes, _| {
        let sessions: Vec<_> = (0..9).map(|_| session(lab, "")).collect();
        assert_eq!(spread(nodes, Node::connections), [3, 3, 3]);
        drop(sessions);
    });
}

#[test]
fn what_is_no_mqtt_reaches_no_node() {
    with_each(&Options::default(), |lab, nodes, recipe| {
        let fields: [&[u8]; 4] = [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            // A PUBLISH first; a CONNECT of MQTT 9; TLS.
            b"\x30\x03\x00\x01a",
            b"\x10\x0e\x00\x04MQTT\x09\x02\x00\x3c\x00\x02id",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ];
        for bytes in fields {
            for vip in lab.topology.plan.vip().addresses() {
                let start = Instant::now();
                let mut stream = raw::open(lab, vip, bytes).unwrap();
                expect_end(&mut stream, bytes);
                assert!(start.elapsed() < Duration::from_secs(5), "{bytes:?} waited");
            }
        }
        assert_eq!(recipe.led_and_rejected().unwrap(), (0, 8));
        assert_eq!(each(nodes, Node::connections), [0, 0, 0]);
        // It was no accident: a client is taken.
        drop(session(lab, "client"));
        assert_eq!(recipe.led_and_rejected().unwrap(), (1, 8));
    });
}

#[test]
fn a_connect_may_come_in_pieces_for_ten_seconds() {
    with_each(&Options::default(), |lab, _, _| {
        let vip = lab.topology.plan.vip().v4.into();
        let connect = Connect::new("slow").encode();
        let (half, rest) = connect.split_at(connect.len() / 2);

        let mut patient = raw::open(lab, vip, half).unwrap();
        let mut silent = raw::open(lab, vip, half).unwrap();
        let start = Instant::now();
        thread::sleep(Duration::from_secs(5));
        patient.write_all(rest).unwrap();
        common::expect_connack(&mut patient);

        expect_end(&mut silent, half);
        let waited = start.elapsed();
        let expected = Duration::from_secs(9)..Duration::from_secs(12);
        assert!(expected.contains(&waited), "closed after {waited:?}");
    });
}

#[test]
fn a_connect_may_have_thirty_thousand_bytes() {
    with_each(&Options::default(), |lab, _, _| {
        let mut connect = Connect::new("large");
        connect.will = Some(("will".into(), vec![b'w'; 30_000]));
        let vip = lab.topology.plan.vip().v4.into();
        let mut stream = raw::open(lab, vip, &connect.encode()).unwrap();
        common::expect_connack(&mut stream);
    });
}

#[test]
fn clients_of_a_node_that_dies_return_elsewhere_and_stay_there() {
    with_each(&Options::weights(EQUAL), |lab, nodes, recipe| {
        let fleet = lab.fleet().unwrap();
        let first = fleet.connect(0..30).unwrap();
        first.check().unwrap();
        nodes[1].kill();
        let dead = &nodes[1].name;
        // At once: no check has noticed yet, so their first try is refused and another node takes them.
        let lost: Vec<_> = first
            .placed
            .iter()
            .filter(|(_, node)| *node == dead)
            .collect();
        assert_eq!(lost.len(), 10);
        let mut again = BTreeMap::new();
        let mut cut_off = false;
        for &(&client, _) in &lost {
            let mut round = fleet.connect(client..client + 1).unwrap();
            // In the moment of the check's verdict HAProxy also ends the connection that it is about to pass on.
            if recipe.kind == Kind::HaProxy && !cut_off && !round.failed.is_empty() {
                cut_off = true;
                round = fleet.connect(client..client + 1).unwrap();
            }
            round.check().unwrap();
            again.extend(round.placed);
        }
        assert!(again.values().all(|node| node != dead));
        recipe.wait_until_up(2).unwrap();

        // Back at work, the node gets none of them back: they belong to the others now.
        nodes[1] = Node::start(lab, 1).unwrap();
        recipe.wait_until_up(3).unwrap();
        for (&client, node) in &again {
            fleet.disconnect(client..client + 1).unwrap();
            let round = fleet.connect(client..client + 1).unwrap();
            round.check().unwrap();
            assert_eq!(round.placed.get(&client), Some(node));
        }
    });
}

#[test]
fn a_node_that_answers_503_is_out_its_sessions_end_and_others_stay() {
    with_each(&Options::weights(EQUAL), |lab, nodes, recipe| {
        let fleet = lab.fleet().unwrap();
        let first = fleet.connect(0..9).unwrap();
        first.check().unwrap();
        // An upgraded connection is a session like any other.
        let mut websockets = websockets(lab, WEBSOCKET_PORT, 3);
        assert_eq!(spread(nodes, Node::websockets), [1, 1, 1]);

        let start = Instant::now();
        nodes[0].set_status(503).unwrap();
        recipe.wait_until_up(2).unwrap();
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "{:?}",
            start.elapsed()
        );
        common::wait_for("sessions to end", Duration::from_secs(20), || {
            let [mqtt, websocket] = [Node::connections, Node::websockets].map(|of| each(nodes, of));
            (mqtt, websocket) == ([0, 3, 3], [0, 1, 1])
        });
        websockets.clear();

        let out = &nodes[0].name;
        let lost: Vec<_> = first
            .placed
            .iter()
            .filter(|(_, node)| *node == out)
            .collect();
        for &(&client, _) in &lost {
            let round = fleet.connect(client..client + 1).unwrap();
            round.check().unwrap();
            assert_ne!(&round.placed[&client], out);
        }
        for path in ["/", "/api/v5/nodes"] {
            for _ in 0..4 {
                let answer = request(lab, at(lab, FRONT_PORT)[0], path, &[]);
                assert_eq!(answer.status, 200);
                assert!(!answer.body.contains(out.as_str()), "{}", answer.body);
            }
        }

        nodes[0].set_status(200).unwrap();
        recipe.wait_until_up(3).unwrap();
        fleet.connect(100..112).unwrap().check().unwrap();
        assert!(
            nodes[0].connections().unwrap() >= 3,
            "it takes new clients again"
        );
    });
}

#[test]
fn without_any_node_clients_are_sent_away() {
    with_each(&Options::default(), |lab, nodes, recipe| {
        for node in &mut *nodes {
            node.kill();
        }
        recipe.wait_until_up(0).unwrap();
        let vip = lab.topology.plan.vip().v4.into();
        let connect = Connect::new("nobody").encode();
        let mut stream = raw::open(lab, vip, &connect).unwrap();
        if recipe.kind == Kind::Mqlb {
            // MQTT 3.1.1, section 3.2.2.3: server unavailable.
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [0x20, 2, 0, 3]);
        }
        expect_end(&mut stream, &connect);
        assert_eq!(request(lab, at(lab, FRONT_PORT)[0], "/", &[]).status, 503);
        assert_eq!(
            request(lab, at(lab, FRONT_PORT)[0], "/stats", &[]).status,
            200
        );
    });
}
