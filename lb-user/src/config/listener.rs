//! `[[listener]]`, read by itself: whether it fits the rest of the file is [`super::check`]'s
//! business.

use std::net::SocketAddr;

use super::certificate::Files;
use super::model::{Datapath, Kind, Prefix, ProxyProtocol, Source, Sticky, WebSocket};
use super::problem::{At, Problems};
use super::routes::{self, Routes};
use super::section::{Section, text};
use super::sections::prefixes;
use super::suggest::alternatives;
use super::tls::{self, Tls};
use super::tree::{Node, Value};
use super::value;

const KEYS: [&str; 16] = [
    "name",
    "kind",
    "path",
    "ws_port",
    "http_port",
    "routes",
    "bind",
    "pool",
    "datapath",
    "source",
    "proxy_protocol",
    "tls",
    "sticky",
    "trusted_proxies",
    "trusted_edges",
    "max_flows",
];

/// A listener as the file has it; `None` where a problem was reported.
pub(super) struct Draft {
    pub name: Option<At<String>>,
    pub kind: Kind,
    pub routes: routes::Draft,
    pub bind: Vec<At<SocketAddr>>,
    pub pool: Option<At<String>>,
    pub datapath: Datapath,
    /// XDP can't do what it wants.
    pub proxied: bool,
    pub source: Source,
    pub proxy_protocol: ProxyProtocol,
    pub tls: Option<Tls>,
    pub sticky: Sticky,
    pub trusted_proxies: Vec<Prefix>,
    pub trusted_edges: Vec<Prefix>,
    pub max_flows: Option<u32>,
}

/// Every listener of the file.
pub(super) fn read_all(problems: &Problems, files: Files, root: &Section) -> Vec<Draft> {
    if root.is_empty_or_absent("listener") {
        problems.report(
            &(0..0),
            "no [[listener]]: there is nothing for clients to connect to",
            "write [[listener]] with name, bind and pool",
        );
    }
    let Some(node) = root.get("listener") else {
        return Vec::new();
    };
    match &node.value {
        Value::Array(items) => items
            .iter()
            .map(|item| read(problems, files, item))
            .collect(),
        _ => {
            problems.report(
                &node.span,
                "listeners are a list",
                "write [[listener]], in two pairs of brackets",
            );
            Vec::new()
        }
    }
}

fn read(problems: &Problems, files: Files, node: &Node) -> Draft {
    let section = Section::new(problems, "[[listener]]", Some(node), &KEYS);
    let pool = section
        .required("pool", "\"emqx\"")
        .and_then(|node| text(problems, node, "pool", "\"emqx\""));
    let datapaths = [
        ("auto", Some(Datapath::Auto)),
        ("xdp", Some(Datapath::Xdp)),
        ("proxy", Some(Datapath::Proxy)),
    ];
    let sources = [
        ("snat", Some(Source::Snat)),
        ("client", Some(Source::Client)),
    ];
    let written = section.choice("datapath", &datapaths);
    let datapath = written.as_ref().map_or(Datapath::Auto, |at| at.value);
    let trusted_proxies = prefixes(problems, &section, "trusted_proxies", "[\"10.0.0.0/24\"]");
    let kind = kind(problems, &section);
    let source = section.choice("source", &sources);
    if let Some(at) = &source
        && at.value == Source::Client
        && (datapath == Datapath::Proxy
            || !trusted_proxies.is_empty()
            || !kind.suits_xdp()
            || section.get("tls").is_some())
    {
        problems.report(
            &at.span,
            "the proxy connects to backends from addresses of its own",
            "write source = \"snat\" (with proxy_protocol = \"v2\" brokers see the clients' addresses), or datapath = \"xdp\"",
        );
    }
    let source = source.map_or(Source::Snat, |at| at.value);
    if !kind.suits_xdp()
        && let Some(at) = written.as_ref().filter(|at| at.value == Datapath::Xdp)
    {
        problems.report(
            &at.span,
            format!("XDP can't look into kind = {:?}", kind.as_str()),
            "write datapath = \"proxy\", or leave it out",
        );
    }
    if datapath == Datapath::Xdp
        && !trusted_proxies.is_empty()
        && let Some(node) = section.get("trusted_proxies")
    {
        problems.report(
            &node.span,
            "XDP reads no PROXY headers",
            "write datapath = \"proxy\", or remove trusted_proxies",
        );
    }
    if let Some(at) = written.filter(|at| at.value == Datapath::Xdp)
        && section.get("tls").is_some()
    {
        problems.report(
            &at.span,
            "XDP can't decrypt TLS",
            "write datapath = \"proxy\", or leave it out",
        );
    }
    let tls = section
        .get("tls")
        .and_then(|node| tls::read(problems, files, node));
    let proxied = datapath == Datapath::Proxy
        || !kind.suits_xdp()
        || section.get("tls").is_some()
        || !trusted_proxies.is_empty();
    Draft {
        name: section.name("\"mqtt\""),
        bind: bind(problems, &section, proxied),
        kind,
        routes: routes::read(problems, &section),
        pool: pool.map(|pool| At {
            span: pool.span,
            value: pool.value.to_owned(),
        }),
        datapath,
        proxied,
        source,
        trusted_proxies,
        trusted_edges: prefixes(problems, &section, "trusted_edges", "[\"10.0.0.0/24\"]"),
        proxy_protocol: tls::proxy_protocol(problems, &section),
        sticky: tls::sticky(problems, &section, tls.as_ref()),
        tls,
        max_flows: section.max_flows(),
    }
}

