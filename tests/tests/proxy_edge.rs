//! A hosting platform's edge in front of the proxy, on the loopback interface: TLS ends there, requests of many
//! clients come over its connections, and X-Forwarded-For says whose they are.

mod front;
mod proxied;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use front::*;
use proxied::{Agent, PATIENCE, connect_packet, eventually, extensions, free_port};
use socket2::{Domain, Socket, Type};

const EDGE: &str = "127.0.0.1";
/// Behind a connection of the edge there may be another one of its machines.
const KEYS: &str = "trusted_edges = [\"127.0.0.1\", \"203.0.113.0/24\"]";

fn agent(kind: &str, more: &str, nodes: &[SocketAddr]) -> (Agent, SocketAddr) {
    let vip = free_port();
    let listener = format!(
        "[[listener]]\nname = \"front\"\nkind = \"{kind}\"\nbind = [\"{vip}\"]\npool = \"emqx\"\n{KEYS}\n{more}\n"
    );
    (Agent::start("", &listener, nodes), vip)
}

/// A connection from an address.
fn from(address: &str, to: SocketAddr) -> TcpStream {
    let address: IpAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(address, 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: emqx.example\r\n{more}\r\n")
}

/// The request of a client's WebSocket, as an edge passes it on.
fn upgrade(client: &str) -> String {
    UPGRADE.replace(
        "\r\n\r\n",
        &format!("\r\nX-Forwarded-For: {client}\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n\r\n"),
    )
}

/// A client behind the edge that a node has served; else what it was answered.
fn client_of_edge(vip: SocketAddr, client: &str, id: &str) -> Result<TcpStream, String> {
    let mut stream = from(EDGE, vip);
    stream.write_all(upgrade(client).as_bytes()).unwrap();
    let head = read_head(&mut stream).unwrap();
    if !head.starts_with("HTTP/1.1 101 ") {
        return Err(head);
    }
    stream.write_all(&frame(0x82, &connect_packet(id))).unwrap();
    let (first, connack) = next(&mut stream).expect("a CONNACK");
    assert_eq!((first, &connack[..4]), (0x82, &[0x20, 2, 0, 0][..]));
    Ok(stream)
}

fn flows(agent: &Agent) -> String {
    String::from_utf8(agent.command(&["flows"]).stdout).unwrap()
}

#[test]
fn an_edge_is_believed_for_each_request_and_nobody_else_is() {
    let node = Node::start(1);
    let (_agent, vip) = agent("http", "", &[node.mqtt()]);
    let said = "X-Forwarded-For: 8.8.8.8, 192.0.2.7, 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\
        X-Forwarded-Port: 443\r\nX-Forwarded-Host: public.example\r\nForwarded: for=8.8.8.8\r\n";
    let other = "X-Forwarded-For: 2001:db8::7\r\n";
    // A connection of the edge, and one of somebody else.
    let mut streams = [from(EDGE, vip), from("127.0.0.2", vip)];
    let far = "192.0.2.7, 203.0.113.9, 127.0.0.1";
    for (at, more, address, proto, port, host) in [
        (0, said, far, "https", Some("443"), "public.example"),
        (
            0,
            other,
            "2001:db8::7, 127.0.0.1",
            "http",
            None,
            "emqx.example",
        ),
        (1, said, "127.0.0.2", "http", None, "emqx.example"),
        (0, "", "127.0.0.1", "http", None, "emqx.example"),
    ] {
        let (head, seen) = ask(&mut streams[at], &get("/", more));
        for (name, value) in [
            ("x-forwarded-for", Some(address)),
            ("x-forwarded-proto", Some(proto)),
            ("x-forwarded-port", port),
            ("x-forwarded-host", Some(host)),
            ("forwarded", None),
        ] {
            assert_eq!(header(&seen, name).as_deref(), value, "{name} in {seen}");
        }
        let cookie = header(&head, "set-cookie").unwrap();
        assert_eq!(cookie.contains("; Secure"), proto == "https", "{cookie}");
    }
}

#[test]
fn websockets_belong_to_the_client_behind_the_edge() {
    let node = Node::start(1);
    let (agent, vip) = agent("http", "", &[node.mqtt()]);
    let mut kept = client_of_edge(vip, "192.0.2.7", "kept").unwrap();
    let head = node.last().head;
    for (name, value) in [
        ("x-forwarded-for", "192.0.2.7, 127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", "443"),
        ("host", "mqtt.example"),
    ] {
        assert_eq!(header(&head, name).as_deref(), Some(value), "{name}");
    }
    let mut other = client_of_edge(vip, "198.51.100.7", "other").unwrap();
    let listed = flows(&agent);
    assert!(
        listed.contains("192.0.2.7:") && listed.contains("198.51.100.7:"),
        "{listed}"
    );
    // Blocking goes by the client, whoever's connection it came over.
    agent.command(&["block", "192.0.2.7"]);
    eventually("its connection ends", || {
        let limit = Some(Duration::from_millis(50));
        kept.set_read_timeout(limit).unwrap();
        match kept.read(&mut [0; 16]) {
            Ok(n) => n == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    });
    let refused = client_of_edge(vip, "192.0.2.7", "again").unwrap_err();
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    agent.counted("source_blocked", 1);
    other.write_all(&frame(0x82, b"on")).unwrap();
    assert_eq!(next(&mut other), Some((0x82, b"on".to_vec())));
    client_of_edge(vip, "192.0.2.8", "neighbour").unwrap();
}

#[test]
fn limits_count_the_clients_behind_the_edge() {
    let node = Node::start(1);
    for kind in ["ws", "http"] {
        let limits = "[pool.emqx.sources]\nmax_flows = 2";
        let (agent, vip) = agent(kind, limits, &[node.mqtt()]);
        let client = |from: &str, n: u8| client_of_edge(vip, from, &format!("{from} {n}"));
        let mut kept: Vec<_> = [("192.0.2.7", 1), ("192.0.2.7", 2), ("192.0.2.8", 1)]
            .map(|(from, n)| client(from, n).unwrap())
            .into();
        let refused = client("192.0.2.7", 3).unwrap_err();
        assert!(refused.starts_with("HTTP/1.1 429 "), "{kind}: {refused}");
        agent.counted("source_full", 1);
        // Also once they have been counted.
        eventually("they are counted", || {
            agent.status()["flows"]["current"] == kept.len() as u64
        });
        thread::sleep(Duration::from_secs(3));
        let refused = client("192.0.2.7", 4).unwrap_err();
        assert!(refused.starts_with("HTTP/1.1 429 "), "{kind}: {refused}");
        kept.push(client("192.0.2.8", 2).unwrap());
        kept.remove(0);
        eventually("room is given away", || client("192.0.2.7", 5).is_ok());
    }
}

#[test]
fn each_client_has_a_proxy_header_of_its_own() {
    // A dashboard that answers whose connection it has, and how many there were.
    let ip = address();
    let connections = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    listen(ip, MQTT, drop);
    listen(ip, DASHBOARD, move |mut stream| {
        let count = connections.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let mut header = [0; 28];
        if stream.read_exact(&mut header).is_err() {
            return;
        }
        assert!(extensions(&header).is_empty());
        let [a, b, c, d] = header[16..20] else {
            unreachable!()
        };
        while read_head(&mut stream).is_ok() {
            let body = format!("{a}.{b}.{c}.{d} {count}");
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
            )
            .unwrap();
        }
    });
    let more = "proxy_protocol = \"v2\"";
    let (_agent, vip) = agent("http", more, &[SocketAddr::new(ip, MQTT)]);
    let mut edge = from(EDGE, vip);
    for (client, want) in [
        ("192.0.2.7", "192.0.2.7 1"),
        ("192.0.2.7", "192.0.2.7 1"),
        ("192.0.2.8", "192.0.2.8 2"),
        ("192.0.2.7", "192.0.2.7 3"),
    ] {
        let request = get("/", &format!("X-Forwarded-For: {client}\r\n"));
        assert_eq!(ask(&mut edge, &request).1, want);
    }
}
