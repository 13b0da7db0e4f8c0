//! The sections that a file has once: `[admin]`, `[agent]`, `[xdp]`, `[snat]`, `[bindings]`,
//! `[timeouts]`, `[limits]`. Each is optional, and so is every key in it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::model::{Admin, Agent, Bindings, Limits, Mode, Prefix, SetUp, Snat, Timeouts, Xdp};
use super::problem::{At, Problems};
use super::section::{Section, check_name};
use super::value;
use crate::dataplane::RESERVE;

/// Where agents pin things, each in a directory of its own name.
pub(super) const PIN_PARENT: &str = "/sys/fs/bpf/mqlb";
/// Directory that agents keep their state below.
pub(super) const STATE_PARENT: &str = "/var/lib/mqlb";

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// As many as make the flow map 2^19 entries: the kernel gives a map the next power of two of buckets, so one entry
/// more would cost 16 bytes in each.
const DEFAULT_FLOWS: u32 = ((1 << 19) - RESERVE) / 2;

/// A CONNECT's bytes around its client identifier, without MQTT 5 properties: fixed header 5,
/// protocol name 8, level, flags and keep-alive 4, lengths of properties and identifier 3.
const CONNECT_OVERHEAD: u32 = 20;

pub(super) fn admin(problems: &Problems, root: &Section) -> Admin {
    let section = Section::new(
        problems,
        "[admin]",
        root.get("admin"),
        &["http", "stats_password"],
    );
    let mut http = SocketAddr::from((Ipv4Addr::LOCALHOST, 8888));
    let example = "\"127.0.0.1:8888\"";
    if let Some(written) = section.text("http", example) {
        match written.value.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => http = address,
            _ => problems.report(
                &written.span,
                format!("http = {:?} is not an address with a port", written.value),
                format!("write http = {example}"),
            ),
        }
    }
    let password = section.text("stats_password", "\"${STATS_PASSWORD:-}\"");
    Admin {
        http,
        // Empty is what an unset variable leaves.
        stats_password: password
            .map(|at| at.value.to_owned())
            .filter(|password| !password.is_empty()),
    }
}

pub(super) fn agent(problems: &Problems, root: &Section) -> Agent {
    let keys = ["name", "pin_dir", "state_dir"];
    let section = Section::new(problems, "[agent]", root.get("agent"), &keys);
    let name = section
        .text("name", "\"default\"")
        .and_then(|written| check_name(problems, &written))
        .map_or_else(|| "default".to_owned(), |name| name.value);
    let directory = |key: &str, parent: &str| {
        let default = PathBuf::from(parent).join(&name);
        let Some(written) = section.text(key, &format!("{default:?}")) else {
            return default;
        };
        let path = PathBuf::from(written.value);
        if !path.is_absolute() {
            problems.report(
                &written.span,
                format!("{key} = {:?} is not an absolute path", written.value),
                format!("write {key} = {default:?}"),
            );
        }
        path
    };
    let (pin_dir, state_dir) = (
        directory("pin_dir", PIN_PARENT),
        directory("state_dir", STATE_PARENT),
    );
    Agent {
        name,
        pin_dir,
        state_dir,
    }
}

pub(super) fn xdp(problems: &Problems, root: &Section, needs_interfaces: bool) -> Xdp {
    let keys = ["interfaces", "mode", "max_flows", "set_up"];
    let section = Section::new(problems, "[xdp]", root.get("xdp"), &keys);
    let modes = [
        ("auto", Some(Mode::Auto)),
        ("native", Some(Mode::Native)),
        ("generic", Some(Mode::Generic)),
    ];
    let set_ups = [SetUp::All, SetUp::Known, SetUp::None].map(|s| (s.as_str(), Some(s)));
    if needs_interfaces && section.is_empty_or_absent("interfaces") {
        problems.report(
            section.get("interfaces").map_or(section.span(), |node| &node.span),
            "no interface to attach the XDP programs to",
            "write [xdp] with interfaces = [\"eth0\"]: those that clients and brokers are reached by",
        );
    }
    Xdp {
        interfaces: interfaces(problems, &section),
        mode: section
            .choice("mode", &modes)
            .map_or(Mode::Auto, |mode| mode.value),
        max_flows: section.max_flows().unwrap_or(DEFAULT_FLOWS),
        set_up: section
            .choice("set_up", &set_ups)
            .map_or(SetUp::All, |set_up| set_up.value),
    }
}

fn interfaces(problems: &Problems, section: &Section) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for At { span, value: name } in section.texts("interfaces", "[\"eth0\"]") {
        if !value::is_interface(name) {
            problems.report(
                &span,
                format!("{name:?} is not a name of a network interface"),
                "write a name as `ip link` shows it: interfaces = [\"eth0\"]",
            );
        } else if names.iter().any(|other| other == name) {
            problems.report(
                &span,
                format!("the interface {name:?} is listed twice"),
                "keep one of the two",
            );
        }
        names.push(name.to_owned());
    }
    names
}

