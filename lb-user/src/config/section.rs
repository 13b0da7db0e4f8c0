//! One table of the file, read key by key. Whatever is wrong is reported, and the default stands in
//! for it so that reading goes on.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::model::Rate;
use super::problem::{At, Problems, Span};
use super::suggest::{alternatives, nearest};
use super::tree::{Node, Table, Value};
use super::value;

/// As many connections as can be configured for all listeners together.
pub(super) const MAX_FLOWS: u32 = 1 << 26;

pub(super) struct Section<'a> {
    /// As a user would write it: `[xdp]`, `[[listener]]`.
    title: String,
    span: Span,
    /// `None`: the file has no such table, so every key has its default.
    table: Option<&'a Table>,
    /// It is there but no table, which has been reported.
    broken: bool,
    known: &'a [&'static str],
    problems: &'a Problems<'a>,
}

/// One of a key's words, and what it stands for; `None` for what this version cannot do yet.
pub(super) type Choice<T> = (&'static str, Option<T>);

impl<'a> Section<'a> {
    /// The table that `node` is; reports keys that are not in `known`.
    pub fn new(
        problems: &'a Problems<'a>,
        title: impl Into<String>,
        node: Option<&'a Node>,
        known: &'a [&'static str],
    ) -> Self {
        let title = title.into();
        let mut section = Section {
            title,
            span: 0..0,
            table: None,
            broken: false,
            known,
            problems,
        };
        let Some(node) = node else { return section };
        section.span = node.span.clone();
        section.broken = !matches!(node.value, Value::Table(_));
        match &node.value {
            Value::Table(table) => {
                section.table = Some(table);
                unknown_keys(problems, &section.title, table, known);
            }
            Value::Failed => {}
            other => problems.report(
                &node.span,
                format!("{} must be a table, found {}", section.title, other.kind()),
                format!("write it as a table, with the keys {}", known.join(", ")),
            ),
        }
        section
    }

    /// Whether the file has this section at all.
    pub fn is_present(&self) -> bool {
        self.table.is_some()
    }

    pub fn span(&self) -> &Span {
        &self.span
    }

    pub fn get(&self, key: &str) -> Option<&'a Node> {
        self.table?.get(key)
    }

    /// Whether `key` is missing or an empty list. Not so if it is only misspelt: that has been
    /// reported.
    pub fn is_empty_or_absent(&self, key: &str) -> bool {
        match self.get(key).map(|node| &node.value) {
            None => !self.broken && !self.is_misspelt(key),
            Some(Value::Array(items)) => items.is_empty(),
            Some(_) => false,
        }
    }

    fn is_misspelt(&self, key: &str) -> bool {
        let unknown = |word: &str| !self.known.contains(&word);
        self.table.is_some_and(|table| {
            let mut keys = table.entries.iter().map(|entry| entry.key.as_str());
            keys.any(|word| unknown(word) && nearest(word, self.known.iter().copied()) == Some(key))
        })
    }

    /// A key that must be there; `example` is a value for it, as it would be written.
    pub fn required(&self, key: &str, example: &str) -> Option<&'a Node> {
        let node = self.get(key);
        // A section that is no table has been reported already.
        if node.is_none() && self.is_present() && !self.is_misspelt(key) {
            self.problems.report(
                &self.span,
                format!("{} lacks the key {key:?}", self.title),
                format!("write {key} = {example}"),
            );
        }
        node
    }

    /// A string.
    pub fn text(&self, key: &str, example: &str) -> Option<At<&'a str>> {
        let node = self.get(key)?;
        text(self.problems, node, key, example)
    }

    /// A string or an array of strings.
    pub fn texts(&self, key: &str, example: &str) -> Vec<At<&'a str>> {
        let Some(node) = self.get(key) else {
            return Vec::new();
        };
        match &node.value {
            Value::Array(items) => items
                .iter()
                .filter_map(|item| text(self.problems, item, key, example))
                .collect(),
            _ => text(self.problems, node, key, example)
                .into_iter()
                .collect(),
        }
    }

    /// A name: what other parts of the file, commands and metrics call this thing.
    pub fn name(&self, example: &str) -> Option<At<String>> {
        let node = self.required("name", example)?;
        let name = text(self.problems, node, "name", example)?;
        check_name(self.problems, &name)
    }

    /// One of a few words; `None` if it is something else, or if this version lacks it.
    pub fn choice<T: Copy>(&self, key: &str, choices: &[Choice<T>]) -> Option<At<T>> {
        let available = || {
            choices
                .iter()
                .filter(|(_, value)| value.is_some())
                .map(|(word, _)| *word)
        };
        let words = alternatives(available());
        let node = self.get(key)?;
        let written = text(self.problems, node, key, &words)?;
        match choices.iter().find(|(word, _)| *word == written.value) {
            Some((_, Some(value))) => {
                return Some(At {
                    span: written.span,
                    value: *value,
                });
            }
            Some((word, None)) => self.problems.report(
                &written.span,
                format!("{key} = {word:?} is not available in this version"),
                format!("write {key} = {words}"),
            ),
            None => self.problems.report(
                &written.span,
                format!("{key} = {:?} means nothing", written.value),
                match nearest(written.value, available()) {
                    Some(word) => format!("did you mean {word:?}? write {key} = {words}"),
                    None => format!("write {key} = {words}"),
                },
            ),
        }
        None
    }

    /// A whole number, also in quotes so that it can come from a variable.
    pub fn integer(&self, key: &str, range: RangeInclusive<u32>) -> Option<At<u32>> {
        let node = self.get(key)?;
        let help = format!(
            "write {key} = a whole number from {} to {}",
            range.start(),
            range.end()
        );
        let number = match &node.value {
            Value::Integer(number) => Some(*number),
            Value::Text(text) => text.parse().ok(),
            Value::Failed => return None,
            _ => None,
        };
        let Some(number) = number else {
            let message = format!(
                "{key} must be a whole number, found {}",
                describe(&node.value)
            );
            self.problems.report(&node.span, message, help);
            return None;
        };
        match u32::try_from(number)
            .ok()
            .filter(|number| range.contains(number))
        {
            Some(value) => Some(At {
                span: node.span.clone(),
                value,
            }),
            None => {
                self.problems.report(
                    &node.span,
                    format!("{key} = {number} is out of range"),
                    help,
                );
                None
            }
        }
    }

    /// Most connections of something at a time; `None`: no limit.
    pub fn max_flows(&self) -> Option<u32> {
        Some(self.integer("max_flows", 1..=MAX_FLOWS)?.value)
    }

    /// Events a second, without a burst: `"500/s"`.
    pub fn pace(&self, key: &str) -> Option<At<u32>> {
        self.per_second(key, "\"500/s\"", value::pace)
    }

    /// Events a second, and how many may come at once: `"100/s"`, `"100/s burst 300"`.
    pub fn rate(&self, key: &str) -> Option<At<Rate>> {
        self.per_second(key, "\"100/s\" or \"100/s burst 300\"", value::rate)
    }

    fn per_second<T>(
        &self,
        key: &str,
        examples: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<At<T>> {
        let node = self.get(key)?;
        if let Value::Integer(number) = node.value {
            self.problems.report(
                &node.span,
                format!("{key} = {number} has no unit"),
                format!("write {key} = \"{number}/s\""),
            );
            return None;
        }
        let written = text(self.problems, node, key, examples)?;
        let value = parse(written.value);
        if value.is_none() {
            self.problems.report(
                &written.span,
                format!("{key} = {:?} is not a number a second", written.value),
                format!(
                    "write {key} = {examples}, each number from 1 to {}",
                    value::MAX_RATE
                ),
            );
        }
        Some(At {
            span: written.span,
            value: value?,
        })
    }

    /// A length of time with its unit.
    pub fn duration(&self, key: &str, range: RangeInclusive<Duration>) -> Option<At<Duration>> {
        let node = self.get(key)?;
        let example = "\"500ms\", \"10s\", \"30m\" or \"1h30m\"";
        if let Value::Integer(number) = node.value {
            let message = format!("{key} = {number} has no unit");
            self.problems.report(
                &node.span,
                message,
                format!("write {key} = \"{number}s\" or \"{number}ms\""),
            );
            return None;
        }
        let written = text(self.problems, node, key, example)?;
        let Some(value) = value::duration(written.value) else {
            let message = format!("{key} = {:?} is not a length of time", written.value);
            self.problems
                .report(&written.span, message, format!("write {key} = {example}"));
            return None;
        };
        if !range.contains(&value) {
            let (least, most) = (
                value::show_duration(*range.start()),
                value::show_duration(*range.end()),
            );
            self.problems.report(
                &written.span,
                format!("{key} = {:?} is out of range", written.value),
                format!("write {key} = a time from \"{least}\" to \"{most}\""),
            );
            return None;
        }
        Some(At {
            span: written.span,
            value,
        })
    }
}

