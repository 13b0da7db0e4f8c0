//! Agents that die at any moment: while they start and adopt, set connections up, apply another configuration,
//! sweep. `MQLB_KILLS` says how many (40 if it doesn't).

mod common;

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::balancer::Options;
use lb_tests::mqlb::Mqlb;
use lb_tests::talkers::Talkers;

const TALKERS: usize = 200;
/// Clients that come and go, and how many of them at a time.
const COMERS: u32 = 400;
const GROUP: u32 = 40;

/// xorshift64: other moments in each run are welcome, but a seed that is printed can be had again.
struct Moments(u64);

impl Moments {
    fn below(&mut self, most: u64) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_micros(self.0 % (most * 1000))
    }
}

#[test]
fn kills_at_any_moment_leave_nothing_behind() {
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().expect(name),
        Err(_) => default,
    };
    let kills = number("MQLB_KILLS", 40);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let seed = number("MQLB_SEED", now.subsec_nanos().into()) | 1;
    println!("MQLB_SEED={seed}");
    let mut moments = Moments(seed);
    let lab = common::lab_with_brokers(3);
    let options = Options {
        // Who closes first holds the port so long.
        extra: "[timeouts]\nclosed = \"5s\"\n".into(),
        ..common::unchecked()
    };
    let mut mqlb = Mqlb::start(&lab, &options).unwrap();
    let talkers = Talkers::start(&lab, TALKERS, Duration::from_millis(250)).unwrap();
    let patience = Duration::from_secs(60);
    let fleet = lab.fleet_with(|fleet| fleet.timeout = patience).unwrap();
    let configurations = [1, 2].map(|weight| {
        let text = mqlb.configuration().unwrap();
        assert!(text.contains("weight = 1"));
        text.replace("weight = 1", &format!("weight = {weight}"))
    });
    let over = AtomicBool::new(false);
    let (mut come, mut told) = (0, 0);
    thread::scope(|scope| {
        let comers = scope.spawn(|| {
            for first in (0..COMERS).step_by(GROUP as usize).cycle() {
                if over.load(Relaxed) {
                    break;
                }
                let clients = first..first + GROUP;
                let round = fleet.connect(clients.clone()).unwrap();
                come += round.placed.len();
                for (client, why) in &round.failed {
                    // A client whose bytes died with an agent is told so; it isn't left waiting.
                    let waited = why.contains("within") || why.to_lowercase().contains("timeout");
                    assert!(!waited, "client {client}: {why}");
                    told += 1;
                }
                fleet.disconnect(clients).unwrap();
            }
        });
        for kill in 0..kills {
            mqlb.launch().unwrap();
            thread::sleep(moments.below(900));
            if kill % 2 == 0 {
                let which = usize::from(kill % 4 == 0);
                mqlb.write_configuration(&configurations[which]).unwrap();
                mqlb.signal(libc::SIGHUP).unwrap();
                thread::sleep(moments.below(15));
            }
            mqlb.kill();
            talkers.check().unwrap();
            assert!(!comers.is_finished(), "the comers have failed");
        }
        mqlb.restart().unwrap();
        over.store(true, Relaxed);
    });
    println!("{kills} kills, {come} connects, {told} told to come again");
    assert!(come as u64 > kills, "{come}");
    let heard = talkers.finish().unwrap();
    println!("{heard} numbers heard");
    assert_eq!(fleet.gauges.lost.load(Relaxed), 0);
    // Everybody is served, where the agent says, and nobody's entries, which hold the ports, are left behind.
    let last = fleet.connect(0..COMERS).unwrap();
    last.check().unwrap();
    for (client, broker) in last.placed.iter().step_by(37) {
        let located = mqlb.command(&["where", &format!("dev-{client:06}"), "--json"]);
        let located: serde_json::Value = serde_json::from_str(&located.unwrap()).unwrap();
        assert_eq!(
            located["backend"],
            broker.as_str(),
            "client {client}: {located}"
        );
    }
    fleet.disconnect(0..COMERS).unwrap();
    let start = Instant::now();
    loop {
        let status = mqlb.status().unwrap();
        if status["flows"]["current"] == 0 {
            break;
        }
        if start.elapsed() > Duration::from_secs(100) {
            let left = mqlb.command(&["flows", "--json"]);
            panic!("entries are left: {}: {left:?}", status["flows"]);
        }
        thread::sleep(Duration::from_millis(200));
    }
}
