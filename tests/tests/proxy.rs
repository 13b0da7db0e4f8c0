//! The proxy data path on loopback, as a user without any privileges runs it: no namespaces, no lab.

mod proxied;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::mqlb::binary;
use lb_tests::process::{Process, copy_program};
use proxied::{Backend, connect_with, free_port, within};
use serde_json::Value;

/// The user "nobody".
const NOBODY: &str = "65534";
const PATIENCE: Duration = Duration::from_secs(15);

/// `mqlb` as nobody.
struct Agent {
    directory: PathBuf,
    process: Process,
    vip: SocketAddr,
    admin: SocketAddr,
}

fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
        .args(["--inh-caps=-all", "--bounding-set=-all", "--"])
        .arg(program);
    command
}

impl Agent {
    /// `listener` and `pool` are further keys, `backends` with their weights.
    fn start(listener: &str, more: &str, backends: &[(&Backend, u16)]) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let directory = std::env::temp_dir().join(format!(
            "mqlb-proxy-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Relaxed)
        ));
        let state = directory.join("state");
        std::fs::create_dir_all(&state).unwrap();
        let readable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&directory, readable).unwrap();
        std::os::unix::fs::chown(&state, Some(65534), Some(65534)).unwrap();
        copy_program(&binary().unwrap(), &directory.join("mqlb")).unwrap();
        let (vip, admin) = (free_port(), free_port());
        let mut text = format!(
            "[admin]\nhttp = \"{admin}\"\n[agent]\nname = \"proxy\"\nstate_dir = \"{}\"\n\
             {more}\n[[listener]]\nname = \"mqtt\"\nbind = [\"{vip}\"]\npool = \"emqx\"\n{listener}\n\
             [pool.emqx]\n",
            state.display()
        );
        for (n, (broker, weight)) in (1..).zip(backends) {
            text += &format!(
                "[[pool.emqx.backend]]\nname = \"emqx{n}\"\naddress = \"{}\"\nweight = {weight}\n",
                broker.address
            );
        }
        std::fs::write(directory.join("mqlb.toml"), text).unwrap();
        let mut command = unprivileged(&directory.join("mqlb"));
        command
            .args(["run", "--config"])
            .arg(directory.join("mqlb.toml"));
        let mut process = Process::start("mqlb", command, &directory.join("log")).unwrap();
        let ready = |p: &Process| p.output().contains("READY");
        process.wait_until("READY", PATIENCE, ready).unwrap();
        Self {
            directory,
            process,
            vip,
            admin,
        }
    }

    fn command(&self, arguments: &[&str]) -> String {
        let mut command = unprivileged(&self.directory.join("mqlb"));
        command.args(arguments).arg("--config");
        let output = command
            .arg(self.directory.join("mqlb.toml"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text} {output:?}");
        text
    }

    fn counter(&self, verdict: &str) -> u64 {
        proxied::counter(&self.status(), verdict)
    }

    fn status(&self) -> Value {
        proxied::status(self.admin)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.vip).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A client that was served, and the number of its broker.
    fn client(&self, id: &str) -> (TcpStream, u8) {
        let mut stream = self.connect();
        stream.write_all(&connect_with(id, 60)).unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..4], [0x20, 2, 0, 0]);
        (stream, answer[4])
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{}", self.process.output());
        }
        self.process.kill();
        // Only files of its own are in there.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Everything until the connection ends; `None`: it was reset.
fn rest(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => Some(all),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            None
        }
    }
}

fn eventually(what: &str, holds: impl FnMut() -> bool) {
    within(PATIENCE, what, holds);
}

