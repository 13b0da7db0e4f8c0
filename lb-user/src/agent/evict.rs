//! Ends the live connections of backends: of one that is down all at once, of one that is drained at a
//! pace. Runs on a thread of its own, with handles of its own.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use lb_common::layout::{FlowKey, State, flags, ticks};

use super::ending::{Traffic, end};
use super::kernel::Kernel;
use crate::dataplane::{Home, clock};

/// Pause between two walks of the flow map for one job; after this many that found nothing it is done.
/// Connections that were in set-up when it began are found by the later ones.
const WALK: Duration = Duration::from_secs(1);
const EMPTY_WALKS: u32 = 3;
/// Most connections ended in one go, so that other orders get their turn.
const BATCH: usize = 1024;
/// Pause between two goes of a paced job.
const PACE: Duration = Duration::from_millis(10);

/// Why connections are ended; each is counted under a verdict of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Their backend is down.
    Down,
    /// Their backend is drained or disabled.
    Drained,
}

/// What the thread is told.
#[derive(Debug)]
pub enum Task {
    /// End the connections of these slots, at most so many a second. Replaces what was said of them.
    Begin {
        slots: Vec<u16>,
        rate: Option<u32>,
        why: Why,
    },
    /// Their connections may live.
    Cease { slots: Vec<u16> },
}

/// How many connections were ended since the agent started.
#[derive(Debug, Default)]
pub struct Ended {
    pub down: AtomicU64,
    pub drained: AtomicU64,
}

/// The thread, which ends when this is dropped.
#[derive(Debug)]
pub struct Evictor {
    tasks: mpsc::Sender<Task>,
    pub ended: Arc<Ended>,
}

impl Evictor {
    /// Starts the thread; must be called in the agent's network namespace.
    ///
    /// # Errors
    /// No maps, no packet socket, no thread.
    pub fn start(home: &Home) -> anyhow::Result<Self> {
        // Its counters are never flushed: the agent's own handle writes them.
        let kernel = Kernel::open(home)?;
        let (tasks, queue) = mpsc::channel();
        let ended = Arc::new(Ended::default());
        let mut worker = Worker {
            kernel,
            jobs: Vec::new(),
            ended: ended.clone(),
        };
        std::thread::Builder::new()
            .name("evict".to_owned())
            .spawn(move || worker.run(&queue))?;
        Ok(Self { tasks, ended })
    }

    /// Hands a task over.
    pub fn tell(&self, task: Task) {
        if self.tasks.send(task).is_err() {
            tracing::error!(
                "the thread that ends connections is gone; they stay until they end by themselves"
            );
        }
    }
}

struct Job {
    slots: Vec<u16>,
    rate: Option<u32>,
    why: Why,
    victims: VecDeque<FlowKey>,
    /// When the victims were found, and how many of them were ended since.
    since: Instant,
    done: u64,
    next_walk: Instant,
    empty_walks: u32,
}

/// How many connections a paced job may end now.
fn due(rate: Option<u32>, elapsed: Duration, done: u64) -> usize {
    let Some(rate) = rate else { return BATCH };
    let all = u64::try_from(elapsed.as_micros())
        .unwrap_or(u64::MAX)
        .saturating_mul(u64::from(rate))
        / 1_000_000;
    usize::try_from(all.saturating_sub(done)).map_or(BATCH, |due| due.min(BATCH))
}

struct Worker {
    kernel: Kernel,
    jobs: Vec<Job>,
    ended: Arc<Ended>,
}

impl Worker {
    fn run(&mut self, queue: &mpsc::Receiver<Task>) {
        loop {
            let task = match self.pause() {
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(pause) => queue.recv_timeout(pause),
            };
            match task {
                Ok(task) => self.take(task),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let mut jobs = std::mem::take(&mut self.jobs);
            for job in &mut jobs {
                if let Err(error) = self.work(job) {
                    tracing::warn!("the flow map could not be read: {error}");
                }
            }
            jobs.retain(|job| !job.victims.is_empty() || job.empty_walks < EMPTY_WALKS);
            self.jobs = jobs;
        }
    }

    /// How long there is nothing to do; `None`: until somebody says something.
    fn pause(&self) -> Option<Duration> {
        let of = |job: &Job| match (job.victims.is_empty(), job.rate) {
            (true, _) => job.next_walk.saturating_duration_since(Instant::now()),
            (false, Some(_)) => PACE,
            (false, None) => Duration::ZERO,
        };
        self.jobs.iter().map(of).min()
    }

    fn take(&mut self, task: Task) {
        let (Task::Begin { slots, .. } | Task::Cease { slots }) = &task;
        for job in &mut self.jobs {
            job.slots.retain(|slot| !slots.contains(slot));
            // Whose victims they are isn't noted: they are found again.
            job.victims.clear();
            job.next_walk = Instant::now();
        }
        self.jobs.retain(|job| !job.slots.is_empty());
        if let Task::Begin { slots, rate, why } = task {
            let now = Instant::now();
            self.jobs.push(Job {
                slots,
                rate,
                why,
                victims: VecDeque::new(),
                since: now,
                done: 0,
                next_walk: now,
                empty_walks: 0,
            });
        }
    }

    fn work(&mut self, job: &mut Job) -> std::io::Result<()> {
        if job.victims.is_empty() {
            if Instant::now() < job.next_walk {
                return Ok(());
            }
            job.next_walk = Instant::now() + WALK;
            let now = ticks::from_ns(clock::now_ns());
            let mut found = Vec::new();
            self.kernel.maps.each_flow(|key, flow| {
                if flow.flags & flags::FROM_CLIENT != 0
                    && flow.state == State::Open as u8
                    && !flow.closed()
                    && job.slots.contains(&flow.backend)
                {
                    found.push((ticks::since(now, flow.last_seen), *key));
                }
            })?;
            // The silent first: who came a moment ago, perhaps from another drain, gets its CONNACK before.
            found.sort_unstable_by_key(|(silent, _)| Reverse(*silent));
            job.victims.extend(found.into_iter().map(|(_, key)| key));
            job.empty_walks = if job.victims.is_empty() {
                job.empty_walks + 1
            } else {
                0
            };
            job.since = Instant::now();
            job.done = 0;
        }
        let live = Traffic::Live(ticks::from_ns(clock::now_ns()));
        let mut due = due(job.rate, job.since.elapsed(), job.done);
        while due > 0
            && let Some(key) = job.victims.pop_front()
        {
            if end(&mut self.kernel, &key, live, |flow| {
                job.slots.contains(&flow.backend)
            }) {
                let ended = match job.why {
                    Why::Down => &self.ended.down,
                    Why::Drained => &self.ended.drained,
                };
                ended.fetch_add(1, Relaxed);
                job.done += 1;
                due -= 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_kept_from_the_beginning() {
        let ms = Duration::from_millis;
        assert_eq!(due(Some(500), ms(0), 0), 0);
        assert_eq!(due(Some(500), ms(10), 0), 5);
        assert_eq!(due(Some(500), ms(10), 5), 0);
        assert_eq!(due(Some(500), ms(1000), 400), 100);
        assert_eq!(due(Some(1), ms(999), 0), 0);
        assert_eq!(due(None, ms(0), 7), BATCH);
        assert_eq!(due(Some(1_000_000), Duration::MAX, 0), BATCH);
    }
}
