//! `[[listener]]`, read by itself: whether it fits the rest of the file is [`super::check`]'s
//! business.

use std::net::SocketAddr;

use super::model::{Datapath, Source};
use super::problem::{At, Problems};
use super::section::{Section, text};
use super::tree::{Node, Value};
use super::value;

const KEYS: [&str; 7] = [
    "name",
    "bind",
    "pool",
    "datapath",
    "source",
    "proxy_protocol",
    "max_flows",
];

/// A listener as the file has it; `None` where a problem was reported.
pub(super) struct Draft {
    pub name: Option<At<String>>,
    pub bind: Vec<At<SocketAddr>>,
    pub pool: Option<At<String>>,
    pub datapath: Datapath,
    pub source: Source,
    pub proxy_protocol: bool,
    pub max_flows: Option<u32>,
}

/// Every listener of the file.
pub(super) fn read_all(problems: &Problems, root: &Section) -> Vec<Draft> {
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
        Value::Array(items) => items.iter().map(|item| read(problems, item)).collect(),
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

fn read(problems: &Problems, node: &Node) -> Draft {
    let section = Section::new(problems, "[[listener]]", Some(node), &KEYS);
    let pool = section
        .required("pool", "\"emqx\"")
        .and_then(|node| text(problems, node, "pool", "\"emqx\""));
    // What follows `auto` here is the one data path there is.
    let datapaths = [
        ("auto", Some(Datapath::Xdp)),
        ("xdp", Some(Datapath::Xdp)),
        ("proxy", None),
    ];
    let sources = [
        ("snat", Some(Source::Snat)),
        ("client", Some(Source::Client)),
    ];
    let protocols = [("off", Some(false)), ("v2", Some(true))];
    Draft {
        name: section.name("\"mqtt\""),
        bind: bind(problems, &section),
        pool: pool.map(|pool| At {
            span: pool.span,
            value: pool.value.to_owned(),
        }),
        datapath: section
            .choice("datapath", &datapaths)
            .map_or(Datapath::Xdp, |at| at.value),
        source: section
            .choice("source", &sources)
            .map_or(Source::Snat, |at| at.value),
        proxy_protocol: section
            .choice("proxy_protocol", &protocols)
            .is_some_and(|at| at.value),
        max_flows: section.max_flows(),
    }
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