#[test]
fn without_privileges_clients_are_spread_and_come_back() {
    let brokers = [Backend::start(1), Backend::start(2), Backend::start(3)];
    let weights = [(&brokers[0], 5), (&brokers[1], 2), (&brokers[2], 3)];
    let agent = Agent::start("", "[xdp]\ninterfaces = [\"lo\"]", &weights);
    let why = "XDP can't run: this process lacks CAP_NET_ADMIN";
    assert_eq!(agent.process.output().matches(why).count(), 1);
    let mut first: Vec<_> = (0..100).map(|n| agent.client(&format!("c{n}"))).collect();
    let on = |clients: &[(TcpStream, u8)]| {
        [1, 2, 3].map(|number| clients.iter().filter(|(_, n)| *n == number).count())
    };
    assert_eq!(on(&first), [50, 20, 30]);
    // Larger than any buffer, both ways, through one of them.
    let (stream, _) = &mut first[0];
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    let sent = data.clone();
    let writing = thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut echoed = vec![0; data.len()];
    stream.read_exact(&mut echoed).unwrap();
    writing.join().unwrap();
    assert!(echoed == data, "what came back is what was sent");

    eventually("the status shows them", || {
        let status = agent.status();
        let flows = |n: usize| status["pools"][0]["backends"][n]["flows"].as_u64();
        [flows(0), flows(1), flows(2)] == [Some(50), Some(20), Some(30)]
    });
    let status = agent.status();
    assert_eq!(status["mode"], "off");
    assert_eq!(status["listeners"][0]["datapath"], "proxy");
    assert_eq!(status["steered"]["agent"], 100);
    assert!(agent.command(&["where", "c7"]).contains("emqx"));
    let placed: Vec<u8> = first.iter().map(|(_, n)| *n).collect();
    drop(first);
    for (n, broker) in placed.iter().enumerate() {
        assert_eq!(agent.client(&format!("c{n}")).1, *broker, "c{n}");
    }
    eventually("closed connections are gone on both sides", || {
        brokers.iter().all(|b| b.connections.load(Relaxed) == 0)
            && agent.status()["flows"]["current"] == 0
    });
}

#[test]
fn orders_count_for_proxied_connections() {
    let brokers = [Backend::start(1), Backend::start(2)];
    let agent = Agent::start(
        "datapath = \"proxy\"",
        "",
        &[(&brokers[0], 1), (&brokers[1], 1)],
    );
    let (mut one, at) = agent.client("one");
    let other = 3 - at;
    let name = format!("emqx{at}");
    agent.command(&["drain", &name]);
    assert_eq!(
        agent.client("one").1,
        other,
        "a drained backend takes nobody"
    );
    one.write_all(b"x").unwrap();
    one.read_exact(&mut [0]).unwrap();
    agent.command(&["disable", &name]);
    assert_eq!(
        rest(&mut one),
        None,
        "the connections of a disabled one end"
    );
    agent.command(&["ready", &name]);
    eventually("counted", || agent.counter("reset_drained") == 1);

    let (mut bad, _) = agent.client("bad");
    let (mut good, _) = agent.client("good");
    agent.command(&["block", "--client", "bad"]);
    assert_eq!(rest(&mut bad), None, "a blocked client is cut off");
    let mut again = agent.connect();
    again.write_all(&connect_with("bad", 60)).unwrap();
    assert_eq!(rest(&mut again).unwrap(), [0x20, 2, 0, 5], "and refused");
    good.write_all(b"x").unwrap();
    good.read_exact(&mut [0]).unwrap();
    agent.command(&["block", "127.0.0.0/8"]);
    assert_eq!(rest(&mut good), None, "and so is a blocked source");
    // Connecting or writing may meet the RST already.
    if let Ok(mut again) = TcpStream::connect(agent.vip) {
        again.set_read_timeout(Some(PATIENCE)).unwrap();
        let written = again.write_all(&connect_with("good", 60));
        assert!(written.is_err() || rest(&mut again).is_none());
    }
    eventually("counted", || agent.counter("source_blocked") >= 1);
}

#[test]
fn half_closed_connections_go_on() {
    let broker = Backend::start(1);
    let agent = Agent::start("datapath = \"proxy\"", "", &[(&broker, 1)]);
    let (mut stream, _) = agent.client("half");
    stream.write_all(b"last words").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut stream).unwrap(), b"last wordsbye");
}

#[test]
fn dead_backends_are_skipped_and_none_is_told() {
    let (broker, dead) = (
        Backend::start(1),
        Backend {
            address: free_port(),
            connections: Arc::default(),
            header: Arc::default(),
        },
    );
    let agent = Agent::start("datapath = \"proxy\"", "", &[(&broker, 1), (&dead, 1)]);
    for n in 0..4 {
        assert_eq!(agent.client(&format!("c{n}")).1, 1);
    }
    eventually("counted", || agent.counter("backend_failed") >= 1);
    drop(agent);
    let agent = Agent::start("datapath = \"proxy\"", "", &[(&dead, 1)]);
    let mut stream = agent.connect();
    stream.write_all(&connect_with("c", 60)).unwrap();
    assert_eq!(rest(&mut stream).unwrap(), [0x20, 2, 0, 3]);
    eventually("counted", || agent.counter("no_backend") == 1);
}

