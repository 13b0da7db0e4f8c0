//! The HTTP front on the loopback interface: one port for WebSocket, statistics and the nodes' dashboards.

mod front;
mod proxied;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use front::*;
use proxied::{Agent, eventually, free_port};

fn agent(more: &str, keys: &str, nodes: &[&Node]) -> (Agent, SocketAddr) {
    let front = free_port();
    let listener = format!(
        "[[listener]]\nname = \"front\"\nkind = \"http\"\nbind = [\"{front}\"]\npool = \"emqx\"\n{keys}\n"
    );
    let backends: Vec<_> = nodes.iter().map(|n| n.mqtt()).collect();
    (Agent::start(more, &listener, &backends), front)
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: emqx.example\r\n{more}\r\n")
}

/// The node that a dashboard's page names.
fn number(body: &str) -> u8 {
    let rest = body
        .strip_prefix("dashboard of ")
        .unwrap_or_else(|| panic!("{body}"));
    rest.lines().next().unwrap().parse().unwrap()
}

#[test]
fn each_path_reaches_the_right_place() {
    let nodes = [Node::start(1), Node::start(2)];
    let (agent, front) = agent("", "", &[&nodes[0], &nodes[1]]);
    // One connection for several of them.
    let mut stream = tcp(front);
    let (head, body) = ask(&mut stream, &get("/stats", ""));
    assert!(
        head.starts_with("HTTP/1.1 200 ") && body.contains("emqx2"),
        "{head}{body}"
    );
    assert!(
        header(&head, "content-type")
            .unwrap()
            .starts_with("text/html")
    );
    let (head, body) = ask(&mut stream, &get("/api/v5/nodes?x=1", ""));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(body.contains("GET /api/v5/nodes?x=1 HTTP/1.1"), "{body}");
    // Without an upgrade it is a path like others.
    let (_, body) = ask(&mut stream, &get("/mqtt", ""));
    assert!(body.contains("GET /mqtt HTTP/1.1"), "{body}");
    let (_, node) = client(front, "one");
    assert_eq!(nodes[usize::from(node) - 1].websockets(), 1);
    assert_eq!(client(front, "one").1, node);
    let (head, _) = ask(&mut tcp(front), &UPGRADE.replace("/mqtt", "/ws"));
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    agent.counted("http_forwarded", 2);
    agent.counted("reject_ws_upgrade", 1);
    assert_eq!(agent.status()["listeners"][0]["kind"], "http");
}

#[test]
fn requests_and_answers_change_only_where_they_must() {
    let node = Node::start(1);
    let keys = "trusted_proxies = [\"127.0.0.1\"]";
    let (_agent, front) = agent("", keys, &[&node]);
    let mut stream = tcp(front);
    stream
        .write_all(b"PROXY TCP4 192.0.2.7 192.0.2.9 4711 80\r\n")
        .unwrap();
    let more = "Cookie: session=1; MQLB_NODE=gone; lang=en\r\nConnection: keep-alive, X-Hop\r\n\
        X-Hop: 1\r\nTE: trailers\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\
        Authorization: Bearer x\r\nUpgrade: h2c\r\n";
    let (head, seen) = ask(&mut stream, &get("/", more));
    for (name, value) in [
        ("host", Some("emqx.example")),
        ("cookie", Some("session=1; lang=en")),
        ("x-hop", None),
        ("te", None),
        ("connection", None),
        ("upgrade", None),
        ("authorization", Some("Bearer x")),
        ("x-forwarded-for", Some("192.0.2.7")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("emqx.example")),
    ] {
        assert_eq!(header(&seen, name).as_deref(), value, "{name} in {seen}");
    }
    assert_eq!(header(&head, "x-node").as_deref(), Some("yes"));
    assert_eq!(header(&head, "keep-alive"), None);
    let cookie = header(&head, "set-cookie").unwrap();
    assert_eq!(cookie, "MQLB_NODE=emqx1; Path=/; HttpOnly; SameSite=Lax");
    // Who has the cookie doesn't get it again.
    let (head, _) = ask(&mut stream, &get("/", "Cookie: MQLB_NODE=emqx1\r\n"));
    assert_eq!(header(&head, "set-cookie"), None);
    // An absolute URI names the host.
    let absolute = "GET http://other.example/x HTTP/1.1\r\nHost: emqx.example\r\n\r\n";
    let (_, seen) = ask(&mut stream, absolute);
    assert!(seen.contains("GET /x HTTP/1.1"), "{seen}");
    assert_eq!(header(&seen, "host").as_deref(), Some("other.example"));
}

