//! A file with the names in it resolved, and resolved again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::env;
use std::path::{Path, PathBuf};

use super::certificate::{self, Files};
use super::model::Config;
use super::problem::ConfigError;
use super::{hosts, parse_with, read_file};
use crate::dns::{self, Answers, Source};

/// A file as it was read, and what came of it.
#[derive(Clone, Debug)]
pub struct File {
    path: PathBuf,
    text: String,
    /// The certificates and keys that it names, as they were.
    files: HashMap<PathBuf, Vec<u8>>,
    /// What was in the directories that it names.
    directories: HashMap<PathBuf, Vec<PathBuf>>,
    /// What its names stand for.
    pub answers: Answers,
    pub config: Config,
}

impl File {
    /// Reads the file at `path`, with the process's environment, and asks for the names in it. Those that
    /// can't be resolved now keep the addresses that are `known`.
    ///
    /// # Errors
    /// The file can't be read, or all that is wrong with it.
    pub async fn read(path: &Path, source: &Source, known: &Answers) -> Result<Self, ConfigError> {
        let text = read_file(path)?;
        let names = hosts(&text, &|name| env::var(name));
        let answers = dns::resolve(source, names, known).await;
        Self::new(path.to_owned(), text, answers, None)
    }

    /// The same file, not read again and neither what it names, with other answers about its names.
    ///
    /// # Errors
    /// What is wrong with it now, such as two backends with one address.
    pub fn with(&self, answers: Answers) -> Result<Self, ConfigError> {
        Self::new(self.path.clone(), self.text.clone(), answers, Some(self))
    }

    fn new(
        path: PathBuf,
        text: String,
        answers: Answers,
        before: Option<&Self>,
    ) -> Result<Self, ConfigError> {
        let (read, listed) = (RefCell::new(HashMap::new()), RefCell::new(HashMap::new()));
        let files = Files {
            read: &|file| {
                let bytes = match before.and_then(|before| before.files.get(file)) {
                    Some(bytes) => bytes.clone(),
                    None => std::fs::read(file)?,
                };
                read.borrow_mut().insert(file.to_owned(), bytes.clone());
                Ok(bytes)
            },
            list: &|directory| {
                let found = match before.and_then(|before| before.directories.get(directory)) {
                    Some(found) => found.clone(),
                    None => certificate::list(directory)?,
                };
                listed
                    .borrow_mut()
                    .insert(directory.to_owned(), found.clone());
                Ok(found)
            },
        };
        let lookup = |host: &str, port| answers.lookup(host, port);
        let config = match parse_with(&text, &|name| env::var(name), &lookup, files) {
            Ok(config) => config,
            Err(problems) => {
                return Err(ConfigError::Invalid {
                    file: path,
                    problems,
                });
            }
        };
        Ok(Self {
            path,
            text,
            files: read.into_inner(),
            directories: listed.into_inner(),
            answers,
            config,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
xdp.interfaces = ["eth0"]
[[listener]]
name = "mqtt"
bind = ["127.0.0.2:1883"]
pool = "emqx"
[[pool.emqx.backend]]
name = "emqx1"
address = ["localhost:1883", "[fd00::1]:1883"]
"#;

    #[tokio::test]
    async fn a_file_is_read_and_its_names_are_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mqlb.toml");
        std::fs::write(&path, TEXT).unwrap();
        let source = Source::of(directory.path(), 53);
        // Names that are not known.
        let error = File::read(&path, &source, &Answers::default())
            .await
            .unwrap_err();
        assert_eq!(error.problems().len(), 1, "{error}");
        assert!(
            error.to_string().contains("cannot resolve \"localhost\""),
            "{error}"
        );
        std::fs::write(directory.path().join("hosts"), "10.0.0.1 localhost\n").unwrap();
        let file = File::read(&path, &source, &Answers::default())
            .await
            .unwrap();
        let first = file.config.pools[0].backends[0].ipv4();
        assert_eq!(first, Some("10.0.0.1:1883".parse().unwrap()));
        // Read again without an answer: the known one stays.
        std::fs::remove_file(directory.path().join("hosts")).unwrap();
        let again = File::read(&path, &source, &file.answers).await.unwrap();
        assert_eq!(again.config, file.config);
        // Another answer, for the text that was read.
        std::fs::write(
            directory.path().join("hosts"),
            "10.0.0.2 localhost\n10.0.0.3 localhost\n",
        )
        .unwrap();
        std::fs::write(&path, "").unwrap();
        let answers = dns::resolve(&source, ["localhost".to_owned()], &file.answers).await;
        let other = file.with(answers).unwrap();
        let backends = &other.config.pools[0].backends;
        let names: Vec<&str> = backends.iter().map(|b| b.name.as_str()).collect();
        let expected = ["emqx1-fd00--1", "emqx1-10.0.0.2", "emqx1-10.0.0.3"];
        assert_eq!(names, expected);
    }

    #[test]
    fn only_names_are_names() {
        let text = TEXT.replace("name = \"mqtt\"", "nmae = \"mqtt\"");
        let names = hosts(&text, &|_| Err(env::VarError::NotPresent));
        assert_eq!(Vec::from_iter(names), ["localhost"]);
    }
}
