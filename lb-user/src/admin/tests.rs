//! The interface over real connections on loopback, answered from made-up data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::model::*;
use super::{Pages, Server, Source};

/// Answers with [`status`]; remembers what it was asked.
#[derive(Default)]
struct Fake {
    ready: AtomicBool,
    asked: Mutex<Vec<String>>,
}

impl Source for Fake {
    fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    fn status(&self) -> Status {
        status()
    }

    fn locate(&self, client_id: &[u8]) -> Located {
        self.asked
            .lock()
            .unwrap()
            .push(format!("where {client_id:?}"));
        Located {
            client_id_hash: "00000000deadbeef".into(),
            backend: Some("emqx2".into()),
            pool: Some("emqx".into()),
            last_seen_seconds: Some(3),
            connected: true,
        }
    }

    fn flows(&self, filter: FlowFilter) -> anyhow::Result<Vec<FlowRow>> {
        self.asked.lock().unwrap().push(format!("{filter:?}"));
        match filter.backend.as_deref() {
            Some("slow") => {
                std::thread::sleep(Duration::from_secs(2));
                Ok(vec![])
            }
            Some("broken") => anyhow::bail!("the map is gone"),
            Some("panic") => panic!("made to test how this is answered"),
            _ => Ok(vec![flow()]),
        }
    }
}

fn status() -> Status {
    let counter = |packets, bytes| Counter { packets, bytes };
    let backend = |name: &str, state| BackendStatus {
        reason: None,
        removed: false,
        name: name.into(),
        address: vec!["10.77.1.2:1883".into(), "[fd77::2]:1883".into()],
        state,
        weight: 5,
        flows: 7,
        assigned_total: 9,
        failures_total: 1,
    };
    Status {
        version: "0.1.0".into(),
        name: "<script>alert(\"1\")</script>&'".into(),
        uptime_seconds: 61,
        ready: true,
        mode: XdpMode::Native,
        interfaces: vec![InterfaceStatus {
            name: "eth0".into(),
            mode: XdpMode::Native,
            ifindex: 2,
        }],
        listeners: vec![ListenerStatus {
            name: "mqtt".into(),
            kind: "mqtt".into(),
            bind: vec!["10.77.0.2:1883".into()],
            pool: "emqx".into(),
            datapath: "xdp".into(),
            source: "snat".into(),
            proxy_protocol: "off".into(),
            certificates: ["/etc/mqlb/a.crt", "/etc/mqlb/b.crt", "/etc/mqlb/a.crt"]
                .map(|file| CertificateStatus {
                    file: file.into(),
                    names: vec!["mqtt.example".into()],
                    not_after_seconds: 1_900_000_000,
                })
                .into(),
        }],
        pools: vec![PoolStatus {
            name: "emqx".into(),
            policy: "round-robin".into(),
            backends: vec![
                backend("emqx1", BackendState::Up),
                backend("a\"b\\c\nd", BackendState::Down),
            ],
        }],
        steered: Steered {
            kernel: 11,
            agent: 12,
        },
        flows: FlowUsage {
            current: 14,
            capacity: 262_144,
        },
        bindings: BindingUsage {
            current_estimate: Some(20),
            capacity: 1_048_576,
        },
        setups: Setups {
            sniffing: 1,
            connecting: 2,
        },
        counters: BTreeMap::from([
            ("spliced".into(), counter(100, 9000)),
            ("syn_ack".into(), counter(3, 222)),
        ]),
        rejects: BTreeMap::from([("protocol_name".into(), 4)]),
    }
}

fn flow() -> FlowRow {
    FlowRow {
        client: "10.77.0.9:40000".parse().unwrap(),
        vip: "10.77.0.2:1883".parse().unwrap(),
        snat: "10.77.1.1:10001".parse().unwrap(),
        backend: "emqx1".into(),
        backend_address: "10.77.1.2:1883".parse().unwrap(),
        state: "established".into(),
        idle_seconds: 4,
        packets_up: 5,
        bytes_up: 600,
        packets_down: 7,
        bytes_down: 800,
        client_id_hash: None,
    }
}

