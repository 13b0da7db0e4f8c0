//! Memory of the agent for idle clients of the proxy: at most 4 KB for one over TCP, and 25 KB for one over TLS.

mod proxied;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use lb_tests::process::raise_descriptor_limit;
use proxied::{Agent, Authority, Directory, client_config, eventually, free_port, served, tls};
use rustls::version::{TLS12, TLS13};

/// Clients that come before the measurement.
const WARM: usize = 300;

/// Memory that is the agent's own, in bytes.
fn own_memory(agent: &Agent) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.process.id())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let number = line.unwrap().trim().strip_suffix(" kB").unwrap();
    number.parse::<usize>().unwrap() * 1024
}

/// What each of the clients takes. Some come before the measurement, so that what all have in common is there.
fn each<C: Send>(agent: &Agent, connect: impl Fn(usize) -> C + Sync) -> usize {
    let (connect, count) = (&connect, clients());
    let many = |numbers: std::ops::Range<usize>| -> Vec<C> {
        let half = numbers.start + numbers.len() / 2;
        std::thread::scope(|scope| {
            let first = scope.spawn(move || (numbers.start..half).map(connect).collect::<Vec<_>>());
            let mut all: Vec<_> = (half..numbers.end).map(connect).collect();
            all.extend(first.join().unwrap());
            all
        })
    };
    let flows = |n: usize| {
        eventually("all are there", || {
            agent.status()["flows"]["current"].as_u64() == u64::try_from(n).ok()
        });
    };
    let warm = many(0..WARM);
    flows(WARM);
    let before = own_memory(agent);
    let clients = many(WARM..WARM + count);
    flows(WARM + count);
    let grown = own_memory(agent).saturating_sub(before);
    drop((warm, clients));
    println!("{count} clients");
    grown / count
}

/// As many clients as the limit of open files allows, which holds for this process with both ends of all
/// connections as well as for the agent; 10,000 if it can be.
fn clients() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit writes the structure, which lives for the call.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(result, 0);
    let most = usize::try_from(limit.rlim_max / 2).unwrap();
    let clients = most.saturating_sub(WARM + 300).min(10_000);
    assert!(clients >= 5_000, "the hard limit of open files is too low");
    clients
}

/// A backend that takes CONNECTs, and no thread for each; its connections end when it is dropped.
struct Quiet {
    address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Quiet {
    fn start() -> Self {
        raise_descriptor_limit().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, open) = (listener.local_addr().unwrap(), Arc::default());
        let taken: Arc<Mutex<Vec<_>>> = Arc::clone(&open);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if stream.read(&mut [0; 256]).is_ok_and(|n| n > 0)
                    && stream.write_all(&[0x20, 2, 0, 0, 1]).is_ok()
                {
                    taken.lock().unwrap().push(stream);
                }
            }
        });
        Self { address, open }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.open.lock().unwrap().clear();
    }
}

/// One after the other: there are only so many files.
#[test]
fn idle_clients() {
    over_tcp();
    over_tls();
}

fn over_tcp() {
    let backend = Quiet::start();
    let vip = free_port();
    let text = format!(
        "[[listener]]\nname = \"mqtt\"\nbind = [\"{vip}\"]\npool = \"emqx\"\ndatapath = \"proxy\""
    );
    let agent = Agent::start("", &text, &[backend.address]);
    let bytes = each(&agent, |n| {
        let mut stream = TcpStream::connect(vip).unwrap();
        served(&mut stream, &format!("client-{n}")).unwrap();
        stream
    });
    println!("{bytes} bytes for each idle client over TCP");
    assert!(bytes <= 4 << 10, "{bytes}");
}

fn over_tls() {
    let files = Directory::new();
    let authority = Authority::new("servers");
    let server = authority.sign("mqtt", &["mqtt.test"]);
    let (cert, key) = (
        files.write("server.crt", &server.cert),
        files.write("server.key", &server.key),
    );
    for versions in [&[&TLS13], &[&TLS12]] {
        let backend = Quiet::start();
        let vip = free_port();
        let text = format!(
            "[[listener]]\nname = \"mqtt\"\nbind = [\"{vip}\"]\npool = \"emqx\"\ndatapath = \"proxy\"\n\
             tls = {{ cert = {cert:?}, key = {key:?} }}"
        );
        let agent = Agent::start("", &text, &[backend.address]);
        let config = Arc::new(client_config(&authority, None, versions));
        let bytes = each(&agent, |n| {
            let mut stream = tls(vip, "mqtt.test", &config).unwrap();
            served(&mut stream, &format!("client-{n}")).unwrap();
            stream
        });
        println!("{bytes} bytes for each idle client over TLS, {versions:?}");
        assert!(bytes <= 25 << 10, "{bytes}");
    }
}
