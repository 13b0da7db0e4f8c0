//! Connections that are only there cost the balancer no socket.

mod common;

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use lb_tests::lab::Lab;
use lb_tests::netns::run;
use lb_tests::plan::MQTT_PORT;
use lb_tests::process::Process;
use lb_tests::raw::Connect;

const CLIENTS: u32 = 20_000;
/// Each process has a limit of open files, which may be 20,000 itself.
const PROCESSES: u32 = 2;

#[test]
fn twenty_thousand_idle_clients_and_no_socket_on_the_balancer() {
    let lab = common::lab_with_brokers(3);
    let balancer = common::balance(&lab, &common::unchecked());
    let _control = connect_from_the_balancer(&lab);
    let mut fleets: Vec<_> = (0..PROCESSES).map(|part| start_fleet(&lab, part)).collect();
    for fleet in &mut fleets {
        fleet
            .wait_until("connected fleet", Duration::from_secs(120), |fleet| {
                fleet.output().contains("connected")
            })
            .unwrap();
    }
    let connected: usize = lab.connections().unwrap().into_values().sum();
    assert_eq!(connected, CLIENTS as usize + 1);
    let sockets = sockets_of_clients(&lab);
    assert_eq!(sockets.len(), 1, "sockets on the balancer:\n{sockets:#?}");
    if let Some(mqlb) = balancer.mqlb() {
        let bytes = flow_map_bytes_per_connection(mqlb.pid());
        assert!(
            (128..=512).contains(&bytes),
            "{bytes} bytes of map memory a connection"
        );
        println!("{bytes} bytes of map memory a connection");
    }
}

/// Memory of the flow map, as the kernel accounts for it with all overhead, for each connection that
/// fits. The map is allocated as a whole, so this is what a connection costs, used or not.
fn flow_map_bytes_per_connection(agent: u32) -> u64 {
    /// Size of a flow map's key, which no other map of the agent's has.
    const KEY: &str = "36";
    let field = |info: &str, name: &str| {
        let of = |line: &str| {
            Some(
                line.strip_prefix(name)?
                    .strip_prefix(':')?
                    .trim()
                    .to_owned(),
            )
        };
        info.lines().find_map(of)
    };
    let map = std::fs::read_dir(format!("/proc/{agent}/fdinfo"))
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
        .find(|info| field(info, "key_size").as_deref() == Some(KEY))
        .expect("the agent has the flow map open");
    let number = |name| field(&map, name).unwrap().parse::<u64>().unwrap();
    // Two entries a connection.
    number("memlock") * 2 / number("max_entries")
}

/// The one socket that there is, so that a count that sees none is noticed.
fn connect_from_the_balancer(lab: &Lab) -> TcpStream {
    let broker = lab.brokers[0].address.sockets(MQTT_PORT)[0];
    let stream = lab.topology.lb.enter(|| TcpStream::connect(broker));
    let mut stream = stream.unwrap().unwrap();
    let mut connect = Connect::new("control");
    connect.keep_alive = 600;
    stream.write_all(&connect.encode()).unwrap();
    common::expect_connack(&mut stream);
    stream
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
