//! What is wrong with a configuration file, and where.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use serde::Serialize;

/// One mistake in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// Why there is no [`Config`](super::Config).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: cannot read the configuration: {source}\n    check the path that follows --config, and who may read it", file.display())]
    Read {
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("{}", Listing { file, problems })]
    Invalid {
        file: PathBuf,
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// Every mistake in the file, in the file's order; none if it could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            ConfigError::Read { .. } => &[],
            ConfigError::Invalid { problems, .. } => problems,
        }
    }
}

/// Prints problems as compilers do: `file:line:column: message`, then the advice on its own line.
struct Listing<'a> {
    file: &'a PathBuf,
    problems: &'a [Problem],
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            let Problem {
                line,
                column,
                message,
                help,
            } = problem;
            write!(
                f,
                "{}:{line}:{column}: {message}\n    {help}",
                self.file.display()
            )?;
        }
        Ok(())
    }
}

/// A place in the file, in bytes.
pub(super) type Span = Range<usize>;

/// A value and the place where the file has it.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub span: Span,
    pub value: T,
}

/// Collects problems, so that one run reports all of a file's.
pub(super) struct Problems<'a> {
    text: &'a str,
    found: RefCell<Vec<(Span, String, String)>>,
}

impl<'a> Problems<'a> {
    pub fn new(text: &'a str) -> Self {
        Problems {
            text,
            found: RefCell::default(),
        }
    }

    pub fn report(&self, span: &Span, message: impl Into<String>, help: impl Into<String>) {
        self.found
            .borrow_mut()
            .push((span.clone(), message.into(), help.into()));
    }

    pub fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// The line that a byte is in, counted from 1.
    pub fn line(&self, offset: usize) -> usize {
        position(self.text, offset).0
    }

    /// Every problem, in the file's order.
    pub fn into_list(self) -> Vec<Problem> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(span, ..)| span.start);
        let locate = |(span, message, help): (Span, String, String)| {
            let (line, column) = position(self.text, span.start);
            Problem {
                line,
                column,
                message,
                help,
            }
        };
        found.into_iter().map(locate).collect()
    }
}

/// Line and column of a byte, both counted from 1, the column in characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let start = before
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |newline| newline + 1);
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    (
        line,
        String::from_utf8_lossy(&before[start..]).chars().count() + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let text = "a\nüü = 1\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 2), (2, 1));
        assert_eq!(position(text, 6), (2, 3));
        assert_eq!(position(text, text.len()), (3, 1));
        assert_eq!(position(text, 1000), (3, 1));
    }

    #[test]
    fn problems_come_out_in_the_order_of_the_file() {
        let problems = Problems::new("a\nb\n");
        problems.report(&(2..3), "second", "");
        problems.report(&(0..1), "first", "");
        let lines: Vec<_> = problems
            .into_list()
            .into_iter()
            .map(|p| (p.line, p.message))
            .collect();
        assert_eq!(lines, [(1, "first".to_owned()), (2, "second".to_owned())]);
    }
}
