//! What the log says about a new file, and what a running agent refuses.

use std::env::VarError;

use mqlb::config::{Config, Diff, Remedy, Subject, What, diff, parse};

const OLD: &str = r#"
[admin]
http = "127.0.0.1:8888"
[agent]
name = "edge"
[xdp]
interfaces = ["eth0", "eth1"]
mode = "auto"
max_flows = 1000
[snat]
addresses = ["10.77.1.1"]
ports = "10000-20000"
[bindings]
capacity = 1000
linger = "30m"
[timeouts]
sniff = "10s"
connect = "3s"
grace = "30s"
keepalive_least = "0s"
keepalive_zero = "1d"
closed = "60s"
[limits]
client_id = 4096
sniff_bytes = 16384
rst_rate = 10000
refusal_rate = 10000
blocked_sources = ["203.0.113.0/24", "198.51.100.7"]
blocked_clients = ["sensor-1"]
[[listener]]
name = "mqtt"
bind = ["10.77.0.2:1883", "10.77.0.3:1883"]
pool = "emqx"
source = "snat"
proxy_protocol = "off"
max_flows = 500
[pool.emqx]
policy = "consistent"
max_load = 125
slow_start = "30s"
reset_rate = "500/s"
client_connects = "1/s burst 5"
health = { kind = "http", interval = "1s", timeout = "500ms", rise = 2, fall = 2, jitter = 10 }
sources = { ipv4_prefix = 32, ipv6_prefix = 64, max_flows = 10, connects = "5/s" }
[[pool.emqx.backend]]
name = "emqx1"
address = "10.77.1.2:1883"
weight = 2
max_flows = 100
[[pool.emqx.backend]]
name = "emqx2"
address = "10.77.1.3:1883"
[pool.spare]
[[pool.spare.backend]]
name = "emqx1"
address = "10.77.2.2:1883"
"#;

fn config(text: &str) -> Config {
    parse(text, &|_| Err(VarError::NotPresent), &|_, _| Ok(Vec::new()))
        .unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"))
}

fn between(old: &str, new: &str) -> Diff {
    diff(&config(old), &config(new))
}

fn lines(diff: &Diff) -> Vec<String> {
    diff.changes.iter().map(ToString::to_string).collect()
}

