//! One question, to `/etc/hosts` and to name servers.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hickory_resolver::config::ResolveHosts;
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};

use super::MOST;

/// Where answers come from.
#[derive(Clone, Debug)]
pub struct Source {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    /// Of the name servers; `None`: 53.
    port: Option<u16>,
}

/// What was said about one family of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// At least one, and how long they are good for.
    Addresses(Vec<IpAddr>, Duration),
    /// There are none.
    None,
    /// There was no answer, and why.
    Failed(String),
}

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub v4: Outcome,
    pub v6: Outcome,
}

impl Reply {
    pub fn failed(why: &str) -> Self {
        let failed = Outcome::Failed(why.to_owned());
        Self {
            v4: failed.clone(),
            v6: failed,
        }
    }
}

impl Source {
    /// The system's files.
    pub fn system() -> Self {
        Self {
            hosts: "/etc/hosts".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            port: None,
        }
    }

    /// Other files, and another port of the name servers.
    #[cfg(test)]
    pub(crate) fn of(directory: &std::path::Path, port: u16) -> Self {
        Self {
            hosts: directory.join("hosts"),
            resolv_conf: directory.join("resolv.conf"),
            port: Some(port),
        }
    }

    /// Asks for the addresses of `host`; takes at most as long as `/etc/resolv.conf` lets it.
    pub(super) async fn ask(self, host: String) -> (String, Reply) {
        let reply = match Name::from_ascii(&host) {
            Ok(name) => match self.in_hosts(&name) {
                Some(reply) => reply,
                None => self.in_dns(&name).await,
            },
            Err(error) => Reply::failed(&error.to_string()),
        };
        (host, reply)
    }

    /// What the hosts file says. As with the system's resolver, a name that it has is not looked for
    /// elsewhere, not even for the other family.
    fn in_hosts(&self, name: &Name) -> Option<Reply> {
        let mut hosts = Hosts::default();
        hosts
            .read_hosts_conf(std::fs::File::open(&self.hosts).ok()?)
            .ok()?;
        let find = |kind| hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let (v4, v6) = (find(RecordType::A), find(RecordType::AAAA));
        if v4.is_none() && v6.is_none() {
            return None;
        }
        let outcome = |found: Option<Lookup>| found.map_or(Outcome::None, |found| answered(&found));
        Some(Reply {
            v4: outcome(v4),
            v6: outcome(v6),
        })
    }

    async fn in_dns(&self, name: &Name) -> Reply {
        let resolver = match self.resolver() {
            Ok(resolver) => resolver,
            Err(error) => {
                return Reply::failed(&format!("{}: {error}", self.resolv_conf.display()));
            }
        };
        let (v4, v6) = tokio::join!(
            resolver.lookup(name.clone(), RecordType::A),
            resolver.lookup(name.clone(), RecordType::AAAA)
        );
        let outcome = |answer: Result<Lookup, NetError>| match answer {
            Ok(found) => answered(&found),
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => Outcome::None,
            Err(error) => Outcome::Failed(error.to_string()),
        };
        Reply {
            v4: outcome(v4),
            v6: outcome(v6),
        }
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let (config, mut options) = parse_resolv_conf(std::fs::read(&self.resolv_conf)?)?;
        let (domain, search, mut servers) = config.into_parts();
        if let Some(port) = self.port {
            for connection in servers.iter_mut().flat_map(|s| &mut s.connections) {
                connection.port = port;
            }
        }
        // What is kept, and for how long, is this module's business.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let config = hickory_resolver::config::ResolverConfig::from_parts(domain, search, servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
    }
}

fn answered(found: &Lookup) -> Outcome {
    let addresses: Vec<IpAddr> = found
        .answers()
        .iter()
        .filter_map(|record| record.data.ip_addr())
        .collect();
    if addresses.is_empty() {
        return Outcome::None;
    }
    let good_for = found
        .valid_until()
        .saturating_duration_since(Instant::now());
    Outcome::Addresses(addresses, good_for.min(MOST))
}
