//! One target: the task that checks it again and again, and the verdict, which failed connections change too.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch as channel};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use super::check::{Failure, Finding, check};
use super::judge::{Begun, Change, Judge, State};
use super::mqtt::Identifier;
use super::{Cause, Event, Target};
use crate::setup::rng::Rng;

/// How long a node that knows no availability check is not asked for it; it may have been upgraded.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Between the first checks of two targets, so that a thousand don't begin in one moment …
const STAGGER: Duration = Duration::from_millis(1);
/// … and how many of them there are before it begins anew, so that the first round doesn't take long.
const STAGGERED: usize = 1000;
/// Least time from the start of a check to the start of the next, whatever jitter does to the interval.
const LEAST_GAP: Duration = Duration::from_millis(5);

/// A target under watch. Dropping it ends its checks.
#[derive(Debug)]
pub(super) struct Watched {
    target: Arc<Target>,
    verdict: Arc<Verdict>,
    task: AbortHandle,
}

/// What a target's task and its owner share.
#[derive(Debug)]
struct Verdict {
    inner: Mutex<Inner>,
    events: mpsc::UnboundedSender<Event>,
    unjudged: Arc<channel::Sender<usize>>,
}

#[derive(Debug)]
struct Inner {
    judge: Judge,
    /// It is down because a connection failed; too few checks have said so yet.
    unconfirmed: bool,
    /// A check has ended.
    checked: bool,
    /// Nobody wants to hear of the target any more.
    over: bool,
}

impl Watched {
    /// `place` staggers the first checks of targets that start together.
    pub fn start(
        target: Target,
        place: usize,
        seed: u64,
        events: mpsc::UnboundedSender<Event>,
        unjudged: Arc<channel::Sender<usize>>,
    ) -> Self {
        unjudged.send_modify(|number| *number += 1);
        let verdict = Arc::new(Verdict {
            inner: Mutex::new(Inner {
                judge: Judge::new(target.health.rise, target.health.fall),
                unconfirmed: false,
                checked: false,
                over: false,
            }),
            events,
            unjudged,
        });
        let target = Arc::new(target);
        let task = spawn(&target, &verdict, place, seed);
        Self {
            target,
            verdict,
            task,
        }
    }

    /// Keeps the verdict; other checks find it from now on.
    pub fn change(&mut self, target: Target, place: usize, seed: u64) {
        self.task.abort();
        let (rise, fall) = (target.health.rise, target.health.fall);
        self.verdict.lock().judge.set_thresholds(rise, fall);
        self.target = Arc::new(target);
        self.task = spawn(&self.target, &self.verdict, place, seed);
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    pub fn state(&self) -> Option<State> {
        self.verdict.lock().judge.state()
    }

    pub fn connection_failed(&self, reason: &str) {
        let mut inner = self.verdict.lock();
        let change = inner.judge.connection_failed();
        inner.unconfirmed |= change.is_some();
        self.verdict
            .tell(&inner, &self.target, change, Cause::Connection, reason);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
        // The task may be at work in this moment.
        let mut inner = self.verdict.lock();
        inner.over = true;
        self.verdict.ended(&mut inner);
    }
}

impl Verdict {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A check ended.
    fn checked(&self, target: &Target, begun: Begun, state: State, reason: &str) {
        let mut inner = self.lock();
        let mut change = inner.judge.checked(begun, state);
        if inner.unconfirmed && change.is_none() && inner.judge.is_down_by_checks() {
            let (from, to) = (Some(State::Down), State::Down);
            change = Some(Change { from, to });
        }
        inner.unconfirmed &= change.is_none();
        self.tell(&inner, target, change, Cause::Checks, reason);
        self.ended(&mut inner);
    }

    /// Sends the event with the lock held: events come in the order of the changes.
    fn tell(
        &self,
        inner: &Inner,
        target: &Target,
        change: Option<Change>,
        cause: Cause,
        reason: &str,
    ) {
        if let Some(Change { from, to }) = change
            && !inner.over
        {
            // If nobody listens any more, the tasks will end soon.
            let _ = self.events.send(Event {
                id: target.id,
                address: target.address,
                from,
                to,
                cause,
                reason: reason.to_owned(),
            });
        }
    }

