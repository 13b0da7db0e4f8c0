//! Everybody connects at once, and then comes back: the kernel connects them all, back to where they were, and
//! the agent has next to nothing to do with it.

mod common;

use std::time::{Duration, Instant};

use lb_tests::balancer::Options;
use lb_tests::broker::Kind;
use lb_tests::fleet::Fleet;
use lb_tests::lab;
use lb_tests::mqlb::Mqlb;
use lb_tests::pace::fewer;

/// Clients on processors of their own, unless `MQLB_STORM_CLIENTS` says otherwise.
const CLIENTS: u32 = 20_000;
/// Of them connected at a time; the others have no sockets.
const WAVE: u32 = 5_000;

fn clients() -> u32 {
    let asked = std::env::var("MQLB_STORM_CLIENTS").ok();
    let asked = asked.map(|text| text.parse().expect("MQLB_STORM_CLIENTS: a number"));
    asked
        .unwrap_or_else(|| fewer(CLIENTS))
        .next_multiple_of(fewer(WAVE))
}

/// Connects all clients, wave by wave. How many returned to their broker, and the agent's CPU time.
fn all_connect(fleet: &Fleet, mqlb: &Mqlb, clients: u32) -> (usize, Duration, Duration) {
    let (before, begun) = (common::cpu_time(mqlb), Instant::now());
    let size = fewer(WAVE);
    let mut returned = 0;
    for first in (0..clients).step_by(size as usize) {
        let wave = first..first + size;
        let round = fleet.connect(wave.clone()).unwrap();
        round.check().unwrap();
        returned += round.returned;
        fleet.disconnect(wave).unwrap();
    }
    let took = begun.elapsed();
    (returned, common::cpu_time(mqlb) - before, took)
}

/// The agent's CPU time in a second in which nobody connects: sweeps, and checks of backends.
fn idle_cpu(mqlb: &Mqlb) -> f64 {
    const SPAN: Duration = Duration::from_secs(5);
    let before = common::cpu_time(mqlb);
    std::thread::sleep(SPAN);
    (common::cpu_time(mqlb) - before).div_duration_f64(SPAN)
}

#[test]
fn all_connect_and_return_by_the_kernel() {
    let clients = clients();
    let lab = common::lab_with(lab::Options {
        broker: Some(Kind::Embedded),
        ..lab::Options::default()
    });
    let mqlb = Mqlb::start(&lab, &Options::default()).unwrap();
    let fleet = lab.fleet().unwrap();
    let (returned, of_agent, took) = all_connect(&fleet, &mqlb, clients);
    assert_eq!(returned, 0);
    let new = mqlb.steered().unwrap();
    println!("new: {took:?}, the agent's CPU time {of_agent:?}, {new:?}");
    assert_eq!(new.kernel + new.agent, u64::from(clients));
    assert!(
        new.kernel >= u64::from(clients) * 99 / 100,
        "{new:?} of {clients}"
    );
    let (returned, _, _) = all_connect(&fleet, &mqlb, clients);
    assert_eq!(returned, clients as usize, "each at its broker");
}

#[test]
fn known_clients_return_by_the_kernel() {
    let clients = clients();
    let lab = common::lab_with(lab::Options {
        broker: Some(Kind::Embedded),
        ..lab::Options::default()
    });
    let options = Options {
        xdp: "set_up = \"known\"".into(),
        ..Options::default()
    };
    let mqlb = Mqlb::start(&lab, &options).unwrap();
    let fleet = lab.fleet().unwrap();
    let (returned, by_agent, took) = all_connect(&fleet, &mqlb, clients);
    assert_eq!(returned, 0);
    let before = mqlb.steered().unwrap();
    println!("new: {took:?}, the agent's CPU time {by_agent:?}, {before:?}");
    assert_eq!((before.kernel, before.agent), (0, u64::from(clients)));

    let idle = idle_cpu(&mqlb);
    let (returned, of_agent, took) = all_connect(&fleet, &mqlb, clients);
    let of_agent = of_agent.saturating_sub(took.mul_f64(idle));
    let now = mqlb.steered().unwrap();
    let (kernel, agent) = (now.kernel - before.kernel, now.agent - before.agent);
    println!("known: {took:?}, the agent's CPU time {of_agent:?}, kernel {kernel}, agent {agent}");
    assert_eq!(returned, clients as usize, "each at its broker");
    assert_eq!(kernel + agent, u64::from(clients));
    assert!(
        kernel >= u64::from(clients) * 99 / 100,
        "{kernel} by the kernel"
    );
    // What is left is the sweeper, which removes both entries of every connection that has closed.
    assert!(of_agent * 4 < by_agent, "{of_agent:?} of {by_agent:?}");
}
