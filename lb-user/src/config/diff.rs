//! What changes from one configuration to the next, and whether a running agent can follow.
//!
//! Listeners, pools and backends are the same if their names are; a backend's name belongs to its pool.
//! The order of things in the file is no difference.

use std::fmt::{self, Debug, Display, Formatter};

use super::model::{
    Admin, Agent, Backend, Bindings, Config, Health, Limits, Listener, Pool, Snat, SourceLimits,
    Timeouts, Xdp,
};
use super::value::show_duration;

/// What two configurations differ in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Sections first, then listeners, pools and backends.
    pub changes: Vec<Change>,
}

/// One difference; its `Display` is a line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub subject: Subject,
    pub what: What,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// `[xdp]`; without brackets.
    Section(&'static str),
    Listener(String),
    Pool(String),
    Backend {
        pool: String,
        name: String,
    },
}

/// How it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It is new; what it is.
    Added(String),
    /// It is no more.
    Removed,
    /// One key has another value.
    Key {
        key: &'static str,
        from: String,
        to: String,
    },
    /// A list has other entries.
    Entries {
        key: &'static str,
        added: Vec<String>,
        removed: Vec<String>,
    },
}

/// What it takes to apply a change that a running agent can't follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remedy {
    /// The agent must be restarted; sessions go on.
    Restart,
    /// The data path must be removed first, with the old file; all sessions end.
    Unload,
}

/// The keys that are read when the agent starts, or when the data path is made.
const FIXED: [(&str, &str, Remedy); 10] = [
    ("admin", "http", Remedy::Restart),
    ("admin", "stats_password", Remedy::Restart),
    ("agent", "name", Remedy::Restart),
    ("agent", "pin_dir", Remedy::Unload),
    ("agent", "state_dir", Remedy::Restart),
    ("xdp", "interfaces", Remedy::Restart),
    ("xdp", "mode", Remedy::Unload),
    ("xdp", "max_flows", Remedy::Unload),
    ("snat", "ports", Remedy::Restart),
    ("bindings", "capacity", Remedy::Unload),
];

impl Diff {
    /// Nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// What a running agent can't follow, with what it takes. If there is any, nothing should be applied.
    pub fn refused(&self) -> Vec<(&Change, Remedy)> {
        let refused = |change| Some((change, Change::remedy(change)?));
        self.changes.iter().filter_map(refused).collect()
    }
}

impl Change {
    /// What it takes to apply it; `None` if a running agent can.
    pub fn remedy(&self) -> Option<Remedy> {
        let Subject::Section(section) = self.subject else {
            return None;
        };
        let key = match &self.what {
            What::Key { key, .. } | What::Entries { key, .. } => *key,
            What::Added(_) | What::Removed => return None,
        };
        let found = FIXED.iter().find(|(s, k, _)| (*s, *k) == (section, key));
        found.map(|(_, _, remedy)| *remedy)
    }
}

impl Remedy {
    /// What to do.
    pub fn advice(self) -> &'static str {
        match self {
            Remedy::Restart => "restart the agent (sessions go on)",
            Remedy::Unload => {
                "stop the agent, `mqlb unload` with the old file (which ends all sessions), and start it"
            }
        }
    }
}

impl Display for Subject {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Section(name) => write!(f, "[{name}]"),
            Subject::Listener(name) => write!(f, "listener {name}"),
            Subject::Pool(name) => write!(f, "pool {name}"),
            Subject::Backend { pool, name } => write!(f, "backend {pool}/{name}"),
        }
    }
}

