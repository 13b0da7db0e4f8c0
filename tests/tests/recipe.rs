//! docker-compose.yml's HAProxy, the real one with the configuration of `haproxy/`, in front of stand-ins for
//! EMQX nodes: everything that docs/compose.md promises. Each test runs with every HAProxy there is.

mod common;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::emqx::node::{Node, WEBSOCKET_PORT};
use lb_tests::fleet::{Fleet, Round};
use lb_tests::http::{self, Response};
use lb_tests::lab::Lab;
use lb_tests::raw::{self, Connect};
use lb_tests::recipe::{FRONT_PORT, Options, Program, Recipe, STATS_PORT, sample};
use lb_tests::websocket::WebSocket;

const EQUAL: [u16; 3] = [1, 1, 1];
const PAUSE: Duration = Duration::from_millis(50);

fn programs() -> Vec<Program> {
    Program::all().unwrap_or_else(|error| panic!("{error:#}"))
}

/// Runs `test` with three nodes behind each HAProxy.
fn with_each(options: &Options, test: impl Fn(&Lab, &mut Vec<Node>, &mut Recipe)) {
    for program in programs() {
        eprintln!("HAProxy {}", program.version);
        let lab = common::lab_without_brokers(3);
        let mut nodes = Node::start_all(&lab).unwrap();
        let mut recipe = start(&lab, &program, options);
        test(&lab, &mut nodes, &mut recipe);
    }
}

fn start(lab: &Lab, program: &Program, options: &Options) -> Recipe {
    Recipe::start(lab, program, options).unwrap_or_else(|error| panic!("{error:#}"))
}

/// The balancer's addresses of both families, with a port.
fn at(lab: &Lab, port: u16) -> [SocketAddr; 2] {
    lab.topology.plan.vip().sockets(port)
}

/// Counts per node of `count` connections each, sorted.
fn spread(nodes: &[Node], count: impl Fn(&Node) -> anyhow::Result<usize>) -> Vec<usize> {
    let mut counts: Vec<_> = nodes.iter().map(|node| count(node).unwrap()).collect();
    counts.sort_unstable();
    counts
}

fn request(lab: &Lab, server: SocketAddr, path: &str, fields: &[(&str, &str)]) -> Response {
    let answer = http::request(&lab.topology.clients, server, "GET", path, fields);
    answer.unwrap_or_else(|error| panic!("{error:#}"))
}

/// Connects with MQTT and returns the session's socket after the CONNACK.
fn session(lab: &Lab, id: &str) -> TcpStream {
    let vip = lab.topology.plan.vip().v4.into();
    let mut stream = raw::open(lab, vip, &Connect::new(id).encode()).unwrap();
    common::expect_connack(&mut stream);
    stream
}

/// Connects a client that has just left its node. Where the stand-in's library has not put the last session
/// away, it refuses the next one of the same identifier; HAProxy itself never sends a CONNACK.
fn reconnect(fleet: &Fleet, client: u32) -> Round {
    for _ in 0..20 {
        let round = fleet.connect(client..client + 1).unwrap();
        match round.failed.first() {
            Some((_, why)) if why.contains("Unavailable") => thread::sleep(PAUSE),
            _ => return round,
        }
    }
    panic!("client {client} is refused by its node again and again");
}

