//! `mqlb-lab run`.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use lb_tests::balancer;
use lb_tests::broker::Kind;
use lb_tests::fleet::Fleet;
use lb_tests::lab;
use lb_tests::loopback::Loopback;
use lb_tests::mqlb::Steered;
use lb_tests::process::raise_descriptor_limit;
use serde::Serialize;

use crate::live::{Output, Screen};
use crate::stage::Stage;

#[derive(Args, Clone)]
pub struct Options {
    /// How many clients connect.
    #[arg(long, default_value_t = 1000)]
    clients: u32,
    /// How many brokers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    brokers: u16,
    /// The brokers' weights [default: 5,2,3 for three brokers, otherwise all the same].
    #[arg(long, value_delimiter = ',')]
    weights: Vec<u16>,
    /// Which broker software.
    #[arg(long, value_enum, default_value_t)]
    broker: Kind,
    /// Which balancer.
    #[arg(long, value_enum, default_value_t)]
    balancer: balancer::Kind,
    /// Without root: mqlb's proxy in place of XDP, embedded brokers, all on the loopback interface. What
    /// `cargo xtask run` does where there is no way to root.
    #[arg(long)]
    unprivileged: bool,
    /// End after all clients connected and half of them reconnected.
    #[arg(long)]
    once: bool,
    /// With --once: print the result as one JSON object.
    #[arg(long, requires = "once")]
    json: bool,
    /// Without --once: end after this many seconds.
    #[arg(long)]
    seconds: Option<u64>,
}

/// The object that `--once --json` prints.
#[derive(Debug, Serialize)]
struct Summary {
    /// Connections per broker, counted at the brokers.
    connections: BTreeMap<String, usize>,
    /// Who steered, by mqlb's own counters.
    #[serde(skip_serializing_if = "Option::is_none")]
    steered: Option<Steered>,
    /// Clients that connected again, from a new port.
    reconnects: usize,
    /// Those of them that came back to their broker.
    returned: usize,
    /// Connects that failed and connections that were lost.
    failed: usize,
}

/// Set by SIGINT, SIGTERM and SIGHUP.
static STOP: AtomicBool = AtomicBool::new(false);

/// Builds the lab, runs it, and removes it.
///
/// # Errors
/// Not root, something could not be started, or clients failed.
pub fn run(options: &Options) -> Result<()> {
    let mut options = options.clone();
    if options.unprivileged {
        ensure!(
            options.balancer == balancer::Kind::Mqlb && options.broker == Kind::Embedded,
            "--unprivileged runs mqlb and embedded brokers only: leave --balancer and --broker out"
        );
    } else {
        lab::require_root()?;
    }
    if options.weights.is_empty() {
        options.weights = match options.brokers {
            3 => vec![5, 2, 3],
            n => vec![1; usize::from(n)],
        };
    }
    ensure!(
        options.weights.len() == usize::from(options.brokers),
        "--weights has {} numbers, but there are {} brokers",
        options.weights.len(),
        options.brokers
    );

    let limit = raise_descriptor_limit().context("raise the limit of open files")?;
    ensure!(
        u64::from(options.clients) + 200 <= limit,
        "{} clients need as many open files, but the limit of this process is {limit}",
        options.clients
    );

    let signals = signals()?;
    let (done, finished) = channel();
    let worker = thread::spawn(move || {
        let result = work(&options);
        // If nobody listens the process is ending already.
        let _ = done.send(());
        result
    });
    loop {
        match finished.recv_timeout(Duration::from_millis(50)) {
            // Disconnected: it panicked, which `join` passes on.
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if signals.try_recv().is_ok() {
            if STOP.swap(true, Relaxed) {
                // A second signal: now. The lab's undo process removes everything.
                std::process::exit(130);
            }
            eprintln!("\nstopping; once more to stop at once");
        }
    }
    match worker.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A channel that gets something for each signal that asks to end.
fn signals() -> Result<Receiver<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (sender, receiver) = channel();
    let (mut interrupt, mut terminate, mut hangup) = runtime.block_on(async {
        anyhow::Ok((
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ))
    })?;
    thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                if sender.send(()).is_err() {
                    return;
                }
            }
        });
    });
    Ok(receiver)
}

