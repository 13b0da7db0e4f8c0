//! Checks against a real broker, mosquitto: they find it, and it has nothing to complain of.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mqlb::config::{Check, Health};
use mqlb::health::{Checks, Event, State, Target};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

/// mosquitto on loopback, at a free port; logs all that it can. Dropping it kills it.
struct Broker {
    process: Child,
    directory: tempfile::TempDir,
    address: SocketAddr,
}

impl Broker {
    /// Starts it at `address`, which nobody uses, with more lines of configuration.
    fn start(address: SocketAddr, more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let conf = directory.path().join("mosquitto.conf");
        let text = format!(
            "user root\npersistence false\nlog_dest stderr\nlog_type all\nsys_interval 0\n\
             listener {} {}\n{more}\n",
            address.port(),
            address.ip()
        );
        fs::write(&conf, text).unwrap();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        // Debian puts it into /usr/sbin, which is not on everybody's PATH.
        let program = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .unwrap_or("mosquitto");
        let process = Command::new(program)
            .arg("-c")
            .arg(conf)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("mosquitto is there (`cargo xtask setup` installs it)");
        Self {
            process,
            directory,
            address,
        }
    }

    /// Its log, a line each, without the time.
    fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
        let text = |line: &str| {
            line.split_once(": ")
                .map_or(line, |(_, text)| text)
                .to_owned()
        };
        log.lines().map(text).collect()
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: kill touches no memory; the child is not reaped before the drop, so the number is its own.
        let sent = unsafe { libc::kill(self.process.id() as libc::pid_t, signal) };
        assert_eq!(sent, 0);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended by itself, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn target(address: SocketAddr, check: Check) -> Target {
    Target {
        id: 1,
        address,
        health: Health {
            check,
            interval: Duration::from_millis(100),
            timeout: Duration::from_millis(100),
            rise: 2,
            fall: 2,
            jitter: 10,
        },
        proxy_protocol: false,
    }
}

async fn until(events: &mut UnboundedReceiver<Event>, state: State) -> Event {
    timeout(PATIENCE, async {
        loop {
            let event = events.recv().await.expect("the checks run");
            if event.to == state {
                return event;
            }
        }
    })
    .await
    .unwrap_or_else(|_| panic!("never {}", state.as_str()))
}

/// Waits for as many lines that contain `text`.
async fn lines(broker: &Broker, text: &str, number: usize) {
    let count = || {
        broker
            .log()
            .iter()
            .filter(|line| line.contains(text))
            .count()
    };
    timeout(PATIENCE, async {
        while count() < number {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{text:?} {} times: {:#?}", count(), broker.log()));
}

#[tokio::test]
async fn mosquitto_sees_clients_that_come_and_go_properly() {
    let broker = Broker::start(free_address(), "allow_anonymous true");
    let (checks, mut events) =
        Checks::start(1, [target(broker.address, Check::Mqtt { port: None })]);
    until(&mut events, State::Up).await;
    lines(&broker, "disconnected.", 5).await;
    // Before the checks end: the last one may be cut short.
    let log = broker.log();
    drop(checks);
    let expected = [
        "New connection from 127.0.0.1:",
        "New client connected from 127.0.0.1:",
        "No will message specified.",
        "Sending CONNACK to mqlbcheck",
        "Received DISCONNECT from mqlbcheck",
        "Client mqlbcheck",
    ];
    for line in log {
        let ours = line.contains("127.0.0.1:") || line.contains("mqlbcheck");
        assert!(
            !ours || expected.iter().any(|start| line.starts_with(start)),
            "{line}"
        );
        assert!(!line.contains("closed its connection"), "{line}");
        assert!(!line.to_lowercase().contains("error"), "{line}");
    }
}

#[tokio::test]
async fn mosquitto_has_nothing_against_tcp_checks() {
    let broker = Broker::start(free_address(), "allow_anonymous true");
    let (checks, mut events) =
        Checks::start(1, [target(broker.address, Check::Tcp { port: None })]);
    until(&mut events, State::Up).await;
    lines(&broker, "Client <unknown> closed its connection.", 5).await;
    drop(checks);
    for line in broker.log() {
        assert!(!line.to_lowercase().contains("error"), "{line}");
    }
}

#[tokio::test]
async fn a_mosquitto_that_wants_a_password_is_up() {
    let broker = Broker::start(free_address(), "allow_anonymous false");
    let (_checks, mut events) =
        Checks::start(1, [target(broker.address, Check::Mqtt { port: None })]);
    let event = until(&mut events, State::Up).await;
    assert!(
        event.reason.ends_with("alive, doesn't authorize the check"),
        "{event}"
    );
}

#[tokio::test]
async fn a_mosquitto_that_hangs_or_dies_is_down_until_it_is_back() {
    let address = free_address();
    let broker = Broker::start(address, "allow_anonymous true");
    let (_checks, mut events) = Checks::start(1, [target(address, Check::Mqtt { port: None })]);
    until(&mut events, State::Up).await;
    broker.signal(libc::SIGSTOP);
    let event = until(&mut events, State::Down).await;
    assert!(event.reason.ends_with("timed out after 100ms"), "{event}");
    broker.signal(libc::SIGCONT);
    until(&mut events, State::Up).await;
    drop(broker);
    until(&mut events, State::Down).await;
    let _broker = Broker::start(address, "allow_anonymous true");
    until(&mut events, State::Up).await;
}