/// What in [`OLD`] is replaced by what, the one line that is said about it, and what it takes.
type Row = (&'static str, &'static str, &'static str, Option<Remedy>);

// A table is easiest to read with one row a line.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("127.0.0.1:8888", "127.0.0.1:8889", "[admin]: http 127.0.0.1:8888 -> 127.0.0.1:8889", Some(Remedy::Restart)),
    ("name = \"edge\"", "name = \"edge\"\npin_dir = \"/sys/fs/bpf/x\"", "[agent]: pin_dir \"/sys/fs/bpf/mqlb/edge\" -> \"/sys/fs/bpf/x\"", Some(Remedy::Unload)),
    ("name = \"edge\"", "name = \"edge\"\nstate_dir = \"/run/x\"", "[agent]: state_dir \"/var/lib/mqlb/edge\" -> \"/run/x\"", Some(Remedy::Restart)),
    ("[\"eth0\", \"eth1\"]", "[\"eth2\", \"eth1\"]", "[xdp]: interfaces +eth2 -eth0", Some(Remedy::Restart)),
    ("mode = \"auto\"", "mode = \"native\"", "[xdp]: mode auto -> native", Some(Remedy::Unload)),
    ("max_flows = 1000\n", "max_flows = 1000\nset_up = \"known\"\n", "[xdp]: set_up all -> known", None),
    ("max_flows = 1000\n", "max_flows = 2000\n", "[xdp]: max_flows 1000 -> 2000", Some(Remedy::Unload)),
    ("[\"10.77.1.1\"]", "[]", "[snat]: addresses -10.77.1.1", None),
    ("10000-20000", "10000-30000", "[snat]: ports 10000-20000 -> 10000-30000", Some(Remedy::Restart)),
    ("capacity = 1000", "capacity = 2000", "[bindings]: capacity 1000 -> 2000", Some(Remedy::Unload)),
    ("linger = \"30m\"", "linger = \"1h30m\"", "[bindings]: linger 30m -> 1h30m", None),
    ("sniff = \"10s\"", "sniff = \"20s\"", "[timeouts]: sniff 10s -> 20s", None),
    ("connect = \"3s\"", "connect = \"4s\"", "[timeouts]: connect 3s -> 4s", None),
    ("grace = \"30s\"", "grace = \"0s\"", "[timeouts]: grace 30s -> 0s", None),
    ("keepalive_least = \"0s\"", "keepalive_least = \"5m\"", "[timeouts]: keepalive_least 0s -> 5m", None),
    ("keepalive_zero = \"1d\"", "keepalive_zero = \"2d\"", "[timeouts]: keepalive_zero 1d -> 2d", None),
    ("closed = \"60s\"", "closed = \"30s\"", "[timeouts]: closed 1m -> 30s", None),
    ("client_id = 4096", "client_id = 100", "[limits]: client_id 4096 -> 100", None),
    ("sniff_bytes = 16384", "sniff_bytes = 8192", "[limits]: sniff_bytes 16384 -> 8192", None),
    ("rst_rate = 10000", "rst_rate = 0", "[limits]: rst_rate 10000 -> 0", None),
    ("refusal_rate = 10000", "refusal_rate = 5", "[limits]: refusal_rate 10000 -> 5", None),
    ("\"198.51.100.7\"", "\"2001:db8::/32\"", "[limits]: blocked_sources +2001:db8::/32 -198.51.100.7/32", None),
    ("[\"sensor-1\"]", "[\"sensor-1\", \"a\\nb\"]", "[limits]: blocked_clients +\"a\\nb\"", None),
    ("\"10.77.0.3:1883\"", "\"10.77.0.4:1883\"", "listener mqtt: bind +10.77.0.4:1883 -10.77.0.3:1883", None),
    ("pool = \"emqx\"", "pool = \"spare\"", "listener mqtt: pool emqx -> spare", None),
    ("source = \"snat\"", "source = \"client\"", "listener mqtt: source snat -> client", None),
    ("proxy_protocol = \"off\"", "proxy_protocol = \"v2\"", "listener mqtt: proxy_protocol off -> v2", None),
    ("max_flows = 500\n", "", "listener mqtt: max_flows 500 -> none", None),
    ("[[listener]]\nname = \"mqtt\"", "[[listener]]\nname = \"more\"\nbind = \"10.77.0.9:1883\"\npool = \"spare\"\n[[listener]]\nname = \"mqtt\"", "listener more added: 10.77.0.9:1883 to the pool spare", None),
    ("max_load = 125", "max_load = 150", "pool emqx: policy consistent, at most 125% -> consistent, at most 150%", None),
    ("slow_start = \"30s\"", "slow_start = \"0s\"", "pool emqx: slow_start 30s -> 0s", None),
    ("reset_rate = \"500/s\"\n", "", "pool emqx: reset_rate 500/s -> at once", None),
    ("client_connects = \"1/s burst 5\"", "client_connects = \"2/s\"", "pool emqx: client_connects 1/s burst 5 -> 2/s", None),
    ("kind = \"http\"", "kind = \"http\", availability = \"off\"", "pool emqx: health http :18083/api/v5/status and /api/v5/load_rebalance/availability_check -> http :18083/api/v5/status", None),
    ("[pool.spare]", "[pool.spare]\nhealth = { kind = \"mqtt\" }", "pool spare: health none -> mqtt", None),
    ("interval = \"1s\"", "interval = \"2s\"", "pool emqx: health interval 1s -> 2s", None),
    ("timeout = \"500ms\"", "timeout = \"1s\"", "pool emqx: health timeout 500ms -> 1s", None),
    ("rise = 2", "rise = 3", "pool emqx: health rise 2 -> 3", None),
    ("fall = 2", "fall = 3", "pool emqx: health fall 2 -> 3", None),
    ("jitter = 10", "jitter = 0", "pool emqx: health jitter 10 -> 0", None),
    ("ipv4_prefix = 32", "ipv4_prefix = 24", "pool emqx: sources ipv4_prefix 32 -> 24", None),
    ("ipv6_prefix = 64", "ipv6_prefix = 48", "pool emqx: sources ipv6_prefix 64 -> 48", None),
    ("max_flows = 10,", "", "pool emqx: sources max_flows 10 -> none", None),
    ("connects = \"5/s\"", "connects = \"5/s burst 9\"", "pool emqx: sources connects 5/s -> 5/s burst 9", None),
    ("[pool.spare]", "[pool.third]\n[[pool.third.backend]]\nname = \"x\"\naddress = \"10.0.0.9:1\"\n[pool.spare]", "pool third added: round-robin to x", None),
    ("weight = 2", "weight = 4", "backend emqx/emqx1: weight 2 -> 4", None),
    ("max_flows = 100\n[[", "[[", "backend emqx/emqx1: max_flows 100 -> none", None),
    ("10.77.2.2:1883", "10.77.2.3:1883", "backend spare/emqx1: address +10.77.2.3:1883 -10.77.2.2:1883", None),
    ("[[pool.emqx.backend]]\nname = \"emqx2\"\naddress = \"10.77.1.3:1883\"\n", "", "backend emqx/emqx2 removed", None),
    ("[pool.spare]", "[[pool.emqx.backend]]\nname = \"emqx3\"\naddress = \"10.77.1.4:1883\"\n[pool.spare]", "backend emqx/emqx3 added: 10.77.1.4:1883, weight 1", None),
];

