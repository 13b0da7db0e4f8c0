//! Connections that are only there cost the balancer no socket.

mod common;

use std::process::Command;
use std::time::Duration;

use lb_tests::lab::Lab;
use lb_tests::netns::run;
use lb_tests::plan::MQTT_PORT;
use lb_tests::process::Process;

const CLIENTS: u32 = 20_000;
/// Each process has a limit of open files, which may be 20,000 itself.
const PROCESSES: u32 = 2;

#[test]
fn twenty_thousand_idle_clients_and_no_socket_on_the_balancer() {
    let lab = common::lab_with_brokers(3);
    let balancer = common::balance(&lab, &common::unchecked());
    let mut fleets: Vec<_> = (0..PROCESSES).map(|part| start_fleet(&lab, part)).collect();
    for fleet in &mut fleets {
        fleet
            .wait_until("connected fleet", Duration::from_secs(120), |fleet| {
                fleet.output().contains("connected")
            })
            .unwrap();
    }
    let connected: usize = lab.connections().unwrap().into_values().sum();
    assert_eq!(connected, CLIENTS as usize);

    let sockets = sockets_of_clients(&lab);
    match balancer.mqlb() {
        Some(_) => assert!(sockets.is_empty(), "sockets on the balancer:\n{sockets:?}"),
        // A proxy has two for each client: the count does see them.
        None => assert!(sockets.len() >= 2 * CLIENTS as usize),
    }
}

fn start_fleet(lab: &Lab, part: u32) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mqlb-lab"));
    command.args(["clients", "--netns", lab.topology.clients.name()]);
    for server in lab.topology.plan.vip().sockets(MQTT_PORT) {
        command.args(["--server", &server.to_string()]);
    }
    let count = CLIENTS / PROCESSES;
    let first = (part * count).to_string();
    command.args(["--first", &first, "--count", &count.to_string()]);
    let log = lab.directory().join(format!("fleet{part}.log"));
    Process::start("fleet", command, &log).unwrap()
}

/// Sockets in the balancer's namespace with the MQTT port at either end.
fn sockets_of_clients(lab: &Lab) -> Vec<String> {
    let mut ss = lab.topology.lb.command("ss").unwrap();
    let all = run(ss.args(["-Htan"])).unwrap();
    let port = format!(":{MQTT_PORT}");
    all.lines()
        .filter(|line| line.split_whitespace().any(|field| field.ends_with(&port)))
        .map(str::to_owned)
        .collect()
}
