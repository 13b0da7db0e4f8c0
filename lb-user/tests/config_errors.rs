//! Wrong configuration files: each mistake is reported in its line, with what is wrong and what to
//! write, and nothing else is.

use std::env::VarError;
use std::io;
use std::net::SocketAddr;

use mqlb::config::{ConfigError, Problem, load, parse};
use proptest::prelude::*;

/// A right file; the rows below change one thing in it each.
const RIGHT: &str = r#"[admin]
http = "127.0.0.1:8888"
[xdp]
interfaces = ["eth0", "eth1"]
mode = "auto"
[[listener]]
name = "mqtt"
bind = ["10.77.0.2:1883"]
pool = "emqx"
datapath = "auto"
source = "snat"
proxy_protocol = "off"
[pool.emqx]
policy = "round-robin"
health = { kind = "http", port = 18083, interval = "1s", timeout = "500ms", rise = 2, fall = 2 }
[[pool.emqx.backend]]
name = "emqx1"
address = "10.77.1.2:1883"
weight = 5
[[pool.emqx.backend]]
name = "emqx2"
address = "10.77.1.3:1883"
[[listener]]
name = "second"
bind = ["10.77.0.2:1884"]
pool = "emqx"
"#;

fn problems(text: &str) -> Vec<Problem> {
    let environment = |_: &str| Err(VarError::NotPresent);
    let resolver = |host: &str, port| match host {
        "many.example" => Ok((7..10)
            .map(|n| SocketAddr::from(([10, 77, 1, n], port)))
            .collect()),
        "two.example" => Ok(vec![SocketAddr::from(([10, 77, 1, 2], port))]),
        "empty.example" => Ok(vec![]),
        _ => Err(io::Error::other("no such host")),
    };
    parse(text, &environment, &resolver)
        .err()
        .unwrap_or_default()
}

/// One mistake: what in [`RIGHT`] is replaced by what, and where and how that is reported.
struct Row {
    from: &'static str,
    to: &'static str,
    line: usize,
    message: &'static str,
    help: &'static str,
}

const fn row(
    from: &'static str,
    to: &'static str,
    line: usize,
    message: &'static str,
    help: &'static str,
) -> Row {
    Row {
        from,
        to,
        line,
        message,
        help,
    }
}