#[test]
fn the_silent_and_the_wrong_are_not_served() {
    let broker = Backend::start(1);
    let more = "[timeouts]\nsniff = \"1s\"\ngrace = \"1s\"";
    let agent = Agent::start("datapath = \"proxy\"", more, &[(&broker, 1)]);
    let begun = Instant::now();
    assert_eq!(rest(&mut agent.connect()), None, "silent");
    let took = begun.elapsed();
    assert!((900..5000).contains(&took.as_millis()), "{took:?}");
    eventually("counted", || agent.counter("sniff_timeout") == 1);
    let mut wrong = agent.connect();
    wrong.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(rest(&mut wrong), None);
    eventually("counted", || agent.counter("reject_not_connect") == 1);
    assert_eq!(broker.connections.load(Relaxed), 0);
    // Byte by byte.
    let mut slow = agent.connect();
    slow.set_nodelay(true).unwrap();
    for byte in connect_with("slow", 1) {
        slow.write_all(&[byte]).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
    let mut answer = [0; 5];
    slow.read_exact(&mut answer).unwrap();
    // Silent for 1.5 times its keep-alive and the grace: over.
    let begun = Instant::now();
    assert_eq!(rest(&mut slow), None);
    assert!(
        begun.elapsed() > Duration::from_millis(2400),
        "{:?}",
        begun.elapsed()
    );
    eventually("counted", || agent.counter("idle_expired") == 1);
}

#[test]
fn limits_are_kept() {
    let broker = Backend::start(1);
    let agent = Agent::start("datapath = \"proxy\"\nmax_flows = 2", "", &[(&broker, 1)]);
    let _two = [agent.client("a"), agent.client("b")];
    let mut third = agent.connect();
    third.write_all(&connect_with("c", 60)).unwrap();
    assert_eq!(rest(&mut third).unwrap(), [0x20, 2, 0, 3]);
    eventually("counted", || agent.counter("listener_full") == 1);
}

#[test]
fn proxy_headers_in_and_out() {
    let broker = Backend::start(1);
    let listener =
        "datapath = \"proxy\"\nproxy_protocol = \"v2\"\ntrusted_proxies = [\"127.0.0.1\"]";
    let agent = Agent::start(listener, "", &[(&broker, 1)]);
    let mut stream = agent.connect();
    stream
        .write_all(b"PROXY TCP4 192.0.2.7 192.0.2.9 4711 1883\r\n")
        .unwrap();
    stream.write_all(&connect_with("far", 60)).unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    let header = broker.header.lock().unwrap().clone();
    assert_eq!(header[..12], *b"\r\n\r\n\0\r\nQUIT\n");
    assert_eq!(
        header[12..],
        [
            0x21, 0x11, 0, 12, 192, 0, 2, 7, 192, 0, 2, 9, 0x12, 0x67, 0x07, 0x5b
        ]
    );
    assert!(agent.command(&["flows"]).contains("192.0.2.7:4711"));
    // Who is trusted must send one.
    let mut without = agent.connect();
    without.write_all(&connect_with("far", 60)).unwrap();
    assert_eq!(rest(&mut without), None);
}

#[test]
fn a_node_with_another_address_keeps_its_clients() {
    let nodes = [1, 2, 3].map(Backend::start);
    let agent = Agent::start("", "", &[(&nodes[0], 1), (&nodes[1], 1)]);
    let come = |numbers: std::ops::Range<u8>| -> Vec<_> {
        numbers
            .map(|n| agent.client(&format!("client-{n}")))
            .collect()
    };
    let at = |clients: &[(TcpStream, u8)]| -> Vec<_> { clients.iter().map(|c| c.1).collect() };
    let clients = come(0..10);
    // What was the first node is the third now.
    let now = at(&clients).into_iter().map(|n| [3, 2][usize::from(n) - 1]);
    let now: Vec<u8> = now.collect();
    assert_eq!(now.iter().filter(|n| **n == 3).count(), 5);
    let file = agent.directory.join("mqlb.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (from, to) = (nodes[0].address.to_string(), nodes[2].address.to_string());
    let text = text.replace(&from, &to);
    std::fs::write(&file, &text).unwrap();
    agent.command(&["reload"]);
    assert_eq!(at(&come(0..5)), now[..5], "beside the earlier address");
    for (mut stream, _) in clients {
        stream.write_all(b"still here").unwrap();
        stream.read_exact(&mut [0; 10]).unwrap();
    }
    let known = || {
        agent.status()["pools"][0]["backends"]
            .as_array()
            .unwrap()
            .len()
    };
    within(PATIENCE, "the earlier address is forgotten", || {
        known() == 2
    });
    // Whoever comes next doesn't get the number that clients are bound to.
    let third = format!("[[pool.emqx.backend]]\nname = \"emqx3\"\naddress = \"{from}\"\n");
    std::fs::write(&file, text + &third).unwrap();
    agent.command(&["reload"]);
    assert_eq!(known(), 3);
    assert_eq!(at(&come(5..10)), now[5..], "after it");
}