/// The balancer ended the connection without a byte.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn the_configuration_is_valid_and_without_warnings() {
    let lab = common::lab_without_brokers(0);
    let certificate = certificate(&lab);
    let mut variables = sample().unwrap();
    for n in 1..=3 {
        // Names that don't resolve yet are fine, but reported.
        variables.insert(format!("EMQX{n}_HOST"), "::1".into());
    }
    let tls = "haproxy/tls.cfg";
    variables.insert("TLS_CERTIFICATE".into(), certificate.display().to_string());
    let mut protected = variables.clone();
    protected.insert("STATS_PASSWORD".into(), "secret".into());
    for program in programs() {
        for variables in [&variables, &protected, &BTreeMap::new()] {
            let mut files = vec!["haproxy/haproxy.cfg"];
            if !variables.is_empty() {
                files.push(tls);
            }
            let said = program.check(&files, variables).unwrap();
            let warned = said.contains("[WARNING]") && !said.contains("could not resolve");
            assert!(!warned, "HAProxy {}: {said}", program.version);
        }
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
            let shuffled: usize = [4..9, 0..4]
                .map(|clients| fleet.connect(clients).unwrap().returned)
                .iter()
                .sum();
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
                assert!(is_closed(&mut stream), "{bytes:?}");
                assert!(start.elapsed() < Duration::from_secs(5), "{bytes:?} waited");
            }
        }
        for node in &*nodes {
            let short = node.name.split('.').next().unwrap();
            assert_eq!(recipe.statistic("emqx_mqtt", short, "stot").unwrap(), 0);
        }
        assert_eq!(recipe.statistic("mqtt", "FRONTEND", "dreq").unwrap(), 8);
        // It was no accident: a client is taken.
        drop(session(lab, "client"));
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

        assert!(is_closed(&mut silent));
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
        for &(&client, _) in &lost {
            let round = fleet.connect(client..client + 1).unwrap();
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
            let round = reconnect(&fleet, client);
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
            start.elapsed() < Duration::from_secs(6),
            "{:?}",
            start.elapsed()
        );
        thread::sleep(Duration::from_millis(500));
        let left: Vec<_> = nodes
            .iter()
            .map(|node| node.connections().unwrap())
            .collect();
        assert_eq!(left, [0, 3, 3]);
        let left: Vec<_> = nodes
            .iter()
            .map(|node| node.websockets().unwrap())
            .collect();
        assert_eq!(left, [0, 1, 1]);
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
        let mut stream = raw::open(lab, vip, &Connect::new("nobody").encode()).unwrap();
        assert!(is_closed(&mut stream));
        assert_eq!(request(lab, at(lab, FRONT_PORT)[0], "/", &[]).status, 503);
        assert_eq!(
            request(lab, at(lab, FRONT_PORT)[0], "/stats", &[]).status,
            200
        );
    });
}

/// Opens MQTT sessions over WebSocket, both address families in turn.
fn websockets(lab: &Lab, port: u16, count: usize) -> Vec<WebSocket<TcpStream>> {
    (0..count)
        .map(|n| {
            let server = at(lab, port)[n % 2];
            let mut socket = WebSocket::connect(&lab.topology.clients, server, "/mqtt").unwrap();
            let connect = Connect::new(&format!("web-{port}-{n}")).encode();
            socket.write_all(&connect).unwrap();
            let mut answer = [0; 4];
            socket.read_exact(&mut answer).unwrap();
            assert_eq!(answer, raw::CONNACK);
            socket
        })
        .collect()
}