/// The string that `node` is.
pub(super) fn text<'a>(
    problems: &Problems,
    node: &'a Node,
    key: &str,
    example: &str,
) -> Option<At<&'a str>> {
    match &node.value {
        Value::Text(text) => {
            return Some(At {
                span: node.span.clone(),
                value: text,
            });
        }
        Value::Failed => {}
        other => problems.report(
            &node.span,
            format!("{key} must be a string, found {}", other.kind()),
            format!("write {key} = {example}"),
        ),
    }
    None
}

/// Names go into commands, metrics and paths, so they are kept plain.
pub(super) fn check_name(problems: &Problems, name: &At<&str>) -> Option<At<String>> {
    if value::is_name(name.value) {
        return Some(At {
            span: name.span.clone(),
            value: name.value.to_owned(),
        });
    }
    problems.report(
        &name.span,
        format!("{:?} is not a usable name", name.value),
        "write 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit",
    );
    None
}

fn unknown_keys(problems: &Problems, title: &str, table: &Table, known: &[&'static str]) {
    for entry in &table.entries {
        if known.contains(&entry.key.as_str()) {
            continue;
        }
        let help = match nearest(&entry.key, known.iter().copied()) {
            Some(key) => format!("did you mean {key:?}? known keys: {}", known.join(", ")),
            None => format!("remove it; known keys: {}", known.join(", ")),
        };
        problems.report(
            &entry.key_span,
            format!("unknown key {:?} in {title}", entry.key),
            help,
        );
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Text(text) => format!("{text:?}"),
        other => other.kind().to_owned(),
    }
}
