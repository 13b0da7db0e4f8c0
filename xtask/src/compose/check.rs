//! `cargo xtask compose check`: what is wrong with `.env`, and what HAProxy and Docker Compose say.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{COOKIE, COOKIE_LENGTH, PASSWORD, PASSWORD_LENGTH, SAMPLE, env_file};
use crate::{root, workspace};

/// # Errors
/// No `.env`, mistakes in it (all of them are named), or a refusal of HAProxy or Docker Compose.
pub fn run(directory: &Path) -> Result<()> {
    let file = directory.join(".env");
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!(
            "read {}: `cargo xtask compose init` writes it",
            file.display()
        )
    })?;
    let sample = std::fs::read_to_string(directory.join(SAMPLE))
        .with_context(|| format!("read {SAMPLE}"))?;
    let values = env_file::parse(&text).with_context(|| file.display().to_string())?;
    let mistakes = mistakes(&values, &env_file::parse(&sample).context(SAMPLE)?);
    if !mistakes.is_empty() {
        bail!("{}:\n    {}", file.display(), mistakes.join("\n    "));
    }
    eprintln!("xtask: {} is complete", file.display());
    haproxy(directory, &values)?;
    docker_compose(directory)
}

/// Everything that is wrong with `values`, each with what to do.
fn mistakes(values: &[(&str, &str)], sample: &[(&str, &str)]) -> Vec<String> {
    let mut found = Vec::new();
    let names = |list: &[(&str, &str)], name| list.iter().any(|(given, _)| *given == name);
    for (name, value) in values {
        if !names(sample, *name) {
            found.push(format!("{name} is no variable of {SAMPLE}"));
        }
        let problem = if name.ends_with("_PORT") || *name == "PORT" {
            number(value, 1..=65535)
        } else if name.ends_with("_WEIGHT") {
            number(value, 0..=256)
        } else {
            None
        };
        found.extend(problem.map(|problem| format!("{name}={value}: {problem}")));
    }
    for (name, length) in [(COOKIE, COOKIE_LENGTH), (PASSWORD, PASSWORD_LENGTH)] {
        let given = values.iter().find(|(given, _)| *given == name);
        let given = given.map_or(0, |(_, value)| value.len());
        if given < length {
            found.push(format!(
                "{name} has {given} characters: {length} random ones are wanted, as `cargo xtask compose init` makes them"
            ));
        }
    }
    let weights: Vec<_> = values
        .iter()
        .filter(|(name, _)| name.ends_with("_WEIGHT"))
        .collect();
    if !weights.is_empty() && weights.iter().all(|(_, weight)| *weight == "0") {
        found.push("all weights are 0: no node would take a new client".into());
    }
    found
}

fn number(value: &str, range: std::ops::RangeInclusive<u32>) -> Option<String> {
    let given = value.parse::<u32>().ok();
    (!given.is_some_and(|given| range.contains(&given))).then(|| {
        format!(
            "a number from {} to {} is wanted",
            range.start(),
            range.end()
        )
    })
}

/// Has HAProxy read its configuration with the variables, if it is installed.
fn haproxy(directory: &Path, values: &[(&str, &str)]) -> Result<()> {
    let Some(haproxy) = root::find("haproxy") else {
        eprintln!("xtask: HAProxy is not installed here: its configuration was not checked");
        return Ok(());
    };
    let mut command = Command::new(haproxy);
    command
        .args(["-c", "-q", "-f", "haproxy/haproxy.cfg"])
        .envs(values.iter().copied())
        .current_dir(directory);
    let profile = values.iter().find(|(name, _)| *name == "COMPOSE_PROFILES");
    if let Some((_, "tls")) = profile {
        let certificates = values.iter().find(|(name, _)| *name == "TLS_CERTIFICATES");
        let certificates = certificates.map_or("./certs", |(_, directory)| directory);
        command
            .args(["-f", "haproxy/tls.cfg"])
            .env("TLS_CERTIFICATE", certificates);
    }
    workspace::run(&mut command).context("HAProxy refuses its configuration")?;
    eprintln!("xtask: HAProxy takes its configuration");
    Ok(())
}

/// Has Docker Compose read its file, if it is installed.
fn docker_compose(directory: &Path) -> Result<()> {
    let installed = Command::new("docker").args(["compose", "version"]).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        eprintln!("xtask: there is no `docker compose` here: docker-compose.yml was not checked");
        return Ok(());
    }
    let mut command = Command::new("docker");
    command
        .args(["compose", "config", "--quiet"])
        .current_dir(directory);
    workspace::run(&mut command).context("Docker Compose refuses docker-compose.yml")?;
    eprintln!("xtask: Docker Compose takes docker-compose.yml");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mistakes of the sample with secrets, and with `changes`.
    fn found(changes: &[(&str, &str)]) -> Vec<String> {
        let sample = std::fs::read_to_string(workspace::root().join(SAMPLE)).unwrap();
        let mut text = env_file::set(&sample, COOKIE, &"c".repeat(COOKIE_LENGTH)).unwrap();
        text = env_file::set(&text, PASSWORD, &"p".repeat(PASSWORD_LENGTH)).unwrap();
        for (name, value) in changes {
            text = env_file::set(&text, name, value).unwrap();
        }
        let sample = env_file::parse(&sample).unwrap();
        mistakes(&env_file::parse(&text).unwrap(), &sample)
    }

    #[test]
    fn the_sample_with_secrets_is_right() {
        assert_eq!(found(&[]), Vec::<String>::new());
    }

    #[test]
    fn mistakes_are_all_named() {
        let mistakes = found(&[
            (COOKIE, "secret"),
            ("MQTT_PORT", "65536"),
            ("PORT", ""),
            ("EMQX2_WEIGHT", "257"),
        ]);
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
        for (mistake, says) in mistakes.iter().zip([
            "EMQX2_WEIGHT=257: a number from 0 to 256 is wanted",
            "MQTT_PORT=65536: a number from 1 to 65535 is wanted",
            "PORT=: a number from 1 to 65535 is wanted",
            "EMQX_NODE__COOKIE has 6 characters",
        ]) {
            assert!(mistake.starts_with(says), "{mistake}");
        }
        let none = ["EMQX1_WEIGHT", "EMQX2_WEIGHT", "EMQX3_WEIGHT"].map(|name| (name, "0"));
        assert_eq!(found(&none).len(), 1);
    }

    #[test]
    fn a_misspelt_variable_is_noticed() {
        let mistakes = mistakes(&[("EMQX_1_WEIGHT", "5")], &[("EMQX1_WEIGHT", "5")]);
        assert_eq!(mistakes[0], "EMQX_1_WEIGHT is no variable of .env.sample");
    }
}
