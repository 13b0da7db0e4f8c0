//! Floods: what attackers send must not keep clients from connecting, nor cost the balancer memory.
//!
//! Each flood lasts for a few seconds and has a rate that leaves the machine time for its clients and
//! brokers, which run here too. With `MQLB_FLOOD_SECONDS=60` it lasts that long, comes at the full rate of
//! one thread, and the bound on latency is strict.

mod common;

use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lb_tests::flood::{Flood, Kind, pin};
use lb_tests::lab::{self, Lab};
use lb_tests::latency::Latencies;
use lb_tests::mqlb::Mqlb;
use lb_tests::pace::here;
use lb_tests::raw::{self, Connect};

/// Frames a second of a flood that isn't strict.
const RATE: u32 = 50_000;

/// Frames of a flood of this length that are treated as anybody's: a slow machine sends no more than these.
fn allowed(kind: Kind, span: Duration) -> u64 {
    /// What one source may send the agent, at once and a second (docs/operating.md, punt_limited).
    const AT_ONCE: u64 = 65_536;
    const A_SECOND: u64 = 16_384;
    /// Answers a second (docs/configuration.md, rst_rate).
    const RESETS: u64 = 10_000;
    let punts = AT_ONCE + A_SECOND * span.as_secs();
    match kind {
        // Every second frame is data.
        Kind::HalfConnect => 2 * punts,
        Kind::OneFlow => punts,
        Kind::BareAck | Kind::BadCookie => RESETS * (span.as_secs() + 1),
        Kind::Syn | Kind::Rst => 0,
    }
}

/// How long a flood lasts, and whether the bound on latency is strict.
fn span() -> (Duration, bool) {
    match std::env::var("MQLB_FLOOD_SECONDS") {
        Ok(seconds) => {
            let seconds = seconds.parse().expect("MQLB_FLOOD_SECONDS: a number");
            (Duration::from_secs(seconds), true)
        }
        Err(_) => (Duration::from_secs(4), false),
    }
}

/// Connects one after the other, from SYN to CONNACK, for a while.
fn connect_for(lab: &Lab, span: Duration, name: &str) -> Latencies {
    let vip = lab.topology.plan.vip().addresses()[0];
    let begun = Instant::now();
    let mut times = Vec::new();
    while begun.elapsed() < span {
        let connect = Connect::new(&format!("{name}-{}", times.len())).encode();
        let start = Instant::now();
        let mut stream = raw::open(lab, vip, &connect).expect("connect");
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).expect("a CONNACK");
        assert_eq!(answer, raw::CONNACK);
        times.push(start.elapsed());
        drop(stream);
        std::thread::sleep(Duration::from_millis(2));
    }
    times.into_iter().collect()
}

/// A number of `/proc/PID/status`, in kB.
fn resident(mqlb: &Mqlb) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", mqlb.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|n| n.parse().ok()).expect("VmRSS")
}

