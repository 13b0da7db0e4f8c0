//! `[pool.NAME]` and its backends.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::backend;
use super::model::{Check, Health, Policy, Pool, SourceLimits};
use super::problem::{At, Problems};
use super::resolve::Resolver;
use super::section::{Section, check_name, text};
use super::tree::{Entry, Node, Value};

/// The times that health checks may take.
const TIMES: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);

/// A pool as the file has it.
pub(super) struct Draft {
    pub name: At<String>,
    pub pool: Pool,
    /// Whether every backend could be read; if not, what the pool lacks is not known.
    pub complete: bool,
}

/// Every pool of the file, in its order.
pub(super) fn read_all(problems: &Problems, resolver: Resolver, root: &Section) -> Vec<Draft> {
    let Some(node) = root.get("pool") else {
        return Vec::new();
    };
    match &node.value {
        Value::Table(table) => table
            .entries
            .iter()
            .filter_map(|entry| read(problems, resolver, entry))
            .collect(),
        _ => {
            problems.report(
                &node.span,
                "a pool has a name",
                "write [pool.emqx], emqx being the name",
            );
            Vec::new()
        }
    }
}

fn read(problems: &Problems, resolver: Resolver, entry: &Entry) -> Option<Draft> {
    let written = At {
        span: entry.key_span.clone(),
        value: entry.key.as_str(),
    };
    let name = check_name(problems, &written);
    let title = format!("[pool.{}]", entry.key);
    let section = Section::new(
        problems,
        &title,
        Some(&entry.node),
        &["policy", "health", "backend"],
    );
    let policies = [
        ("round-robin", Some(Policy::RoundRobin)),
        ("least-connections", None),
        ("consistent", None),
    ];
    let policy = section
        .choice("policy", &policies)
        .map_or(Policy::RoundRobin, |at| at.value);
    let health = section
        .get("health")
        .and_then(|node| health(problems, node));
    let (backends, complete) = backend::read_all(problems, resolver, &entry.key, &section);
    let name = name?;
    let pool = Pool {
        name: name.value.clone(),
        policy,
        health,
        slow_start: Duration::ZERO,
        reset_rate: None,
        sources: SourceLimits::NONE,
        client_connects: None,
        backends,
    };
    Some(Draft {
        name,
        pool,
        complete,
    })
}

fn health(problems: &Problems, node: &Node) -> Option<Health> {
    let keys = [
        "kind", "port", "path", "interval", "timeout", "rise", "fall",
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
        jitter: 10,
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
    if let (Kind::Tcp | Kind::Mqtt, Some(node)) = (kind.value, section.get("path")) {
        problems.report(
            &node.span,
            "only checks of kind \"http\" have a path",
            "remove path",
        );
    }
    match kind.value {
        Kind::Http => Some(Check::Http {
            port: port.unwrap_or(18_083),
            path: path(problems, section)?,
            availability: None,
        }),
        Kind::Tcp => Some(Check::Tcp { port }),
        Kind::Mqtt => Some(Check::Mqtt { port }),
    }
}

/// The request's target (RFC 9112, section 3.2.1): it goes into a request line as it is.
fn path(problems: &Problems, section: &Section) -> Option<String> {
    let example = "\"/api/v5/status\"";
    let Some(node) = section.get("path") else {
        return Some("/api/v5/status".to_owned());
    };
    let written = text(problems, node, "path", example)?;
    if written.value.starts_with('/')
        && written
            .value
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'#')
    {
        return Some(written.value.to_owned());
    }
    let message = format!("path = {:?} is not a path of a URL", written.value);
    problems.report(
        &written.span,
        message,
        format!("write path = {example}, other characters percent-encoded"),
    );
    None
}
