//! `[[pool.NAME.backend]]`.
//!
//! One entry of the file is one backend, unless a DNS name in it stands for several addresses of a
//! family: then nothing tells which of them belong to one node, and each address is a backend of its own.

use std::net::SocketAddr;

use super::model::{Backend, BackendAddress, Unresolved};
use super::problem::{At, Problems, Span};
use super::resolve::Resolver;
use super::section::Section;
use super::tree::{Node, Value};
use super::value::{self, Endpoint};

const KEYS: [&str; 4] = ["name", "address", "weight", "max_flows"];
const ADDRESS: &str = "\"10.0.0.2:1883\"";

/// How names become addresses.
pub(super) struct Names<'a> {
    pub resolver: Resolver<'a>,
    pub unresolved: Unresolved,
}

/// The backends of one pool.
#[derive(Default)]
pub(super) struct Read {
    /// Those that could be read and have an address.
    pub backends: Vec<Backend>,
    /// Names that have none yet.
    pub waiting: Vec<String>,
    /// Whether nothing is missing.
    pub complete: bool,
}

pub(super) fn read_all(problems: &Problems, names: &Names, pool: &str, section: &Section) -> Read {
    let title = format!("[[pool.{pool}.backend]]");
    let items = match section.get("backend").map(|node| (&node.span, &node.value)) {
        Some((_, Value::Array(items))) if !items.is_empty() => items,
        Some((span, Value::Table(_))) => {
            problems.report(
                span,
                "backends are a list",
                format!("write {title}, in two pairs of brackets"),
            );
            return Read::default();
        }
        _ if section.is_present() => {
            let message = format!("the pool {pool:?} has no backend");
            problems.report(
                section.span(),
                message,
                format!("write {title} with name and address"),
            );
            return Read::default();
        }
        _ => return Read::default(),
    };
    let mut complete = true;
    let (mut read, mut waiting) = (Vec::new(), Vec::new());
    for item in items {
        match read_entry(problems, names, &mut waiting, &title, item) {
            Some(backends) => read.extend(backends.into_iter().map(|one| (&item.span, one))),
            None => complete = false,
        }
    }
    twice(problems, &read);
    let backends: Vec<Backend> = read.into_iter().map(|(_, backend)| backend).collect();
    let complete = complete && waiting.is_empty();
    if complete && backends.iter().all(|backend| backend.weight == 0) {
        problems.report(
            section.span(),
            format!("every backend of the pool {pool:?} has weight 0: none takes a new client"),
            "write a weight of 1 or more for one of them",
        );
    }
    Read {
        backends,
        waiting,
        complete,
    }
}

fn read_entry(
    problems: &Problems,
    names: &Names,
    waiting: &mut Vec<String>,
    title: &str,
    node: &Node,
) -> Option<Vec<Backend>> {
    let section = Section::new(problems, title, Some(node), &KEYS);
    let name = section.name("\"emqx1\"");
    let weight = match section.get("weight") {
        None => Some(1),
        Some(_) => section
            .integer("weight", 0..=65_535)
            .and_then(|at| u16::try_from(at.value).ok()),
    };
    let max_flows = section.max_flows();
    let mut missing = Vec::new();
    let addresses = addresses(problems, names, &mut missing, &section);
    let (name, addresses, weight) = (name?.value, addresses?, weight?);
    waiting.extend(missing.iter().map(|why| format!("backend {name}: {why}")));
    if addresses.is_empty() {
        return Some(Vec::new());
    }
    let backend = |name: String, addresses: Vec<BackendAddress>| Backend {
        name,
        addresses,
        weight,
        max_flows,
    };
    let of = |is_ipv4| move |address: &&BackendAddress| address.socket.is_ipv4() == is_ipv4;
    if [true, false]
        .iter()
        .all(|family| addresses.iter().filter(of(*family)).count() <= 1)
    {
        return Some(vec![backend(name, addresses)]);
    }
    let one_port = addresses
        .iter()
        .all(|address| address.socket.port() == addresses[0].socket.port());
    let each = addresses.into_iter().map(|address| {
        let mut name = format!("{name}-{}", address.socket.ip()).replace(':', "-");
        if !one_port {
            name = format!("{name}-{}", address.socket.port());
        }
        backend(name, vec![address])
    });
    Some(each.collect())
}

