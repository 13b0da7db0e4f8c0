//! `[[listener]]`, read by itself: whether it fits the rest of the file is [`super::check`]'s
//! business.

use std::net::SocketAddr;

use super::certificate::Files;
use super::model::{Datapath, Prefix, ProxyProtocol, Source, Sticky};
use super::problem::{At, Problems};
use super::section::{Section, text};
use super::sections::prefixes;
use super::tls::{self, Tls};
use super::tree::{Node, Value};
use super::value;

const KEYS: [&str; 10] = [
    "name",
    "bind",
    "pool",
    "datapath",
    "source",
    "proxy_protocol",
    "tls",
    "sticky",
    "trusted_proxies",
    "max_flows",
];

/// A listener as the file has it; `None` where a problem was reported.
pub(super) struct Draft {
    pub name: Option<At<String>>,
    pub bind: Vec<At<SocketAddr>>,
    pub pool: Option<At<String>>,
    pub datapath: Datapath,
    pub source: Source,
    pub proxy_protocol: ProxyProtocol,
    pub tls: Option<Tls>,
    pub sticky: Sticky,
    pub trusted_proxies: Vec<Prefix>,
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
    let source = section.choice("source", &sources);
    if let Some(at) = &source
        && at.value == Source::Client
        && (datapath == Datapath::Proxy
            || !trusted_proxies.is_empty()
            || section.get("tls").is_some())
    {
        problems.report(
            &at.span,
            "the proxy connects to backends from addresses of its own",
            "write source = \"snat\" (with proxy_protocol = \"v2\" brokers see the clients' addresses), or datapath = \"xdp\"",
        );
    }
    let source = source.map_or(Source::Snat, |at| at.value);
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
    Draft {
        name: section.name("\"mqtt\""),
        bind: bind(problems, &section),
        pool: pool.map(|pool| At {
            span: pool.span,
            value: pool.value.to_owned(),
        }),
        datapath,
        source,
        trusted_proxies,
        proxy_protocol: proxy_protocol(problems, &section),
        sticky: sticky(problems, &section, tls.as_ref()),
        tls,
        max_flows: section.max_flows(),
    }
}

fn proxy_protocol(problems: &Problems, section: &Section) -> ProxyProtocol {
    let all = [
        ProxyProtocol::Off,
        ProxyProtocol::V2,
        ProxyProtocol::V2Ssl,
        ProxyProtocol::V2SslCn,
    ];
    let words = all.map(|p| (p.as_str(), Some(p)));
    let Some(At { span, value }) = section.choice("proxy_protocol", &words) else {
        return ProxyProtocol::Off;
    };
    let of_tls = matches!(value, ProxyProtocol::V2Ssl | ProxyProtocol::V2SslCn);
    if of_tls && section.get("tls").is_none() {
        problems.report(
            &span,
            format!(
                "proxy_protocol = {:?} tells of a TLS handshake, and this listener has none",
                value.as_str()
            ),
            "write proxy_protocol = \"v2\", or give the listener tls = { cert = …, key = … }",
        );
    }
    value
}

fn sticky(problems: &Problems, section: &Section, tls: Option<&Tls>) -> Sticky {
    let words = [Sticky::ClientId, Sticky::Cn].map(|s| (s.as_str(), Some(s)));
    let Some(At { span, value }) = section.choice("sticky", &words) else {
        return Sticky::ClientId;
    };
    // A tls that couldn't be read has been reported.
    let broken = tls.is_none() && section.get("tls").is_some();
    if value == Sticky::Cn && !broken && tls.is_none_or(|tls| tls.clients.is_none()) {
        problems.report(
            &span,
            "sticky = \"cn\" needs clients' certificates, and this listener asks for none",
            "write tls = { …, client_ca = \"/etc/mqlb/clients.crt\" }, or sticky = \"client-id\"",
        );
    }
    value
}

fn bind(problems: &Problems, section: &Section) -> Vec<At<SocketAddr>> {
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
    let parse = |written: At<&str>| match value::vip(written.value) {
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