// A table is easiest to read with one row a line.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    // Syntax.
    row("mode = \"auto\"", "mode = auto", 5, "string values must be quoted", "double quotes"),
    row("mode = \"auto\"", "mode = \"auto\"\nmode = \"native\"", 6, "duplicate key", "keep one of the two"),
    // Keys.
    row("interfaces", "interfces", 4, "unknown key \"interfces\" in [xdp]", "did you mean \"interfaces\"?"),
    row("[admin]", "[admn]", 1, "unknown key \"admn\" in the file", "did you mean \"admin\"?"),
    row("weight = 5", "colour = 5", 19, "unknown key \"colour\" in [[pool.emqx.backend]]", "known keys: name, address, weight"),
    row("rise = 2", "raise = 2", 15, "unknown key \"raise\" in health", "did you mean \"rise\"?"),
    row("name = \"mqtt\"\n", "", 6, "[[listener]] lacks the key \"name\"", "name = \"mqtt\""),
    row("bind = [\"10.77.0.2:1883\"]\n", "", 6, "lacks the key \"bind\"", "bind = [\"10.0.0.1:1883\"]"),
    row("pool = \"emqx\"\ndatapath", "datapath", 6, "lacks the key \"pool\"", "pool = \"emqx\""),
    row("name = \"emqx1\"\n", "", 16, "lacks the key \"name\"", "name = \"emqx1\""),
    row("address = \"10.77.1.2:1883\"\n", "", 16, "lacks the key \"address\"", "address = \"10.0.0.2:1883\""),
    row("kind = \"http\", ", "", 15, "health lacks the key \"kind\"", "\"http\", \"tcp\" or \"mqtt\""),
    // Kinds of values.
    row("\"127.0.0.1:8888\"", "8888", 2, "http must be a string, found an integer", "http = \"127.0.0.1:8888\""),
    row("[\"eth0\", \"eth1\"]", "[\"eth0\", 1]", 4, "interfaces must be a string, found an integer", "[\"eth0\"]"),
    row("[\"eth0\", \"eth1\"]", "true", 4, "interfaces must be a string, found a boolean", "[\"eth0\"]"),
    row("\"off\"", "true", 12, "proxy_protocol must be a string, found a boolean", "\"v2-ssl-cn\""),
    row("proxy_protocol = \"off\"", "proxy_protocol = \"v2-ssl\"", 12, "tells of a TLS handshake, and this listener has none", "\"v2\", or give the listener tls"),
    row("proxy_protocol = \"off\"", "sticky = \"cn\"", 12, "needs clients' certificates", "client_ca"),
    row("proxy_protocol = \"off\"", "tls = { cert = \"/a\" }", 12, "tls lacks the key \"key\"", "/etc/mqlb/server.key"),
    row("proxy_protocol = \"off\"", "tls = { cert = \"/a\", key = [\"/b\", \"/c\"] }", 12, "tls has 1 certificates and 2 keys", "one key for each cert"),
    row("proxy_protocol = \"off\"", "tls = { directory = \"/nowhere\" }", 12, "cannot read /nowhere", "a directory with PEM files"),
    row("proxy_protocol = \"off\"", "tls = { directory = \"/proc/self/fdinfo\" }", 12, "/proc/self/fdinfo holds no file NAME.pem", "a directory with PEM files"),
    row("proxy_protocol = \"off\"", "tls = { directory = \"certs\" }", 12, "directory = \"certs\" is not an absolute path", "write directory"),
    row("policy = \"round-robin\"", "unresolved = \"later\"", 14, "unresolved = \"later\" means nothing", "\"error\" or \"wait\""),
    row("proxy_protocol = \"off\"", "tls = { cert = \"/nowhere/a\", key = \"/nowhere/b\" }", 12, "cannot read /nowhere/a", "may read"),
    row("proxy_protocol = \"off\"", "routes = { \"a.test\" = \"emqx\" }", 12, "routes means nothing with kind = \"mqtt\"", "tls-passthrough"),
    row("proxy_protocol = \"off\"", "kind = \"tls-passthrough\"\nroutes = { \"a.test\" = \"nope\" }", 13, "no pool is named \"nope\"", "\"emqx\""),
    row("proxy_protocol = \"off\"", "kind = \"tls-passthrough\"\nroutes = { \"a.*.test\" = \"emqx\" }", 13, "is not a name that clients ask for", "*.test.example"),
    row("proxy_protocol = \"off\"", "kind = \"tls-passthrough\"\nroutes = { \"a.test\" = \"emqx\", \"A.test\" = \"emqx\" }", 13, "has a route already", "keep one"),
    row("proxy_protocol = \"off\"", "kind = \"tls-passthrough\"\nsticky = \"client-id\"", 13, "sticky means nothing with kind = \"tls-passthrough\"", "\"mqtt\", \"ws\" or \"http\""),
    row("weight = 5", "weight = 1.5", 19, "weight must be a whole number, found a fraction", "from 0 to 65535"),
    row("weight = 5", "weight = \"much\"", 19, "weight must be a whole number, found \"much\"", "from 0 to 65535"),
    row("[admin]\nhttp = \"127.0.0.1:8888\"", "admin = 1", 1, "[admin] must be a table, found an integer", "with the keys http"),
    row("[xdp]", "[[xdp]]", 3, "[xdp] must be a table, found an array", "with the keys interfaces"),
    // Variables.
    row("10.77.1.2", "${BROKER}", 18, "BROKER is not set", "${BROKER:-default}"),
    row("10.77.1.2", "${BROKER", 18, "no closing brace", "${NAME}"),
    // [admin], [agent], [xdp], [snat], [bindings], [timeouts], [limits].
    row("127.0.0.1:8888", "localhost:8888", 2, "http = \"localhost:8888\" is not an address with a port", "\"127.0.0.1:8888\""),
    row("127.0.0.1:8888", "127.0.0.1", 2, "is not an address with a port", "\"127.0.0.1:8888\""),
    row("[admin]", "[agent]\nname = \"a/b\"\n[admin]", 2, "\"a/b\" is not a usable name", "letters, digits"),
    row("[admin]", "[agent]\npin_dir = \"bpf\"\n[admin]", 2, "pin_dir = \"bpf\" is not an absolute path", "/sys/fs/bpf/mqlb/default"),
    row("\nmode = \"auto\"", "\nmode = \"offload\"", 5, "mode = \"offload\" means nothing", "\"auto\", \"native\" or \"generic\""),
    row("\nmode = \"auto\"", "\nmode = \"nativ\"", 5, "mode = \"nativ\" means nothing", "did you mean \"native\"?"),
    row("[\"eth0\", \"eth1\"]", "[]", 4, "no interface to attach", "interfaces = [\"eth0\"]"),
    row("[xdp]\ninterfaces = [\"eth0\", \"eth1\"]", "[xdp]", 3, "no interface to attach", "interfaces = [\"eth0\"]"),
    row("[\"eth0\", \"eth1\"]", "[\"eth0\", \"eth0\"]", 4, "\"eth0\" is listed twice", "keep one"),
    row("[\"eth0\", \"eth1\"]", "[\"eth/0\"]", 4, "\"eth/0\" is not a name of a network interface", "ip link"),
    row("\nmode = \"auto\"", "\nmax_flows = 0", 5, "max_flows = 0 is out of range", "from 1 to 67108864"),
    row("[admin]", "[snat]\naddresses = [\"10.0.0.1/24\"]\n[admin]", 2, "\"10.0.0.1/24\" is not an IP address", "\"10.0.0.1\""),
    row("[admin]", "[snat]\naddresses = [\"10.0.0.1\", \"10.0.0.1\"]\n[admin]", 2, "10.0.0.1 is listed twice", "keep one"),
    row("[admin]", "[snat]\naddresses = [\"0.0.0.0\"]\n[admin]", 2, "0.0.0.0 stands for every address", "one address"),
    row("[admin]", "[snat]\nports = \"32767-10000\"\n[admin]", 2, "is not a range of ports", "\"10000-32767\""),
    row("[admin]", "[snat]\nports = \"1-65535\"\n[admin]", 2, "is not a range of ports from 1024", "\"10000-32767\""),
    row("[admin]", "[bindings]\nlinger = \"soon\"\n[admin]", 2, "linger = \"soon\" is not a length of time", "\"30m\""),
    row("[admin]", "[bindings]\ncapacity = -1\n[admin]", 2, "capacity = -1 is out of range", "from 1 to"),
    row("[admin]", "[timeouts]\nsniff = 10\n[admin]", 2, "sniff = 10 has no unit", "sniff = \"10s\""),
    row("[admin]", "[timeouts]\nsniff = \"1d\"\n[admin]", 2, "sniff = \"1d\" is out of range", "from \"1s\" to \"10m\""),
    row("[admin]", "[limits]\nclient_id = 65535\n[admin]", 2, "sniff_bytes = 16384 cannot hold a CONNECT", "sniff_bytes = 65555"),
    row("[admin]", "[limits]\nclient_id = 99999999999999999999\n[admin]", 2, "is out of range", "from 23 to 65535"),
    row("[admin]", "[limits]\nrefusal_rate = -1\n[admin]", 2, "refusal_rate = -1 is out of range", "from 0 to 10000000"),
    row("[admin]", "[limits]\nblocked_sources = [\"10.0.0.0/8\", \"10.0.0.1/8\"]\n[admin]", 2, "\"10.0.0.1/8\" has bits behind its length", "\"10.0.0.0/8\" or \"10.0.0.1\""),
    row("[admin]", "[limits]\nblocked_sources = [\"10.0.0.1\", \"10.0.0.1/32\"]\n[admin]", 2, "10.0.0.1/32 is listed twice", "keep one"),
    row("[admin]", "[limits]\nblocked_sources = \"bad.example\"\n[admin]", 2, "\"bad.example\" is not an address or a prefix", "\"203.0.113.0/24\""),
    row("[admin]", "[limits]\nblocked_clients = [\"\"]\n[admin]", 2, "empty client identifier", "remove this entry"),
    row("[admin]", "[limits]\nblocked_clients = [\"a\", \"b\", \"a\"]\n[admin]", 2, "\"a\" is listed twice", "keep one"),
    row("[admin]", "[limits]\nblocked_clients = [7]\n[admin]", 2, "blocked_clients must be a string, found an integer", "[\"sensor-1\"]"),
    // Listeners.
    row("proxy_protocol = \"off\"", "max_flows = 0", 12, "max_flows = 0 is out of range", "from 1 to 67108864"),
    row("\"10.77.0.2:1883\"", "\"10.77.0.2\"", 8, "\"10.77.0.2\" has no port", "\"10.77.0.2:1883\""),
    row("\"10.77.0.2:1883\"", "\"fd77::2\"", 8, "no port, or no brackets", "\"[fd77::2]:1883\""),
    row("\"10.77.0.2:1883\"", "\"mqtt.example:1883\"", 8, "a VIP is an address", "\"10.0.0.1:1883\""),
    row("\"10.77.0.2:1883\"", "\"0.0.0.0:1883\"", 8, "0.0.0.0 stands for every address, which XDP can't take", "datapath = \"proxy\""),
    row("datapath = \"auto\"", "kind = \"wss\"", 10, "kind = \"wss\" means nothing", "\"ws\""),
    row("datapath = \"auto\"", "kind = \"ws\"\ndatapath = \"xdp\"", 11, "XDP can't look into kind = \"ws\"", "datapath = \"proxy\""),
    row("source = \"snat\"", "kind = \"http\"\nsource = \"client\"", 12, "the proxy connects to backends from addresses of its own", "source = \"snat\""),
    row("datapath = \"auto\"", "path = \"/mqtt\"", 10, "path means nothing with kind = \"mqtt\"", "kind = \"ws\" or \"http\""),
    row("datapath = \"auto\"", "kind = \"ws\"\nhttp_port = 18083", 11, "http_port means nothing with kind = \"ws\"", "kind = \"http\""),
    row("datapath = \"auto\"", "trusted_edges = [\"10.0.0.0/8\"]", 10, "trusted_edges means nothing with kind = \"mqtt\"", "kind = \"ws\" or \"http\""),
    row("datapath = \"auto\"", "kind = \"ws\"\ntrusted_edges = [\"10.0.0.0/33\"]", 11, "10.0.0.0/33", "203.0.113.0/24"),
    row("datapath = \"auto\"", "kind = \"ws\"\npath = \"mqtt\"", 11, "path = \"mqtt\" is no path of a URL", "path = \"/mqtt\""),
    row("datapath = \"auto\"", "kind = \"ws\"\nws_port = 70000", 11, "ws_port = 70000 is out of range", "from 1 to 65535"),
    row("[\"10.77.0.2:1883\"]", "[]", 8, "bind is empty", "bind = [\"10.0.0.1:1883\"]"),
    row("name = \"second\"", "name = \"mqtt\"", 24, "the listener \"mqtt\" is already defined in line 7", "a name of its own"),
    row("10.77.0.2:1884", "10.77.0.2:1883", 25, "10.77.0.2:1883 is already bound in line 8", "another address or port"),
    row("[\"10.77.0.2:1883\"]", "[\"10.77.0.2:1883\", \"10.77.0.2:1883\"]", 8, "already bound in line 8", "remove one"),
    row("10.77.0.2:1884", "10.77.1.3:1883", 25, "10.77.1.3:1883 is also the address of the backend \"emqx2\"", "no broker listens"),
    row("pool = \"emqx\"\ndatapath", "pool = \"emqz\"\ndatapath", 9, "no pool is named \"emqz\"", "did you mean \"emqx\"?"),
    row("pool = \"emqx\"\ndatapath", "pool = \"brokers\"\ndatapath", 9, "no pool is named \"brokers\"", "define [pool.brokers]"),
    row("datapath = \"auto\"", "datapath = \"XDP\"", 10, "datapath = \"XDP\" means nothing", "did you mean \"xdp\"?"),
    row("source = \"snat\"", "source = \"transparent\"", 11, "source = \"transparent\" means nothing", "\"snat\" or \"client\""),
    row("proxy_protocol = \"off\"", "proxy_protocol = \"v1\"", 12, "\"v1\" means nothing", "did you mean \"v2\"?"),
    row("[\"10.77.0.2:1884\"]", "[\"10.77.0.2:1884\", \"[fd77::2]:1883\"]", 25, "no backend of the pool \"emqx\" has an IPv6 address", "\"[fd00::2]:1883\""),
    // Pools and backends.
    row("[pool.emqx]\n", "[pool.\"a b\"]\n[[pool.\"a b\".backend]]\nname=\"x\"\naddress=\"10.0.0.9:1\"\n[pool.emqx]\n", 13, "\"a b\" is not a usable name", "letters, digits"),
    row("[pool.emqx]\n", "[pool.spare]\n[pool.emqx]\n", 13, "the pool \"spare\" has no backend", "[[pool.spare.backend]]"),
    row("[pool.emqx]\n", "[pool.spare.backend]\nname = \"x\"\n[pool.emqx]\n", 13, "backends are a list", "[[pool.spare.backend]]"),
    row("\"round-robin\"", "\"round-robin\"\nmax_load = 150", 15, "the policy \"round-robin\" has no max_load", "policy = \"consistent\""),
    row("policy = \"round-robin\"", "max_load = 150", 14, "the policy \"round-robin\" has no max_load", "remove max_load"),
    row("\"round-robin\"", "\"consistent\"\nmax_load = 100", 15, "max_load = 100 is out of range", "from 101 to"),
    row("\"round-robin\"", "\"consistnt\"\nmax_load = 150", 14, "means nothing", "did you mean \"consistent\"?"),
    row("policy =", "slow_start = 30\npolicy =", 14, "slow_start = 30 has no unit", "slow_start = \"30s\""),
    row("policy =", "slow_start = \"2h\"\npolicy =", 14, "slow_start = \"2h\" is out of range", "from \"0s\" to \"1h\""),
    row("policy =", "reset_rate = 500\npolicy =", 14, "reset_rate = 500 has no unit", "reset_rate = \"500/s\""),
    row("policy =", "reset_rate = \"0/s\"\npolicy =", 14, "reset_rate = \"0/s\" is not a number a second", "from 1 to 10000000"),
    row("policy =", "reset_rate = \"500/s burst 9\"\npolicy =", 14, "is not a number a second", "write reset_rate = \"500/s\""),
    row("policy =", "client_connects = \"often\"\npolicy =", 14, "client_connects = \"often\" is not a number a second", "\"100/s burst 300\""),
    row("policy =", "sources = { max_flows = 0 }\npolicy =", 14, "max_flows = 0 is out of range", "from 1 to 67108864"),
    row("policy =", "sources = { connects = true }\npolicy =", 14, "connects must be a string, found a boolean", "\"100/s\""),
    row("policy =", "sources = { ipv4_prefix = 33 }\npolicy =", 14, "ipv4_prefix = 33 is out of range", "from 1 to 32"),
    row("policy =", "sources = { ipv6_prefix = 0 }\npolicy =", 14, "ipv6_prefix = 0 is out of range", "from 1 to 128"),
    row("policy =", "sources = { prefix = 24 }\npolicy =", 14, "unknown key \"prefix\" in [pool.emqx.sources]", "ipv4_prefix"),
    row("policy =", "sources = 5\npolicy =", 14, "[pool.emqx.sources] must be a table", "ipv4_prefix"),
    row("\"round-robin\"", "\"round_robin\"", 14, "means nothing", "did you mean \"round-robin\"?"),
    row("kind = \"http\"", "kind = \"https\"", 15, "kind = \"https\" means nothing", "did you mean \"http\"?"),
    row("kind = \"http\"", "kind = \"tcp\", path = \"/\"", 15, "only checks of kind \"http\" have the key \"path\"", "remove path"),
    row("kind = \"http\"", "kind = \"mqtt\", availability = \"/\"", 15, "only checks of kind \"http\" have the key \"availability\"", "remove availability"),
    row("kind = \"http\"", "kind = \"http\", availability = \"check\"", 15, "availability = \"check\" is not a path of a URL", "availability_check\""),
    row("kind = \"http\"", "kind = \"http\", availability = false", 15, "availability must be a string, found a boolean", "availability_check\""),
    row("rise = 2", "jitter = 51", 15, "jitter = 51 is out of range", "from 0 to 50"),
    row("kind = \"http\"", "kind = \"http\", path = \"status\"", 15, "is not a path of a URL", "\"/api/v5/status\""),
    row("port = 18083", "port = 0", 15, "port = 0 is out of range", "from 1 to 65535"),
    row("timeout = \"500ms\"", "timeout = \"2s\"", 15, "timeout is longer than its interval", "at most the interval"),
    row("interval = \"1s\"", "interval = \"1 second\"", 15, "\"1 second\" is not a length of time", "\"10s\""),
    row("rise = 2", "rise = 0", 15, "rise = 0 is out of range", "from 1 to 1000"),
    row("10.77.1.2:1883", "10.77.1.300:1883", 18, "\"10.77.1.300\" is neither an address nor a DNS name", "broker.example"),
    row("10.77.1.2:1883", "10.77.1.2:99999", 18, "\"99999\" is not a port", "1 to 65535"),
    row("10.77.1.2:1883", "none.example:1883", 18, "cannot resolve \"none.example\": no such host", "/etc/resolv.conf"),
    row("10.77.1.2:1883", "empty.example:1883", 18, "\"empty.example\" has no usable address", "/etc/resolv.conf"),
    row("\"10.77.1.2:1883\"", "[]", 18, "address is empty", "address = \"10.0.0.2:1883\""),
    row("\"10.77.1.2:1883\"", "[\"10.77.1.2:1883\", \"10.77.1.9:1883\"]", 18, "a second IPv4 address for one backend", "one address of each family"),
    row("weight = 5", "weight = 65536", 19, "weight = 65536 is out of range", "from 0 to 65535"),
    row("weight = 5", "max_flows = \"many\"", 19, "max_flows must be a whole number, found \"many\"", "from 1 to 67108864"),
    row("weight = 5", "weight = -1", 19, "weight = -1 is out of range", "from 0 to 65535"),
    row("name = \"emqx2\"", "name = \"emqx1\"", 20, "the backend \"emqx1\" is already defined in line 16", "a name of its own"),
    row("10.77.1.3:1883", "10.77.1.2:1883", 20, "10.77.1.2:1883 is already the address of \"emqx1\" in line 16", "each node once"),
    row("name = \"emqx1\"\naddress = \"10.77.1.2:1883\"", "name = \"emqx1\"\naddress = \"many.example:1883\"\n[[pool.emqx.backend]]\nname = \"emqx1-10.77.1.8\"\naddress = \"10.77.1.4:1883\"", 19, "\"emqx1-10.77.1.8\" is already defined in line 16", "a name of its own"),
    row("10.77.1.3:1883", "two.example:1883", 20, "10.77.1.2:1883 (two.example) is already the address", "each node once"),
];

