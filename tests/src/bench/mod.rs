//! `mqlb-lab bench`: the systems in one run, in turn, and a report.
//!
//! - [`systems`]: what is measured; [`scenarios`]: what it is made to do, by the clients of [`load`] and before
//!   brokers that only answer ([`responder`]); [`cpu`], [`fdinfo`]: what that cost; [`report`]: how it is told.

pub mod cpu;
mod fdinfo;
pub mod load;
mod packets;
pub mod report;
pub mod responder;
pub mod scenarios;
pub mod systems;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use report::machine::Machine;
use report::statistics::spread;
use report::{Report, promises};
use scenarios::{ALL, Facts, Scale, Scenario, Values};
use systems::{Arena, System};

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Fewer and shorter rounds: for a first look, not for a report
    #[arg(long)]
    quick: bool,
    /// What is measured [default: direct,nftables,haproxy,mqlb-xdp,mqlb-proxy]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    systems: Vec<String>,
    /// Only these scenarios [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    scenarios: Vec<String>,
    /// Rounds of each scenario [default: 10, or 3 with --quick]
    #[arg(long)]
    rounds: Option<u32>,
    /// Seconds of each measurement under load [default: 2, or 0.5 with --quick]
    #[arg(long)]
    seconds: Option<f64>,
    /// Brokers of each system
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=20))]
    brokers: u8,
    /// One more HAProxy, beside the installed one (repeatable)
    #[arg(long, value_name = "PATH")]
    haproxy: Vec<std::path::PathBuf>,
    /// The variants of HAProxy and of the direct route too
    #[arg(long)]
    variants: bool,
    /// Idle connections in the measurement of memory
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=400_000))]
    connections: u32,
    /// Neither the cost of single packets nor that of many flows: only what goes over wires
    #[arg(long)]
    wires_only: bool,
    /// Where report.json, report.md and report.html go
    #[arg(long, value_name = "DIRECTORY", default_value = "target/bench")]
    out: std::path::PathBuf,
    /// Write the report to this file too: BENCHMARKS.md of the repository
    #[arg(long, value_name = "FILE")]
    write: Option<std::path::PathBuf>,
}

/// One measurement.
#[derive(Debug, Serialize)]
pub struct Sample {
    pub scenario: &'static str,
    pub system: String,
    pub round: u32,
    pub values: Values,
}

/// # Errors
/// Wrong use, not root, or a system doesn't start or fails.
pub fn run(options: &Options) -> Result<()> {
    let systems = systems(options)?;
    let scenarios = chosen(options)?;
    crate::lab::require_root()?;
    let scale = scale(options)?;
    let entries = systems
        .iter()
        .map(|system| {
            Ok(report::Entry {
                name: system.name.clone(),
                version: system.version()?,
            })
        })
        .collect::<Result<_>>()?;
    let machine = Machine::here()?;
    let (packets, flows) = match options.wires_only {
        true => (None, None),
        false => (nanoseconds(&[])?, nanoseconds(&["--flows"])?),
    };
    let samples = measure_all(&systems, &scenarios, &scale, usize::from(options.brokers))?;
    let haproxy = systems.iter().find(|system| system.is_haproxy());
    let haproxy = haproxy.map(|system| system.name.as_str());
    let report = Report {
        command: command(),
        machine,
        scale,
        systems: entries,
        scenarios: scenarios.iter().map(|one| (*one).into()).collect(),
        promises: promises::judge(&samples, haproxy, flows.as_ref()),
        samples,
        packets,
        flows,
    };
    report.write(&options.out)?;
    let text = report.markdown();
    println!("{text}");
    if let Some(file) = &options.write {
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    }
    eprintln!("report: {}/report.html", options.out.display());
    Ok(())
}

fn scale(options: &Options) -> Result<Scale> {
    let (rounds, seconds) = if options.quick { (3, 0.5) } else { (10, 2.0) };
    // A balancer with sockets needs two for each connection, and some more.
    let limit = crate::process::raise_descriptor_limit()?;
    let most = usize::try_from(limit / 2)?.saturating_sub(200);
    let connections = most.min(options.connections as usize);
    if connections < options.connections as usize {
        eprintln!(
            "only {connections} idle connections: this process may not open more than {limit} files"
        );
    }
    Ok(Scale {
        rounds: options.rounds.unwrap_or(rounds),
        seconds: options.seconds.unwrap_or(seconds),
        known: if options.quick { 2_000 } else { 10_000 },
        storm: if options.quick { 2_000 } else { 10_000 },
        connections,
        bulk: if options.quick { 64 << 20 } else { 512 << 20 },
    })
}

