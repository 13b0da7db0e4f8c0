//! Brokers that die, freeze, are drained and restarted, under clients that connect again when they lose
//! their connection.

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::balancer::Options;
use lb_tests::comeback::Comeback;
use lb_tests::emqx::node::Node;
use lb_tests::fleet::Fleet;
use lb_tests::lab::Lab;
use lb_tests::mqlb::{Mqlb, health};
use lb_tests::pace::{fewer, here};

/// These measure times: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn checked_by_mqtt(more: &str) -> Options {
    Options {
        pool: health("mqtt", (500, 400), (2, 2)) + more,
        ..Options::default()
    }
}

fn clients() -> u32 {
    fewer(3000)
}

/// So many on a machine with processors of its own.
fn seconds(n: u64) -> Duration {
    here(Duration::from_secs(n))
}

/// A fleet whose clients connect again, all of them connected.
fn fleet(lab: &Lab, clients: u32) -> Fleet {
    let fleet = lab.fleet_with(|options| options.come_back = true).unwrap();
    fleet.connect(0..clients).unwrap().check().unwrap();
    fleet
}

/// Waits until so many clients have come back, and takes them.
fn comebacks(fleet: &Fleet, count: usize, limit: Duration) -> Vec<Comeback> {
    let start = Instant::now();
    let mut all = fleet.gauges.take_comebacks();
    while all.len() < count {
        assert!(
            start.elapsed() < limit,
            "{} of {count} clients are back after {limit:?}",
            all.len()
        );
        thread::sleep(Duration::from_millis(20));
        all.extend(fleet.gauges.take_comebacks());
    }
    all
}

/// Each client has lost its connection once, found another broker at the first attempt, and soon.
fn nobody_noticed_more(comebacks: &[Comeback], gone: &str, limit: Duration) {
    let clients: BTreeSet<_> = comebacks.iter().map(|c| c.client).collect();
    assert_eq!(clients.len(), comebacks.len(), "somebody was cut off twice");
    let last = comebacks.iter().map(|c| c.lost).max().unwrap();
    for comeback in comebacks {
        assert_eq!(comeback.brokers[0], gone, "{comeback:?}");
        assert_ne!(comeback.brokers[1], gone, "{comeback:?}");
        assert!(comeback.failures.is_empty(), "{comeback:?}");
        let after = comeback.back.saturating_duration_since(last);
        assert!(
            after < limit,
            "{after:?} after the last reset: {comeback:?}"
        );
    }
    let back = comebacks.iter().map(|c| c.back).max().unwrap();
    println!(
        "{} clients are back {:?} after the last reset",
        comebacks.len(),
        back.saturating_duration_since(last)
    );
}

/// New clients that connect all the time; none may fail.
struct Newcomers<'a> {
    over: &'a AtomicBool,
}

impl Drop for Newcomers<'_> {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
    }
}

/// Runs `work` while new clients connect, 50 a second on processors of their own, and leave again. Returns how many there were.
///
/// At most `cut_off` of them lose the connection before their CONNACK: a broker that dies may have their
/// CONNECT already, and nobody can tell what it did with it. Nobody fails otherwise.
fn while_others_connect(lab: &Lab, cut_off: usize, work: impl FnOnce()) -> u32 {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let newcomers = scope.spawn(|| {
            let fleet = lab
                .fleet_with(|options| {
                    options.prefix = "new".into();
                    options.rate = Some(fewer(50));
                })
                .unwrap();
            let (mut next, mut resets) = (0, 0);
            while !over.load(Relaxed) {
                let round = fleet.connect(next..next + 10).unwrap();
                let reset = |why: &str| why.contains("reset by peer");
                resets += round.failed.iter().filter(|(_, why)| reset(why)).count();
                let sound = round.failed.iter().all(|(_, why)| reset(why));
                assert!(sound && resets <= cut_off, "{:?}", round.failed);
                fleet.disconnect(next..next + 10).unwrap();
                next += 10;
            }
            next
        });
        {
            let _over = Newcomers { over: &over };
            work();
        }
        newcomers.join().unwrap()
    })
}

