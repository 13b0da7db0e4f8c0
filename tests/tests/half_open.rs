//! Clients that vanish without a word: nobody sends a FIN, and nothing more comes from them.

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use lb_tests::lab::Lab;
use lb_tests::mqlb::Mqlb;
use lb_tests::netns::run;
use lb_tests::pace::fewer;
use lb_tests::plan::MQTT_PORT;
use lb_tests::raw::Connect;

/// Of each kind. All of them have to be there before the first is idle for too long.
fn clients() -> u32 {
    fewer(5000)
}

/// Keep-alive of half of them. Their brokers give them up after 1.5 times that, and repeat a FIN that nobody
/// acknowledges; mqlb ends them a little later, so that it must not take that for a sign of life.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// That much later.
const LATER: Duration = Duration::from_secs(3);
/// What mqlb takes for the other half, which has none: their brokers would wait for ever.
const WITHOUT: Duration = Duration::from_secs(60);
/// To the next sweep, and for the busy machine.
const GRACE: Duration = Duration::from_secs(15);

#[test]
fn ten_thousand_clients_that_vanish_are_gone_in_time_and_their_brokers_know() {
    let lab = common::lab_with_brokers(3);
    let mut options = common::unchecked();
    options.extra = "[timeouts]\ngrace = \"3s\"\nkeepalive_zero = \"60s\"\n".into();
    let mqlb = Mqlb::start(&lab, &options).unwrap();
    let eternal = without_keep_alive(&lab);
    let alive = lab
        .fleet_with(|options| options.keep_alive = KEEP_ALIVE)
        .unwrap();
    alive.connect(0..clients()).unwrap().check().unwrap();
    let connected: usize = lab.connections().unwrap().into_values().sum();
    assert_eq!(connected, 2 * clients() as usize);
    common::wait_for("all are counted", GRACE, || {
        flows(&mqlb) == u64::from(2 * clients())
    });
    let resets = resets(&lab);

    lab.topology.clients.ip(["link set eth0 down"]).unwrap();
    let gone = Instant::now();
    // Closed or not, nothing that they say arrives.
    drop((eternal, alive));
    let left = |most: u32, limit: Duration| {
        common::wait_for(
            "they are gone",
            limit.saturating_sub(gone.elapsed()),
            || flows(&mqlb) <= u64::from(most),
        );
        println!("{} flows {:?} later", flows(&mqlb), gone.elapsed());
    };
    left(clients(), KEEP_ALIVE * 3 / 2 + LATER + GRACE);
    left(0, WITHOUT + GRACE);
    common::wait_for("their brokers know", GRACE, || {
        lab.connections().unwrap().into_values().sum::<usize>() == 0
    });
    let reset = self::resets(&lab) - resets;
    println!("{reset} connections were reset at the brokers");
    assert!(reset >= u64::from(clients()), "{reset}");
}

/// Connects clients that say nothing more, which the fleet's library doesn't allow.
fn without_keep_alive(lab: &Lab) -> Vec<TcpStream> {
    let servers = lab.topology.plan.vip().sockets(MQTT_PORT);
    let connect = |n: u32| {
        let mut stream = TcpStream::connect(servers[n as usize % servers.len()]).unwrap();
        let mut connect = Connect::new(&format!("eternal-{n}"));
        connect.keep_alive = 0;
        stream.write_all(&connect.encode()).unwrap();
        common::expect_connack(&mut stream);
        stream
    };
    let all = lab
        .topology
        .clients
        .enter(|| (0..clients()).map(connect).collect());
    all.unwrap()
}

fn flows(mqlb: &Mqlb) -> u64 {
    mqlb.status().unwrap()["flows"]["current"].as_u64().unwrap()
}

/// Established connections at the brokers that a RST ended (RFC 1213, tcpEstabResets).
fn resets(lab: &Lab) -> u64 {
    let of = |netns: &lb_tests::netns::Netns| -> u64 {
        let mut cat: Command = netns.command("cat").unwrap();
        let all = run(cat.arg("/proc/net/snmp")).unwrap();
        let mut tcp = all.lines().filter(|line| line.starts_with("Tcp:"));
        let (names, values) = (tcp.next().unwrap(), tcp.next().unwrap());
        let place = names.split(' ').position(|name| name == "EstabResets");
        let value = values.split(' ').nth(place.unwrap()).unwrap();
        value.parse().unwrap()
    };
    lab.topology.brokers.iter().map(of).sum()
}
