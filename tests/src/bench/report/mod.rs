//! What a run found, and how it is told: [`markdown`] and [`html`] (with [`plot`]s) from the same [`Report`], which is kept
//! as JSON. [`statistics`] are medians, spreads and ratios; [`promises`] what must hold; [`machine`] where it was.

mod html;
pub mod machine;
mod markdown;
mod plot;
pub mod promises;
pub mod statistics;

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::Sample;
use super::scenarios::{Metric, Scale, Scenario};

/// A run. Its JSON is what `report.json` holds.
#[derive(Debug, Serialize)]
pub struct Report {
    pub command: String,
    pub machine: machine::Machine,
    pub scale: Scale,
    pub systems: Vec<Entry>,
    pub scenarios: Vec<Described>,
    pub promises: Vec<promises::Promise>,
    pub samples: Vec<Sample>,
    /// What the example `nanoseconds` printed.
    pub packets: Option<Value>,
    /// The same with `--flows`.
    pub flows: Option<Value>,
}

#[derive(Debug, Serialize)]
pub struct Entry {
    pub name: String,
    pub version: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Described {
    pub name: &'static str,
    pub title: &'static str,
    pub metrics: &'static [Metric],
}

impl From<&Scenario> for Described {
    fn from(scenario: &Scenario) -> Self {
        Self {
            name: scenario.name,
            title: scenario.title,
            metrics: scenario.metrics,
        }
    }
}

impl Report {
    /// Writes `report.json`, `report.md` and `report.html` into a directory.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn write(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("create {}", directory.display()))?;
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
        };
        write("report.json", &(serde_json::to_string_pretty(self)? + "\n"))?;
        write("report.md", &self.markdown())?;
        write("report.html", &self.html())
    }

    /// The whole of it as Markdown.
    pub fn markdown(&self) -> String {
        markdown::write(self)
    }

    /// As one HTML page that needs nothing else.
    pub fn html(&self) -> String {
        html::write(self)
    }

    /// The first HAProxy of a run stands for all of them in ratios.
    fn haproxy(&self) -> Option<&str> {
        let mut names = self.systems.iter().map(|entry| entry.name.as_str());
        names.find(|name| name.starts_with("haproxy"))
    }
}
