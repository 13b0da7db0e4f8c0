//! docker-compose.yml and the hosted images in a real Docker engine, with images made on this machine: HAProxy and
//! mqlb are the real ones, EMQX a stand-in that takes the same variables.

mod common;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use common::recipe::each;
use lb_tests::docker::{Engine, Start};
use lb_tests::emqx::node::{Node, WEBSOCKET_PORT};
use lb_tests::http;
use lb_tests::lab::{self, Lab};
use lb_tests::netns::run;
use lb_tests::plan::MQTT_PORT;
use lb_tests::raw::{self, Connect};
use lb_tests::recipe::{FRONT_PORT, Kind, STATS_PORT, repository, sample};
use lb_tests::topology::Arms;
use lb_tests::websocket::WebSocket;

/// An engine in a lab; or, where the engine cannot run, says so and returns nothing.
fn engine(lab: &Lab) -> Option<Engine> {
    match Engine::start(lab).unwrap_or_else(|error| panic!("{error:#}")) {
        Start::Running(engine) => Some(engine),
        Start::Impossible(why) => {
            eprintln!("NOT TESTED: Docker's engine cannot run on this machine: {why}");
            None
        }
    }
}

/// A `.env` out of the sample, as `cargo xtask compose init` makes it, with changes.
fn env(lab: &Lab, changes: &[(&str, &str)]) -> PathBuf {
    let mut variables = sample().unwrap();
    variables.insert("EMQX_NODE__COOKIE".into(), "c".repeat(128));
    variables.insert("EMQX_DASHBOARD__DEFAULT_PASSWORD".into(), "p".repeat(32));
    // The engine gives no more than this process has.
    let limit = lb_tests::process::raise_descriptor_limit().unwrap();
    variables.insert("NOFILE".into(), limit.min(262_144).to_string());
    for (name, value) in changes {
        variables.insert((*name).into(), (*value).into());
    }
    let lines = variables
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"));
    let file = lab.directory().join("env");
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    file
}