#[test]
fn each_change_is_one_line() {
    for (from, to, line, remedy) in ROWS {
        assert_eq!(OLD.matches(from).count(), 1, "{from:?}");
        let found = between(OLD, &OLD.replace(from, to));
        assert_eq!(lines(&found), [*line], "{from:?} → {to:?}");
        assert_eq!(found.changes[0].remedy(), *remedy, "{line}");
        let refused: Vec<_> = found.refused().iter().map(|(_, remedy)| *remedy).collect();
        assert_eq!(refused, Vec::from_iter(*remedy), "{line}");
    }
}

#[test]
fn the_order_of_a_file_is_no_difference() {
    let spare = OLD.find("[pool.spare]").unwrap();
    let pools = OLD.find("[pool.emqx]").unwrap();
    let swapped = format!(
        "{}{}{}",
        &OLD[..pools].replace("[\"eth0\", \"eth1\"]", "[\"eth1\", \"eth0\"]"),
        &OLD[spare..],
        &OLD[pools..spare]
    );
    assert_ne!(config(OLD), config(&swapped));
    assert!(between(OLD, &swapped).is_empty());
    assert!(between(OLD, OLD).is_empty());
}

#[test]
fn what_goes_and_comes_together() {
    let renamed = OLD.replace("name = \"mqtt\"", "name = \"plain\"");
    assert_eq!(
        lines(&between(OLD, &renamed)),
        [
            "listener mqtt removed",
            "listener plain added: 10.77.0.2:1883, 10.77.0.3:1883 to the pool emqx"
        ]
    );
    // A pool that goes takes its backends along; one of another pool with the same name stays.
    let spare = OLD.find("[pool.spare]").unwrap();
    assert_eq!(lines(&between(OLD, &OLD[..spare])), ["pool spare removed"]);
    // A new name of the agent moves the directories, and the strictest remedy counts.
    let found = between(OLD, &OLD.replace("\"edge\"", "\"core\""));
    let worst = found.refused().iter().map(|(_, remedy)| *remedy).max();
    assert_eq!((found.changes.len(), worst), (3, Some(Remedy::Unload)));
}

#[test]
fn changes_can_be_looked_into() {
    let found = between(OLD, &OLD.replace("weight = 2", "weight = 4"));
    assert_eq!(
        found.changes[0].subject,
        Subject::Backend {
            pool: "emqx".into(),
            name: "emqx1".into()
        }
    );
    assert!(matches!(
        &found.changes[0].what,
        What::Key { key: "weight", .. }
    ));
}

#[test]
fn long_lists_are_cut() {
    let many: Vec<String> = (0..30).map(|n| format!("\"192.0.2.{n}\"")).collect();
    let new = OLD.replace("\"198.51.100.7\"", &many.join(", "));
    let line = &lines(&between(OLD, &new))[0];
    assert!(
        line.ends_with("+192.0.2.9/32 +(20 more) -198.51.100.7/32"),
        "{line}"
    );
}
