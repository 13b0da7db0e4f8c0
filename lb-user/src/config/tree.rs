//! The file as a tree of values that know their place, with variables replaced.

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::problem::{Problems, Span};
use super::variables::{self, Environment};

/// A value of the file.
pub(super) struct Node {
    pub span: Span,
    pub value: Value,
}

pub(super) enum Value {
    Text(String),
    /// Beyond `i64` it saturates, which no key allows anyway.
    Integer(i64),
    Array(Vec<Node>),
    Table(Table),
    /// A kind that no key takes; its name.
    Other(&'static str),
    /// Already reported: whoever meets it says nothing more.
    Failed,
}

/// A table's entries, in the file's order.
pub(super) struct Table {
    pub entries: Vec<Entry>,
}

pub(super) struct Entry {
    pub key: String,
    pub key_span: Span,
    pub node: Node,
}

impl Value {
    /// For messages: "expected a string, found …".
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
            Value::Other(kind) => kind,
            Value::Failed => "a value with an error",
        }
    }
}

impl Table {
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.node)
    }
}

/// Reads `text` as TOML. With a syntax error, all of them are reported and there is no tree:
/// half a file would only earn complaints about what it seems to lack.
///
/// If sections are `wanted`, the others are not looked into.
pub(super) fn read(
    text: &str,
    environment: Environment,
    problems: &Problems,
    wanted: Option<&[&str]>,
) -> Option<Table> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        let help = if error.message().contains("duplicate key") {
            "keep one of the two"
        } else {
            "write KEY = VALUE, strings in double quotes: name = \"mqtt\""
        };
        problems.report(&span, error.message(), help);
    }
    if !errors.is_empty() {
        return None;
    }
    let is_wanted = |key: &str| wanted.is_none_or(|wanted| wanted.contains(&key));
    let reader = Reader {
        environment,
        problems,
    };
    let document = document
        .into_inner()
        .into_iter()
        .filter(|(key, _)| is_wanted(key.get_ref()));
    Some(reader.table(document.collect()))
}

struct Reader<'a> {
    environment: Environment<'a>,
    problems: &'a Problems<'a>,
}

impl Reader<'_> {
    fn table(&self, table: DeTable) -> Table {
        let entry = |(key, value): (Spanned<DeString>, Spanned<DeValue>)| Entry {
            key_span: key.span(),
            key: key.into_inner().into_owned(),
            node: self.node(value),
        };
        let mut entries: Vec<Entry> = table.into_iter().map(entry).collect();
        entries.sort_by_key(|entry| entry.key_span.start);
        Table { entries }
    }

    fn node(&self, value: Spanned<DeValue>) -> Node {
        let span = value.span();
        let value = match value.into_inner() {
            DeValue::String(text) => self.text(&text, &span),
            DeValue::Integer(digits) => Value::Integer(integer(digits.as_str(), digits.radix())),
            DeValue::Array(items) => {
                Value::Array(items.into_iter().map(|item| self.node(item)).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table)),
            DeValue::Float(_) => Value::Other("a fraction"),
            DeValue::Boolean(_) => Value::Other("a boolean"),
            DeValue::Datetime(_) => Value::Other("a date"),
        };
        Node { span, value }
    }

    fn text(&self, text: &str, span: &Span) -> Value {
        match variables::expand(text, self.environment) {
            Ok(text) => Value::Text(text),
            Err(bad) => {
                self.problems.report(span, bad.message, bad.help);
                Value::Failed
            }
        }
    }
}

/// The syntax is checked already, so an error can only be a number too large.
fn integer(digits: &str, radix: u32) -> i64 {
    let saturated = if digits.starts_with('-') {
        i64::MIN
    } else {
        i64::MAX
    };
    i64::from_str_radix(digits, radix).unwrap_or(saturated)
}
