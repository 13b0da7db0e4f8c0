//! `routes = { "a.example" = "pool" }` of a listener that passes TLS through.

use super::problem::{At, Problems};
use super::section::{Section, text};
use super::tree::Value;
use super::value;

/// Names of pools by the server that a client asks for (SNI), in lower case; the first label may be `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes(pub Vec<(String, String)>);

/// A pool as the file names it.
pub(super) type Draft = Vec<(String, At<String>)>;

const EXAMPLE: &str = "{ \"mqtt.example\" = \"emqx\", \"*.test.example\" = \"test\" }";

pub(super) fn read(problems: &Problems, section: &Section) -> Draft {
    let Some(node) = section.get("routes") else {
        return Vec::new();
    };
    let Value::Table(table) = &node.value else {
        problems.report(
            &node.span,
            format!("routes must be a table, found {}", node.value.kind()),
            format!("write routes = {EXAMPLE}"),
        );
        return Vec::new();
    };
    let mut routes: Draft = Vec::new();
    for entry in &table.entries {
        let server = entry.key.to_ascii_lowercase();
        let name = server.strip_prefix("*.").unwrap_or(&server);
        if !value::is_host(name) || name.ends_with('.') {
            problems.report(
                &entry.key_span,
                format!("{:?} is not a name that clients ask for", entry.key),
                format!("write routes = {EXAMPLE}"),
            );
        } else if routes.iter().any(|(other, _)| *other == server) {
            problems.report(
                &entry.key_span,
                format!("{server:?} has a route already"),
                "keep one of the two (names are the same in upper and lower case)",
            );
        }
        if let Some(At { span, value }) = text(problems, &entry.node, &entry.key, "\"emqx\"") {
            let value = value.to_owned();
            routes.push((server, At { span, value }));
        }
    }
    routes
}