#[test]
fn a_broker_that_is_killed_costs_its_clients_one_disconnect() {
    let _alone = alone();
    let mut lab = common::lab_with_brokers(3);
    let mqlb = Mqlb::start(&lab, &checked_by_mqtt("")).unwrap();
    let fleet = fleet(&lab, clients());
    let victims = lab.connections().unwrap()["emqx2"];
    let mut killed = std::mem::take(&mut lab.brokers);
    let newcomers = while_others_connect(&lab, 2, || {
        killed[1].kill();
        let back = comebacks(&fleet, victims, seconds(20));
        nobody_noticed_more(&back, "emqx2", seconds(1));
        mqlb.wait_for_state("emqx2", "down", seconds(5)).unwrap();
        // New ones go on connecting while it is away.
        thread::sleep(seconds(1));
    });
    assert!(newcomers >= 20, "{newcomers} new clients");
    assert_eq!(fleet.gauges.connected.load(Relaxed), clients() as usize);
    assert_eq!(mqlb.counter("no_backend").unwrap(), 0);
    killed[1].restart().unwrap();
    mqlb.wait_for_state("emqx2", "up", seconds(10)).unwrap();
}

#[test]
fn a_broker_that_freezes_is_found_out_and_comes_back_slowly() {
    let _alone = alone();
    let mut lab = common::lab_with_brokers(3);
    let options = checked_by_mqtt(&format!("slow_start = \"{}s\"\n", seconds(20).as_secs()));
    let mqlb = Mqlb::start(&lab, &options).unwrap();
    let fleet = fleet(&lab, 300);
    let victims = lab.connections().unwrap()["emqx1"];
    let mut brokers = std::mem::take(&mut lab.brokers);
    brokers[0].signal(libc::SIGSTOP).unwrap();
    let frozen = Instant::now();
    mqlb.wait_for_state("emqx1", "down", seconds(10)).unwrap();
    // Two checks, half a second apart and with 0.4 s of patience each, and some time for a busy machine.
    assert!(frozen.elapsed() < seconds(4), "{:?}", frozen.elapsed());
    let back = comebacks(&fleet, victims, seconds(20));
    nobody_noticed_more(&back, "emqx1", seconds(1));
    assert_eq!(fleet.gauges.connected.load(Relaxed), 300);
    assert!(mqlb.counter("reset_down").unwrap() >= victims as u64);

    brokers[0].signal(libc::SIGCONT).unwrap();
    mqlb.wait_for_state("emqx1", "up", seconds(10)).unwrap();
    // In its first seconds it gets some of the new clients, but not its share of them.
    let early = lab
        .fleet_with(|options| options.prefix = "early".into())
        .unwrap();
    let placed = early.connect(0..60).unwrap().per_broker();
    let share = placed.get("emqx1").copied().unwrap_or(0);
    assert!(share < 15, "{placed:?}");
    thread::sleep(seconds(20));
    let placed = early.connect(60..120).unwrap().per_broker();
    assert_eq!(placed["emqx1"], 20, "{placed:?}");
}

#[test]
fn a_drain_keeps_its_pace_and_no_connect_fails() {
    let _alone = alone();
    let rate = fewer(500);
    let lab = common::lab_with_brokers(3);
    let mqlb = Mqlb::start(&lab, &checked_by_mqtt("")).unwrap();
    let fleet = fleet(&lab, clients());
    let drained = lab.connections().unwrap()["emqx3"];
    while_others_connect(&lab, 0, || {
        let done = mqlb
            .command(&["drain", "emqx3", "--rate", &format!("{rate}/s")])
            .unwrap();
        assert!(done.contains("emqx/emqx3 is draining"), "{done}");
        let back = comebacks(&fleet, drained, seconds(30));
        nobody_noticed_more(&back, "emqx3", seconds(1));
        let first = back.iter().map(|c| c.lost).min().unwrap();
        let last = back.iter().map(|c| c.lost).max().unwrap();
        let took = last.duration_since(first).as_secs_f64();
        let pace = (drained - 1) as f64 / took;
        println!("{drained} connections at {pace:.0}/s");
        assert!((pace / f64::from(rate) - 1.0).abs() < 0.1, "{pace:.0}/s");
    });
    assert_eq!(mqlb.backend("emqx3").unwrap()["state"], "draining");
    assert_eq!(fleet.gauges.failures.load(Relaxed), 0);

    // Orders outlive the agent.
    let mut mqlb = mqlb;
    mqlb.restart().unwrap();
    assert_eq!(mqlb.backend("emqx3").unwrap()["state"], "draining");
    mqlb.command(&["ready", "emqx3"]).unwrap();
    assert_eq!(mqlb.backend("emqx3").unwrap()["state"], "up");
}