#[test]
fn the_base_of_the_table_is_right() {
    assert_eq!(problems(RIGHT), []);
}

#[test]
fn each_mistake_is_reported_once_in_its_line() {
    for Row {
        from,
        to,
        line,
        message,
        help,
    } in ROWS
    {
        assert!(RIGHT.contains(from), "no {from:?} to replace");
        let found = problems(&RIGHT.replacen(from, to, 1));
        let [problem] = &found[..] else {
            panic!("{from:?} → {to:?}: {found:#?}")
        };
        assert_eq!(problem.line, *line, "{from:?} → {to:?}: {problem:?}");
        assert!(
            problem.message.contains(message),
            "{from:?} → {to:?}: {problem:?}"
        );
        assert!(
            problem.help.contains(help),
            "{from:?} → {to:?}: {problem:?}"
        );
    }
}

/// The parser goes on after a syntax error as well as it can; what it says first is to the point.
#[test]
fn a_broken_header_is_reported_first() {
    let found = problems(&RIGHT.replace("[pool.emqx]\n", "[pool.emqx\n"));
    assert_eq!((found[0].line, found[0].column), (13, 11));
    assert!(found[0].message.contains("unclosed table"), "{found:#?}");
}

#[test]
fn columns_point_at_the_value() {
    let text = RIGHT.replace("[\"10.77.0.2:1883\"]", "[\"10.77.0.2:1883\", \"x\"]");
    assert_eq!(
        problems(&text)
            .iter()
            .map(|p| (p.line, p.column))
            .collect::<Vec<_>>(),
        [(8, 27)]
    );
}

