//! `health = { … }`: how a pool's backends are checked.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::model::{Check, Health};
use super::problem::Problems;
use super::section::{Section, text};
use super::tree::{Node, Value};

/// The times that health checks may take.
const TIMES: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);

/// EMQX: whether the node is up.
const STATUS: &str = "/api/v5/status";
/// EMQX: whether the node takes clients, or is being evacuated.
const AVAILABILITY: &str = "/api/v5/load_rebalance/availability_check";

pub(super) fn read(problems: &Problems, node: &Node) -> Option<Health> {
    let keys = [
        "kind",
        "port",
        "path",
        "availability",
        "interval",
        "timeout",
        "rise",
        "fall",
        "jitter",
    ];
    let section = Section::new(problems, "health", Some(node), &keys);
    let interval = section.duration("interval", TIMES);
    let timeout = section.duration("timeout", TIMES);
    let span = timeout
        .as_ref()
        .or(interval.as_ref())
        .map(|at| at.span.clone());
    let interval = interval.map_or(Duration::from_secs(1), |at| at.value);
    let timeout = timeout.map_or(interval / 2, |at| at.value);
    if let Some(span) = span
        && timeout > interval
    {
        problems.report(
            &span,
            "a check's timeout is longer than its interval",
            "write a timeout of at most the interval: one check ends before the next begins",
        );
    }
    let count = |key| section.integer(key, 1..=1000).map_or(2, |at| at.value);
    let (rise, fall) = (count("rise"), count("fall"));
    Some(Health {
        check: check(problems, &section)?,
        interval,
        timeout,
        rise,
        fall,
        jitter: section.integer("jitter", 0..=50).map_or(10, |at| at.value),
    })
}

#[derive(Clone, Copy)]
enum Kind {
    Http,
    Tcp,
    Mqtt,
}

fn check(problems: &Problems, section: &Section) -> Option<Check> {
    section.required("kind", "\"http\", \"tcp\" or \"mqtt\"");
    let port = section
        .integer("port", 1..=65_535)
        .and_then(|at| u16::try_from(at.value).ok());
    let kinds = [
        ("http", Some(Kind::Http)),
        ("tcp", Some(Kind::Tcp)),
        ("mqtt", Some(Kind::Mqtt)),
    ];
    let kind = section.choice("kind", &kinds)?;
    for key in ["path", "availability"] {
        if let (Kind::Tcp | Kind::Mqtt, Some(node)) = (kind.value, section.get(key)) {
            problems.report(
                &node.span,
                format!("only checks of kind \"http\" have the key {key:?}"),
                format!("remove {key}"),
            );
        }
    }
    match kind.value {
        Kind::Http => Some(Check::Http {
            port: port.unwrap_or(18_083),
            path: match section.get("path") {
                None => STATUS.to_owned(),
                Some(node) => path(problems, node, "path", STATUS)?,
            },
            availability: match section.get("availability").map(|node| (node, &node.value)) {
                None => Some(AVAILABILITY.to_owned()),
                Some((_, Value::Text(text))) if text.is_empty() || text == "off" => None,
                Some((node, _)) => Some(path(problems, node, "availability", AVAILABILITY)?),
            },
        }),
        Kind::Tcp => Some(Check::Tcp { port }),
        Kind::Mqtt => Some(Check::Mqtt { port }),
    }
}

/// The request's target (RFC 9112, section 3.2.1): it goes into a request line as it is.
fn path(problems: &Problems, node: &Node, key: &str, example: &str) -> Option<String> {
    let written = text(problems, node, key, &format!("{example:?}"))?;
    if written.value.starts_with('/')
        && written
            .value
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'#')
    {
        return Some(written.value.to_owned());
    }
    problems.report(
        &written.span,
        format!("{key} = {:?} is not a path of a URL", written.value),
        format!("write {key} = {example:?}, other characters percent-encoded"),
    );
    None
}
