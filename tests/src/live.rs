//! What `mqlb-lab run` shows while it runs.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use lb_tests::fleet::Gauges;
use lb_tests::mqlb::Steered;

use crate::stage::Stage;

/// Where to, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A table on standard output that is drawn anew each second.
    Terminal,
    /// A line each second.
    StdoutLines,
    /// The same on standard error: standard output is for the result.
    StderrLines,
}

/// Shows a lab at work.
pub struct Screen<'a> {
    stage: &'a Stage,
    gauges: &'a Gauges,
    weights: &'a [u16],
    output: Output,
    start: Instant,
    connects_before: AtomicUsize,
}

/// The state at one moment.
struct Sample {
    /// Connections by broker, in the lab's order.
    connections: Vec<(String, usize)>,
    connects_per_second: usize,
    steered: Option<Steered>,
    latency: String,
}

const SECOND: Duration = Duration::from_secs(1);

impl<'a> Screen<'a> {
    pub fn new(stage: &'a Stage, gauges: &'a Gauges, weights: &'a [u16], output: Output) -> Self {
        Self {
            stage,
            gauges,
            weights,
            output,
            start: Instant::now(),
            connects_before: AtomicUsize::new(0),
        }
    }

    /// Draws once a second until `over`.
    pub fn show_until(&self, over: &AtomicBool) {
        let mut next = Instant::now() + SECOND;
        if self.output != Output::Terminal {
            self.print(&(self.stage.hints() + "\n"));
        }
        while !over.load(Relaxed) {
            thread::sleep(Duration::from_millis(20));
            if Instant::now() < next {
                continue;
            }
            next += SECOND;
            let text = match (self.sample(), self.output) {
                (Err(error), _) => format!("{error:#}\n"),
                (Ok(sample), Output::Terminal) => self.table(&sample),
                (Ok(sample), _) => self.line(&sample),
            };
            self.print(&text);
        }
    }

    fn sample(&self) -> Result<Sample> {
        let connects = self.gauges.connects.load(Relaxed);
        let connects_before = self.connects_before.swap(connects, Relaxed);
        let latencies = self.gauges.take_latencies();
        let milliseconds = |percent| match latencies.percentile(percent) {
            Some(time) => format!("{:.1} ms", time.as_secs_f64() * 1000.0),
            None => "–".into(),
        };
        Ok(Sample {
            connections: self.stage.connections()?.into_iter().collect(),
            connects_per_second: connects - connects_before,
            steered: self.stage.steered()?,
            latency: format!("p50 {} p99 {}", milliseconds(50), milliseconds(99)),
        })
    }

    fn line(&self, sample: &Sample) -> String {
        let brokers: Vec<_> = sample
            .connections
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        format!(
            "{:4} s  {}  {}\n",
            self.start.elapsed().as_secs(),
            brokers.join("  "),
            self.facts(sample).join("  ")
        )
    }

    fn table(&self, sample: &Sample) -> String {
        let total: usize = sample.connections.iter().map(|(_, count)| count).sum();
        // Cursor home, clear what is below; each line is cleared to its end.
        let mut text = format!(
            "\x1b[H\x1b[Jmqlb lab, {} s\n\nbackend   weight  connections  share\n",
            self.start.elapsed().as_secs()
        );
        for ((name, count), weight) in sample.connections.iter().zip(self.weights) {
            let share = 100.0 * *count as f64 / total.max(1) as f64;
            let bar = "█".repeat((share / 2.5).round() as usize);
            text += &format!("{name:<8}  {weight:>6}  {count:>11}  {share:>5.1} %  {bar}\n");
        }
        text += &format!("\n{}\n", self.facts(sample).join("\n"));
        text += &format!("\n{}\n\nCtrl-C ends it.\n", self.stage.hints());
        text
    }

    fn facts(&self, sample: &Sample) -> Vec<String> {
        let gauges = self.gauges;
        let reconnects = gauges.reconnects.load(Relaxed);
        let mut facts = vec![format!("connects/s {}", sample.connects_per_second)];
        if let Some(steered) = sample.steered {
            facts.push(format!(
                "steered by kernel {} agent {}",
                steered.kernel, steered.agent
            ));
        }
        facts.push(format!(
            "returned {} of {reconnects}",
            gauges.returned.load(Relaxed)
        ));
        facts.push(format!("connect {}", sample.latency));
        facts.push(format!(
            "failed {} lost {}",
            gauges.failures.load(Relaxed),
            gauges.lost.load(Relaxed)
        ));
        facts
    }

    fn print(&self, text: &str) {
        // A closed output is no reason to leave the lab half-way.
        let _ = match self.output {
            Output::StderrLines => std::io::stderr().write_all(text.as_bytes()),
            _ => std::io::stdout().write_all(text.as_bytes()),
        };
    }
}
