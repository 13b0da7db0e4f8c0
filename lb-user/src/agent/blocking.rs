//! The block list as operators change it: `mqlb block` and `mqlb unblock`.

use super::core::Core;
use super::limits::{LimitError, Origin, Target, parse_prefix};
use crate::admin::control::{self, Refusal, Reply};

/// What a command is about.
fn target(asked: &control::Target) -> Result<Target, Refusal> {
    match asked {
        control::Target::Source(text) => parse_prefix(text)
            .map(Target::Source)
            .map_err(|error| Refusal::Wrong(error.to_string())),
        control::Target::Client(id) => Ok(Target::Client(id.clone())),
    }
}

fn refusal(error: LimitError) -> Refusal {
    match error {
        LimitError::Map(_) | LimitError::Store(_) => Refusal::Failed(error.to_string()),
        LimitError::Prefix(_)
        | LimitError::EmptyClient
        | LimitError::Already(_)
        | LimitError::NotBlocked(_)
        | LimitError::Configured(_) => Refusal::Wrong(error.to_string()),
    }
}

fn name(target: &Target) -> String {
    match target {
        Target::Source(prefix) => prefix.to_string(),
        Target::Client(id) => format!("client {id:?}"),
    }
}

impl Core {
    /// Blocks somebody; those who are connected are cut off by a sweep that begins at once.
    pub(super) fn block(&mut self, asked: &control::Target) -> Result<Reply, Refusal> {
        let target = target(asked)?;
        self.limits
            .block(&target, &mut self.kernel.maps)
            .map_err(refusal)?;
        self.sweep_now();
        Ok(done(format!("{} is blocked", name(&target))))
    }

    /// Lets somebody connect again.
    pub(super) fn unblock(&mut self, asked: &control::Target) -> Result<Reply, Refusal> {
        let target = target(asked)?;
        self.limits
            .unblock(&target, &mut self.kernel.maps)
            .map_err(refusal)?;
        Ok(done(format!("{} is no longer blocked", name(&target))))
    }

    /// The block list, a line for each entry.
    pub(super) fn blocked(&self) -> Reply {
        let list = self.limits.list();
        let line = |what: String, origin| {
            let by = match origin {
                Origin::Configuration => "the configuration",
                Origin::Command => "mqlb block",
            };
            format!("{what} (by {by})")
        };
        let sources = list.sources.into_iter().map(|(s, o)| line(s, o));
        let clients = list
            .clients
            .into_iter()
            .map(|(c, o)| line(format!("client {c:?}"), o));
        let mut done: Vec<_> = sources.chain(clients).collect();
        if done.is_empty() {
            done.push("nobody is blocked".to_owned());
        }
        Reply { done }
    }
}

fn done(line: String) -> Reply {
    tracing::info!("ordered: {line}");
    Reply { done: vec![line] }
}