#[test]
fn all_mistakes_of_a_file_are_reported_in_its_order() {
    let text = RIGHT
        .replace("127.0.0.1:8888", "nowhere")
        .replace("pool = \"emqx\"\ndatapath", "pool = \"emqz\"\ndatapath")
        .replace("weight = 5", "wieght = 5")
        .replace("\"10.77.1.3:1883\"", "\"${NODE}\"");
    let lines: Vec<_> = problems(&text).iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [2, 9, 19, 22]);
}

#[test]
fn files_with_nothing_to_do_say_what_is_missing() {
    let found = problems("");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].message.contains("no [[listener]]") && found[0].line == 1);
    let found = problems("[listener]\nname = \"x\"\n[pool]\n");
    assert!(found[0].help.contains("[[listener]]"), "{found:#?}");
}

#[test]
fn a_pool_of_weight_zero_takes_nobody() {
    let text = RIGHT
        .replace("weight = 5", "weight = 0")
        .replace("1.3:1883\"", "1.3:1883\"\nweight = 0");
    let found = problems(&text);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].line, 13);
    assert!(found[0].message.contains("weight 0"));
}

#[test]
fn sources_must_fit_every_listener_that_uses_them() {
    let text = format!("[snat]\naddresses = [\"fd77::1\"]\n{RIGHT}");
    let found = problems(&text);
    assert_eq!(found.iter().map(|p| p.line).collect::<Vec<_>>(), [10, 27]);
    assert!(
        found[0]
            .message
            .contains("[snat] addresses has no IPv4 address"),
        "{found:#?}"
    );
    // The first listener keeps its clients' addresses: only the second needs one of [snat].
    let found = problems(&text.replace("source = \"snat\"", "source = \"client\""));
    assert_eq!(found.iter().map(|p| p.line).collect::<Vec<_>>(), [27]);
}

