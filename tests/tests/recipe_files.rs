//! The configurations and variables of docker-compose.yml, as files.

mod common;

use std::collections::BTreeMap;

use lb_tests::lab::Lab;
use lb_tests::recipe::{Program, sample};

#[test]
fn the_configuration_is_valid_and_without_warnings() {
    let lab = common::lab_without_brokers(0);
    let certificate = certificate(&lab);
    let mut variables = sample().unwrap();
    for n in 1..=3 {
        // Names that don't resolve yet are fine, but reported.
        variables.insert(format!("EMQX{n}_HOST"), "::1".into());
    }
    let tls = "haproxy/tls.cfg";
    variables.insert("TLS_CERTIFICATE".into(), certificate.display().to_string());
    let mut protected = variables.clone();
    protected.insert("STATS_PASSWORD".into(), "secret".into());
    for program in Program::haproxies().unwrap() {
        for variables in [&variables, &protected, &BTreeMap::new()] {
            let mut files = vec!["haproxy/haproxy.cfg"];
            if !variables.is_empty() {
                files.push(tls);
            }
            let said = program.check(&files, variables).unwrap();
            let warned = said.contains("[WARNING]") && !said.contains("could not resolve");
            assert!(!warned, "{}: {said}", program.name);
        }
    }
}

/// A certificate of the lab's own, with its key, as HAProxy reads it.
fn certificate(lab: &Lab) -> std::path::PathBuf {
    let file = lab.directory().join("server.pem");
    let mut openssl = std::process::Command::new("openssl");
    openssl.args([
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
    ]);
    openssl.args(["-subj", "/CN=mqtt.test"]);
    openssl.arg("-keyout").arg(&file).arg("-out").arg(&file);
    lb_tests::netns::run(&mut openssl).unwrap();
    file
}

/// The defaults of `NAME-default` and `NAME:-default` in a file, by name.
fn defaults(file: &str) -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(lb_tests::recipe::repository().join(file)).unwrap();
    let mut found: BTreeMap<_, Vec<String>> = BTreeMap::new();
    // Comments tell people about variables; only what is read counts.
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    for reference in lines.flat_map(|line| line.split("${").skip(1)) {
        let (reference, _) = reference.split_once('}').expect("an end");
        let Some((name, default)) = reference.split_once('-') else {
            // Required, or given in any case.
            let name = reference.split(':').next().expect("a name");
            found.entry(name.to_owned()).or_default();
            continue;
        };
        let name = name.trim_end_matches(':').to_owned();
        found.entry(name).or_default().push(default.to_owned());
    }
    found
}

#[test]
fn mqlbs_configurations_have_the_same_pool() {
    let pool = |file: &str| {
        let text = std::fs::read_to_string(lb_tests::recipe::repository().join(file)).unwrap();
        let from = text.find("[pool.emqx]").expect("a pool");
        text[from..].to_owned()
    };
    assert_eq!(pool("mqlb/mqlb.toml"), pool("mqlb/tls.toml"));
    assert_eq!(pool("mqlb/mqlb.toml"), pool("mqlb/xdp.toml"));
}

#[test]
fn the_samples_values_are_the_files_defaults() {
    let sample = sample().unwrap();
    for file in [
        "docker-compose.yml",
        "haproxy/haproxy.cfg",
        "haproxy/tls.cfg",
        "mqlb/mqlb.toml",
        "mqlb/tls.toml",
        "mqlb/xdp.toml",
    ] {
        let found = defaults(file);
        assert!(found.len() > 3, "{file}: {found:?}");
        for (name, defaults) in found {
            if name == "TLS_CERTIFICATE" {
                // Where docker-compose.yml mounts TLS_CERTIFICATES.
                continue;
            }
            let value = sample.get(&name);
            let value = value.unwrap_or_else(|| panic!("{file}: {name} is not in .env.sample"));
            for default in defaults {
                assert_eq!(&default, value, "{file}: {name}");
            }
        }
    }
    let used = defaults("docker-compose.yml");
    for name in sample.keys().filter(|name| *name != "COMPOSE_PROFILES") {
        assert!(used.contains_key(name), "{name} is of no use");
    }
}
