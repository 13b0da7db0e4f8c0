//! CPU of the proxy for a message, and messages a second, beside HAProxy's: one thread each, by turns.

mod proxied;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::process::Process;
use proxied::{Agent, Backend, Directory, PATIENCE, free_port, served};

/// Clients at a time; each has one message under way.
const CLIENTS: usize = 16;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(800);
/// How much worse than HAProxy a loaded machine may make us look.
const TOLERANCE: f64 = 1.15;

/// CPU time of a process and its threads so far.
fn cpu_time(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |task: std::fs::DirEntry| {
        // Nanoseconds on the CPU come first (sched_debug.rst); a thread may have ended.
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let first = text.split(' ').next().and_then(|n| n.parse().ok());
        Duration::from_nanos(first.unwrap_or(0))
    };
    tasks.flatten().map(of).sum()
}

/// CPU for a message and messages a second, through `vip`, which process `pid` serves.
fn round(vip: SocketAddr, pid: u32, size: usize) -> (Duration, f64) {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let mut stream = TcpStream::connect(vip).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            served(&mut stream, &format!("pace-{n}")).unwrap();
            stream
        })
        .collect();
    let (before, begun) = (cpu_time(pid), Instant::now());
    let run = |mut stream: TcpStream| {
        let message = vec![0x55; size];
        let mut back = vec![0; size];
        let mut count = 0;
        while begun.elapsed() < ROUND {
            stream.write_all(&message).unwrap();
            stream.read_exact(&mut back).unwrap();
            count += 1;
        }
        count
    };
    let counts: usize = thread::scope(|scope| {
        let all: Vec<_> = clients
            .into_iter()
            .map(|c| scope.spawn(move || run(c)))
            .collect();
        all.into_iter().map(|client| client.join().unwrap()).sum()
    });
    let took = begun.elapsed();
    let cpu = cpu_time(pid) - before;
    let messages = u32::try_from(counts).unwrap();
    (cpu / messages, f64::from(messages) / took.as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn a_message_costs_no_more_than_through_haproxy() {
    let backend = Backend::start(1);
    let ours = free_port();
    let text = format!(
        "[[listener]]\nname = \"mqtt\"\nbind = [\"{ours}\"]\npool = \"emqx\"\ndatapath = \"proxy\""
    );
    let agent = Agent::start_with(
        "",
        &text,
        &[backend.address],
        &["env", "TOKIO_WORKER_THREADS=1"],
    );
    let files = Directory::new();
    let theirs = free_port();
    let config = format!(
        "global\n  nbthread 1\ndefaults\n  mode tcp\n  timeout connect 1s\n  timeout client 1h\n  timeout server 1h\n\
         listen mqtt\n  bind {theirs}\n  tcp-request inspect-delay 10s\n  \
         tcp-request content reject unless {{ req.payload(0,0),mqtt_is_valid }}\n  \
         stick-table type string len 64 size 1m expire 30m\n  \
         stick on req.payload(0,0),mqtt_field_value(connect,client_identifier)\n  server one {}\n",
        backend.address
    );
    let mut command = Command::new("/usr/sbin/haproxy");
    command
        .arg("-db")
        .arg("-f")
        .arg(files.write("haproxy.cfg", &config));
    let log = files.path().join("haproxy.log");
    let mut haproxy = Process::start("haproxy", command, &log).unwrap();
    let open = |_: &Process| TcpStream::connect(theirs).is_ok();
    haproxy.wait_until("an open port", PATIENCE, open).unwrap();

    for size in [100, 16_384, 131_072] {
        let (mut cpu, mut rate) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for _ in 0..ROUNDS {
            for (n, (vip, pid)) in [(ours, agent.process.id()), (theirs, haproxy.id())]
                .into_iter()
                .enumerate()
            {
                let (each, a_second) = round(vip, pid, size);
                cpu[n].push(each.as_secs_f64() * 1e6);
                rate[n].push(a_second);
            }
        }
        let [our_cpu, their_cpu] = cpu.map(median);
        let [our_rate, their_rate] = rate.map(median);
        println!(
            "{size} bytes: mqlb {our_cpu:.1} µs of CPU and {our_rate:.0} messages/s, HAProxy {their_cpu:.1} µs and {their_rate:.0}"
        );
        assert!(
            our_cpu <= their_cpu * TOLERANCE,
            "CPU at {size} bytes: {our_cpu} and {their_cpu} µs"
        );
        assert!(
            our_rate * TOLERANCE >= their_rate,
            "messages/s at {size} bytes: {our_rate} and {their_rate}"
        );
    }
}
