//! `mqlb-lab bench`: the systems in one run, in turn, and a report.
//!
//! - [`systems`]: what is measured; [`scenarios`]: what it is made to do, by the clients of [`load`] and before
//!   brokers that only answer ([`responder`]); [`cpu`]: what that cost.

pub mod cpu;
pub mod load;
mod packets;
pub mod responder;
pub mod scenarios;
pub mod systems;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

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
    #[arg(long, default_value_t = 3)]
    brokers: u8,
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
/// Not root, or a system doesn't start or fails.
pub fn run(options: &Options) -> Result<()> {
    crate::lab::require_root()?;
    let (rounds, seconds) = if options.quick { (3, 0.5) } else { (10, 2.0) };
    let scale = Scale {
        rounds: options.rounds.unwrap_or(rounds),
        seconds: options.seconds.unwrap_or(seconds),
        known: 10_000,
        storm: 5_000,
        connections: 20_000,
        bulk: 256 << 20,
    };
    let names: Vec<&str> = match options.systems.is_empty() {
        true => systems::USUAL.to_vec(),
        false => options.systems.iter().map(String::as_str).collect(),
    };
    let wanted: Vec<&Scenario> = ALL
        .into_iter()
        .filter(|one| options.scenarios.is_empty() || options.scenarios.iter().any(|name| name == one.name))
        .collect();
    ensure!(!wanted.is_empty(), "no such scenario");
    let mut arenas = names
        .iter()
        .map(|name| Arena::new(System::named(name)?, usize::from(options.brokers)))
        .collect::<Result<Vec<_>>>()?;
    let mut samples = Vec::new();
    let facts = Facts::default();
    for scenario in wanted {
        measure(scenario, &mut arenas, &scale, &facts, &mut samples)?;
    }
    Ok(())
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
            let values = (scenario.measure)(arena, scale, facts)
                .with_context(|| format!("{}, {}, round {round}", scenario.name, arena.system.name))?;
            eprintln!("{:<14} {:<14} {round:>2} {:>5.1} s {values:.2?}", scenario.name, arena.system.name, begun.elapsed().as_secs_f64());
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
