//! What the end-to-end tests share.

#![allow(
    dead_code,
    reason = "every test file compiles this module and uses another part of it"
)]

pub mod recipe;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use lb_tests::balancer::{Balancer, Kind, Options};
use lb_tests::lab::{self, Lab};
use lb_tests::mqlb::Mqlb;
use lb_tests::raw::{self, Connect};
use lb_tests::stand_in::StandIn;
use sha2::{Digest, Sha256};

/// A lab with this many mosquittos.
pub fn lab_with_brokers(backends: usize) -> Lab {
    lab_with(lab::Options {
        backends,
        ..lab::Options::default()
    })
}

/// A lab with backends that the test provides.
pub fn lab_without_brokers(backends: usize) -> Lab {
    lab_with(lab::Options {
        backends,
        broker: None,
        ..lab::Options::default()
    })
}

pub fn lab_with(options: lab::Options) -> Lab {
    Lab::new(options).unwrap_or_else(|error| panic!("lab: {error:#}"))
}

/// mqlb; or, to see whether it is the test or mqlb that fails, what `MQLB_LAB_BALANCER` names.
pub fn balance(lab: &Lab, options: &Options) -> Balancer {
    let kind = match std::env::var("MQLB_LAB_BALANCER") {
        Ok(name) => Kind::from_str(&name, true).expect("MQLB_LAB_BALANCER"),
        Err(_) => Kind::Mqlb,
    };
    Balancer::start(kind, lab, options).unwrap_or_else(|error| panic!("balancer: {error:#}"))
}

/// No health checks: a backend gets the connections of clients and no other.
pub fn unchecked() -> Options {
    Options {
        health: false,
        ..Options::default()
    }
}

/// Waits until `done`, and panics if it isn't within `limit`.
pub fn wait_for(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "{what}, after {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Connections that the lab's mosquittos have logged so far.
pub fn connections_seen(lab: &Lab) -> usize {
    let seen = |line: &&str| line.contains("New connection from");
    lab.brokers
        .iter()
        .map(|broker| broker.log().lines().filter(seen).count())
        .sum()
}

/// Reads the CONNACK that accepts a connection.
pub fn expect_connack(stream: &mut TcpStream) {
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("a CONNACK");
    assert_eq!(answer, raw::CONNACK);
}

/// On backend `n`: takes the CONNECT, accepts it, and hands the connection and the CONNECT to the test.
pub fn accepting_backend(lab: &Lab, n: usize) -> (StandIn, Receiver<(TcpStream, Vec<u8>)>) {
    let (sender, accepted) = channel();
    let stand_in = StandIn::start(lab, n, move |mut stream| {
        let (first, body) = raw::read_packet(&mut stream).expect("a CONNECT");
        assert_eq!(first, 0x10, "the first packet is a CONNECT");
        stream.write_all(&raw::CONNACK).expect("send the CONNACK");
        // The test may have ended.
        let _ = sender.send((stream, body));
    });
    (stand_in.expect("listen"), accepted)
}

/// Connects through the balancer to an accepting backend; the client's end and the backend's.
pub fn session(
    lab: &Lab,
    accepted: &Receiver<(TcpStream, Vec<u8>)>,
    vip: std::net::IpAddr,
) -> (TcpStream, TcpStream) {
    let connect = Connect::new("session").encode();
    let mut client = raw::open(lab, vip, &connect).expect("connect to the VIP");
    expect_connack(&mut client);
    let (backend, _) = accepted
        .recv_timeout(Duration::from_secs(10))
        .expect("a connection at the backend");
    (client, backend)
}

/// Sends `length` bytes each way at the same time; true if both arrive with the sum they had.
pub fn transfer(client: TcpStream, backend: TcpStream, length: usize) {
    let backend = thread::spawn(move || exchange(backend, length, 2));
    let client = exchange(client, length, 1);
    let backend = backend.join().expect("the backend's side");
    assert_eq!(client.sent, backend.received, "client to backend");
    assert_eq!(backend.sent, client.received, "backend to client");
}

struct Sums {
    sent: [u8; 32],
    received: [u8; 32],
}

fn exchange(stream: TcpStream, length: usize, seed: u64) -> Sums {
    let timeout = Some(Duration::from_secs(60));
    stream.set_read_timeout(timeout).expect("set a time-out");
    stream.set_write_timeout(timeout).expect("set a time-out");
    let mut outgoing = stream.try_clone().expect("a second handle");
    let sender = thread::spawn(move || {
        let sum = send_noise(&mut outgoing, length, seed);
        outgoing.shutdown(Shutdown::Write).expect("end of the data");
        sum
    });
    let received = sum_of(stream, length);
    let sent = sender.join().expect("the sender");
    Sums { sent, received }
}

/// Sends pseudo-random bytes (xorshift64), so that whatever is lost, repeated or swapped shows.
fn send_noise(stream: &mut TcpStream, length: usize, seed: u64) -> [u8; 32] {
    let mut sum = Sha256::new();
    let mut state = seed;
    let mut left = length;
    let mut block = vec![0; 64 << 10];
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let part = &block[..left.min(block.len())];
        stream.write_all(part).expect("send");
        sum.update(part);
        left -= part.len();
    }
    sum.finalize().into()
}

/// Reads to the end of the connection, which must come after exactly `length` bytes.
fn sum_of(mut stream: TcpStream, length: usize) -> [u8; 32] {
    let mut sum = Sha256::new();
    let mut block = vec![0; 64 << 10];
    let mut total = 0;
    loop {
        match raw::read(&mut stream, &mut block).expect("receive") {
            0 => break,
            read => {
                sum.update(&block[..read]);
                total += read;
            }
        }
    }
    assert_eq!(total, length, "bytes received");
    sum.finalize().into()
}

/// CPU time of the agent so far.
pub fn cpu_time(mqlb: &Mqlb) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", mqlb.pid())).unwrap();
    // Behind the command's name, which may hold spaces: utime and stime are fields 14 and 15 (proc(5)).
    let behind = stat.rsplit_once(')').expect("a name").1;
    let fields: Vec<_> = behind.split_whitespace().collect();
    let ticks = |n: usize| fields[n].parse::<u64>().unwrap();
    // SAFETY: sysconf has no preconditions.
    let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let hertz = u64::try_from(hertz).unwrap();
    Duration::from_millis((ticks(11) + ticks(12)) * 1000 / hertz)
}