/// What clients speak, with the keys that only go with it.
fn kind(problems: &Problems, section: &Section) -> Kind {
    let kinds = [
        ("mqtt", Some("mqtt")),
        ("ws", Some("ws")),
        ("http", Some("http")),
        ("tls-passthrough", Some("tls-passthrough")),
    ];
    let kind = section.choice("kind", &kinds).map_or("mqtt", |at| at.value);
    let only = |key: &str, with: &[&str]| {
        if let Some(node) = section.get(key).filter(|_| !with.contains(&kind)) {
            problems.report(
                &node.span,
                format!("{key} means nothing with kind = {kind:?}"),
                format!(
                    "remove it, or write kind = {}",
                    alternatives(with.iter().copied())
                ),
            );
        }
    };
    only("path", &["ws", "http"]);
    only("ws_port", &["ws", "http"]);
    only("http_port", &["http"]);
    only("trusted_edges", &["ws", "http"]);
    only("routes", &["tls-passthrough"]);
    only("tls", &["mqtt", "ws", "http"]);
    only("sticky", &["mqtt", "ws", "http"]);
    let port = |key, default| {
        let port = section.integer(key, 1..=65_535).map(|at| at.value);
        port.and_then(|port| u16::try_from(port).ok())
            .unwrap_or(default)
    };
    let websocket = || WebSocket {
        path: path(problems, section),
        port: port("ws_port", 8083),
    };
    match kind {
        "ws" => Kind::Ws(websocket()),
        "http" => Kind::Http {
            websocket: websocket(),
            dashboard: port("http_port", 18083),
        },
        // The pools of its routes are looked up later.
        "tls-passthrough" => Kind::TlsPassthrough(Routes::default()),
        _ => Kind::Mqtt,
    }
}

/// The path of MQTT's WebSockets.
fn path(problems: &Problems, section: &Section) -> String {
    let default = "/mqtt";
    let Some(written) = section.text("path", "\"/mqtt\"") else {
        return default.to_owned();
    };
    let path = written.value;
    let plain = |c: char| c.is_ascii_graphic() && !"?#\"<>\\^`{|}".contains(c);
    if path.starts_with('/') && path.chars().all(plain) {
        return path.to_owned();
    }
    problems.report(
        &written.span,
        format!("path = {path:?} is no path of a URL"),
        "write path = \"/mqtt\", without a query",
    );
    default.to_owned()
}

fn bind(problems: &Problems, section: &Section, proxied: bool) -> Vec<At<SocketAddr>> {
    let example = "[\"10.0.0.1:1883\"]";
    let Some(node) = section.required("bind", example) else {
        return Vec::new();
    };
    if matches!(&node.value, Value::Array(items) if items.is_empty()) {
        problems.report(
            &node.span,
            "bind is empty",
            format!("write bind = {example}"),
        );
    }
    let parse = |written: At<&str>| match value::vip(written.value, proxied) {
        Ok(vip) => Some(At {
            span: written.span,
            value: vip,
        }),
        Err((message, help)) => {
            problems.report(&written.span, message, help);
            None
        }
    };
    section
        .texts("bind", example)
        .into_iter()
        .filter_map(parse)
        .collect()
}
