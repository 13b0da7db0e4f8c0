//! The configuration file: one TOML file, parsed once into valid types ([`Config`]).
//!
//! Every mistake is reported with its line, what is wrong and what to write, all of a file's at a
//! time. `docs/configuration.md` is the reference for users.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};

mod backend;
mod certificate;
mod check;
mod diff;
mod file;
mod health;
mod listener;
mod model;
mod pool;
mod problem;
mod resolve;
mod routes;
mod section;
mod sections;
mod show;
mod suggest;
mod tls;
mod tree;
mod value;
mod variables;

pub use certificate::{Authorities, Certificate, Files, Revoked, Validity, common_name, show_time};
pub use diff::{Change, Diff, Remedy, Subject, What, diff};
pub use file::File;
pub use model::{
    Admin, Agent, Backend, BackendAddress, Bindings, Check, Config, Datapath, Health, Kind, Limits,
    Listener, Mode, Policy, Pool, PoolId, Prefix, ProxyProtocol, Rate, SetUp, Snat, Source,
    SourceLimits, Sticky, Timeouts, Unresolved, WebSocket, Xdp,
};
pub use problem::{ConfigError, Problem};
pub use resolve::Resolver;
pub use routes::Routes;
pub use tls::{Clients, Tls};
pub use value::show_duration;
pub use variables::Environment;

use crate::dns::{self, Answers};
use problem::Problems;
use section::Section;

const SECTIONS: [&str; 9] = [
    "admin", "agent", "xdp", "snat", "bindings", "timeouts", "limits", "listener", "pool",
];

/// Reads the file at `path`, with the process's environment, and asks for the names in it. Blocks; not to
/// be called by asynchronous code, which has [`File::read`].
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|source| ConfigError::Read {
        file: path.to_owned(),
        source,
    })?;
    let file = runtime.block_on(File::read(
        path,
        &dns::Source::system(),
        &Answers::default(),
    ))?;
    Ok(file.config)
}

/// Reads only which agent the file at `path` is for, and where that listens. It needs neither the
/// resolver nor the variables of other sections, and their mistakes don't matter to it.
pub fn load_agent(path: &Path) -> Result<(Admin, Agent), ConfigError> {
    let text = read_file(path)?;
    let problems = Problems::new(&text);
    let wanted = ["admin", "agent"];
    let found = tree::read(&text, &|name| env::var(name), &problems, Some(&wanted)).map(|table| {
        let root = tree::Node {
            span: 0..0,
            value: tree::Value::Table(table),
        };
        let root = Section::new(&problems, "the file", Some(&root), &SECTIONS);
        (
            sections::admin(&problems, &root),
            sections::agent(&problems, &root),
        )
    });
    match found {
        Some(found) if problems.is_empty() => Ok(found),
        _ => Err(ConfigError::Invalid {
            file: path.to_owned(),
            problems: problems.into_list(),
        }),
    }
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        file: path.to_owned(),
        source,
    })
}

/// Parses the text of a file. Nothing outside is touched but through `environment` and `resolver`, and the
/// certificates and keys that it names are read.
/// The error is every problem found, in the file's order.
pub fn parse(
    text: &str,
    environment: Environment,
    resolver: Resolver,
) -> Result<Config, Vec<Problem>> {
    parse_with(text, environment, resolver, Files::SYSTEM)
}

/// The same, and nothing outside is touched but through these.
pub fn parse_with(
    text: &str,
    environment: Environment,
    resolver: Resolver,
    files: Files,
) -> Result<Config, Vec<Problem>> {
    let problems = Problems::new(text);
    let config = read(text, environment, resolver, files, &problems);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems.into_list()),
    }
}

/// The DNS names that the text of a file has where addresses belong. Mistakes are left to [`parse`].
pub fn hosts(text: &str, environment: Environment) -> BTreeSet<String> {
    let found = RefCell::new(BTreeSet::new());
    let note = |host: &str, _| {
        found.borrow_mut().insert(host.to_owned());
        Ok(Vec::new())
    };
    let unread = Files {
        read: &|_| Err(std::io::ErrorKind::Unsupported.into()),
        list: &|_| Err(std::io::ErrorKind::Unsupported.into()),
    };
    let _ = parse_with(text, environment, &note, unread);
    found.into_inner()
}

fn read(
    text: &str,
    environment: Environment,
    resolver: Resolver,
    files: Files,
    problems: &Problems,
) -> Option<Config> {
    let root = tree::Node {
        span: 0..0,
        value: tree::Value::Table(tree::read(text, environment, problems, None)?),
    };
    let root = &Section::new(problems, "the file", Some(&root), &SECTIONS);
    let listeners = listener::read_all(problems, files, root);
    let pools = pool::read_all(problems, resolver, root);
    let uses_xdp = listeners.iter().any(|listener| match listener.datapath {
        Datapath::Xdp => true,
        // Nobody who wants XDP leaves its section out.
        Datapath::Auto => !listener.proxied && root.get("xdp").is_some(),
        Datapath::Proxy => false,
    });
    let snat = sections::snat(problems, root);
    let (listeners, pools) = check::assemble(problems, listeners, pools, &snat);
    Some(Config {
        admin: sections::admin(problems, root),
        agent: sections::agent(problems, root),
        xdp: sections::xdp(problems, root, uses_xdp),
        snat,
        bindings: sections::bindings(problems, root),
        timeouts: sections::timeouts(problems, root),
        limits: sections::limits(problems, root),
        listeners,
        pools,
    })
}

/// The directory that the agent `name` pins things under unless its file says otherwise; `None` if
/// no agent can have that name.
pub fn default_pin_dir(name: &str) -> Option<PathBuf> {
    value::is_name(name).then(|| Path::new(sections::PIN_PARENT).join(name))
}

/// The `state_dir` of an agent whose file doesn't set it; `None` if no agent can have that name.
pub fn default_state_dir(name: &str) -> Option<PathBuf> {
    value::is_name(name).then(|| Path::new(sections::STATE_PARENT).join(name))
}