#[test]
fn a_browser_stays_with_its_node_while_that_serves() {
    let nodes = [Node::start(1), Node::start(2), Node::start(3)];
    let (agent, front) = agent("", "", &[&nodes[0], &nodes[1], &nodes[2]]);
    let with = |node: u8| get("/", &format!("Cookie: MQLB_NODE=emqx{node}\r\n"));
    for node in [1, 2, 3, 2, 1] {
        let (_, body) = ask(&mut tcp(front), &with(node));
        assert_eq!(number(&body), node);
    }
    // On one connection, too.
    let mut stream = tcp(front);
    for node in [1, 1, 2, 3] {
        assert_eq!(number(&ask(&mut stream, &with(node)).1), node);
    }
    agent.command(&["drain", "emqx2"]);
    assert_eq!(
        number(&ask(&mut stream, &with(2)).1),
        2,
        "a drained one keeps its own"
    );
    for _ in 0..12 {
        assert_ne!(
            number(&ask(&mut stream, &get("/", "")).1),
            2,
            "and takes no others"
        );
    }
    agent.command(&["disable", "emqx2"]);
    let (head, body) = ask(&mut stream, &with(2));
    assert_ne!(number(&body), 2);
    let other = number(&body);
    assert!(
        header(&head, "set-cookie")
            .unwrap()
            .starts_with(&format!("MQLB_NODE=emqx{other};"))
    );
    agent.command(&["disable", "emqx1"]);
    agent.command(&["disable", "emqx3"]);
    let (head, _) = ask(&mut stream, &with(1));
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    agent.counted("http_no_backend", 1);
    let (head, _) = ask(&mut stream, &get("/stats", ""));
    assert!(
        head.starts_with("HTTP/1.1 200 "),
        "the statistics are there all the same"
    );
}

#[test]
fn a_dashboard_that_is_gone_is_passed_over() {
    let node = Node::start(1);
    let gone = address();
    let front = free_port();
    let listener = format!(
        "[[listener]]\nname = \"front\"\nkind = \"http\"\nbind = [\"{front}\"]\npool = \"emqx\"\n"
    );
    let backends = [node.mqtt(), SocketAddr::new(gone, MQTT)];
    let agent = Agent::start("", &listener, &backends);
    for _ in 0..6 {
        let (_, body) = ask(&mut tcp(front), &get("/", "Cookie: MQLB_NODE=emqx2\r\n"));
        assert_eq!(number(&body), 1);
    }
    agent.counted("backend_failed", 6);
}

#[test]
fn bodies_are_streamed_both_ways() {
    let node = Node::start(1);
    let (agent, front) = agent("", "", &[&node]);
    let length = 64 << 20;
    let mut stream = tcp(front);
    write!(
        stream,
        "POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    )
    .unwrap();
    let mut writer = stream.try_clone().unwrap();
    let writing = thread::spawn(move || {
        let chunk = vec![b'u'; 65_536];
        for _ in 0..length / chunk.len() {
            writer.write_all(&chunk).unwrap();
        }
    });
    let head = read_head(&mut stream).unwrap();
    writing.join().unwrap();
    let mut body = vec![0; header(&head, "content-length").unwrap().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    assert_eq!(body, format!("{length} bytes").as_bytes());
    // A reader that takes its time: the agent keeps none of it.
    let before = resident(&agent);
    stream
        .write_all(get(&format!("/download/{length}"), "").as_bytes())
        .unwrap();
    let head = read_head(&mut stream).unwrap();
    assert_eq!(header(&head, "content-length").as_deref(), Some("67108864"));
    thread::sleep(Duration::from_millis(500));
    let grown = resident(&agent).saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB are kept");
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).unwrap();
    assert!(rest.iter().all(|b| *b == b'd'));
    assert_eq!(
        number(&ask(&mut stream, &get("/", "")).1),
        1,
        "the connection goes on"
    );
}

/// KiB of memory that the agent has.
fn resident(agent: &Agent) -> u64 {
    let path = format!("/proc/{}/status", agent.process.id());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn statistics_may_ask_for_a_password() {
    let node = Node::start(1);
    // The section is open already.
    let (front, admin) = (free_port(), "stats_password");
    let listener = format!(
        "[[listener]]\nname = \"front\"\nkind = \"http\"\nbind = [\"{front}\"]\npool = \"emqx\"\n"
    );
    let agent =
        Agent::start_with_admin(&format!("{admin} = \"secret\""), &listener, &[node.mqtt()]);
    for to in [front, agent.admin()] {
        let mut stream = tcp(to);
        let (head, _) = ask(&mut stream, &get("/stats", ""));
        assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
        assert!(
            header(&head, "www-authenticate")
                .unwrap()
                .starts_with("Basic ")
        );
        let wrong = "Authorization: Basic c3RhdHM6d3Jvbmc=\r\n";
        let (head, _) = ask(&mut stream, &get("/stats", wrong));
        assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
        let right = "Authorization: Basic c3RhdHM6c2VjcmV0\r\n";
        let (head, _) = ask(&mut stream, &get("/stats", right));
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
}

#[test]
fn what_is_no_request_is_not_waited_for() {
    let node = Node::start(1);
    let (agent, front) = agent("[timeouts]\nsniff = \"1s\"", "", &[&node]);
    let begun = Instant::now();
    let mut slow = tcp(front);
    slow.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let mut idle = tcp(front);
    let (head, _) = ask(&mut idle, &get("/", ""));
    assert!(head.starts_with("HTTP/1.1 200 "));
    for stream in [&mut slow, &mut idle] {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    assert!(begun.elapsed() > Duration::from_millis(900));
    agent.counted("sniff_timeout", 1);
    let mut noise = tcp(front);
    noise.write_all(b"\x16\x03\x01\0\xff\r\n\r\n").unwrap();
    assert!(read_head(&mut noise).is_ok_and(|head| head.starts_with("HTTP/1.1 400 ")));
    agent.counted("reject_http", 1);
    agent.command(&["block", "127.0.0.0/8"]);
    eventually("blocked sources are not served", || {
        let Ok(mut stream) = try_tcp(front) else {
            return true;
        };
        let _ = stream.write_all(get("/", "").as_bytes());
        read_head(&mut stream).is_err()
    });
}