/// A server on a port of its own; its drop ends it.
struct Running {
    address: SocketAddr,
    source: Arc<Fake>,
    _stop: oneshot::Sender<()>,
}

async fn start() -> Running {
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.address();
    let source = Arc::new(Fake::default());
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(server.serve(Pages::new(source.clone(), None), async {
        let _ = stopped.await;
    }));
    Running {
        address,
        source,
        _stop: stop,
    }
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json<T: serde::de::DeserializeOwned>(&self) -> T {
        assert!(
            self.head.contains("content-type: application/json"),
            "{}",
            self.head
        );
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Sends `request` as it is and reads until the server closes.
async fn exchange(address: SocketAddr, request: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut bytes = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes))
        .await
        .expect("an answer in time")
        .unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head in {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply {
        status,
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

async fn ask(address: SocketAddr, method: &str, target: &str) -> Reply {
    let request = format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    exchange(address, request.as_bytes()).await
}

async fn get(running: &Running, target: &str) -> Reply {
    ask(running.address, "GET", target).await
}

#[tokio::test]
async fn alive_is_not_yet_ready() {
    let running = start().await;
    assert_eq!(get(&running, "/healthz").await.status, 200);
    assert_eq!(get(&running, "/readyz").await.status, 503);
    running.source.ready.store(true, Ordering::Relaxed);
    assert_eq!(get(&running, "/readyz").await.status, 200);
}

#[tokio::test]
async fn the_api_says_what_the_source_says() {
    let running = start().await;
    let reply = get(&running, "/api/v1/status").await;
    assert_eq!((reply.status, reply.json::<Status>()), (200, status()));
    let value: serde_json::Value = reply.json();
    assert_eq!(value["mode"], "native");
    assert_eq!(value["pools"][0]["backends"][1]["state"], "down");
    assert_eq!(value["counters"]["spliced"]["packets"], 100);

    let reply = get(&running, "/api/v1/where?id=a%20b%2Bc+%ff").await;
    assert_eq!(
        (reply.status, reply.json::<Located>().backend.as_deref()),
        (200, Some("emqx2"))
    );

    let reply = get(&running, "/api/v1/flows").await;
    assert_eq!(
        (reply.status, reply.json::<Flows>().flows),
        (200, vec![flow()])
    );
    assert_eq!(
        get(&running, "/api/v1/flows?limit=5&backend=emqx%31")
            .await
            .status,
        200
    );
    let expected = [
        format!("where {:?}", b"a b+c+\xff"),
        "FlowFilter { limit: 1000, backend: None }".into(),
        "FlowFilter { limit: 5, backend: Some(\"emqx1\") }".into(),
    ];
    assert_eq!(*running.source.asked.lock().unwrap(), expected);
}

#[tokio::test]
async fn wrong_requests_are_explained() {
    let running = start().await;
    for (method, target, status, message) in [
        ("GET", "/", 404, "/api/v1/status"),
        ("GET", "/api/v1/statu", 404, "no such path"),
        ("GET", "/stats/", 404, "no such path"),
        ("POST", "/api/v1/status", 405, "use GET"),
        ("DELETE", "/healthz", 405, "use GET"),
        ("GET", "/api/v1/where", 400, "where?id="),
        (
            "GET",
            "/api/v1/where?id=a&id=b",
            400,
            "one client identifier",
        ),
        ("GET", "/api/v1/where?id=%zz", 400, "hexadecimal"),
        ("GET", "/api/v1/where?name=a", 400, "unknown parameter"),
        ("GET", "/api/v1/flows?limit=0", 400, "limit=0"),
        ("GET", "/api/v1/flows?limit=1000001", 400, "1000000"),
        ("GET", "/api/v1/flows?limit=all", 400, "limit=all"),
        ("GET", "/api/v1/flows?backend=%ff", 400, "UTF-8"),
        (
            "GET",
            "/api/v1/flows?backend=broken",
            500,
            "the map is gone",
        ),
        (
            "GET",
            "/api/v1/flows?backend=panic",
            500,
            "its log says why",
        ),
    ] {
        let reply = ask(running.address, method, target).await;
        assert_eq!(reply.status, status, "{method} {target}");
        let body: ErrorBody = reply.json();
        assert!(body.error.contains(message), "{method} {target}: {body:?}");
        assert_eq!(
            status == 405,
            reply.head.contains("allow: get, head"),
            "{}",
            reply.head
        );
    }
    // A source that panicked goes on answering.
    assert_eq!(get(&running, "/api/v1/flows").await.status, 200);
}

#[tokio::test]
async fn heads_come_without_bodies() {
    let running = start().await;
    let reply = ask(running.address, "HEAD", "/api/v1/status").await;
    assert_eq!((reply.status, reply.body.as_str()), (200, ""));
}

#[tokio::test]
async fn the_page_is_escaped_and_runs_nothing() {
    let running = start().await;
    let reply = get(&running, "/stats").await;
    assert_eq!(reply.status, 200);
    assert!(reply.head.contains("content-type: text/html"));
    assert!(
        reply
            .head
            .contains("content-security-policy: default-src 'none'")
    );
    assert!(!reply.body.contains("<script"));
    assert!(
        reply
            .body
            .contains("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;")
    );
    assert!(reply.body.contains("http-equiv=\"refresh\""));
    for text in [
        "emqx1",
        "down",
        "10.77.0.2:1883",
        "spliced",
        "9000",
        "protocol_name",
    ] {
        assert!(reply.body.contains(text), "{text}");
    }
    assert_eq!(
        reply.body.matches("<table>").count(),
        reply.body.matches("</table>").count()
    );
}

/// A line `name{label="value",…} number` of the text format.
fn sample(line: &str) -> (String, u64) {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let name = series.split('{').next().unwrap();
    assert!(
        name.starts_with("mqlb_") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
        "{line}"
    );
    if let Some(labels) = series
        .strip_prefix(name)
        .filter(|labels| !labels.is_empty())
    {
        let inside = labels
            .strip_prefix('{')
            .and_then(|labels| labels.strip_suffix('}'))
            .expect(line);
        // Without escaped characters, what is left are pairs with plain quotes.
        let plain = inside
            .replace("\\\\", "")
            .replace("\\\"", "")
            .replace("\\n", "");
        for pair in plain.split(',') {
            let (key, value) = pair.split_once('=').expect(line);
            assert!(
                key.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                "{line}"
            );
            assert!(
                value.len() >= 2 && value.starts_with('"') && value.ends_with('"'),
                "{line}"
            );
            assert!(!value[1..value.len() - 1].contains(['"', '\\']), "{line}");
        }
    }
    (series.to_owned(), value.parse().expect(line))
}

#[tokio::test]
async fn metrics_are_well_formed() {
    let running = start().await;
    let reply = get(&running, "/metrics").await;
    assert!(
        reply
            .head
            .contains("content-type: text/plain; version=0.0.4"),
        "{}",
        reply.head
    );
    assert!(reply.body.ends_with('\n'));
    let (mut helped, mut typed, mut samples) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
    for line in reply.body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(helped.insert(name.to_owned()) && !help.is_empty(), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            assert!(typed.insert(name.to_owned()), "{line}");
        } else {
            let (series, value) = sample(line);
            assert!(
                typed.contains(series.split('{').next().unwrap()),
                "{line} before its type"
            );
            assert!(samples.insert(series, value).is_none(), "{line} twice");
        }
    }
    assert_eq!(helped, typed);
    for (series, value) in [
        ("mqlb_ready", 1),
        ("mqlb_packets_total{verdict=\"spliced\"}", 100),
        ("mqlb_bytes_total{verdict=\"syn_ack\"}", 222),
        ("mqlb_steered_total{by=\"kernel\"}", 11),
        ("mqlb_rejected_connects_total{reason=\"protocol_name\"}", 4),
        ("mqlb_bindings", 20),
        (
            "mqlb_backend_state{pool=\"emqx\",backend=\"emqx1\",state=\"up\"}",
            1,
        ),
        (
            "mqlb_backend_state{pool=\"emqx\",backend=\"emqx1\",state=\"down\"}",
            0,
        ),
        (
            "mqlb_backend_flows{pool=\"emqx\",backend=\"a\\\"b\\\\c\\nd\"}",
            7,
        ),
        (
            "mqlb_certificate_not_after_seconds{listener=\"mqtt\",file=\"/etc/mqlb/a.crt\"}",
            1_900_000_000,
        ),
        ("mqlb_interface_info{interface=\"eth0\",mode=\"native\"}", 1),
    ] {
        assert_eq!(
            samples.get(series),
            Some(&value),
            "{series} in {samples:#?}"
        );
    }
}

#[tokio::test]
async fn slow_clients_and_slow_answers_hold_up_nobody() {
    let running = start().await;
    let mut slow = TcpStream::connect(running.address).await.unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nhost:")
        .await
        .unwrap();
    let address = running.address;
    let blocked = tokio::spawn(async move {
        ask(address, "GET", "/api/v1/flows?backend=slow")
            .await
            .status
    });
    while running.source.asked.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // This test's runtime has one thread, so it would stand still if the source blocked it.
    assert_eq!(get(&running, "/healthz").await.status, 200);
    assert!(!blocked.is_finished());
    assert_eq!(blocked.await.unwrap(), 200);

    // The client that never finishes its request is cut.
    let started = Instant::now();
    let mut rest = Vec::new();
    let _ = timeout(Duration::from_secs(15), slow.read_to_end(&mut rest))
        .await
        .expect("cut in time");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn large_heads_are_refused() {
    let running = start().await;
    let padding = "x".repeat(100 * 1024);
    let request = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {padding}\r\n\r\n");
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut reply = [0; 12];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!(&reply, b"HTTP/1.1 431");
}

#[tokio::test]
async fn nonsense_is_a_bad_request() {
    let running = start().await;
    let reply = exchange(running.address, b"\x10\x0c\x00\x04MQTT\x04\x02\r\n\r\n").await;
    assert_eq!(reply.status, 400);
}

#[tokio::test]
async fn connections_are_kept_alive_until_idle() {
    let running = start().await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    for _ in 0..3 {
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut reply = Vec::new();
        while !reply.ends_with(b"alive\n") {
            assert_ne!(
                stream.read_buf(&mut reply).await.unwrap(),
                0,
                "closed too early"
            );
        }
    }
    let mut rest = Vec::new();
    timeout(Duration::from_secs(15), stream.read_to_end(&mut rest))
        .await
        .expect("cut when idle")
        .unwrap();
}

#[test]
fn a_password_is_asked_for_wherever_clients_are_told_of() {
    let pages = Pages::new(Arc::new(Fake::default()), Some("secret"));
    let (here, there) = (
        pages.seen_from("::ffff:127.0.0.1".parse().unwrap()),
        pages.seen_from("10.0.0.1".parse().unwrap()),
    );
    for (path, local, remote) in [
        ("/stats", true, true),
        ("/metrics", false, true),
        ("/api/v1/flows", false, true),
        ("/healthz", false, false),
        ("/readyz", false, false),
    ] {
        assert_eq!(here.password_of(path).is_some(), local, "{path}");
        assert_eq!(there.password_of(path).is_some(), remote, "{path}");
    }
    let open = Pages::new(Arc::new(Fake::default()), None);
    assert_eq!(open.password_of("/stats"), None);
}

#[tokio::test]
async fn shutdown_ends_the_server() {
    let running = start().await;
    let address = running.address;
    drop(running);
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), refused)
        .await
        .expect("the port is closed");
}

#[tokio::test]
async fn an_address_in_use_says_what_to_do() {
    let running = start().await;
    let error = Server::bind(running.address).await.unwrap_err().to_string();
    assert!(
        error.contains(&running.address.to_string()) && error.contains("ss -ltnp"),
        "{error}"
    );
    let error = Server::bind("192.0.2.1:8888".parse().unwrap())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("an address of this host"), "{error}");
}
