//! `cargo xtask compose init`: `.env` out of `.env.sample`, with fresh secrets.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{COOKIE, COOKIE_LENGTH, PASSWORD, PASSWORD_LENGTH, SAMPLE, env_file, secret};

#[derive(clap::Args)]
pub struct Args {
    /// Shares of new clients that the three nodes get, 0 to 256 each: 1,1,1 for equal ones
    #[arg(long, value_name = "A,B,C", value_parser = weights)]
    weights: Option<[u16; 3]>,
    /// For COMPOSE_PROFILES: haproxy, tls, mqlb, mqlb-tls, mqlb-xdp or node
    #[arg(long, value_parser = ["haproxy", "tls", "mqlb", "mqlb-tls", "mqlb-xdp", "node"])]
    profile: Option<String>,
}

/// Writes `.env` into `directory`, readable by its owner only, and says what to do next.
///
/// # Errors
/// There is a `.env` already, which stays as it is; or no sample, or no way to write.
pub fn run(directory: &Path, args: &Args) -> Result<()> {
    let sample = directory.join(SAMPLE);
    let sample =
        std::fs::read_to_string(&sample).with_context(|| format!("read {}", sample.display()))?;
    let text = filled(&sample, args).with_context(|| format!("fill in {SAMPLE}"))?;
    let file = directory.join(".env");
    create(&file, &text)?;
    eprintln!(
        "xtask: wrote {} with a new cookie and a new dashboard password\n\n\
         Next:\n    \
         docker compose up -d                      # then MQTT is at port 1883\n    \
         grep DASHBOARD__DEFAULT_PASSWORD .env     # of the user admin at http://localhost:8080/\n\n\
         docs/compose.md says what the variables do. Keep .env to yourself: whoever has the cookie and\n\
         reaches a node owns it. All nodes of a cluster need the same one.",
        file.display()
    );
    Ok(())
}

fn filled(sample: &str, args: &Args) -> Result<String> {
    let mut text = env_file::set(sample, COOKIE, &secret::random(COOKIE_LENGTH)?)?;
    text = env_file::set(&text, PASSWORD, &secret::random(PASSWORD_LENGTH)?)?;
    for (number, weight) in (1..).zip(args.weights.iter().flatten()) {
        text = env_file::set(&text, &format!("EMQX{number}_WEIGHT"), &weight.to_string())?;
    }
    if let Some(profile) = &args.profile {
        text = env_file::set(&text, "COMPOSE_PROFILES", profile)?;
    }
    Ok(text)
}

/// `A,B,C`, each from 0 to HAProxy's maximum.
fn weights(text: &str) -> Result<[u16; 3], String> {
    let numbers: Option<Vec<u16>> = text
        .split(',')
        .map(|number| number.trim().parse().ok().filter(|number| *number <= 256))
        .collect();
    numbers
        .and_then(|numbers| numbers.try_into().ok())
        .ok_or_else(|| "three numbers from 0 to 256 are wanted: 5,2,3".to_owned())
}

fn create(file: &Path, text: &str) -> Result<()> {
    let created = std::fs::OpenOptions::new()
        .write(true)
        // Never opens what is there, nor follows a link to somewhere else.
        .create_new(true)
        .mode(0o600)
        .open(file);
    let mut created = match created {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!(
            "{} exists, and holds the secrets of a cluster: it stays as it is. Move it away to begin anew; \
             the nodes' volumes know the old dashboard password (docs/compose.md)",
            file.display()
        ),
        created => created.with_context(|| format!("create {}", file.display()))?,
    };
    created
        .write_all(text.as_bytes())
        .with_context(|| format!("write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    /// A directory of the test's own, with the sample in it. Dropping it removes it.
    struct Directory(PathBuf);

    impl Directory {
        fn new(test: &str) -> Self {
            let name = format!("mqlb-compose-{test}-{}", std::process::id());
            let directory = std::env::temp_dir().join(name);
            std::fs::create_dir(&directory).unwrap();
            std::fs::copy(workspace::root().join(SAMPLE), directory.join(SAMPLE)).unwrap();
            Self(directory)
        }

        fn env(&self) -> String {
            std::fs::read_to_string(self.0.join(".env")).unwrap()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn args() -> Args {
        Args {
            weights: None,
            profile: None,
        }
    }

    fn value<'a>(text: &'a str, name: &str) -> &'a str {
        let assignments = env_file::parse(text).unwrap();
        let found = assignments.iter().find(|(given, _)| *given == name);
        found.unwrap_or_else(|| panic!("no {name}")).1
    }

    #[test]
    fn secrets_are_fresh_and_long_and_the_owners_alone() {
        let (one, other) = (Directory::new("one"), Directory::new("other"));
        run(&one.0, &args()).unwrap();
        run(&other.0, &args()).unwrap();
        let (text, other) = (one.env(), other.env());
        assert_eq!(value(&text, COOKIE).len(), 128);
        assert_eq!(value(&text, PASSWORD).len(), 32);
        for name in [COOKIE, PASSWORD] {
            assert!(
                value(&text, name)
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric())
            );
            assert_ne!(value(&text, name), value(&other, name));
        }
        let mode = std::fs::metadata(one.0.join(".env")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn everything_else_is_the_samples() {
        let directory = Directory::new("sample");
        let sample = std::fs::read_to_string(directory.0.join(SAMPLE)).unwrap();
        run(&directory.0, &args()).unwrap();
        let text = directory.env();
        let others = |text: &str| {
            let secret = |line: &&str| !line.starts_with(COOKIE) && !line.starts_with(PASSWORD);
            text.lines()
                .filter(secret)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(others(&text), others(&sample));
        assert_eq!(
            value(&sample, COOKIE),
            "",
            "the sample has no secret to be left in place"
        );
        assert_eq!(value(&sample, PASSWORD), "");
    }

    #[test]
    fn what_is_there_is_not_overwritten() {
        let directory = Directory::new("again");
        std::fs::write(directory.0.join(".env"), "mine").unwrap();
        let error = run(&directory.0, &args()).unwrap_err().to_string();
        assert!(error.contains(".env exists"), "{error}");
        assert_eq!(directory.env(), "mine");
    }

    #[test]
    fn weights_and_profile_are_written() {
        let sample = std::fs::read_to_string(workspace::root().join(SAMPLE)).unwrap();
        let args = Args {
            weights: Some([1, 0, 256]),
            profile: Some("tls".into()),
        };
        let text = filled(&sample, &args).unwrap();
        assert_eq!(value(&text, "EMQX1_WEIGHT"), "1");
        assert_eq!(value(&text, "EMQX2_WEIGHT"), "0");
        assert_eq!(value(&text, "EMQX3_WEIGHT"), "256");
        assert_eq!(value(&text, "COMPOSE_PROFILES"), "tls");
    }

    #[test]
    fn weights_are_three_numbers() {
        assert_eq!(weights("5, 2,3"), Ok([5, 2, 3]));
        for wrong in ["", "1,1", "1,1,1,1", "1,1,257", "1,1,x", "-1,1,1"] {
            assert!(weights(wrong).is_err(), "{wrong}");
        }
    }
}