impl Display for Change {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        /// Entries of a list that are named; a block list can be long.
        const SHOWN: usize = 10;
        let subject = &self.subject;
        match &self.what {
            What::Added(what) => write!(f, "{subject} added: {what}"),
            What::Removed => write!(f, "{subject} removed"),
            What::Key { key, from, to } => write!(f, "{subject}: {key} {from} -> {to}"),
            What::Entries {
                key,
                added,
                removed,
            } => {
                write!(f, "{subject}: {key}")?;
                for (sign, entries) in [('+', added), ('-', removed)] {
                    for entry in entries.iter().take(SHOWN) {
                        write!(f, " {sign}{entry}")?;
                    }
                    if entries.len() > SHOWN {
                        write!(f, " {sign}({} more)", entries.len() - SHOWN)?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// What it takes to get from `old` to `new`.
pub fn diff(old: &Config, new: &Config) -> Diff {
    // A field that is added to the model must be added here to compile; the same below.
    let Config {
        admin,
        agent,
        xdp,
        snat,
        bindings,
        timeouts,
        limits,
        listeners: _,
        pools: _,
    } = old;
    let mut changes = Vec::new();
    let mut section = |name, compare: &dyn Fn(&mut Comparison)| {
        Comparison::of(&mut changes, Subject::Section(name), compare);
    };
    section("admin", &|c| compare_admin(c, admin, &new.admin));
    section("agent", &|c| compare_agent(c, agent, &new.agent));
    section("xdp", &|c| compare_xdp(c, xdp, &new.xdp));
    section("snat", &|c| compare_snat(c, snat, &new.snat));
    section("bindings", &|c| {
        compare_bindings(c, bindings, &new.bindings)
    });
    section("timeouts", &|c| {
        compare_timeouts(c, timeouts, &new.timeouts)
    });
    section("limits", &|c| compare_limits(c, limits, &new.limits));
    listeners(&mut changes, old, new);
    pools(&mut changes, old, new);
    Diff { changes }
}

fn listeners(changes: &mut Vec<Change>, old: &Config, new: &Config) {
    let subject = |listener: &Listener| Subject::Listener(listener.name.clone());
    matched(
        changes,
        (&old.listeners, &new.listeners),
        |listener| &listener.name,
        subject,
        |listener| {
            let pool = &new.pool(listener.pool).name;
            format!("{} to the pool {pool}", join(&listener.bind))
        },
        |changes, a, b| {
            Comparison::of(changes, subject(a), &|c| {
                compare_listener(c, (a, old), (b, new));
            });
        },
    );
}

fn pools(changes: &mut Vec<Change>, old: &Config, new: &Config) {
    let subject = |pool: &Pool| Subject::Pool(pool.name.clone());
    matched(
        changes,
        (&old.pools, &new.pools),
        |pool| &pool.name,
        subject,
        |pool| {
            let names: Vec<&str> = pool.backends.iter().map(|b| b.name.as_str()).collect();
            format!("{} to {}", pool.policy, names.join(", "))
        },
        |changes, a, b| {
            Comparison::of(changes, subject(a), &|c| compare_pool(c, a, b));
            backends(changes, a, b);
        },
    );
}

fn backends(changes: &mut Vec<Change>, old: &Pool, new: &Pool) {
    let subject = |backend: &Backend| Subject::Backend {
        pool: old.name.clone(),
        name: backend.name.clone(),
    };
    matched(
        changes,
        (&old.backends, &new.backends),
        |backend| &backend.name,
        subject,
        |backend| format!("{}, weight {}", join(&backend.addresses), backend.weight),
        |changes, a, b| Comparison::of(changes, subject(a), &|c| compare_backend(c, a, b)),
    );
}

/// Goes through two lists of named things: those that are gone, those that are in both, those that are
/// new.
fn matched<'a, T>(
    changes: &mut Vec<Change>,
    (old, new): (&'a [T], &'a [T]),
    name: impl Fn(&'a T) -> &'a String,
    subject: impl Fn(&'a T) -> Subject,
    describe: impl Fn(&'a T) -> String,
    mut compare: impl FnMut(&mut Vec<Change>, &'a T, &'a T),
) {
    let find = |list: &'a [T], wanted: &'a T| list.iter().find(|one| name(one) == name(wanted));
    for one in old {
        match find(new, one) {
            Some(other) => compare(changes, one, other),
            None => changes.push(Change {
                subject: subject(one),
                what: What::Removed,
            }),
        }
    }
    for one in new.iter().filter(|one| find(old, one).is_none()) {
        changes.push(Change {
            subject: subject(one),
            what: What::Added(describe(one)),
        });
    }
}

/// Collects the differences of one thing.
struct Comparison<'a> {
    changes: &'a mut Vec<Change>,
    subject: Subject,
}

impl Comparison<'_> {
    fn of(changes: &mut Vec<Change>, subject: Subject, compare: &dyn Fn(&mut Comparison)) {
        compare(&mut Comparison { changes, subject });
    }

    fn push(&mut self, what: What) {
        self.changes.push(Change {
            subject: self.subject.clone(),
            what,
        });
    }

    fn key<T: PartialEq>(
        &mut self,
        key: &'static str,
        (from, to): (&T, &T),
        show: impl Fn(&T) -> String,
    ) {
        if from != to {
            let (from, to) = (show(from), show(to));
            self.push(What::Key { key, from, to });
        }
    }

    fn entries<T: PartialEq>(
        &mut self,
        key: &'static str,
        (from, to): (&[T], &[T]),
        show: impl Fn(&T) -> String,
    ) {
        let only = |one: &[T], other: &[T]| -> Vec<String> {
            one.iter()
                .filter(|x| !other.contains(x))
                .map(&show)
                .collect()
        };
        let (added, removed) = (only(to, from), only(from, to));
        if !added.is_empty() || !removed.is_empty() {
            self.push(What::Entries {
                key,
                added,
                removed,
            });
        }
    }
}

fn shown<T: ToString>(value: &T) -> String {
    value.to_string()
}

/// Quoted, with control characters escaped: it comes from outside and goes into a log.
fn quoted<T: Debug>(value: &T) -> String {
    format!("{value:?}")
}

/// A value, or what stands for none.
fn optional<T: Display>(value: &Option<T>) -> String {
    value
        .as_ref()
        .map_or("none".to_owned(), ToString::to_string)
}

fn per_second(value: &Option<u32>) -> String {
    value.map_or("at once".to_owned(), |rate| format!("{rate}/s"))
}

fn join<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

fn compare_admin(c: &mut Comparison, old: &Admin, new: &Admin) {
    let Admin {
        http,
        stats_password,
    } = old;
    c.key("http", (http, &new.http), shown);
    let (from, to) = (stats_password, &new.stats_password);
    // Not for the log.
    c.key("stats_password", (from, to), |password| {
        if password.is_some() { "set" } else { "none" }.to_owned()
    });
}

fn compare_agent(c: &mut Comparison, old: &Agent, new: &Agent) {
    let Agent {
        name,
        pin_dir,
        state_dir,
    } = old;
    c.key("name", (name, &new.name), shown);
    c.key("pin_dir", (pin_dir, &new.pin_dir), quoted);
    c.key("state_dir", (state_dir, &new.state_dir), quoted);
}

fn compare_xdp(c: &mut Comparison, old: &Xdp, new: &Xdp) {
    let Xdp {
        interfaces,
        mode,
        max_flows,
        set_up,
    } = old;
    c.entries("interfaces", (interfaces, &new.interfaces), shown);
    c.key("mode", (mode, &new.mode), |mode| mode.as_str().to_owned());
    c.key("max_flows", (max_flows, &new.max_flows), shown);
    c.key("set_up", (set_up, &new.set_up), |set_up| {
        set_up.as_str().to_owned()
    });
}

fn compare_snat(c: &mut Comparison, old: &Snat, new: &Snat) {
    let Snat { addresses, ports } = old;
    c.entries("addresses", (addresses, &new.addresses), shown);
    c.key("ports", (ports, &new.ports), |ports| {
        format!("{}-{}", ports.start(), ports.end())
    });
}

fn compare_bindings(c: &mut Comparison, old: &Bindings, new: &Bindings) {
    let Bindings { capacity, linger } = old;
    let time = |time: &_| show_duration(*time);
    c.key("capacity", (capacity, &new.capacity), shown);
    c.key("linger", (linger, &new.linger), time);
}

fn compare_timeouts(c: &mut Comparison, old: &Timeouts, new: &Timeouts) {
    let Timeouts {
        sniff,
        handshake,
        connect,
        grace,
        keepalive_least,
        keepalive_zero,
        closed,
        dns,
    } = old;
    for (key, from, to) in [
        ("sniff", sniff, &new.sniff),
        ("handshake", handshake, &new.handshake),
        ("connect", connect, &new.connect),
        ("grace", grace, &new.grace),
        ("keepalive_least", keepalive_least, &new.keepalive_least),
        ("keepalive_zero", keepalive_zero, &new.keepalive_zero),
        ("closed", closed, &new.closed),
        ("dns", dns, &new.dns),
    ] {
        c.key(key, (from, to), |time| show_duration(*time));
    }
}

fn compare_limits(c: &mut Comparison, old: &Limits, new: &Limits) {
    let Limits {
        client_id,
        sniff_bytes,
        rst_rate,
        refusal_rate,
        blocked_sources,
        blocked_clients,
    } = old;
    c.key("client_id", (client_id, &new.client_id), shown);
    c.key("sniff_bytes", (sniff_bytes, &new.sniff_bytes), shown);
    c.key("rst_rate", (rst_rate, &new.rst_rate), shown);
    c.key("refusal_rate", (refusal_rate, &new.refusal_rate), shown);
    let (from, to) = (blocked_sources, &new.blocked_sources);
    c.entries("blocked_sources", (from, to), shown);
    let (from, to) = (blocked_clients, &new.blocked_clients);
    c.entries("blocked_clients", (from, to), quoted);
}

fn compare_listener(
    c: &mut Comparison,
    (old, old_config): (&Listener, &Config),
    (new, new_config): (&Listener, &Config),
) {
    let Listener {
        name: _,
        kind,
        bind,
        pool,
        datapath,
        source,
        proxy_protocol,
        tls,
        sticky,
        trusted_proxies,
        trusted_edges,
        max_flows,
    } = old;
    c.key("kind", (kind, &new.kind), shown);
    c.entries("bind", (bind, &new.bind), shown);
    // Pools are told apart by name; their places in two files are not comparable.
    let (from, to) = (old_config.pool(*pool), new_config.pool(new.pool));
    c.key("pool", (&from.name, &to.name), shown);
    c.key("datapath", (datapath, &new.datapath), |d| {
        d.as_str().to_owned()
    });
    c.key("source", (source, &new.source), |s| s.as_str().to_owned());
    let (from, to) = (proxy_protocol, &new.proxy_protocol);
    c.key("proxy_protocol", (from, to), |p| p.as_str().to_owned());
    c.key("tls", (tls, &new.tls), optional);
    c.key("sticky", (sticky, &new.sticky), |s| s.as_str().to_owned());
    let (from, to) = (trusted_proxies, &new.trusted_proxies);
    c.entries("trusted_proxies", (from, to), shown);
    let (from, to) = (trusted_edges, &new.trusted_edges);
    c.entries("trusted_edges", (from, to), shown);
    c.key("max_flows", (max_flows, &new.max_flows), optional);
}

fn compare_pool(c: &mut Comparison, old: &Pool, new: &Pool) {
    let Pool {
        name: _,
        policy,
        health,
        slow_start,
        reset_rate,
        sources,
        client_connects,
        unresolved,
        backends: _,
        waiting: _,
    } = old;
    c.key("policy", (policy, &new.policy), shown);
    match (health, &new.health) {
        (Some(from), Some(to)) => compare_health(c, from, to),
        (from, to) => c.key("health", (from, to), |health| {
            optional(&health.as_ref().map(|health| &health.check))
        }),
    }
    let (from, to) = (slow_start, &new.slow_start);
    c.key("slow_start", (from, to), |time| show_duration(*time));
    c.key("reset_rate", (reset_rate, &new.reset_rate), per_second);
    compare_sources(c, sources, &new.sources);
    let (from, to) = (client_connects, &new.client_connects);
    c.key("client_connects", (from, to), optional);
    c.key("unresolved", (unresolved, &new.unresolved), |u| {
        u.as_str().to_owned()
    });
}

fn compare_health(c: &mut Comparison, old: &Health, new: &Health) {
    let Health {
        check,
        interval,
        timeout,
        rise,
        fall,
        jitter,
    } = old;
    let time = |time: &_| show_duration(*time);
    c.key("health", (check, &new.check), shown);
    c.key("health interval", (interval, &new.interval), time);
    c.key("health timeout", (timeout, &new.timeout), time);
    c.key("health rise", (rise, &new.rise), shown);
    c.key("health fall", (fall, &new.fall), shown);
    c.key("health jitter", (jitter, &new.jitter), shown);
}

fn compare_sources(c: &mut Comparison, old: &SourceLimits, new: &SourceLimits) {
    let SourceLimits {
        v4_prefix,
        v6_prefix,
        max_flows,
        connects,
    } = old;
    c.key("sources ipv4_prefix", (v4_prefix, &new.v4_prefix), shown);
    c.key("sources ipv6_prefix", (v6_prefix, &new.v6_prefix), shown);
    c.key("sources max_flows", (max_flows, &new.max_flows), optional);
    c.key("sources connects", (connects, &new.connects), optional);
}

fn compare_backend(c: &mut Comparison, old: &Backend, new: &Backend) {
    let Backend {
        name: _,
        addresses,
        weight,
        max_flows,
    } = old;
    c.entries("address", (addresses, &new.addresses), shown);
    c.key("weight", (weight, &new.weight), shown);
    c.key("max_flows", (max_flows, &new.max_flows), optional);
}