#[test]
fn errors_print_the_file_and_the_position() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mqlb.toml");
    std::fs::write(&file, RIGHT.replace("auto\"\n[[", "atuo\"\n[[")).unwrap();
    let error = load(&file).unwrap_err();
    let first = format!(
        "{}:5:8: mode = \"atuo\" means nothing\n    did you mean \"auto\"?",
        file.display()
    );
    assert!(error.to_string().starts_with(&first), "{error}");

    let missing = directory.path().join("missing.toml");
    let error = load(&missing).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }));
    assert!(
        error.to_string().contains("missing.toml: cannot read"),
        "{error}"
    );
}

proptest! {
    /// Whatever a file holds, it is read or refused with a position inside of it.
    #[test]
    fn damaged_files_never_panic(start in 0..RIGHT.len(), length in 0usize..40, put in "[\\[\\]\"=.\\na-z0-9{}$ü]{0,6}") {
        let end = (start + length).min(RIGHT.len());
        let text = format!("{}{put}{}", &RIGHT[..start], &RIGHT[end..]);
        for problem in problems(&text) {
            prop_assert!((1..=text.matches('\n').count() + 1).contains(&problem.line), "{problem:?}");
            prop_assert!(problem.column >= 1);
            prop_assert!(!problem.message.is_empty() && !problem.help.is_empty());
        }
    }
}
