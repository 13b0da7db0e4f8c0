//! Limits and the block list as the agent keeps them.
//!
//! - [`Limits`]: what is blocked, from the configuration and at run time; what the maps say of limits
//! - [`rules`]: the same for the loop and the sweeper, who must agree
//! - [`quota`]: the sweeper's part: live connections counted, credit written
//! - [`prefix`], [`prefixes`]: source prefixes; [`store`]: what survives a restart

mod prefix;
mod prefixes;
pub mod quota;
pub mod rules;
mod store;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use aya::maps::MapError;
use aya::maps::lpm_trie;
use lb_common::limits::credit::Credit;

pub use self::prefix::{BadPrefix, parse_prefix};
pub use self::rules::Rules;

use self::rules::listeners;
use self::store::{Store, StoreError};
use super::nodes::Node;
use super::vips::Vip;
use crate::config::{Config, Prefix};
use crate::dataplane::{Credits, Home, Maps};

/// Who put an entry on the block list.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The configuration file.
    Configuration,
    /// `mqlb block`.
    Command,
}

/// What `mqlb block` and `mqlb unblock` are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Addresses.
    Source(Prefix),
    /// A client identifier, exactly as clients send it.
    Client(String),
}

/// The block list.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Listing {
    /// Prefixes, in order.
    pub sources: Vec<(String, Origin)>,
    /// Client identifiers, in order.
    pub clients: Vec<(String, Origin)>,
}

/// Why the block list was not changed.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// A prefix that can't be blocked.
    #[error(transparent)]
    Prefix(#[from] BadPrefix),
    /// The empty identifier is that of many clients.
    #[error("the empty client identifier is not one client's; there is nothing to block")]
    EmptyClient,
    /// It is on the list already.
    #[error("{0} is blocked already")]
    Already(String),
    /// It is not on the list.
    #[error("{0} is not blocked; `mqlb block` without an argument shows what is")]
    NotBlocked(String),
    /// Only the configuration can take it back.
    #[error(
        "{0} is blocked by the configuration file; remove it from `[limits]` there and run `mqlb reload`"
    )]
    Configured(String),
    /// The kernel said no.
    #[error("the block list of the data path can't be changed: {0}")]
    Map(#[from] MapError),
    /// It is in force, or not, but a restart would forget that.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Keeps the block list and the maps of limits.
pub struct Limits {
    store: Store,
    credits: Credits,
    configured: Blocks,
    commanded: Blocks,
    hash: ClientHash,
    rules: Shared,
    /// What the flow map is made for.
    flows: u32,
}

/// Prefixes and identifiers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Blocks {
    pub sources: Vec<Prefix>,
    pub clients: Vec<String>,
}

/// Gives the keyed hash of a client identifier.
type ClientHash = Box<dyn Fn(&str) -> u64 + Send>;

/// The rules, for everybody who follows them. Cheap to clone.
#[derive(Clone, Default)]
pub struct Shared(Arc<RwLock<Arc<Rules>>>);

impl Shared {
    /// The rules as they are now.
    #[must_use]
    pub fn get(&self) -> Arc<Rules> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, rules: Rules) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }
}

impl Limits {
    /// Opens the tables and reads what an earlier
    /// agent was told to block. `hash` gives the keyed hash of a client identifier
    /// (as [`crate::setup::Settings::client_hash`]). Nothing is in force before [`Self::configure`].
    ///
    /// # Errors
    /// The file in `state_dir` can't be read, or the map of credits not opened.
    pub fn open(
        home: &Home,
        state_dir: impl Into<PathBuf>,
        hash: impl Fn(&str) -> u64 + Send + 'static,
    ) -> anyhow::Result<Self> {
        let store = Store::new(state_dir.into());
        Ok(Self {
            commanded: store.load()?,
            store,
            credits: Credits::open(home)?,
            configured: Blocks::default(),
            hash: Box::new(hash),
            rules: Shared::default(),
            flows: Maps::capacities(home)?.0,
        })
    }

    /// Most connections that the flow map is made for.
    #[must_use]
    pub const fn flows(&self) -> u32 {
        self.flows
    }

    /// The rules, for the loop and the sweeper.
    #[must_use]
    pub fn rules(&self) -> Shared {
        self.rules.clone()
    }

    /// Takes over a configuration, at the start or a new one. Sweep afterwards: that is when connections
    /// of newly blocked clients end and limits of connections take effect.
    ///
    /// # Errors
    /// Nothing has changed then, unless the kernel refused a write.
    pub fn configure(
        &mut self,
        config: &Config,
        vips: &[Vip],
        nodes: &[Node],
        maps: &mut Maps,
    ) -> Result<(), LimitError> {
        let configured = Blocks {
            sources: config.limits.blocked_sources.clone(),
            clients: config.limits.blocked_clients.clone(),
        };
        for source in &configured.sources {
            prefix::key(source)?;
        }
        self.configured = configured;
        // A fresh map has no credit at all; one of an earlier agent keeps what it has until the first
        // sweep counts.
        let rules = self.build(config, vips, nodes);
        for (index, most) in (0..).zip(&rules.most) {
            let credit = self.credits.get(index);
            if credit.left() > *most || credit.opened == 0 && credit.open_until == 0 {
                let until = Credit::until(credit.opened, *most, 0);
                self.credits.set_until(index, until);
            }
        }
        self.rules.set(rules);
        self.write_sources(maps)?;
        self.forget_bindings(maps);
        Ok(())
    }

