//! What an operator has ordered of backends: drain, disable, another weight. Kept in a file in the state
//! directory, so that it outlives the agent.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// Whether a backend may take clients, as far as the operator is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duty {
    /// It may.
    #[default]
    Ready,
    /// It keeps what it has; with a rate, its connections end at that many a second.
    Drain { rate: Option<u32> },
    /// It is out.
    Disabled,
}

/// The orders about one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    #[serde(default)]
    pub duty: Duty,
    /// In place of the configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
}

/// All orders that are in force, by `POOL/BACKEND`.
#[derive(Debug)]
pub struct Orders {
    file: PathBuf,
    by_name: BTreeMap<String, Order>,
}

fn key(pool: &str, backend: &str) -> String {
    format!("{pool}/{backend}")
}

impl Orders {
    /// Reads what an earlier agent left in `state_dir`.
    ///
    /// # Errors
    /// The file is there but can't be read: to go on without it would put backends back into service.
    pub fn load(state_dir: &Path) -> anyhow::Result<Self> {
        let file = state_dir.join("orders.json");
        let by_name = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                format!(
                    "{} holds what was ordered of backends (drain, disable, weight) and can't be read; mend it, or remove it to put all backends into service",
                    file.display()
                )
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", file.display()));
            }
        };
        Ok(Self { file, by_name })
    }

    /// The orders about a backend.
    #[must_use]
    pub fn get(&self, pool: &str, backend: &str) -> Order {
        self.by_name
            .get(&key(pool, backend))
            .copied()
            .unwrap_or_default()
    }

    /// Gives other orders, in the file first.
    ///
    /// # Errors
    /// The file can't be written; nothing has changed then.
    pub fn set(&mut self, pool: &str, backend: &str, order: Order) -> anyhow::Result<()> {
        let mut by_name = self.by_name.clone();
        if order == Order::default() {
            by_name.remove(&key(pool, backend));
        } else {
            by_name.insert(key(pool, backend), order);
        }
        if by_name != self.by_name {
            write(&self.file, &by_name)?;
            self.by_name = by_name;
        }
        Ok(())
    }

    /// Forgets orders about backends that are not among `there` any more, given as pool and backend.
    ///
    /// # Errors
    /// As for [`Self::set`].
    pub fn keep<'a>(
        &mut self,
        there: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> anyhow::Result<()> {
        let names: std::collections::BTreeSet<_> = there.map(|(p, b)| key(p, b)).collect();
        let mut by_name = self.by_name.clone();
        by_name.retain(|name, _| names.contains(name));
        if by_name != self.by_name {
            write(&self.file, &by_name)?;
            self.by_name = by_name;
        }
        Ok(())
    }
}

/// Writes a file in one step: whoever reads it, and whatever happens, it is the old or the new one.
fn write(file: &Path, orders: &BTreeMap<String, Order>) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    let written = || {
        let mut out = std::fs::File::create(&new)?;
        out.write_all(&serde_json::to_vec_pretty(orders)?)?;
        out.sync_all()?;
        std::fs::rename(&new, file)
    };
    written().with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_outlive_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let mut orders = Orders::load(dir.path()).unwrap();
        assert_eq!(orders.get("emqx", "a"), Order::default());
        let drain = Order {
            duty: Duty::Drain { rate: Some(500) },
            weight: Some(7),
        };
        let disabled = Order {
            duty: Duty::Disabled,
            weight: None,
        };
        orders.set("emqx", "a", drain).unwrap();
        orders.set("emqx", "b", disabled).unwrap();
        orders.set("other", "a", disabled).unwrap();
        orders.set("other", "a", Order::default()).unwrap();
        let mut again = Orders::load(dir.path()).unwrap();
        assert_eq!(again.get("emqx", "a"), drain);
        assert_eq!(again.get("emqx", "b"), disabled);
        assert_eq!(again.get("other", "a"), Order::default());
        again.keep([("emqx", "b")].into_iter()).unwrap();
        let last = Orders::load(dir.path()).unwrap();
        assert_eq!(last.get("emqx", "a"), Order::default());
        assert_eq!(last.get("emqx", "b"), disabled);
    }

    #[test]
    fn a_damaged_file_is_not_taken_for_no_orders() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("orders.json"), b"{").unwrap();
        let error = format!("{:#}", Orders::load(dir.path()).unwrap_err());
        assert!(error.contains("orders.json"), "{error}");
    }
}
