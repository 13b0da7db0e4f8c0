//! The configuration file: one TOML file, parsed once into valid types ([`Config`]).
//!
//! Every mistake is reported with its line, what is wrong and what to write, all of a file's at a
//! time. `docs/configuration.md` is the reference for users.

use std::env;
use std::path::Path;

mod backend;
mod check;
mod listener;
mod model;
mod pool;
mod problem;
mod resolve;
mod section;
mod sections;
mod suggest;
mod tree;
mod value;
mod variables;

pub use model::{
    Admin, Agent, Backend, BackendAddress, Bindings, Check, Config, Datapath, Health, Limits,
    Listener, Mode, Policy, Pool, PoolId, Snat, Source, Timeouts, Xdp,
};
pub use problem::{ConfigError, Problem};
pub use resolve::{Resolver, system as system_resolver};
pub use value::show_duration;
pub use variables::Environment;

const SECTIONS: [&str; 9] = [
    "admin", "agent", "xdp", "snat", "bindings", "timeouts", "limits", "listener", "pool",
];

/// Reads the file at `path`, with the process's environment and the system's resolver.
/// Blocks while DNS names are looked up.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        file: path.to_owned(),
        source,
    })?;
    parse(&text, &|name| env::var(name), &system_resolver).map_err(|problems| {
        ConfigError::Invalid {
            file: path.to_owned(),
            problems,
        }
    })
}

/// Parses the text of a file. Nothing outside is touched but through `environment` and `resolver`.
/// The error is every problem found, in the file's order.
pub fn parse(
    text: &str,
    environment: Environment,
    resolver: Resolver,
) -> Result<Config, Vec<Problem>> {
    let problems = problem::Problems::new(text);
    let config = read(text, environment, resolver, &problems);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems.into_list()),
    }
}

fn read(
    text: &str,
    environment: Environment,
    resolver: Resolver,
    problems: &problem::Problems,
) -> Option<Config> {
    let root = tree::Node {
        span: 0..0,
        value: tree::Value::Table(tree::read(text, environment, problems)?),
    };
    let root = &section::Section::new(problems, "the file", Some(&root), &SECTIONS);
    let listeners = listener::read_all(problems, root);
    let pools = pool::read_all(problems, resolver, root);
    let uses_xdp = listeners
        .iter()
        .any(|listener| listener.datapath == Datapath::Xdp);
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