fn systems(options: &Options) -> Result<Vec<System>> {
    let mut names: Vec<String> = options.systems.clone();
    if names.is_empty() {
        names.extend(systems::USUAL.map(String::from));
    }
    if options.variants {
        names.extend(systems::VARIANTS.map(String::from));
    }
    for path in &options.haproxy {
        names.push(format!("haproxy@{}", path.display()));
    }
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names.iter().map(|name| System::named(name)).collect()
}

fn chosen(options: &Options) -> Result<Vec<&'static Scenario>> {
    for name in &options.scenarios {
        ensure!(
            ALL.iter().any(|one| one.name == name),
            "no scenario is named {name}; there are {}",
            ALL.map(|one| one.name).join(", ")
        );
    }
    let wanted = |one: &&Scenario| {
        options.scenarios.is_empty() || options.scenarios.iter().any(|name| name == one.name)
    };
    Ok(ALL.into_iter().filter(wanted).collect())
}

/// What one would type to do it again; `cargo xtask bench` says what was typed.
fn command() -> String {
    std::env::var("MQLB_BENCH_COMMAND").unwrap_or_else(|_| {
        let words: Vec<_> = std::env::args().skip(1).collect();
        format!("mqlb-lab {}", words.join(" "))
    })
}

/// Runs lb-user's example, which measures by itself and prints JSON; none if it was not built.
fn nanoseconds(arguments: &[&str]) -> Result<Option<serde_json::Value>> {
    let Ok(path) = crate::lab::sibling_binary("examples/nanoseconds") else {
        eprintln!(
            "single packets are left out: cargo build --release -p lb-user --example nanoseconds"
        );
        return Ok(None);
    };
    eprintln!("nanoseconds {} ...", arguments.join(" "));
    let mut command = std::process::Command::new(path);
    let said = crate::netns::run(command.args(arguments).arg("--json"))?;
    let json = serde_json::from_str(&said);
    Ok(Some(
        json.context("the example nanoseconds printed no JSON")?,
    ))
}

fn measure_all(
    systems: &[System],
    scenarios: &[&'static Scenario],
    scale: &Scale,
    brokers: usize,
) -> Result<Vec<Sample>> {
    let mut arenas = systems
        .iter()
        .map(|system| Arena::new(system.clone(), brokers))
        .collect::<Result<Vec<_>>>()?;
    let mut samples = Vec::new();
    let mut facts = Facts::default();
    for scenario in scenarios {
        measure(scenario, &mut arenas, scale, &facts, &mut samples)?;
        if scenario.name == scenarios::pairs::SCENARIO.name {
            facts.peak = weakest(systems, &samples);
        }
    }
    Ok(samples)
}

/// Requests a second, closed loop, of the system that can do least.
fn weakest(systems: &[System], samples: &[Sample]) -> f64 {
    let peak = |system: &System| {
        spread(
            samples,
            scenarios::pairs::SCENARIO.name,
            &system.name,
            "rate",
        )
        .map_or(f64::INFINITY, |spread| spread.median)
    };
    systems.iter().map(peak).fold(f64::INFINITY, f64::min)
}

fn measure(
    scenario: &'static Scenario,
    arenas: &mut [Arena],
    scale: &Scale,
    facts: &Facts,
    samples: &mut Vec<Sample>,
) -> Result<()> {
    for round in 0..(scenario.rounds)(scale) {
        let count = arenas.len();
        for at in 0..count {
            // To and fro, so that a machine that becomes slower doesn't do so for the same system each time.
            let at = if round % 2 == 0 { at } else { count - 1 - at };
            let arena = &mut arenas[at];
            if !(scenario.applies)(&arena.system) {
                continue;
            }
            let begun = Instant::now();
            let values = (scenario.measure)(arena, scale, facts).with_context(|| {
                format!("{}, {}, round {round}", scenario.name, arena.system.name)
            })?;
            eprintln!(
                "{:<14} {:<14} {round:>2} {:>5.1} s {values:.2?}",
                scenario.name,
                arena.system.name,
                begun.elapsed().as_secs_f64()
            );
            samples.push(Sample {
                scenario: scenario.name,
                system: arena.system.name.clone(),
                round,
                values,
            });
        }
    }
    Ok(())
}