/// Memory of all maps of the agent, as the kernel accounts for it, in bytes.
fn map_memory(mqlb: &Mqlb) -> u64 {
    let dir = format!("/proc/{}/fdinfo", mqlb.pid());
    let mut maps = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let Ok(info) = std::fs::read_to_string(entry.path()) else {
            continue;
        };
        let field = |name: &str| {
            let line = info.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    assert!(maps.len() > 8, "{maps:?}");
    maps.into_values().sum()
}

/// What a flood may cost.
struct Costs {
    /// Growth of the agent's resident memory, kB.
    resident: u64,
    /// The agent's CPU time, in percent of the flood's on processors of one's own, connecting clients left
    /// out; `None`: all of it.
    cpu: Option<u32>,
}

/// Packets that can't get past the program: nothing of them may reach the agent. (The clients that
/// connect meanwhile cost about a megabyte.)
const BLIND: Costs = Costs {
    resident: 4096,
    cpu: Some(5),
};
/// First data with a right cookie does: the agent has a share of it, and keeps some thousand set-ups.
const PUNTED: Costs = Costs {
    resident: 64 << 10,
    cpu: None,
};

fn flood(kind: Kind, counter: &str, costs: &Costs) {
    /// Two at once would be measured together.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // The attacker has a CPU and a queue of the wire to himself, as with a network card that has several.
    // SAFETY: sysconf has no preconditions.
    let several = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) } > 1;
    if several {
        pin(0).unwrap();
    }
    let lab = common::lab_with(lab::Options {
        backends: 2,
        queues: if several { 2 } else { 1 },
        ..lab::Options::default()
    });
    let balancer = common::balance(&lab, &common::unchecked());
    let Some(mqlb) = balancer.mqlb() else { return };
    let (span, strict) = span();
    // Once before, so that what is allocated once is.
    connect_for(&lab, Duration::from_millis(500), "warm");
    let begun = common::cpu_time(mqlb);
    let calm = connect_for(&lab, Duration::from_secs(2), "calm");
    let calm_cpu = common::cpu_time(mqlb) - begun;
    let before = (resident(mqlb), map_memory(mqlb), common::cpu_time(mqlb));
    let counted = mqlb.counter(counter).unwrap();

    // Of half CONNECTs half are SYNs, and one source may punt 65,536 at once.
    let all = if kind == Kind::HalfConnect {
        2 * RATE
    } else {
        RATE
    };
    let rate = (!strict).then_some(all);
    let flood = Flood::start(&lab, kind, rate, several.then_some(1)).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let stormy = connect_for(&lab, span, "stormy");
    let after = (resident(mqlb), map_memory(mqlb), common::cpu_time(mqlb));
    let sent = flood.stop().unwrap();
    let counted = mqlb.counter(counter).unwrap() - counted;

    let p99 = |l: &Latencies| l.percentile(99).unwrap();
    let connects = (calm.len(), stormy.len());
    println!(
        "{kind:?}: {sent} frames in {span:?}, {counted} {counter}; p50 {:?} → {:?}, p99 {:?} → {:?}, {connects:?} connects; resident {} → {} kB, maps {} → {} bytes, agent's CPU {:?}",
        calm.percentile(50).unwrap(),
        stormy.percentile(50).unwrap(),
        p99(&calm),
        p99(&stormy),
        before.0,
        after.0,
        before.1,
        after.1,
        after.2 - before.2,
    );
    assert!(sent > 10_000, "{sent} frames are no flood");
    assert!(
        sent < allowed(kind, span) || counted > sent / 20,
        "{counted} of {sent} counted as {counter}"
    );
    // A lost SYN costs its client a second, lost data 200 ms. What the agent must look at waits for its
    // turn in the ring buffer besides.
    let least = match (strict, costs.cpu) {
        (true, _) => 0,
        (false, Some(_)) => 150,
        (false, None) => 600,
    };
    let bound = (10 * p99(&calm)).max(here(Duration::from_millis(least)));
    assert!(p99(&stormy) < bound, "{:?} ≥ {bound:?}", p99(&stormy));
    assert_eq!(before.1, after.1, "memory of the maps");
    let grown = after.0.saturating_sub(before.0);
    assert!(grown <= costs.resident, "{grown} kB more are resident");
    let of_connects = calm_cpu.mul_f64(stormy.len() as f64 / calm.len() as f64);
    let cpu = (after.2 - before.2).saturating_sub(of_connects);
    if let Some(percent) = costs.cpu {
        let most = here(span * percent / 100);
        assert!(cpu <= most, "{cpu:?} of CPU time for the flood alone");
    }
}

#[test]
fn of_syns() {
    flood(Kind::Syn, "syn_ack", &BLIND);
}

#[test]
fn of_bare_acks() {
    flood(Kind::BareAck, "reset_limited", &BLIND);
}

#[test]
fn of_data_with_bad_cookies() {
    flood(Kind::BadCookie, "reset_limited", &BLIND);
}

#[test]
fn of_resets() {
    flood(Kind::Rst, "stray_reset", &BLIND);
}

#[test]
fn of_half_connects() {
    flood(Kind::HalfConnect, "punt_limited", &PUNTED);
}

#[test]
fn of_one_connections_bytes() {
    flood(Kind::OneFlow, "punt_limited", &PUNTED);
}