    /// Puts something on the block list, for good. Sweep afterwards, so that its connections end.
    ///
    /// # Errors
    /// Why it is not on the list now, or would not be after a restart.
    pub fn block(&mut self, target: &Target, maps: &mut Maps) -> Result<(), LimitError> {
        match target {
            Target::Source(prefix) => {
                let (address, bits) = prefix::key(prefix)?;
                if self.all_sources().any(|p| p == prefix) {
                    return Err(LimitError::Already(prefix.to_string()));
                }
                if let Some(blocked) = &mut maps.blocked {
                    blocked.insert(&lpm_trie::Key::new(bits.into(), address), 1, 0)?;
                }
                self.commanded.sources.push(*prefix);
            }
            Target::Client(id) => {
                if id.is_empty() {
                    return Err(LimitError::EmptyClient);
                }
                if self.all_clients().any(|c| c == id) {
                    return Err(LimitError::Already(format!("the client {id:?}")));
                }
                self.commanded.clients.push(id.clone());
            }
        }
        self.refresh();
        self.forget_bindings(maps);
        Ok(self.store.save(&self.commanded)?)
    }

    /// Takes something off the block list.
    ///
    /// # Errors
    /// Why it is still on the list, or would be again after a restart.
    pub fn unblock(&mut self, target: &Target, maps: &mut Maps) -> Result<(), LimitError> {
        match target {
            Target::Source(prefix) => {
                let name = prefix.to_string();
                if self.configured.sources.contains(prefix) {
                    return Err(LimitError::Configured(name));
                }
                if !take(&mut self.commanded.sources, prefix) {
                    return Err(LimitError::NotBlocked(name));
                }
                self.write_sources(maps)?;
            }
            Target::Client(id) => {
                let name = format!("the client {id:?}");
                if self.configured.clients.contains(id) {
                    return Err(LimitError::Configured(name));
                }
                if !take(&mut self.commanded.clients, id) {
                    return Err(LimitError::NotBlocked(name));
                }
            }
        }
        self.refresh();
        Ok(self.store.save(&self.commanded)?)
    }

    /// What is blocked.
    #[must_use]
    pub fn list(&self) -> Listing {
        let mut listing = Listing::default();
        for (blocks, origin) in [
            (&self.configured, Origin::Configuration),
            (&self.commanded, Origin::Command),
        ] {
            let sources = blocks.sources.iter().map(|p| (p.to_string(), origin));
            listing.sources.extend(sources);
            let clients = blocks.clients.iter().map(|c| (c.clone(), origin));
            listing.clients.extend(clients);
        }
        listing.sources.sort();
        listing.clients.sort();
        listing
    }

    fn all_sources(&self) -> impl Iterator<Item = &Prefix> {
        self.configured
            .sources
            .iter()
            .chain(&self.commanded.sources)
    }

    fn all_clients(&self) -> impl Iterator<Item = &String> {
        self.configured
            .clients
            .iter()
            .chain(&self.commanded.clients)
    }

    fn build(&self, config: &Config, vips: &[Vip], nodes: &[Node]) -> Rules {
        let mut rules = Rules {
            listeners: listeners(config, vips),
            most: rules::most(config, vips, nodes, self.flows),
            ..Rules::default()
        };
        self.blocks(&mut rules);
        rules
    }

    fn blocks(&self, rules: &mut Rules) {
        rules.sources = self
            .all_sources()
            .filter_map(|p| prefix::key(p).ok())
            .collect();
        rules.clients = self.all_clients().map(|c| (self.hash)(c)).collect();
    }

    /// Tells everybody who is blocked now.
    fn refresh(&self) {
        let mut rules = Rules::clone(&self.rules.get());
        self.blocks(&mut rules);
        self.rules.set(rules);
    }

    /// Makes the kernel's block list say what ours says, and nothing else.
    fn write_sources(&self, maps: &mut Maps) -> Result<(), LimitError> {
        let wanted: Vec<_> = self
            .all_sources()
            .map(prefix::key)
            .collect::<Result<_, _>>()?;
        // Without XDP the proxy follows the rules.
        let Some(blocked) = &mut maps.blocked else {
            return Ok(());
        };
        for (address, bits) in &wanted {
            blocked.insert(&lpm_trie::Key::new(u32::from(*bits), *address), 1, 0)?;
        }
        let there: Vec<lpm_trie::Key<[u8; 16]>> = blocked.keys().collect::<Result<_, _>>()?;
        for key in there {
            let is = (key.data(), key.prefix_len());
            if !wanted.iter().any(|(a, b)| (*a, u32::from(*b)) == is) {
                blocked.remove(&key)?;
            }
        }
        Ok(())
    }

    /// The kernel steers clients that are bound, so those that are blocked must not be.
    fn forget_bindings(&self, maps: &mut Maps) {
        for client in &self.rules.get().clients {
            match maps.bindings.remove(client) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(MapError::SyscallError(e))
                    if e.io_error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => {
                    tracing::warn!("the binding of a blocked client can't be removed: {error}");
                }
            }
        }
    }
}

/// Removes `item`; `false` if it isn't there.
fn take<T: PartialEq>(from: &mut Vec<T>, item: &T) -> bool {
    let before = from.len();
    from.retain(|i| i != item);
    from.len() < before
}