pub(super) fn snat(problems: &Problems, root: &Section) -> Snat {
    let section = Section::new(
        problems,
        "[snat]",
        root.get("snat"),
        &["addresses", "ports"],
    );
    let mut addresses: Vec<IpAddr> = Vec::new();
    let example = "[\"10.0.0.1\", \"fd00::1\"]";
    for At {
        span,
        value: written,
    } in section.texts("addresses", example)
    {
        let checked = match written.parse::<IpAddr>() {
            Ok(ip) => value::unicast(ip),
            Err(_) => Err((
                format!("{written:?} is not an IP address"),
                format!("write addresses = {example}"),
            )),
        };
        match checked {
            Ok(ip) if addresses.contains(&ip) => {
                problems.report(
                    &span,
                    format!("{ip} is listed twice"),
                    "keep one of the two",
                );
            }
            Ok(ip) => addresses.push(ip),
            Err((message, help)) => problems.report(&span, message, help),
        }
    }
    let mut ports = 10_000..=32_767;
    let example = "\"10000-32767\"";
    if let Some(written) = section.text("ports", example) {
        match value::port_range(written.value) {
            Some(range) => ports = range,
            None => problems.report(
                &written.span,
                format!(
                    "ports = {:?} is not a range of ports from 1024 to 65535",
                    written.value
                ),
                format!("write ports = {example}"),
            ),
        }
    }
    Snat { addresses, ports }
}

pub(super) fn bindings(problems: &Problems, root: &Section) -> Bindings {
    let section = Section::new(
        problems,
        "[bindings]",
        root.get("bindings"),
        &["capacity", "linger"],
    );
    let linger = section.duration("linger", SECOND..=365 * DAY);
    Bindings {
        capacity: section
            .integer("capacity", 1..=1 << 28)
            .map_or(1 << 20, |capacity| capacity.value),
        linger: linger.map_or(Duration::from_secs(30 * 60), |linger| linger.value),
    }
}

pub(super) fn timeouts(problems: &Problems, root: &Section) -> Timeouts {
    let keys = [
        "sniff",
        "handshake",
        "connect",
        "grace",
        "keepalive_least",
        "keepalive_zero",
        "closed",
        "dns",
    ];
    let section = Section::new(problems, "[timeouts]", root.get("timeouts"), &keys);
    let read = |key, least, most, default| {
        section
            .duration(key, least..=most)
            .map_or(default, |duration| duration.value)
    };
    Timeouts {
        sniff: read("sniff", SECOND, 600 * SECOND, 10 * SECOND),
        handshake: read("handshake", SECOND, 600 * SECOND, 10 * SECOND),
        connect: read("connect", SECOND / 10, 120 * SECOND, 3 * SECOND),
        grace: read("grace", Duration::ZERO, 3600 * SECOND, 30 * SECOND),
        keepalive_least: read("keepalive_least", Duration::ZERO, DAY, Duration::ZERO),
        keepalive_zero: read("keepalive_zero", 60 * SECOND, 365 * DAY, DAY),
        closed: read("closed", SECOND, 600 * SECOND, 60 * SECOND),
        dns: read("dns", SECOND, DAY, 300 * SECOND),
    }
}

pub(super) fn limits(problems: &Problems, root: &Section) -> Limits {
    let keys = [
        "client_id",
        "sniff_bytes",
        "rst_rate",
        "refusal_rate",
        "blocked_sources",
        "blocked_clients",
    ];
    let section = Section::new(problems, "[limits]", root.get("limits"), &keys);
    let client_id = section.integer("client_id", 23..=65_535);
    let sniff_bytes = section.integer("sniff_bytes", 128..=1 << 20);
    let span = sniff_bytes
        .as_ref()
        .or(client_id.as_ref())
        .map(|at| at.span.clone());
    let client_id = client_id.map_or(4096, |at| at.value);
    let sniff_bytes = sniff_bytes.map_or(16_384, |at| at.value);
    if let Some(span) = span
        && sniff_bytes < client_id + CONNECT_OVERHEAD
    {
        problems.report(
            &span,
            format!("sniff_bytes = {sniff_bytes} cannot hold a CONNECT with client_id = {client_id} bytes"),
            format!("write sniff_bytes = {} or more", client_id + CONNECT_OVERHEAD),
        );
    }
    let rate = |key| {
        section
            .integer(key, 0..=value::MAX_RATE)
            .map_or(10_000, |rate| rate.value)
    };
    Limits {
        client_id: client_id as usize,
        sniff_bytes: sniff_bytes as usize,
        rst_rate: rate("rst_rate"),
        refusal_rate: rate("refusal_rate"),
        blocked_sources: prefixes(
            problems,
            &section,
            "blocked_sources",
            "[\"203.0.113.0/24\"]",
        ),
        blocked_clients: blocked_clients(problems, &section),
    }
}

pub(super) fn prefixes(
    problems: &Problems,
    section: &Section,
    key: &'static str,
    example: &'static str,
) -> Vec<Prefix> {
    let mut prefixes: Vec<Prefix> = Vec::new();
    for written in section.texts(key, example) {
        match value::prefix(written.value) {
            Ok(prefix) if prefixes.contains(&prefix) => problems.report(
                &written.span,
                format!("{prefix} is listed twice"),
                "keep one of the two",
            ),
            Ok(prefix) => prefixes.push(prefix),
            Err((message, help)) => problems.report(&written.span, message, help),
        }
    }
    prefixes
}

fn blocked_clients(problems: &Problems, section: &Section) -> Vec<String> {
    let mut clients: Vec<String> = Vec::new();
    for At { span, value: id } in section.texts("blocked_clients", "[\"sensor-1\"]") {
        if id.is_empty() {
            problems.report(
                &span,
                "the empty client identifier is not one client's",
                "write the identifier of the client to block, or remove this entry",
            );
        } else if clients.iter().any(|other| other == id) {
            problems.report(
                &span,
                format!("the client {id:?} is listed twice"),
                "keep one of the two",
            );
        } else {
            clients.push(id.to_owned());
        }
    }
    clients
}