fn work(options: &Options) -> Result<()> {
    let output = match (options.json, std::io::stdout().is_terminal()) {
        (true, _) => Output::StderrLines,
        (false, true) => Output::Terminal,
        (false, false) => Output::StdoutLines,
    };
    eprintln!(
        "starting {} {:?} brokers and {:?} …",
        options.brokers, options.broker, options.balancer
    );
    let stage = match options.unprivileged {
        true => Stage::Loopback(Loopback::new(&options.weights)?),
        false => {
            let lab = lab::Options {
                backends: usize::from(options.brokers),
                broker: Some(options.broker),
                host: true,
                ..lab::Options::default()
            };
            Stage::lab(lab, options.balancer, &options.weights)?
        }
    };
    let fleet = stage.fleet()?;
    let screen = Screen::new(&stage, &fleet.gauges, &options.weights, output);
    let over = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        scope.spawn(|| screen.show_until(&over));
        let result = drive(options, &stage, &fleet);
        over.store(true, Relaxed);
        result
    });
    let summary = result?;
    match summary {
        // Stopped by a signal.
        None => Ok(()),
        Some(summary) if options.json => {
            println!("{}", serde_json::to_string(&summary)?);
            summary.check()
        }
        Some(summary) => {
            println!("{summary:#?}");
            summary.check()
        }
    }
}

/// Connects everybody, reconnects half, and then ends or goes on until told otherwise.
fn drive(options: &Options, stage: &Stage, fleet: &Fleet) -> Result<Option<Summary>> {
    let mut placed = BTreeMap::new();
    let mut reconnects = 0;
    let mut returned = 0;
    let mut failed = 0;
    let mut last_error = None;
    let half = 0..options.clients / 2;
    for (range, again) in [(0..options.clients, false), (half, true)] {
        if again {
            reconnects = range.len();
            fleet.disconnect(range.clone())?;
        }
        for chunk in chunks(range) {
            if STOP.load(Relaxed) {
                return Ok(None);
            }
            let round = fleet.connect(chunk)?;
            returned += round.returned;
            failed += round.failed.len();
            last_error = round.failed.into_iter().next_back().or(last_error);
            placed.extend(round.placed);
        }
    }
    if let Some((number, error)) = &last_error {
        eprintln!("client {number}: {error}");
    }
    if !options.once {
        churn(options, fleet)?;
        return Ok(None);
    }
    let mut told = BTreeMap::new();
    for broker in placed.into_values() {
        *told.entry(broker).or_insert(0) += 1;
    }
    Ok(Some(Summary {
        connections: agreed_connections(stage, &told)?,
        steered: stage.steered()?,
        reconnects,
        returned,
        failed: failed + fleet.gauges.lost.load(Relaxed),
    }))
}

impl Summary {
    fn check(&self) -> Result<()> {
        ensure!(self.failed == 0, "{} connections failed", self.failed);
        ensure!(
            self.returned == self.reconnects,
            "only {} of {} clients returned to their broker",
            self.returned,
            self.reconnects
        );
        Ok(())
    }
}

/// The brokers' own counts, once they agree with what the clients were told.
fn agreed_connections(
    stage: &Stage,
    told: &BTreeMap<String, usize>,
) -> Result<BTreeMap<String, usize>> {
    let start = Instant::now();
    loop {
        let mut counted = stage.connections()?;
        let everywhere = counted.clone();
        counted.retain(|_, connections| *connections > 0);
        if counted == *told {
            return Ok(everywhere);
        }
        if start.elapsed() > Duration::from_secs(5) {
            bail!("the brokers count {counted:?} connections, but the clients are on {told:?}");
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Has a hundredth of the clients reconnect each second, until a signal or the end of the time.
fn churn(options: &Options, fleet: &Fleet) -> Result<()> {
    let end = options
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let size = (options.clients / 100).max(1);
    let mut first = 0;
    while !STOP.load(Relaxed) && end.is_none_or(|end| Instant::now() < end) {
        let next = Instant::now() + Duration::from_secs(1);
        let range = first..(first + size).min(options.clients);
        first = if range.end == options.clients {
            0
        } else {
            range.end
        };
        fleet.disconnect(range.clone())?;
        fleet.connect(range).context("reconnect")?;
        while !STOP.load(Relaxed) && Instant::now() < next {
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Parts of a range, small enough to notice a signal in between.
fn chunks(range: Range<u32>) -> impl Iterator<Item = Range<u32>> {
    const SIZE: u32 = 500;
    range
        .clone()
        .step_by(SIZE as usize)
        .map(move |first| first..(first + SIZE).min(range.end))
}