#[test]
fn websockets_are_spread_by_weight_at_their_port_and_at_the_front() {
    for port in [WEBSOCKET_PORT, FRONT_PORT] {
        with_each(&Options::default(), |lab, nodes, _| {
            let mut sockets = websockets(lab, port, 10);
            let counts: Vec<_> = nodes
                .iter()
                .map(|node| node.websockets().unwrap())
                .collect();
            assert_eq!(counts, [5, 2, 3]);
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
    with_each(&Options::default(), |lab, _, _| {
        for front in at(lab, FRONT_PORT) {
            for path in ["/stats", "/stats;csv"] {
                let answer = request(lab, front, path, &[]);
                assert_eq!(answer.status, 200);
                assert!(answer.body.contains("emqx_mqtt"), "{path}: {}", answer.body);
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
fn a_browser_stays_on_its_node() {
    with_each(&Options::weights(EQUAL), |lab, _, _| {
        let front = at(lab, FRONT_PORT)[0];
        let first = request(lab, front, "/", &[]);
        let cookie = first.header("set-cookie").expect("a cookie");
        let cookie = cookie.split(';').next().unwrap();
        let page = |answer: &Response| answer.body.lines().next().unwrap().to_owned();
        for _ in 0..6 {
            let answer = request(lab, front, "/", &[("Cookie", cookie)]);
            assert_eq!(page(&answer), page(&first));
            assert!(
                !answer.body.contains("EMQX_NODE"),
                "the cookie is the balancer's own"
            );
        }
    });
}

#[test]
fn statistics_have_a_port_and_may_have_a_password() {
    with_each(&Options::default(), |lab, _, _| {
        for server in at(lab, STATS_PORT) {
            assert_eq!(request(lab, server, "/stats", &[]).status, 200);
            let answer = request(lab, server, "/", &[]);
            assert_eq!(
                (answer.status, answer.header("location")),
                (302, Some("/stats"))
            );
            assert_eq!(request(lab, server, "/api/v5/status", &[]).status, 404);
        }
    });
    let protected = Options {
        variables: vec![("STATS_PASSWORD", "secret".into())],
        up: 0,
        ..Options::default()
    };
    with_each(&protected, |lab, _, _| {
        for server in [at(lab, STATS_PORT)[0], at(lab, FRONT_PORT)[0]] {
            assert_eq!(request(lab, server, "/stats", &[]).status, 401);
            // "stats:secret"
            let login = ("Authorization", "Basic c3RhdHM6c2VjcmV0");
            assert_eq!(request(lab, server, "/stats", &[login]).status, 200);
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

/// A certificate of the lab's own, with its key, as HAProxy reads it.
fn certificate(lab: &Lab) -> std::path::PathBuf {
    let file = lab.directory().join("server.pem");
    let mut openssl = std::process::Command::new("openssl");
    openssl.args([
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
    ]);
    openssl.args(["-subj", "/CN=mqtt.test"]);
    openssl.arg("-keyout").arg(&file).arg("-out").arg(&file);
    lb_tests::netns::run(&mut openssl).unwrap();
    file
}

/// The defaults of `NAME-default` and `NAME:-default` in a file, by name.
fn defaults(file: &str) -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(lb_tests::recipe::repository().join(file)).unwrap();
    let mut found: BTreeMap<_, Vec<String>> = BTreeMap::new();
    // Comments tell people about variables; only what is read counts.
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    for reference in lines.flat_map(|line| line.split("${").skip(1)) {
        let (reference, _) = reference.split_once('}').expect("an end");
        let Some((name, default)) = reference.split_once('-') else {
            // Required, or given in any case.
            let name = reference.split(':').next().expect("a name");
            found.entry(name.to_owned()).or_default();
            continue;
        };
        let name = name.trim_end_matches(':').to_owned();
        found.entry(name).or_default().push(default.to_owned());
    }
    found
}

#[test]
fn the_samples_values_are_the_files_defaults() {
    let sample = sample().unwrap();
    for file in [
        "docker-compose.yml",
        "haproxy/haproxy.cfg",
        "haproxy/tls.cfg",
        "mqlb/mqlb.toml",
    ] {
        let found = defaults(file);
        assert!(found.len() > 3, "{file}: {found:?}");
        for (name, defaults) in found {
            if name == "TLS_CERTIFICATE" {
                // Where docker-compose.yml mounts TLS_CERTIFICATES.
                continue;
            }
            let value = sample.get(&name);
            let value = value.unwrap_or_else(|| panic!("{file}: {name} is not in .env.sample"));
            for default in defaults {
                assert_eq!(&default, value, "{file}: {name}");
            }
        }
    }
    let used = defaults("docker-compose.yml");
    for name in sample.keys().filter(|name| *name != "COMPOSE_PROFILES") {
        assert!(used.contains_key(name), "{name} is of no use");
    }
}
