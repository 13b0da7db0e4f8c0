//! The machine that clients and brokers are on, and what is to be seen from there.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lb_tests::balancer::Options;
use lb_tests::cards::Wires;
use lb_tests::fleet::Fleet;
use lb_tests::lab::{self, Lab};
use lb_tests::mqlb::{Steered, configuration};
use lb_tests::talkers::Talkers;
use serde_json::Value;

use super::{Line, Order, PORT};

const CLIENTS: u32 = 100;
/// As they are spread by the weights 5, 2 and 3.
const SPREAD: [(&str, usize); 3] = [("emqx1", 50), ("emqx2", 20), ("emqx3", 30)];
/// How many of them connect again.
const AGAIN: u32 = 50;
const TALKERS: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Has everything happen, in order.
pub fn run() -> Result<()> {
    let lab = Lab::new(lab::Options {
        wires: Wires::Elsewhere,
        ..lab::Options::default()
    })?;
    let mut line = Line::new(call(&lab)?);
    let options = Options {
        mode: "native",
        weights: vec![5, 2, 3],
        ..Options::default()
    };
    // Interfaces and directories have other names there.
    let directory = lab.directory().display().to_string();
    let text = configuration(&lab, &options)
        .replace(&directory, "/run")
        .replace("\"eth0\"", "\"front\"")
        .replace("\"eth1\"", "\"back\"");
    line.order(&Order::Start(text))?;
    driver_runs_the_programs(&mut line)?;

    let fleet = lab.fleet()?;
    weights_hold(&lab, &fleet)?;
    let talkers = Talkers::start(&lab, TALKERS, PAUSE)?;
    kernel_steers(&mut line, &fleet)?;

    // Nobody is there for a while; sessions go on, and known clients come back.
    line.order(&Order::Kill)?;
    let without = again(&fleet)?;
    std::thread::sleep(10 * PAUSE);
    talkers.check()?;
    println!("without an agent: {without} of {AGAIN} came back to their brokers");
    line.order(&Order::Restart)?;
    let adopted = status(&mut line)?["flows"].clone();
    ensure!(
        fleet.connect(CLIENTS..2 * CLIENTS)?.failed.is_empty(),
        "the next agent connects new clients"
    );
    let heard = talkers.finish()?;
    println!(
        "across kill and restart {TALKERS} clients heard {heard} messages, in order, none missing"
    );
    ensure!(heard > 0, "the talkers said nothing");
    println!("flows that the next agent found: {adopted}");
    fleet.disconnect(0..2 * CLIENTS)
}

/// Connects to the balancer's machine, as soon as it listens.
fn call(lab: &Lab) -> Result<TcpStream> {
    let address = SocketAddr::new(IpAddr::V4(lab.topology.plan.vip().v4), PORT);
    let start = Instant::now();
    loop {
        let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(2));
        match lab.topology.clients.enter(connect)? {
            Ok(stream) => return Ok(stream),
            Err(error) => ensure!(
                start.elapsed() < Duration::from_secs(120),
                "the balancer doesn't answer on {address}: {error}"
            ),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn status(line: &mut Line) -> Result<Value> {
    let text = line.order(&Order::Mqlb(vec!["status".into(), "--json".into()]))?;
    serde_json::from_str(&text).with_context(|| format!("status is not JSON: {text}"))
}

fn driver_runs_the_programs(line: &mut Line) -> Result<()> {
    let status = status(line)?;
    ensure!(
        status["mode"] == "native",
        "mqlb doesn't say native: {status}"
    );
    for device in ["front", "back"] {
        // XDP_ATTACHED_DRV of linux/if_link.h is 1; generic would be 2.
        let program = line.order(&Order::Program(device.into()))?;
        ensure!(program == "virtio_net 1", "{device}: {program}");
    }
    println!("both cards: virtio_net, the driver runs the program");
    Ok(())
}

fn weights_hold(lab: &Lab, fleet: &Fleet) -> Result<()> {
    let round = fleet.connect(0..CLIENTS)?;
    round.check()?;
    let spread = SPREAD.map(|(name, count)| (name.to_owned(), count));
    ensure!(
        round.per_broker() == spread.clone().into(),
        "clients learnt {:?}",
        round.per_broker()
    );
    let counted = lab.connections()?;
    ensure!(counted == spread.into(), "brokers counted {counted:?}");
    println!("weights 5, 2, 3: {counted:?}");
    Ok(())
}

fn kernel_steers(line: &mut Line, fleet: &Fleet) -> Result<()> {
    let before = Steered::of(&status(line)?)?;
    let returned = again(fleet)?;
    let after = Steered::of(&status(line)?)?;
    let kernel = after.kernel - before.kernel;
    println!("{returned} of {AGAIN} came back to their brokers, {kernel} by the kernel alone");
    ensure!(
        kernel >= u64::from(AGAIN) * 9 / 10,
        "the kernel steers known clients: {before:?}, then {after:?}"
    );
    Ok(())
}

/// Some clients connect again, from other ports; they must all find their brokers.
fn again(fleet: &Fleet) -> Result<usize> {
    fleet.disconnect(0..AGAIN)?;
    let round = fleet.connect(0..AGAIN)?;
    round.check()?;
    ensure!(
        u32::try_from(round.returned)? == AGAIN,
        "{} of {AGAIN} came back to their brokers",
        round.returned
    );
    Ok(round.returned)
}
