//! A broker leaves: which clients of the *other* brokers are elsewhere when they come back.

use anyhow::{Context, Result, ensure};

use super::{Scale, Scenario, Values, lower};
use crate::bench::load::{dial, place};
use crate::bench::systems::{Arena, System};

const CLIENTS: usize = 500;

pub const SCENARIO: Scenario = Scenario {
    name: "moved",
    title: "Clients of other brokers that move when a broker leaves",
    metrics: &[lower("moved", "clients that moved without need", "%")],
    applies: System::is_sticky,
    rounds: |scale| scale.rounds.min(3),
    measure: |arena, _: &Scale, _| {
        let result = moved(arena);
        // The next scenario finds all of them, whatever came of this one.
        arena.start_broker(0)?;
        arena.wait_for_checks();
        Ok(Values::from([("moved", result?)]))
    },
};

fn moved(arena: &mut Arena) -> Result<f64> {
    let before = places(arena)?;
    let left = arena.broker_address(0);
    arena.kill_broker(0);
    arena.wait_for_checks();
    let after = places(arena)?;
    let stayed: Vec<_> = before
        .iter()
        .zip(&after)
        .filter(|(before, _)| **before != left)
        .collect();
    ensure!(!stayed.is_empty(), "all clients were at one broker");
    let moved = stayed
        .iter()
        .filter(|(before, after)| before != after)
        .count();
    Ok(100.0 * moved as f64 / stayed.len() as f64)
}

/// Where each client is served.
fn places(arena: &mut Arena) -> Result<Vec<String>> {
    // One at a time, so that the connections come in the order of the clients.
    let mut ids = (0..CLIENTS).map(Arena::known_id);
    let held = arena.dial(&mut ids, dial::Plan::keep(1))?.0.all()?.held;
    let places = held
        .iter()
        .map(|stream| place::of(stream).context("ask for the broker's name"))
        .collect();
    dial::leave(&held);
    arena.settle()?;
    places
}