/// The addresses that are written, and those of names for the families that are not. Without any, names
/// are missing.
fn addresses(
    problems: &Problems,
    names: &Names,
    missing: &mut Vec<String>,
    section: &Section,
) -> Option<Vec<BackendAddress>> {
    let node = section.required("address", ADDRESS)?;
    if matches!(&node.value, Value::Array(items) if items.is_empty()) {
        problems.report(
            &node.span,
            "address is empty",
            format!("write address = {ADDRESS}"),
        );
        return None;
    }
    let written = section.texts("address", ADDRESS);
    let expected = if let Value::Array(items) = &node.value {
        items.len()
    } else {
        1
    };
    let mut complete = written.len() == expected;
    let (mut found, mut hosts) = (Vec::<BackendAddress>::new(), Vec::new());
    for At {
        span,
        value: written,
    } in written
    {
        match value::endpoint(written) {
            Ok(Endpoint::Host(host, port)) => hosts.push((span, host, port)),
            Ok(Endpoint::Socket(socket)) if lacks(&found, socket) => {
                found.push(BackendAddress { socket, host: None });
            }
            Ok(Endpoint::Socket(socket)) => {
                complete = false;
                let family = if socket.is_ipv4() { "IPv4" } else { "IPv6" };
                problems.report(
                    &span,
                    format!("a second {family} address for one backend"),
                    "write one address of each family, and a [[…backend]] for every node",
                );
            }
            Err((message, help)) => {
                complete = false;
                problems.report(&span, message, help);
            }
        }
    }
    let mut resolved = Vec::<BackendAddress>::new();
    for (span, host, port) in hosts {
        match lookup(names.resolver, &host, port) {
            Ok(sockets) => {
                for socket in sockets.into_iter().filter(|socket| lacks(&found, *socket)) {
                    if resolved.iter().all(|other| other.socket != socket) {
                        resolved.push(BackendAddress {
                            socket,
                            host: Some(host.clone()),
                        });
                    }
                }
            }
            Err(message) if names.unresolved == Unresolved::Wait => missing.push(message),
            Err(message) => {
                complete = false;
                let help = "check the name, /etc/hosts and /etc/resolv.conf, or write an address; with unresolved = \"wait\" in the pool it may come later";
                problems.report(&span, message, help);
            }
        }
    }
    found.extend(resolved);
    complete.then_some(found)
}

/// Whether there is no address of this one's family.
fn lacks(found: &[BackendAddress], socket: SocketAddr) -> bool {
    found
        .iter()
        .all(|other| other.socket.is_ipv4() != socket.is_ipv4())
}

/// The addresses of `host` in an order of their own: resolvers shuffle.
fn lookup(resolver: Resolver, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let mut sockets =
        resolver(host, port).map_err(|error| format!("cannot resolve {host:?}: {error}"))?;
    sockets.retain(|socket| value::usable(*socket).is_ok());
    sockets.sort();
    sockets.dedup();
    if sockets.is_empty() {
        Err(format!("{host:?} has no usable address"))
    } else {
        Ok(sockets)
    }
}

/// Reports names and addresses that two backends of the pool share.
fn twice(problems: &Problems, backends: &[(&Span, Backend)]) {
    for (index, (span, backend)) in backends.iter().enumerate() {
        for (other_span, other) in &backends[..index] {
            let line = problems.line(other_span.start);
            if other.name == backend.name {
                problems.report(
                    span,
                    format!(
                        "the backend {:?} is already defined in line {line}",
                        backend.name
                    ),
                    "give each backend of a pool a name of its own",
                );
            }
            let shared = |address: &&BackendAddress| {
                other.addresses.iter().any(|o| o.socket == address.socket)
            };
            if let Some(address) = backend.addresses.iter().find(shared) {
                problems.report(
                    span,
                    format!(
                        "{address} is already the address of {:?} in line {line}",
                        other.name
                    ),
                    "write each node once, and give it a weight for its share",
                );
            }
        }
    }
}