    /// The first round doesn't wait for this target any longer.
    fn ended(&self, inner: &mut Inner) {
        if !std::mem::replace(&mut inner.checked, true) {
            self.unjudged.send_modify(|number| *number -= 1);
        }
    }
}

fn spawn(target: &Arc<Target>, verdict: &Arc<Verdict>, place: usize, seed: u64) -> AbortHandle {
    let delay = STAGGER * (place % STAGGERED) as u32;
    tokio::spawn(run(target.clone(), verdict.clone(), seed, delay)).abort_handle()
}

/// Checks for ever.
async fn run(target: Arc<Target>, verdict: Arc<Verdict>, seed: u64, delay: Duration) {
    let number = number(seed, &target);
    let identifier = identifier(number);
    let mut rng = Rng::new(number);
    let mut first = true;
    let mut no_availability: Option<Instant> = None;
    let mut hindered = false;
    sleep(delay).await;
    loop {
        let start = Instant::now();
        let ask = no_availability.is_none_or(|since| start.duration_since(since) >= ASK_AGAIN);
        let begun = verdict.lock().judge.begin();
        let found = guarded(target.clone(), identifier, ask).await;
        hindered &= matches!(found, Err(Failure::Here { .. }));
        match found {
            Ok(finding) => {
                if ask {
                    no_availability = finding.no_availability.then_some(start);
                }
                verdict.checked(&target, begun, finding.state, &finding.reason);
            }
            Err(Failure::Backend(reason)) => {
                tracing::debug!("check of {} failed: {reason}", target.address);
                // What comes back may be another version.
                no_availability = None;
                verdict.checked(&target, begun, State::Down, &reason);
            }
            Err(error) => {
                if !std::mem::replace(&mut hindered, true) {
                    tracing::warn!(
                        "{} can't be checked, its state stays: {error}; \
                         look at the limits of this host (ulimit -n, memory, source ports)",
                        target.address
                    );
                }
                verdict.ended(&mut verdict.lock());
            }
        }
        let gap = gap(&target, std::mem::take(&mut first), &mut rng);
        sleep_until(start + gap).await;
    }
}

/// A check whose panic is nobody else's, and doesn't end the checks of its target.
async fn guarded(
    target: Arc<Target>,
    identifier: Identifier,
    ask: bool,
) -> Result<Finding, Failure> {
    // Dropped with this future, it aborts the check.
    let mut one = JoinSet::new();
    one.spawn(async move { check(&target, &identifier, ask).await });
    match one.join_next().await {
        Some(Ok(found)) => found,
        Some(Err(error)) => Err(Failure::Here {
            what: "the check itself broke".to_owned(),
            source: io::Error::other(error),
        }),
        None => unreachable!("one task was spawned"),
    }
}

/// From the start of a check to the start of the next.
fn gap(target: &Target, first: bool, rng: &mut Rng) -> Duration {
    let interval = target.health.interval;
    // Parts of a million.
    let mut between = |least: u32, most: u32| {
        interval.mul_f64(f64::from(least + rng.below(most - least + 1)) / 1e6)
    };
    let gap = if first {
        // Targets that started together part.
        between(500_000, 1_000_000)
    } else {
        let jitter = target.health.jitter.min(100) * 10_000;
        between(1_000_000 - jitter, 1_000_000 + jitter)
    };
    gap.max(LEAST_GAP)
}

/// Different for each target of each balancer.
fn number(seed: u64, target: &Target) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, target.id, target.address).hash(&mut hasher);
    hasher.finish()
}

/// The client identifier of MQTT checks: says what it is, and is nobody else's.
fn identifier(number: u64) -> Identifier {
    let text = format!("mqlbcheck{:014x}", number >> 8);
    let mut identifier = Identifier::default();
    identifier.copy_from_slice(text.as_bytes());
    identifier
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Check, Health};

    fn target(id: u32, jitter: u32) -> Target {
        Target {
            id,
            address: "127.0.0.1:1883".parse().unwrap(),
            health: Health {
                check: Check::Mqtt { port: None },
                interval: Duration::from_secs(1),
                timeout: Duration::from_millis(500),
                rise: 2,
                fall: 2,
                jitter,
            },
            proxy_protocol: false,
        }
    }

    #[test]
    fn intervals_vary_by_the_jitter_and_never_vanish() {
        let mut rng = Rng::new(1);
        for (jitter, least, most) in [
            (0, 1000, 1000),
            (10, 900, 1100),
            (100, 5, 2000),
            (900, 5, 2000),
        ] {
            let target = target(1, jitter);
            let gaps: Vec<_> = (0..10_000).map(|_| gap(&target, false, &mut rng)).collect();
            let millis = |gap: &Duration| gap.as_millis();
            let (low, high) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
            assert!(
                millis(low) >= least && millis(high) <= most,
                "{jitter}: {low:?} {high:?}"
            );
            let spread = most - least;
            assert!(
                millis(high) - millis(low) >= spread * 9 / 10,
                "{jitter}: {low:?} {high:?}"
            );
        }
    }

    #[test]
    fn identifiers_are_alphanumeric_and_nobody_elses() {
        let identifiers =
            [(1, 1), (1, 2), (2, 1)].map(|(seed, id)| identifier(number(seed, &target(id, 0))));
        for (i, identifier) in identifiers.iter().enumerate() {
            assert!(identifier.iter().all(u8::is_ascii_alphanumeric));
            assert!(identifier.starts_with(b"mqlbcheck"));
            assert!(!identifiers[..i].contains(identifier));
        }
    }

    #[tokio::test]
    async fn a_check_that_ends_behind_its_target_is_no_news() {
        let (events, mut receiver) = mpsc::unbounded_channel();
        let unjudged = Arc::new(channel::Sender::new(0));
        let watched = Watched::start(target(1, 0), 500, 1, events, unjudged.clone());
        let (target, verdict) = (watched.target.clone(), watched.verdict.clone());
        let begun = verdict.lock().judge.begin();
        assert_eq!(*unjudged.borrow(), 1);
        drop(watched);
        assert_eq!(*unjudged.borrow(), 0);
        verdict.checked(&target, begun, State::Up, "late");
        assert!(receiver.try_recv().is_err());
        assert_eq!(*unjudged.borrow(), 0);
    }
}
