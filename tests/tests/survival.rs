//! What happens to the agent, and what it does, is no client's concern.

mod common;

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::balancer::Options;
use lb_tests::lab::Lab;
use lb_tests::mqlb::{self, Mqlb};
use lb_tests::netns::run;
use lb_tests::other_build;
use lb_tests::pace::{fewer, here};
use lb_tests::talkers::Talkers;

const TALKERS: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(250);
const CYCLES: u64 = 20;

#[test]
fn a_thousand_talkers_notice_nothing_of_twenty_kills() {
    let lab = common::lab_with_brokers(3);
    let mut mqlb = Mqlb::start(&lab, &Options::default()).unwrap();
    let count = fewer(TALKERS) as usize;
    let talkers = Talkers::start(&lab, count, PAUSE).unwrap();
    // Clients that come and go, so that there is something to kill in the middle of.
    let fleet = lab.fleet().unwrap();
    for cycle in 0..CYCLES {
        let clients = (cycle * 10) as u32..(cycle * 10 + 10) as u32;
        thread::scope(|scope| {
            let comers = scope.spawn(|| fleet.connect(clients.clone()).unwrap());
            // While it starts and adopts: each time at another moment.
            mqlb.launch().unwrap();
            thread::sleep(Duration::from_millis(cycle * 23));
            mqlb.restart().unwrap();
            // Retransmissions have repaired what was begun with an agent that died.
            comers.join().unwrap().check().unwrap();
        });
        talkers.check().unwrap();
        thread::sleep(Duration::from_millis(cycle * 37 % 200));
    }
    let heard = talkers.finish().unwrap();
    println!("{heard} numbers heard through {} kills", CYCLES * 2);
    assert!(heard > count as u64 * CYCLES, "{heard}");
    assert_eq!(fleet.gauges.lost.load(Relaxed), 0);
    // Nobody's entries are left behind.
    fleet.disconnect(0..(CYCLES * 10) as u32).unwrap();
    common::wait_for("no entry is left", Duration::from_secs(100), || {
        flows(&mqlb) == 0
    });
}

/// Connections in the flow map, closed ones too, by the last sweep.
fn flows(mqlb: &Mqlb) -> u64 {
    let status = mqlb.status().unwrap();
    let flows = status["flows"]["current"].as_u64();
    flows.unwrap_or_else(|| panic!("no number of flows in {status}"))
}

/// The tag of the program at the balancer's first interface: a digest of its instructions.
fn tag(lab: &Lab) -> String {
    let mut ip = lab.topology.lb.command("ip").unwrap();
    let shown = run(ip.args(["-json", "-details", "link", "show", "eth0"])).unwrap();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let tag = &shown[0]["xdp"]["prog"]["tag"];
    tag.as_str()
        .unwrap_or_else(|| panic!("no tag in {shown}"))
        .to_owned()
}

#[test]
fn talkers_notice_nothing_of_upgrades_to_other_programs() {
    let lab = common::lab_with_brokers(3);
    let mut mqlb = Mqlb::start(&lab, &Options::default()).unwrap();
    let (this, other) = (mqlb::binary().unwrap(), lab.directory().join("other-mqlb"));
    other_build::write(&this, &other).unwrap();
    let fleet = lab.fleet().unwrap();
    let placed = fleet.connect(0..100).unwrap();
    placed.check().unwrap();
    let count = fewer(TALKERS) as usize;
    let talkers = Talkers::start(&lab, count, PAUSE).unwrap();
    let mut before = tag(&lab);
    for binary in [other.clone(), this, other] {
        mqlb.upgrade(PathBuf::clone(&binary));
        // In order, and all at once.
        mqlb.terminate().unwrap();
        thread::sleep(Duration::from_millis(500));
        mqlb.restart().unwrap();
        let after = tag(&lab);
        assert_ne!(after, before, "{}", binary.display());
        before = after;
        thread::sleep(Duration::from_secs(1));
        talkers.check().unwrap();
        // The other programs steer, by what the earlier ones left.
        fleet.disconnect(0..100).unwrap();
        let back = fleet.connect(0..100).unwrap();
        back.check().unwrap();
        assert_eq!(back.returned, 100);
    }
    talkers.finish().unwrap();
}

#[test]
fn without_an_agent_known_clients_connect_and_the_others_wait() {
    let lab = common::lab_with_brokers(3);
    let options = Options {
        // Who gets the next client depends on who has how many, which only an agent counts.
        pool: "policy = \"least-connections\"".into(),
        ..common::unchecked()
    };
    let mut mqlb = Mqlb::start(&lab, &options).unwrap();
    let fleet = lab.fleet().unwrap();
    fleet.connect(0..50).unwrap().check().unwrap();
    let by_kernel = mqlb.steered().unwrap().kernel;
    assert!(mqlb.terminate().unwrap().success());
    fleet.disconnect(0..50).unwrap();
    let start = Instant::now();
    let back = fleet.connect(0..50).unwrap();
    back.check().unwrap();
    assert_eq!(back.returned, 50);
    assert!(
        start.elapsed() < here(Duration::from_secs(5)),
        "{:?}",
        start.elapsed()
    );

    thread::scope(|scope| {
        let strangers = scope.spawn(|| fleet.connect(50..70).unwrap());
        thread::sleep(Duration::from_secs(2));
        assert!(!strangers.is_finished(), "they have nobody to be read by");
        mqlb.restart().unwrap();
        strangers.join().unwrap().check().unwrap();
    });
    assert_eq!(mqlb.steered().unwrap().kernel, by_kernel + 50);
    assert_eq!(fleet.gauges.lost.load(Relaxed), 0);
}

#[test]
fn a_full_flow_map_keeps_who_is_there_and_refuses_who_comes() {
    const MOST: u32 = 200;
    let lab = common::lab_with_brokers(2);
    let configuration = Options {
        xdp: format!("max_flows = {MOST}"),
        // Brokers close first: the port of who has left is theirs that long.
        extra: "[timeouts]\nclosed = \"5s\"\n".into(),
        ..common::unchecked()
    };
    let mqlb = Mqlb::start(&lab, &configuration).unwrap();
    let talkers = Talkers::start(&lab, 100, PAUSE).unwrap();
    let fleet = lab.fleet().unwrap();
    fleet.connect(0..100).unwrap().check().unwrap();

    // One more, known or not, is refused in MQTT's terms; so is the hundredth.
    let late = fleet.connect(100..200).unwrap();
    assert_eq!(late.failed.len(), 100);
    for (client, why) in &late.failed {
        assert!(why.contains("Unavailable"), "client {client}: {why}");
    }
    assert!(mqlb.counter("flows_full").unwrap() >= 100);
    common::wait_for("it says so", Duration::from_secs(10), || {
        mqlb.log().contains("the flow map is full: 2")
    });
    assert_eq!(fleet.gauges.lost.load(Relaxed), 0);
    talkers.check().unwrap();

    // Who leaves makes room, for those who were there before and for others.
    fleet.disconnect(0..60).unwrap();
    let admitted = |clients: std::ops::Range<u32>| {
        let limit = Instant::now() + Duration::from_secs(20);
        for client in clients {
            while fleet.connect(client..client + 1).unwrap().check().is_err() {
                assert!(Instant::now() < limit, "no room for client {client}");
                thread::sleep(Duration::from_millis(100));
            }
        }
    };
    admitted(100..130);
    admitted(0..30);
    let full = fleet.connect(200..201).unwrap();
    assert_eq!(full.failed.len(), 1, "full again");
    talkers.finish().unwrap();
    assert_eq!(fleet.gauges.lost.load(Relaxed), 0);
}
