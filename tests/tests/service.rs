//! The agent as the packaged unit runs it: nobody's user, four capabilities, and somebody who is told how
//! it does. (`package.rs` has it under the real systemd.)

mod common;

use std::time::Duration;

use lb_tests::balancer::Options;
use lb_tests::mqlb::Mqlb;
use lb_tests::service::{NOBODY, Service, setting};

const SOON: Duration = Duration::from_secs(5);

/// The numbers of the unit's capabilities, a bit each (capabilities(7)).
fn unit_capabilities() -> u64 {
    let bit = |name| match name {
        "CAP_NET_ADMIN" => 12,
        "CAP_NET_RAW" => 13,
        "CAP_PERFMON" => 38,
        "CAP_BPF" => 39,
        _ => panic!("{name} is more than the agent should need"),
    };
    setting("AmbientCapabilities")
        .split(' ')
        .map(|name| 1 << bit(name))
        .sum()
}

fn is(start: &'static str) -> impl Fn(&str) -> bool {
    move |message| message.starts_with(start)
}

#[test]
fn an_agent_without_privileges_serves_adopts_and_tells() {
    let lab = common::lab_with_brokers(3);
    let mut manager = Service::new(&lab).unwrap();
    let options = manager.options(&lab, 1_000_000, Options::default());
    let mut mqlb = Mqlb::start(&lab, &options).unwrap_or_else(|error| panic!("{error:#}"));
    manager.expect(SOON, is("READY=1")).unwrap();

    // It is nobody, can do what the unit says, and nothing else.
    let status = std::fs::read_to_string(format!("/proc/{}/status", mqlb.pid())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    assert_eq!(
        field("Uid:"),
        [NOBODY; 4].map(|id| id.to_string()).join("\t")
    );
    assert_eq!(field("NoNewPrivs:"), "1");
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        let has = u64::from_str_radix(&field(set), 16).unwrap();
        assert_eq!(has, unit_capabilities(), "{set}");
    }

    let fleet = lab.fleet().unwrap();
    fleet.connect(0..200).unwrap().check().unwrap();
    manager
        .expect(SOON, is("STATUS=serving; 3 of 3 backends up"))
        .unwrap();
    for _ in 0..8 {
        // A quarter of the limit.
        manager
            .expect(Duration::from_millis(800), is("WATCHDOG=1"))
            .unwrap();
    }

    // By command and by signal.
    mqlb.command(&["reload"]).unwrap();
    let reloading = manager.expect(SOON, is("RELOADING=1")).unwrap();
    assert!(reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
    manager.expect(SOON, is("READY=1")).unwrap();
    mqlb.signal(libc::SIGHUP).unwrap();
    manager.expect(SOON, is("RELOADING=1")).unwrap();
    manager.expect(SOON, is("READY=1")).unwrap();

    // An orderly end, then another agent that takes over; a sudden one, and another.
    assert!(mqlb.terminate().unwrap().success());
    manager.expect(SOON, is("STOPPING=1")).unwrap();
    mqlb.restart().unwrap();
    manager.expect(SOON, is("READY=1")).unwrap();
    mqlb.kill();
    mqlb.restart().unwrap();
    manager.expect(SOON, is("READY=1")).unwrap();
    let lost = &fleet.gauges.lost;
    assert_eq!(lost.load(std::sync::atomic::Ordering::Relaxed), 0);
    fleet.disconnect(0..100).unwrap();
    let back = fleet.connect(0..100).unwrap();
    back.check().unwrap();
    assert_eq!(back.returned, 100);
    fleet.connect(200..300).unwrap().check().unwrap();
}

/// A loop that hangs beats no more; what it last said must not keep it alive.
#[test]
fn a_hung_agent_is_found() {
    let lab = common::lab_with_brokers(1);
    let mut manager = Service::new(&lab).unwrap();
    let options = manager.options(&lab, 400_000, Options::default());
    let mut mqlb = Mqlb::start(&lab, &options).unwrap_or_else(|error| panic!("{error:#}"));
    manager.expect(SOON, is("WATCHDOG=1")).unwrap();
    mqlb.signal(libc::SIGSTOP).unwrap();
    // What was on its way.
    let _ = manager.expect(Duration::from_millis(200), |_| false);
    manager
        .expect(Duration::from_secs(1), is("WATCHDOG=1"))
        .expect_err("a sign of life from an agent that is stopped");
    mqlb.signal(libc::SIGCONT).unwrap();
    manager.expect(SOON, is("WATCHDOG=1")).unwrap();
}
