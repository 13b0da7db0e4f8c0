//! `.env` files: `NAME=value` lines, comments and empty lines.

use anyhow::{Result, bail};

/// The assignments, in their order. Values are taken as they stand: those of `.env.sample` need no quotes.
///
/// # Errors
/// A line is neither empty, a comment, nor an assignment; or a name comes twice.
pub fn parse(text: &str) -> Result<Vec<(&str, &str)>> {
    let mut assignments: Vec<(&str, &str)> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            bail!("line {number}: `{line}` is no NAME=value");
        };
        let (name, value) = (name.trim(), value.trim());
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(valid) {
            bail!("line {number}: `{name}` is no name of a variable");
        }
        if assignments.iter().any(|(given, _)| *given == name) {
            bail!("line {number}: {name} is assigned a second time");
        }
        assignments.push((name, value));
    }
    Ok(assignments)
}

/// `text` with the value of `name` replaced; everything else stays, comments too.
///
/// # Errors
/// `text` has no assignment to `name`.
pub fn set(text: &str, name: &str, value: &str) -> Result<String> {
    let mut found = false;
    let mut changed = String::with_capacity(text.len() + value.len());
    for line in text.lines() {
        if line.split_once('=').is_some_and(|(given, _)| given == name) {
            found = true;
            changed += &format!("{name}={value}\n");
        } else {
            changed += line;
            changed.push('\n');
        }
    }
    if !found {
        bail!("there is no line {name}=");
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read_and_nothing_else() {
        let text = "# A=1\n\nB=2=3\n C = x y \nD=\n";
        assert_eq!(
            parse(text).unwrap(),
            [("B", "2=3"), ("C", "x y"), ("D", "")]
        );
        for (text, says) in [
            ("A=1\nA=2", "line 2: A is assigned a second time"),
            ("A", "line 1: `A` is no NAME=value"),
            ("export A=1", "line 1: `export A` is no name of a variable"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), says);
        }
    }

    #[test]
    fn a_value_is_replaced_where_it_stands() {
        let text = "# X=\nX=\nXY=1\n";
        assert_eq!(set(text, "X", "new").unwrap(), "# X=\nX=new\nXY=1\n");
        assert!(set(text, "Y", "new").is_err());
    }
}
