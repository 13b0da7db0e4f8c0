//! `[pool.NAME]` and its backends.

use std::time::Duration;

use super::backend::Names;
use super::model::{Policy, Pool, SourceLimits, Unresolved};
use super::problem::{At, Problems};
use super::resolve::Resolver;
use super::section::{Section, check_name};
use super::tree::{Entry, Node, Value};
use super::{backend, health};

const KEYS: [&str; 9] = [
    "policy",
    "max_load",
    "health",
    "slow_start",
    "reset_rate",
    "sources",
    "client_connects",
    "unresolved",
    "backend",
];

/// A pool as the file has it.
pub(super) struct Draft {
    pub name: At<String>,
    pub pool: Pool,
    /// Whether every backend could be read, and has its addresses; if not, what the pool lacks is not known.
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
    let section = Section::new(problems, &title, Some(&entry.node), &KEYS);
    let policy = policy(problems, &section);
    let health = section
        .get("health")
        .and_then(|node| health::read(problems, node));
    let slow_start = section.duration("slow_start", Duration::ZERO..=Duration::from_secs(3600));
    let sources = section.get("sources").map_or(SourceLimits::NONE, |node| {
        sources(problems, &entry.key, node)
    });
    let words = [Unresolved::Error, Unresolved::Wait].map(|word| (word.as_str(), Some(word)));
    let unresolved = section.choice("unresolved", &words);
    let unresolved = unresolved.map_or(Unresolved::Error, |at| at.value);
    let names = Names {
        resolver,
        unresolved,
    };
    let read = backend::read_all(problems, &names, &entry.key, &section);
    let name = name?;
    let pool = Pool {
        name: name.value.clone(),
        policy,
        health,
        slow_start: slow_start.map_or(Duration::ZERO, |at| at.value),
        reset_rate: section.pace("reset_rate").map(|at| at.value),
        sources,
        client_connects: section.rate("client_connects").map(|at| at.value),
        unresolved,
        backends: read.backends,
        waiting: read.waiting,
    };
    Some(Draft {
        name,
        pool,
        complete: read.complete,
    })
}

fn policy(problems: &Problems, section: &Section) -> Policy {
    const DEFAULT_LOAD: u32 = 125;
    let bounded = |max_load| Policy::Consistent { max_load };
    let policies = [
        ("round-robin", Some(Policy::RoundRobin)),
        ("least-connections", Some(Policy::LeastConnections)),
        ("consistent", Some(bounded(DEFAULT_LOAD))),
    ];
    let written = section.choice("policy", &policies);
    // With a word that means nothing it can't be said whether this one belongs there.
    let unknown = written.is_none() && section.get("policy").is_some();
    let policy = written.map_or(Policy::RoundRobin, |at| at.value);
    let max_load = section.integer("max_load", 101..=100_000);
    match (policy, max_load) {
        (Policy::Consistent { .. }, Some(max_load)) => bounded(max_load.value),
        (Policy::RoundRobin | Policy::LeastConnections, Some(max_load)) if !unknown => {
            problems.report(
                &max_load.span,
                format!("the policy {:?} has no max_load", policy.as_str()),
                "remove max_load, or write policy = \"consistent\"",
            );
            policy
        }
        (policy, _) => policy,
    }
}

/// `[pool.NAME.sources]`: what one source prefix may do.
fn sources(problems: &Problems, pool: &str, node: &Node) -> SourceLimits {
    let keys = ["ipv4_prefix", "ipv6_prefix", "max_flows", "connects"];
    let title = format!("[pool.{pool}.sources]");
    let section = Section::new(problems, title, Some(node), &keys);
    let prefix = |key, most: u8, default| {
        section
            .integer(key, 1..=u32::from(most))
            .and_then(|at| u8::try_from(at.value).ok())
            .unwrap_or(default)
    };
    let SourceLimits {
        v4_prefix,
        v6_prefix,
        ..
    } = SourceLimits::NONE;
    SourceLimits {
        v4_prefix: prefix("ipv4_prefix", 32, v4_prefix),
        v6_prefix: prefix("ipv6_prefix", 128, v6_prefix),
        max_flows: section.max_flows(),
        connects: section.rate("connects").map(|at| at.value),
    }
}
