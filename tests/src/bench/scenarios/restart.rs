//! The balancer's process is restarted under connections that are open.

use anyhow::{Result, ensure};

use super::{Metric, Scale, Scenario, Values, lower};
use crate::bench::load::open;
use crate::bench::systems::{Arena, Kind, System};

const SESSIONS: usize = 200;

const METRICS: &[Metric] = &[
    lower("lost", "sessions lost", "%"),
    lower("seconds", "until the next process is ready", "s"),
];

pub const GRACEFUL: Scenario = Scenario {
    name: "restart",
    title: "Sessions lost when the balancer's process is restarted (SIGTERM)",
    metrics: METRICS,
    applies: has_process,
    rounds,
    measure: |arena, _, _| restart(arena, true),
};

pub const KILL: Scenario = Scenario {
    name: "kill-9",
    title: "Sessions lost when the balancer's process is killed (SIGKILL)",
    metrics: METRICS,
    applies: has_process,
    rounds,
    measure: |arena, _, _| restart(arena, false),
};

fn has_process(system: &System) -> bool {
    !matches!(system.kind, Kind::Direct | Kind::Nftables)
}

/// What is lost is no matter of chance.
fn rounds(scale: &Scale) -> u32 {
    scale.rounds.min(3)
}

fn restart(arena: &mut Arena, gracefully: bool) -> Result<Values> {
    let held = arena.hold(SESSIONS, 16)?;
    let before = open::alive(&held)?;
    ensure!(
        before == SESSIONS as u64,
        "{before} of {SESSIONS} sessions answer"
    );
    let begun = std::time::Instant::now();
    arena.restart(gracefully)?;
    let seconds = begun.elapsed().as_secs_f64();
    let lost = SESSIONS as u64 - open::alive(&held)?;
    Ok(Values::from([
        ("lost", 100.0 * lost as f64 / SESSIONS as f64),
        ("seconds", seconds),
    ]))
}
