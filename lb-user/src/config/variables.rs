//! `${VAR}` and `${VAR:-default}` inside strings.
//!
//! As in a shell, the default also stands in for a variable that is set but empty. `$${` is a
//! literal `${`; a `$` before anything else is itself. Defaults are taken as they are, without
//! references of their own.

use std::env::VarError;

/// Looks a variable up, as [`std::env::var`] does.
pub type Environment<'a> = &'a dyn Fn(&str) -> Result<String, VarError>;

/// Why a string's references could not be replaced: what is wrong, and what to write.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadReference {
    pub message: String,
    pub help: String,
}

/// Replaces every reference in `text`. What it is replaced by is not looked through again.
pub(super) fn expand(text: &str, environment: Environment) -> Result<String, BadReference> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            out.push_str(&rest[..start - 1]);
            out.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        out.push_str(&rest[..start]);
        let inside = &rest[start + 2..];
        let Some(end) = inside.find('}') else {
            return Err(BadReference {
                message: format!("the reference {:?} has no closing brace", &rest[start..]),
                help: "write ${NAME} or ${NAME:-default}; a literal ${ is written $${".into(),
            });
        };
        out.push_str(&value(&inside[..end], environment)?);
        rest = &inside[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// The value of what stands between the braces.
fn value(reference: &str, environment: Environment) -> Result<String, BadReference> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(word)
    {
        return Err(BadReference {
            message: format!("{name:?} is not a name of an environment variable"),
            help: "write ${NAME} or ${NAME:-default}, NAME of letters, digits and _".into(),
        });
    }
    match (environment(name), default) {
        (Ok(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        (Ok(value), _) => Ok(value),
        (Err(VarError::NotPresent), Some(default)) => Ok(default.to_owned()),
        (Err(VarError::NotPresent), None) => Err(BadReference {
            message: format!("the environment variable {name} is not set"),
            help: format!("set {name}, or write ${{{name}:-default}}"),
        }),
        (Err(VarError::NotUnicode(_)), _) => Err(BadReference {
            message: format!("the environment variable {name} is not UTF-8"),
            help: format!("set {name} to UTF-8 text"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Result<String, VarError> {
        match name {
            "HOST" => Ok("10.0.0.1".into()),
            "EMPTY" => Ok(String::new()),
            "NESTED" => Ok("${HOST}".into()),
            "BYTES" => Err(VarError::NotUnicode("x".into())),
            _ => Err(VarError::NotPresent),
        }
    }

    #[test]
    fn references_are_replaced() {
        for (text, expected) in [
            ("", ""),
            ("no reference, $HOST and $5", "no reference, $HOST and $5"),
            ("${HOST}:1883", "10.0.0.1:1883"),
            ("${HOST}${HOST}", "10.0.0.110.0.0.1"),
            ("${HOST:-127.0.0.1}", "10.0.0.1"),
            ("${NONE:-127.0.0.1}:1", "127.0.0.1:1"),
            ("${NONE:-}", ""),
            ("${NONE:-a:-b}", "a:-b"),
            ("${EMPTY}", ""),
            ("${EMPTY:-x}", "x"),
            ("${NESTED}", "${HOST}"),
            ("$${HOST}", "${HOST}"),
            ("ü${HOST}ü", "ü10.0.0.1ü"),
        ] {
            assert_eq!(
                expand(text, &environment).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn bad_references_are_explained() {
        for (text, message, help) in [
            ("a${NONE}", "NONE is not set", "${NONE:-default}"),
            ("${HOST", "no closing brace", "$${"),
            ("${}", "not a name", "${NAME}"),
            ("${1A}", "not a name", "${NAME}"),
            ("${HOST-x}", "not a name", "${NAME:-default}"),
            ("${BYTES}", "BYTES is not UTF-8", "UTF-8"),
        ] {
            let bad = expand(text, &environment).unwrap_err();
            assert!(bad.message.contains(message), "{text}: {bad:?}");
            assert!(bad.help.contains(help), "{text}: {bad:?}");
        }
    }
}