fn ok(command: &mut Command) -> String {
    run(command).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Waits until the balancer's statistics, at the published port, have this many nodes that are up.
fn wait_until_up(lab: &Lab, kind: Kind, nodes: usize) {
    let server = lab.topology.plan.vip().sockets(STATS_PORT)[0];
    let get = |path| http::get(&lab.topology.clients, server, path).unwrap_or_default();
    let start = Instant::now();
    loop {
        let (said, up) = match kind {
            Kind::HaProxy => {
                let table = get("/stats;csv");
                let up = |line: &&str| line.starts_with("emqx_mqtt,emqx") && line.contains(",UP,");
                let count = table.lines().filter(up).count();
                (table, count)
            }
            Kind::Mqlb => {
                let status = get("/api/v1/status");
                let count = status.matches("\"state\":\"up\"").count();
                (status, count)
            }
        };
        if up == nodes {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{said}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn compose_up_then_ten_clients_are_4_3_3_and_return_when_a_node_is_killed() {
    let lab = common::lab_without_brokers(0);
    let Some(engine) = engine(&lab) else { return };
    let variables = sample().unwrap();
    engine.import_emqx(&variables["EMQX_VERSION"]).unwrap();
    engine
        .import_haproxy(&variables["HAPROXY_VERSION"])
        .unwrap();
    let mqlb = lb_tests::mqlb::binary().unwrap();
    engine.import_debian("debian:trixie-slim", &mqlb).unwrap();
    for (kind, profile, ipv6) in [
        (Kind::HaProxy, "haproxy", "false"),
        (Kind::HaProxy, "haproxy", "true"),
        (Kind::Mqlb, "mqlb", "false"),
        (Kind::Mqlb, "mqlb", "true"),
    ] {
        eprintln!("profile {profile}, IPv6 {ipv6}");
        let env = env(
            &lab,
            &[
                ("COMPOSE_PROFILES", profile),
                ("MQLB_FROM", "built"),
                ("EMQX1_WEIGHT", "1"),
                ("EMQX2_WEIGHT", "1"),
                ("EMQX3_WEIGHT", "1"),
                ("IPV6", ipv6),
            ],
        );
        let compose = |arguments: &[&str]| ok(engine.compose(&env).unwrap().args(arguments));
        compose(&["up", "--detach", "--build"]);
        wait_until_up(&lab, kind, 3);

        let fleet = lab.fleet().unwrap();
        let first = fleet.connect(0..10).unwrap();
        first.check().unwrap();
        let mut counts: Vec<_> = first.per_broker().into_values().collect();
        counts.sort_unstable();
        assert_eq!(counts, [3, 3, 4]);
        let front = lab.topology.plan.vip().sockets(FRONT_PORT)[0];
        let page = http::get(&lab.topology.clients, front, "/").unwrap();
        assert!(page.starts_with("dashboard of emqx"), "{page}");

        compose(&["kill", "emqx2"]);
        let lost = first
            .placed
            .iter()
            .filter(|(_, node)| *node == "emqx2.internal");
        for (&client, _) in lost {
            // A dead container doesn't refuse, it is silent. Who is waiting for it when the checks notice is cut off
            // with it, and comes again.
            let mut round = fleet.connect(client..client + 1).unwrap();
            if round.check().is_err() {
                round = fleet.connect(client..client + 1).unwrap();
            }
            round.check().unwrap();
            assert_ne!(round.placed[&client], "emqx2.internal");
        }
        wait_until_up(&lab, kind, 2);
        compose(&["up", "--detach"]);
        wait_until_up(&lab, kind, 3);
        // The file's own health check, which is EMQX's command.
        compose(&["up", "--detach", "--wait", "--wait-timeout", "60"]);
        drop(fleet);
        compose(&["down", "--volumes", "--timeout", "1"]);
    }
}

#[test]
fn the_profile_mqlb_xdp_steers_to_nodes_on_other_hosts() {
    let lab = common::lab_with(lab::Options {
        arms: Arms::One,
        broker: None,
        ..lab::Options::default()
    });
    let Some(engine) = engine(&lab) else { return };
    let nodes = Node::start_all(&lab).unwrap();
    let mqlb = lb_tests::mqlb::binary().unwrap();
    engine.import_debian("debian:trixie-slim", &mqlb).unwrap();
    let plan = lab.topology.plan;
    let hosts: Vec<_> = (0..3).map(|n| plan.broker(n).v4.to_string()).collect();
    let vip = plan.vip().v4.to_string();
    let env = env(
        &lab,
        &[
            ("COMPOSE_PROFILES", "mqlb-xdp"),
            ("MQLB_FROM", "built"),
            ("MQLB_NAME", lab.id()),
            ("MQLB_INTERFACE", "eth0"),
            ("MQLB_VIP", &vip),
            ("EMQX1_HOST", &hosts[0]),
            ("EMQX2_HOST", &hosts[1]),
            ("EMQX3_HOST", &hosts[2]),
        ],
    );
    let compose = |arguments: &[&str]| ok(engine.compose(&env).unwrap().args(arguments));
    let pinned = std::path::Path::new("/sys/fs/bpf/mqlb").join(lab.id());
    // What is pinned outlives the engine, and belongs to no namespace.
    lab.undo_with(&format!("rm -rf {}", pinned.display()))
        .unwrap();
    compose(&["up", "--detach", "--build"]);
    let admin = plan.vip().sockets(STATS_PORT)[0];
    let start = Instant::now();
    while http::get(&lab.topology.clients, admin, "/readyz").is_err() {
        let log = || compose(&["logs", "mqlb-xdp"]);
        assert!(start.elapsed() < Duration::from_secs(30), "{}", log());
        std::thread::sleep(Duration::from_millis(200));
    }
    let fleet = lab
        .fleet_with(|options| options.servers = vec![(plan.vip().v4, MQTT_PORT).into()])
        .unwrap();
    let first = fleet.connect(0..10).unwrap();
    first.check().unwrap();
    assert_eq!(each(&nodes, Node::connections), [5, 2, 3]);
    fleet.disconnect(0..10).unwrap();
    let second = fleet.connect(0..10).unwrap();
    assert_eq!(second.returned, 10);
    let status = http::get(&lab.topology.clients, admin, "/api/v1/status").unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["steered"]["kernel"], 20, "new and known: {status}");
    // What XDP can't look into is the proxy's, on the same nodes.
    let server = (plan.vip().v4, WEBSOCKET_PORT).into();
    let mut socket = WebSocket::connect(&lab.topology.clients, server, "/mqtt").unwrap();
    socket.write_all(&Connect::new("web").encode()).unwrap();
    let mut answer = [0; 4];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(answer, raw::CONNACK);

    // The data path stays when the container goes; then it is taken away.
    compose(&["stop", "mqlb-xdp"]);
    assert!(pinned.is_dir());
    let unload = [
        "run",
        "--rm",
        "mqlb-xdp",
        "unload",
        "--config",
        "/etc/mqlb.toml",
    ];
    compose(&unload);
    assert!(!pinned.exists());
}

#[test]
fn hosted_images_start_with_the_shared_variables() {
    let lab = common::lab_without_brokers(0);
    let Some(engine) = engine(&lab) else { return };
    let variables = sample().unwrap();
    engine.import_emqx(&variables["EMQX_VERSION"]).unwrap();
    engine
        .import_haproxy(&variables["HAPROXY_VERSION"])
        .unwrap();
    engine.add_shell(&variables["EMQX_VERSION"]).unwrap();
    let mqlb = lb_tests::mqlb::binary().unwrap();
    engine.import_debian("debian:trixie-slim", &mqlb).unwrap();
    let env = env(
        &lab,
        &[("COMPOSE_PROFILES", "mqlb"), ("MQLB_FROM", "built")],
    );
    ok(engine.compose(&env).unwrap().args(["build", "mqlb"]));
    for service in ["balancer", "emqx"] {
        let mut build = engine.docker();
        // The builder that every engine has; the other one is a plug-in.
        build.env("DOCKER_BUILDKIT", "0");
        build.args(["build", "--quiet", "--tag", service, "--file"]);
        build.arg(repository().join(format!("hosted/{service}.Dockerfile")));
        ok(build.arg(repository()));
    }
    ok(engine.docker().args([
        "network",
        "create",
        "--ipv6",
        "--subnet",
        "fd83:1::/64",
        "private",
    ]));
    // As docs/hosted.md has them: the same for all services, and one line for each node.
    let shared = [
        "EMQX1_HOST=emqx1.private",
        "EMQX2_HOST=emqx2.private",
        "EMQX3_HOST=emqx3.private",
        "EMQX_NODE__COOKIE=cookie",
        "EMQX_DASHBOARD__DEFAULT_PASSWORD=password",
        "PORT=8080",
    ];
    let start = |name: &str, image: &str, further: &[&str]| {
        let mut run = engine.docker();
        run.args(["run", "--detach", "--network", "private", "--name", name]);
        for variable in shared.iter().chain(further) {
            run.args(["--env", variable]);
        }
        if !further
            .iter()
            .any(|variable| variable.starts_with("EMQX_HOST"))
        {
            run.args(["--publish", "8080:8080", "--publish", "1883:1883"]);
            run.args(["--publish", "8888:8888"]);
        }
        ok(run.args(["--network-alias", name, image]));
    };
    for (kind, image) in [(Kind::HaProxy, "balancer"), (Kind::Mqlb, "mqlb:local")] {
        eprintln!("{image}");
        // The platform starts services in any order.
        start("lb.private", image, &[]);
        let nodes = ["emqx1.private", "emqx2.private", "emqx3.private"];
        for name in nodes {
            start(name, "emqx", &[&format!("EMQX_HOST={name}")]);
        }
        wait_until_up(&lab, kind, 3);
        let fleet = lab.fleet().unwrap();
        let round = fleet.connect(0..10).unwrap();
        round.check().unwrap();
        let counts: Vec<_> = round.per_broker().into_values().collect();
        assert_eq!(counts, [5, 2, 3]);
        let front = lab.topology.plan.vip().sockets(FRONT_PORT)[0];
        let answer = http::get(&lab.topology.clients, front, "/api/v5/status").unwrap();
        assert!(answer.contains("is running"), "the platform's health check");
        drop(fleet);
        let mut remove = engine.docker();
        ok(remove.args(["rm", "--force", "lb.private"]).args(nodes));
    }
}

#[test]
fn the_profiles_with_tls_serve_mqtt_behind_tls() {
    let lab = common::lab_without_brokers(0);
    let Some(engine) = engine(&lab) else { return };
    let variables = sample().unwrap();
    engine.import_emqx(&variables["EMQX_VERSION"]).unwrap();
    engine
        .import_haproxy(&variables["HAPROXY_VERSION"])
        .unwrap();
    // As docs/compose.md makes them.
    let certs = lab.directory().join("certs");
    std::fs::create_dir(&certs).unwrap();
    let (key, certificate) = (certs.join("localhost.pem"), lab.directory().join("crt"));
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
    ]);
    openssl.args([
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]);
    ok(openssl
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate));
    let both = [&key, &certificate].map(|file| std::fs::read(file).unwrap());
    std::fs::write(&key, both.concat()).unwrap();
    ok(Command::new("chmod").arg("644").arg(&key));
    let mqlb = lb_tests::mqlb::binary().unwrap();
    engine.import_debian("debian:trixie-slim", &mqlb).unwrap();
    for (kind, profile) in [(Kind::HaProxy, "tls"), (Kind::Mqlb, "mqlb-tls")] {
        eprintln!("profile {profile}");
        // The lab's directory is root's alone; HAProxy's user reads a mount of it.
        let env = env(
            &lab,
            &[
                ("COMPOSE_PROFILES", profile),
                ("MQLB_FROM", "built"),
                ("TLS_CERTIFICATES", &certs.display().to_string()),
            ],
        );
        let compose = |arguments: &[&str]| ok(engine.compose(&env).unwrap().args(arguments));
        compose(&["up", "--detach", "--build"]);
        wait_until_up(&lab, kind, 3);
        let mut mosquitto = lab.topology.clients.command("mosquitto_sub").unwrap();
        let vip = lab.topology.plan.vip().v4.to_string();
        // The name in the certificate is not the VIP's.
        mosquitto.args(["-h", &vip, "-p", "8883", "--insecure", "--cafile"]);
        mosquitto.arg(&certificate);
        mosquitto.args(["-t", lb_tests::broker::NAME_TOPIC, "-C", "1", "-W", "10"]);
        let node = ok(&mut mosquitto);
        assert!(node.trim().ends_with(".internal"), "{node}");
        compose(&["down", "--volumes", "--timeout", "1"]);
    }
}
