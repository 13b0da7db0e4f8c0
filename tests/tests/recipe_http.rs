//! WebSocket, HTTP front and statistics of docker-compose.yml, as docs/compose.md promises them: with every HAProxy
//! there is, and with mqlb.

mod common;

use std::io::Write;

use common::recipe::{EQUAL, at, each, request, websockets, with_each};
use lb_tests::emqx::node::{Node, WEBSOCKET_PORT};
use lb_tests::http::{self, Response};
use lb_tests::raw;
use lb_tests::recipe::{FRONT_PORT, Kind, Options, Program, Recipe, STATS_PORT};

#[test]
fn websockets_are_spread_by_weight_at_their_port_and_at_the_front() {
    for port in [WEBSOCKET_PORT, FRONT_PORT] {
        with_each(&Options::default(), |lab, nodes, _| {
            let mut sockets = websockets(lab, port, 10);
            assert_eq!(each(nodes, Node::websockets), [5, 2, 3]);
            // Both ways, beyond the first packets.
            let socket = &mut sockets[0];
            socket.write_all(&raw::subscribe(1, "echo")).unwrap();
            assert_eq!(raw::read_packet(socket).unwrap().0, 0x90);
            let payload = vec![7; 20_000];
            socket.write_all(&raw::publish("echo", &payload)).unwrap();
            let (first, body) = raw::read_packet(socket).unwrap();
            assert_eq!(first, 0x30);
            assert_eq!(body[6..], payload);
        });
    }
}

#[test]
fn the_front_knows_its_paths() {
    with_each(&Options::default(), |lab, _, recipe| {
        let (statistics, holds): (&[&str], _) = match recipe.kind {
            Kind::HaProxy => (&["/stats", "/stats;csv"], "emqx_mqtt"),
            Kind::Mqlb => (&["/stats"], "emqx3"),
        };
        for front in at(lab, FRONT_PORT) {
            for path in statistics {
                let answer = request(lab, front, path, &[]);
                assert_eq!(answer.status, 200);
                assert!(answer.body.contains(holds), "{path}: {}", answer.body);
            }
            for path in ["/", "/api/v5/nodes", "/statsx", "/mqttx", "/mqtt"] {
                let answer = request(lab, front, path, &[]);
                assert_eq!(answer.status, 200, "{path}");
                assert!(
                    answer.body.starts_with("dashboard of emqx"),
                    "{path}: {}",
                    answer.body
                );
                assert!(
                    answer.body.contains(&format!("GET {path} ")),
                    "{}",
                    answer.body
                );
                let client = lab.topology.plan.client().addresses()[usize::from(front.is_ipv6())];
                let from = format!("x-forwarded-for: {client}\r\n");
                assert!(answer.body.contains(&from), "{}", answer.body);
            }
            let answer = request(lab, front, "/api/v5/status", &[]);
            assert!(answer.body.ends_with("emqx is running"), "{}", answer.body);
        }
    });
}

#[test]
fn mqlb_believes_a_trusted_edge_and_nobody_else() {
    let lab = common::lab_without_brokers(3);
    let _nodes = Node::start_all(&lab).unwrap();
    // The lab's client is the edge over IPv6, and somebody over IPv4.
    let client = lab.topology.plan.client();
    let options = Options {
        variables: vec![("TRUSTED_EDGE", client.v6.to_string())],
        ..Options::default()
    };
    let _recipe = Recipe::start(&lab, &Program::mqlb().unwrap(), &options).unwrap();
    let said = [
        ("X-Forwarded-For", "8.8.8.8, 203.0.113.9"),
        ("X-Forwarded-Proto", "https"),
    ];
    let [v4, v6] = at(&lab, FRONT_PORT);
    for (front, from, proto) in [
        (v6, format!("203.0.113.9, {}", client.v6), "https"),
        (v4, client.v4.to_string(), "http"),
    ] {
        let seen = request(&lab, front, "/", &said).body.to_lowercase();
        for field in [
            format!("x-forwarded-for: {from}\r\n"),
            format!("x-forwarded-proto: {proto}\r\n"),
        ] {
            assert!(seen.contains(&field), "no {field:?} in {seen}");
        }
    }
}

#[test]
fn a_browser_stays_on_its_node() {
    with_each(&Options::weights(EQUAL), |lab, _, _| {
        let front = at(lab, FRONT_PORT)[0];
        let first = request(lab, front, "/", &[]);
        let cookie = first.header("set-cookie").expect("a cookie");
        let cookie = cookie.split(';').next().unwrap();
        let (name, _) = cookie.split_once('=').expect("a value");
        let page = |answer: &Response| answer.body.lines().next().unwrap().to_owned();
        for _ in 0..6 {
            let answer = request(lab, front, "/", &[("Cookie", cookie)]);
            assert_eq!(page(&answer), page(&first));
            assert!(
                !answer.body.contains(name),
                "the cookie is the balancer's own"
            );
        }
    });
}

#[test]
fn statistics_have_a_port_and_may_have_a_password() {
    with_each(&Options::default(), |lab, _, recipe| {
        for server in at(lab, STATS_PORT) {
            assert_eq!(request(lab, server, "/stats", &[]).status, 200);
            if recipe.kind == Kind::HaProxy {
                let answer = request(lab, server, "/", &[]);
                let to = answer.header("location");
                assert_eq!((answer.status, to), (302, Some("/stats")));
            }
            assert_eq!(request(lab, server, "/api/v5/status", &[]).status, 404);
        }
    });
    let protected = Options {
        variables: vec![("STATS_PASSWORD", "secret".into())],
        up: None,
        ..Options::default()
    };
    with_each(&protected, |lab, _, recipe| {
        for server in [at(lab, STATS_PORT)[0], at(lab, FRONT_PORT)[0]] {
            assert_eq!(request(lab, server, "/stats", &[]).status, 401);
            // "stats:secret"
            let login = ("Authorization", "Basic c3RhdHM6c2VjcmV0");
            assert_eq!(request(lab, server, "/stats", &[login]).status, 200);
        }
        if recipe.kind == Kind::Mqlb {
            // What else the port has tells of clients, too.
            let server = at(lab, STATS_PORT)[0];
            for path in ["/api/v1/flows", "/api/v1/status", "/metrics"] {
                assert_eq!(request(lab, server, path, &[]).status, 401, "{path}");
            }
            assert_eq!(request(lab, server, "/readyz", &[]).status, 200);
        }
    });
}

#[test]
fn the_fronts_port_is_a_variable() {
    let options = Options {
        variables: vec![("PORT", "80".into())],
        ..Options::default()
    };
    with_each(&options, |lab, _, _| {
        for front in at(lab, 80) {
            assert!(
                request(lab, front, "/", &[])
                    .body
                    .starts_with("dashboard of")
            );
        }
        let usual = at(lab, FRONT_PORT)[0];
        assert!(http::request(&lab.topology.clients, usual, "GET", "/", &[]).is_err());
    });
}
