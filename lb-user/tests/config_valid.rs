//! Right configuration files: what comes out of them, and what stands in for what they leave out.

use std::env::VarError;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use mqlb::config::{
    Check, Config, Datapath, Files, Health, Mode, Policy, PoolId, ProxyProtocol, Rate, Source,
    SourceLimits, Sticky, parse_with,
};

fn environment(name: &str) -> Result<String, VarError> {
    match name {
        "VIP" => Ok("10.77.0.9".into()),
        "WEIGHT" => Ok("7".into()),
        _ => Err(VarError::NotPresent),
    }
}

/// Knows a host with two addresses of each family, and one with one of each. Answers are in no order.
fn resolver(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    match host {
        "emqx1.example" => Ok(["10.0.0.9", "fd00::9", "10.0.0.2", "10.0.0.9", "fd00::2"]
            .map(|ip| SocketAddr::new(ip.parse().unwrap(), port))
            .to_vec()),
        "both.example" => Ok(["fd00::7", "10.0.0.7"]
            .map(|ip| SocketAddr::new(ip.parse().unwrap(), port))
            .to_vec()),
        _ => Err(io::Error::other("no such host")),
    }
}

/// A certificate that signs itself, and its key.
fn files(path: &Path) -> io::Result<Vec<u8>> {
    static MADE: OnceLock<(String, String)> = OnceLock::new();
    let (cert, key) = MADE.get_or_init(|| {
        let names = ["*.Example".to_owned(), "mqtt.example".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    });
    match path.extension().and_then(|e| e.to_str()) {
        Some("crt") => Ok(cert.clone().into()),
        Some("key") => Ok(key.clone().into()),
        Some("pem") => Ok([cert.as_str(), key].concat().into()),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}

fn config(text: &str) -> Config {
    let files = Files {
        read: &files,
        list: &|directory| {
            Ok(["b.pem", "README", "a.pem"]
                .map(|f| directory.join(f))
                .into())
        },
    };
    parse_with(text, &environment, &resolver, files)
        .unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// The contract's example, word for word.
const CONTRACT: &str = r#"
# mqlb.toml: strings may hold ${VAR} and ${VAR:-default}; unknown keys are errors
[admin]
http = "127.0.0.1:8888"          # /stats, /metrics, /api/v1/status, /healthz, /readyz
[xdp]
interfaces = ["eth0", "eth1"]
mode = "auto"                    # auto | native | generic
[[listener]]
name = "mqtt"
bind = ["10.77.0.2:1883", "[fd77::2]:1883"]
pool = "emqx"
datapath = "auto"                # auto | xdp | proxy
source = "snat"                  # snat | client
proxy_protocol = "off"           # off | v2
[pool.emqx]
policy = "round-robin"           # round-robin | least-connections | consistent
health = { kind = "http", port = 18083, path = "/api/v5/status", interval = "1s", timeout = "500ms", rise = 2, fall = 2 }
[[pool.emqx.backend]]
name = "emqx1"
address = ["10.77.1.2:1883", "[fd77:1::2]:1883"]
weight = 5
"#;

const SMALL: &str = r#"
xdp.interfaces = ["eth0"]
[[listener]]
name = "mqtt"
bind = ["10.77.0.2:1883"]
pool = "emqx"
[[pool.emqx.backend]]
name = "emqx1"
address = "10.77.1.2:1883"
"#;

#[test]
fn the_contract_is_read_as_written() {
    let config = config(CONTRACT);
    assert_eq!(config.admin.http, "127.0.0.1:8888".parse().unwrap());
    assert_eq!(config.xdp.interfaces, ["eth0", "eth1"]);
    assert_eq!(config.xdp.mode, Mode::Auto);
    let [listener] = &config.listeners[..] else {
        panic!("{config:?}")
    };
    assert_eq!(listener.name, "mqtt");
    assert_eq!(
        listener.bind,
        [
            "10.77.0.2:1883".parse().unwrap(),
            "[fd77::2]:1883".parse().unwrap()
        ]
    );
    assert_eq!(listener.pool, PoolId(0));
    assert_eq!(
        (listener.datapath, listener.source),
        (Datapath::Auto, Source::Snat)
    );
    assert_eq!(listener.proxy_protocol, ProxyProtocol::Off);
    let pool = config.pool(listener.pool);
    assert_eq!(
        (pool.name.as_str(), pool.policy),
        ("emqx", Policy::RoundRobin)
    );
    let health = Health {
        check: Check::Http {
            port: 18083,
            path: "/api/v5/status".into(),
            availability: Some("/api/v5/load_rebalance/availability_check".into()),
        },
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        rise: 2,
        fall: 2,
        jitter: 10,
    };
    assert_eq!(pool.health, Some(health));
    let [backend] = &pool.backends[..] else {
        panic!("{pool:?}")
    };
    assert_eq!((backend.name.as_str(), backend.weight), ("emqx1", 5));
    assert_eq!(backend.ipv4(), Some("10.77.1.2:1883".parse().unwrap()));
    assert_eq!(backend.ipv6(), Some("[fd77:1::2]:1883".parse().unwrap()));
}

#[test]
fn defaults_stand_in_for_what_is_left_out() {
    let config = config(SMALL);
    assert_eq!(config.admin.http, "127.0.0.1:8888".parse().unwrap());
    assert_eq!(config.agent.name, "default");
    assert_eq!(config.agent.pin_dir, Path::new("/sys/fs/bpf/mqlb/default"));
    assert_eq!(config.agent.state_dir, Path::new("/var/lib/mqlb/default"));
    assert_eq!(
        (config.xdp.mode, config.xdp.max_flows),
        (Mode::Auto, 262_144)
    );
    assert!(config.snat.addresses.is_empty());
    assert_eq!(config.snat.ports, 10_000..=32_767);
    assert_eq!(
        (config.bindings.capacity, config.bindings.linger),
        (1_048_576, Duration::from_secs(1800))
    );
    assert_eq!(config.timeouts.sniff, Duration::from_secs(10));
    assert_eq!(config.timeouts.connect, Duration::from_secs(3));
    assert_eq!(config.timeouts.grace, Duration::from_secs(30));
    assert_eq!(config.timeouts.keepalive_least, Duration::ZERO);
    assert_eq!(config.timeouts.keepalive_zero, Duration::from_secs(86_400));
    assert_eq!(config.timeouts.closed, Duration::from_secs(60));
    assert_eq!(
        (config.limits.client_id, config.limits.sniff_bytes),
        (4096, 16_384)
    );
    assert_eq!(
        (config.limits.rst_rate, config.limits.refusal_rate),
        (10_000, 10_000)
    );
    assert!(config.limits.blocked_sources.is_empty() && config.limits.blocked_clients.is_empty());
    assert_eq!(config.listeners[0].max_flows, None);
    let pool = &config.pools[0];
    assert_eq!((pool.slow_start, pool.reset_rate), (Duration::ZERO, None));
    assert_eq!(
        (pool.sources, pool.client_connects),
        (SourceLimits::NONE, None)
    );
    assert_eq!(pool.backends[0].max_flows, None);
    assert_eq!(
        (pool.policy, &pool.health, pool.backends[0].weight),
        (Policy::RoundRobin, &None, 1)
    );
}

#[test]
fn every_section_can_be_set() {
    let config = config(&format!(
        r#"{}
[agent]
name = "edge-1"
state_dir = "/run/mqlb"
[snat]
addresses = ["10.77.1.1"]
ports = "20000-29999"
[bindings]
capacity = 1_000
linger = "1h30m"
[timeouts]
sniff = "1m"
connect = "500ms"
grace = "0s"
keepalive_least = "5m"
keepalive_zero = "2d"
closed = "5s"
[limits]
client_id = 23
sniff_bytes = 0x400
rst_rate = 0
refusal_rate = 5
blocked_sources = ["203.0.113.0/24", "2001:db8::/32", "198.51.100.7"]
blocked_clients = ["sensor-1", "ü"]
"#,
        SMALL.replace(
            "xdp.interfaces",
            "xdp.mode = \"generic\"\nxdp.max_flows = 10\nxdp.interfaces"
        ),
    ));
    assert_eq!(config.agent.pin_dir, Path::new("/sys/fs/bpf/mqlb/edge-1"));
    assert_eq!(config.agent.state_dir, Path::new("/run/mqlb"));
    assert_eq!((config.xdp.mode, config.xdp.max_flows), (Mode::Generic, 10));
    assert_eq!(
        config.snat.addresses,
        ["10.77.1.1".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(config.snat.ports, 20_000..=29_999);
    assert_eq!(
        (config.bindings.capacity, config.bindings.linger),
        (1000, Duration::from_secs(5400))
    );
    assert_eq!(
        (config.timeouts.sniff, config.timeouts.connect),
        (Duration::from_secs(60), Duration::from_millis(500))
    );
    assert_eq!(
        (config.timeouts.grace, config.timeouts.closed),
        (Duration::ZERO, Duration::from_secs(5))
    );
    assert_eq!(config.timeouts.keepalive_least, Duration::from_secs(300));
    assert_eq!(config.timeouts.keepalive_zero, Duration::from_secs(172_800));
    assert_eq!(
        (
            config.limits.client_id,
            config.limits.sniff_bytes,
            config.limits.rst_rate
        ),
        (23, 1024, 0)
    );
    assert_eq!(config.limits.refusal_rate, 5);
    let blocked: Vec<String> = config
        .limits
        .blocked_sources
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        blocked,
        ["203.0.113.0/24", "2001:db8::/32", "198.51.100.7/32"]
    );
    assert_eq!(config.limits.blocked_clients, ["sensor-1", "ü"]);
}

#[test]
fn everything_of_a_pool_can_be_set() {
    let config = config(
        r#"
xdp.interfaces = ["eth0"]
[[listener]]
name = "mqtt"
bind = "10.77.0.2:1883"
pool = "emqx"
max_flows = 5000
[pool.emqx]
policy = "consistent"
max_load = 150
slow_start = "30s"
reset_rate = "500/s"
client_connects = "1/s burst 5"
sources = { ipv4_prefix = 24, ipv6_prefix = 48, max_flows = 100, connects = "20/s" }
health = { kind = "http", availability = "off", jitter = 0 }
[[pool.emqx.backend]]
name = "emqx1"
address = "10.77.1.2:1883"
max_flows = "2000"
"#,
    );
    assert_eq!(config.listeners[0].max_flows, Some(5000));
    let pool = &config.pools[0];
    assert_eq!(pool.policy, Policy::Consistent { max_load: 150 });
    assert_eq!(
        (pool.slow_start, pool.reset_rate),
        (Duration::from_secs(30), Some(500))
    );
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    assert_eq!(pool.client_connects, rate(1, 5));
    let sources = SourceLimits {
        v4_prefix: 24,
        v6_prefix: 48,
        max_flows: Some(100),
        connects: rate(20, 20),
    };
    assert_eq!(pool.sources, sources);
    assert_eq!(pool.backends[0].max_flows, Some(2000));
    let health = pool.health.as_ref().unwrap();
    assert_eq!(health.jitter, 0);
    assert!(matches!(
        &health.check,
        Check::Http {
            availability: None,
            ..
        }
    ));
}

#[test]
fn policies_have_their_defaults() {
    for (word, policy) in [
        ("round-robin", Policy::RoundRobin),
        ("least-connections", Policy::LeastConnections),
        ("consistent", Policy::Consistent { max_load: 125 }),
    ] {
        let config = config(&format!("{SMALL}[pool.emqx]\npolicy = \"{word}\"\n"));
        assert_eq!(config.pools[0].policy, policy);
    }
}

#[test]
fn variables_reach_strings_and_quoted_numbers() {
    let text = SMALL
        .replace("10.77.0.2:1883", "${VIP}:${PORT:-1884}")
        .replace("address =", "weight = \"${WEIGHT}\"\naddress =");
    let config = config(&text);
    assert_eq!(
        config.listeners[0].bind,
        ["10.77.0.9:1884".parse().unwrap()]
    );
    assert_eq!(config.pools[0].backends[0].weight, 7);
}

/// Name and addresses of each backend of the first pool.
fn backends(config: &Config) -> Vec<(String, Vec<String>)> {
    let shown = |address: &mqlb::config::BackendAddress| address.to_string();
    config.pools[0]
        .backends
        .iter()
        .map(|b| (b.name.clone(), b.addresses.iter().map(shown).collect()))
        .collect()
}

fn one(name: &str, addresses: &[&str]) -> (String, Vec<String>) {
    (
        name.to_owned(),
        addresses.iter().map(|a| (*a).to_owned()).collect(),
    )
}

#[test]
fn a_name_with_one_address_of_each_family_is_one_backend() {
    let config = config(&SMALL.replace("10.77.1.2:1883", "both.example:1884"));
    let addresses = [
        "10.0.0.7:1884 (both.example)",
        "[fd00::7]:1884 (both.example)",
    ];
    assert_eq!(backends(&config), [one("emqx1", &addresses)]);
}

#[test]
fn a_name_with_several_addresses_is_a_backend_for_each() {
    let text = SMALL.replace(
        "\"10.77.1.2:1883\"",
        "\"emqx1.example:1884\"\nweight = 7\nmax_flows = 9",
    );
    let config = config(&text);
    let expected = [
        one("emqx1-10.0.0.2", &["10.0.0.2:1884 (emqx1.example)"]),
        one("emqx1-10.0.0.9", &["10.0.0.9:1884 (emqx1.example)"]),
        one("emqx1-fd00--2", &["[fd00::2]:1884 (emqx1.example)"]),
        one("emqx1-fd00--9", &["[fd00::9]:1884 (emqx1.example)"]),
    ];
    assert_eq!(backends(&config), expected);
    let pool = &config.pools[0];
    assert!(
        pool.backends
            .iter()
            .all(|b| (b.weight, b.max_flows) == (7, Some(9)))
    );
}

#[test]
fn names_with_several_ports_say_them() {
    let text = SMALL.replace(
        "\"10.77.1.2:1883\"",
        r#"["both.example:1884", "both.example:1885"]"#,
    );
    let names: Vec<_> = backends(&config(&text)).into_iter().map(|b| b.0).collect();
    let expected = [
        "10.0.0.7-1884",
        "fd00--7-1884",
        "10.0.0.7-1885",
        "fd00--7-1885",
    ];
    assert_eq!(names, expected.map(|end| format!("emqx1-{end}")));
}

#[test]
fn an_address_wins_over_a_name_of_its_family() {
    let text = SMALL.replace(
        "\"10.77.1.2:1883\"",
        r#"["both.example:1884", "10.77.1.2:1883"]"#,
    );
    let addresses = ["10.77.1.2:1883", "[fd00::7]:1884 (both.example)"];
    assert_eq!(backends(&config(&text)), [one("emqx1", &addresses)]);
}

#[test]
fn pools_and_backends_keep_the_order_of_the_file() {
    let config = config(
        r#"
xdp.interfaces = ["eth0"]
[pool.zebra]
[[pool.zebra.backend]]
name = "z2"
address = "10.0.1.2:1883"
[[pool.zebra.backend]]
name = "z1"
address = "10.0.1.1:1883"
[pool.ape]
[[pool.ape.backend]]
name = "z1"
address = "10.0.1.1:1883"
weight = 0
[[pool.ape.backend]]
name = "a1"
address = "10.0.2.1:1883"
[[listener]]
name = "one"
bind = "10.0.0.1:1883"
pool = "ape"
source = "client"
proxy_protocol = "v2"
datapath = "xdp"
"#,
    );
    assert_eq!(
        config
            .pools
            .iter()
            .map(|pool| pool.name.as_str())
            .collect::<Vec<_>>(),
        ["zebra", "ape"]
    );
    let names: Vec<_> = config.pools[0]
        .backends
        .iter()
        .map(|backend| backend.name.as_str())
        .collect();
    assert_eq!(names, ["z2", "z1"]);
    assert_eq!(config.listeners[0].pool, PoolId(1));
    assert_eq!(
        (
            config.listeners[0].source,
            config.listeners[0].proxy_protocol
        ),
        (Source::Client, ProxyProtocol::V2)
    );
}

#[test]
fn tls() {
    let config = config(
        r#"
[[listener]]
name = "one"
bind = "10.0.0.1:8883"
pool = "emqx"
tls = { cert = ["/a.crt", "/b.crt"], key = ["/a.key", "/b.key"], client_ca = "/c.crt", client_auth = "optional", alpn = "mqtt" }
sticky = "cn"
proxy_protocol = "v2-ssl"
[[listener]]
name = "two"
kind = "tls-passthrough"
bind = "10.0.0.1:8884"
pool = "emqx"
routes = { "A.example" = "emqx", "*.b.example" = "emqx" }
datapath = "proxy"
[pool.emqx]
[[pool.emqx.backend]]
name = "emqx1"
address = "10.0.1.1:1883"
"#,
    );
    let [one, two] = &config.listeners[..] else {
        panic!("{:?}", config.listeners);
    };
    let tls = one.tls.as_ref().unwrap();
    assert_eq!(tls.certificates.len(), 2);
    assert_eq!(tls.certificates[0].names, ["*.example", "mqtt.example"]);
    let clients = tls.clients.as_ref().unwrap();
    assert!(!clients.required && clients.authorities.roots().unwrap().len() == 1);
    assert_eq!(tls.alpn, ["mqtt"]);
    assert_eq!(
        (one.sticky, one.proxy_protocol),
        (Sticky::Cn, ProxyProtocol::V2Ssl)
    );
    // Neither asks for an interface, nor can XDP serve the first.
    assert_eq!(one.only(), Some(Datapath::Proxy));
    assert_eq!(two.only(), Some(Datapath::Proxy));
    let routes = "tls-passthrough a.example: emqx *.b.example: emqx";
    assert_eq!(two.kind.to_string(), routes);
    assert!(config.warnings().is_empty());
    assert!(
        !format!("{config:?}").contains("PRIVATE"),
        "keys are not printed"
    );
}

#[test]
fn certificates_of_a_directory() {
    let config = config(
        r#"
[[listener]]
name = "one"
bind = "10.0.0.1:8883"
pool = "emqx"
tls = { directory = "/certs" }
[pool.emqx]
[[pool.emqx.backend]]
name = "emqx1"
address = "10.0.1.1:1883"
"#,
    );
    let certificates = &config.listeners[0].tls.as_ref().unwrap().certificates;
    let files: Vec<_> = certificates
        .iter()
        .map(|c| (&c.file, &c.key_file))
        .collect();
    let (a, b) = ("/certs/a.pem".into(), "/certs/b.pem".into());
    assert_eq!(files, [(&a, &a), (&b, &b)]);
}

#[test]
fn backends_whose_names_come_later() {
    let text = r#"
[[listener]]
name = "one"
bind = ["10.0.0.1:1883", "[fd00::1]:1883"]
pool = "emqx"
datapath = "xdp"
[xdp]
interfaces = ["eth0"]
[timeouts]
dns = "5s"
[pool.emqx]
unresolved = "wait"
[[pool.emqx.backend]]
name = "emqx1"
address = "none.example:1883"
[[pool.emqx.backend]]
name = "emqx2"
address = "both.example:1883"
weight = 0
"#;
    let some = config(text);
    assert_eq!(some.timeouts.dns, Duration::from_secs(5));
    let names: Vec<_> = some.pools[0].backends.iter().map(|b| &b.name).collect();
    assert_eq!(names, ["emqx2"]);
    assert_eq!(
        some.warnings(),
        [
            "pool emqx: backend emqx1: cannot resolve \"none.example\": no such host; it is asked again"
        ]
    );
    let none = config(&text.replace("both.example", "neither.example"));
    assert_eq!(
        (none.pools[0].backends.len(), none.warnings().len()),
        (0, 2)
    );
}

/// Every TOML example of the reference is right, and every default that it names is the default.
#[test]
fn the_reference_agrees() {
    let reference = include_str!("../../docs/configuration.md");
    let examples: Vec<&str> = reference
        .split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(!examples.is_empty());
    let smallest = config(examples[0]);
    examples.iter().for_each(|example| drop(config(example)));

    // `[section]` tables whose keys all have a default that can be written down.
    let mut text = examples[0].replace("[xdp]\ninterfaces = [\"eth0\"]\n", "");
    let (mut section, mut defaults) = ("", 0);
    for line in reference.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.trim_matches('`');
        }
        if line.starts_with("###") {
            section = "";
        }
        let cells: Vec<&str> = line
            .split('|')
            .map(|cell| cell.trim().trim_matches('`'))
            .collect();
        let once =
            section.starts_with('[') && !section.starts_with("[[") && section != "[pool.NAME]";
        let [_, key, default, ..] = cells[..] else {
            continue;
        };
        if !once || key == "key" || key.starts_with("---") {
            continue;
        }
        // The one key without a default.
        let default = if key == "interfaces" {
            "[\"eth0\"]"
        } else {
            default
        };
        let value = default.replace("NAME", "default");
        text += &format!("\n{section}\n{key} = {value}\n");
        defaults += 1;
    }
    // TOML wants each table once: fold the headers of neighbouring keys.
    let mut seen = std::collections::BTreeSet::new();
    let folded: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('[') || line.starts_with("[[") || seen.insert(*line))
        .collect();
    assert_eq!(defaults, 26, "{text}");
    assert_eq!(config(&folded.join("\n")), smallest);
}

#[test]
fn websocket_and_the_http_front() {
    let text = r#"
[admin]
stats_password = "${STATS_PASSWORD:-}"
[[listener]]
name = "ws"
kind = "ws"
bind = ["10.77.0.2:8083"]
pool = "emqx"
[[listener]]
name = "front"
kind = "http"
bind = ["[::]:${PORT}"]
path = "/broker"
ws_port = 8093
http_port = 18093
pool = "emqx"
[[listener]]
name = "mqtt"
bind = ["0.0.0.0:1883", "[::]:1883"]
datapath = "proxy"
pool = "emqx"
[[pool.emqx.backend]]
name = "emqx1"
address = "10.77.1.2:1883"
"#;
    let variable = |name: &str| match name {
        "PORT" => Ok("8080".to_owned()),
        _ => Err(std::env::VarError::NotPresent),
    };
    let config = mqlb::config::parse(text, &variable, &|_, _| Ok(Vec::new())).unwrap();
    let [ws, front, mqtt] = &config.listeners[..] else {
        panic!("{config:?}");
    };
    assert_eq!(ws.kind.to_string(), "ws /mqtt :8083");
    assert_eq!(
        front.kind.to_string(),
        "http /broker :8093, dashboard :18093"
    );
    assert_eq!(mqtt.kind.to_string(), "mqtt");
    assert_eq!(front.bind, ["[::]:8080".parse().unwrap()]);
    for listener in &config.listeners {
        assert_eq!(listener.only(), Some(Datapath::Proxy), "{}", listener.name);
    }
    // What is empty is none.
    assert_eq!(config.admin.stats_password, None);
    let overlap = text.replace("10.77.0.2:8083", "10.77.0.2:1883");
    let problems = mqlb::config::parse(&overlap, &variable, &|_, _| Ok(Vec::new())).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0]
            .message
            .contains("0.0.0.0:1883 and 10.77.0.2:1883 of line 7 overlap")
    );
}