#[test]
fn all_brokers_are_restarted_and_no_connect_is_refused() {
    let _alone = alone();
    let mut lab = common::lab_with_brokers(3);
    let mqlb = Mqlb::start(&lab, &checked_by_mqtt("")).unwrap();
    let fleet = fleet(&lab, fewer(900));
    let mut brokers = std::mem::take(&mut lab.brokers);
    while_others_connect(&lab, 0, || {
        for broker in &mut brokers {
            let name = broker.name.clone();
            mqlb.command(&["drain", &name, "--rate", "1000/s"]).unwrap();
            let start = Instant::now();
            while mqlb.backend(&name).unwrap()["flows"] != 0 {
                assert!(start.elapsed() < seconds(20), "{name} is not empty");
                thread::sleep(Duration::from_millis(20));
            }
            broker.restart().unwrap();
            mqlb.wait_for_state(&name, "draining", seconds(10)).unwrap();
            mqlb.command(&["ready", &name]).unwrap();
            mqlb.wait_for_state(&name, "up", seconds(10)).unwrap();
        }
    });
    let start = Instant::now();
    while fleet.gauges.connected.load(Relaxed) < fewer(900) as usize {
        assert!(start.elapsed() < seconds(10), "some are not back");
        thread::sleep(Duration::from_millis(20));
    }
    for comeback in fleet.gauges.take_comebacks() {
        assert!(comeback.failures.is_empty(), "{comeback:?}");
    }
    assert_eq!(mqlb.counter("no_backend").unwrap(), 0);
}

#[test]
fn a_broker_that_flaps_strands_nobody_and_the_agent_stays_calm() {
    let _alone = alone();
    const FLAPS: u64 = 15;
    let lab = common::lab_without_brokers(3);
    let nodes = Node::start_all(&lab).unwrap();
    let options = Options {
        pool: health("http", (200, 150), (1, 1)),
        ..Options::default()
    };
    let mqlb = Mqlb::start(&lab, &options).unwrap();
    let fleet = fleet(&lab, 300);
    let before = common::cpu_time(&mqlb);
    // Down for a second, up for a second.
    let mut failed = Vec::new();
    for _ in 0..FLAPS {
        for (status, state) in [(500, "down"), (200, "up")] {
            let start = Instant::now();
            nodes[0].set_status(status).unwrap();
            mqlb.wait_for_state("emqx1", state, seconds(5)).unwrap();
            thread::sleep(seconds(1).saturating_sub(start.elapsed()));
        }
        // Some who find it up again, and lose it again.
        fleet.disconnect(0..30).unwrap();
        failed = fleet.connect(0..30).unwrap().failed;
    }
    let used = common::cpu_time(&mqlb) - before;
    println!("{used:?} of processor time for {FLAPS} flaps");
    assert!(used < seconds(6), "{used:?} in 30 s");
    let lines = mqlb.log().lines().filter(|l| l.contains("emqx1")).count();
    assert!(lines < 10 * 2 * FLAPS as usize, "{lines} lines in the log");
    let start = Instant::now();
    while fleet.gauges.connected.load(Relaxed) < 300 {
        let connected = fleet.gauges.connected.load(Relaxed);
        assert!(
            start.elapsed() < seconds(10),
            "{connected} of 300; of those who came last: {failed:?}"
        );
        thread::sleep(Duration::from_millis(20));
    }
    assert!(fleet.gauges.lost.load(Relaxed) >= 100, "nobody was on it");
    assert_eq!(mqlb.counter("no_backend").unwrap(), 0);
}
