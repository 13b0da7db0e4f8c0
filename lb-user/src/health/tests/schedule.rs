use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, timeout};

use super::super::{Cause, Checks};
use super::*;

const TCP: Check = Check::Tcp { port: None };

fn mqtt() -> Check {
    Check::Mqtt { port: None }
}

/// A broker that accepts while it is healthy, and counts.
#[derive(Clone, Default)]
struct Broker {
    ill: Arc<AtomicBool>,
    checks: Arc<AtomicUsize>,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    /// Before it answers.
    pause: Duration,
}

impl Broker {
    async fn start(&self) -> Server {
        let broker = self.clone();
        Server::start(move |stream| broker.clone().serve(stream)).await
    }

    async fn serve(self, mut stream: TcpStream) {
        self.checks.fetch_add(1, SeqCst);
        let now = self.now.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
        let code = if self.ill.load(SeqCst) { 3 } else { 0 };
        let mut connect = [0; 37];
        // Checks are cut when the target goes.
        if stream.read_exact(&mut connect).await.is_ok() {
            sleep(self.pause).await;
            let _ = stream.write_all(&[0x20, 2, 0, code]).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        self.now.fetch_sub(1, SeqCst);
    }

    fn checks(&self) -> usize {
        self.checks.load(SeqCst)
    }

    /// Waits for this many further checks to begin.
    async fn checked(&self, times: usize) {
        let wanted = self.checks() + times;
        timeout(PATIENCE, async {
            while self.checks() < wanted {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("checks go on");
    }
}

async fn first_round(checks: &Checks) {
    timeout(PATIENCE, checks.first_round()).await.unwrap();
}

/// Nothing is in the channel.
fn quiet(events: &mut UnboundedReceiver<Event>) {
    let event = events.try_recv();
    assert!(event.is_err(), "{event:?}");
}

#[tokio::test]
async fn the_first_round_judges_everybody() {
    let broker = Broker::default();
    let server = broker.start().await;
    let dead = nowhere().await;
    let mut patient = target(3, server.address, mqtt());
    patient.health.rise = 5;
    let (checks, mut events) = Checks::start(
        1,
        [
            target(1, server.address, TCP),
            target(2, dead, TCP),
            patient,
        ],
    );
    first_round(&checks).await;
    assert_eq!(checks.state(1), Some(State::Up));
    assert_eq!(checks.state(2), Some(State::Down));
    assert_eq!(checks.state(3), Some(State::Up));
    let mut found: Vec<_> = (0..3).map(|_| events.try_recv().unwrap()).collect();
    found.sort_by_key(|event| event.id);
    let refused = format!("connect to :{}: refused", dead.port());
    assert_eq!(
        found[1],
        Event {
            id: 2,
            address: dead,
            from: None,
            to: State::Down,
            cause: Cause::Checks,
            reason: refused.clone(),
        }
    );
    assert_eq!(found[1].to_string(), format!("{dead} is down: {refused}"));
    // Nobody to wait for.
    let (none, _events) = Checks::start(1, []);
    first_round(&none).await;
}

#[tokio::test]
async fn verdicts_follow_the_backend() {
    let broker = Broker::default();
    let server = broker.start().await;
    let mut target = target(7, server.address, mqtt());
    (target.health.rise, target.health.fall) = (3, 2);
    let (_checks, mut events) = Checks::start(1, [target]);
    assert_eq!(next(&mut events).await.to, State::Up);
    for _ in 0..2 {
        broker.ill.store(true, SeqCst);
        let before = broker.checks();
        let event = next(&mut events).await;
        assert_eq!((event.from, event.to), (Some(State::Up), State::Down));
        assert_eq!(event.cause, Cause::Checks);
        assert!(event.reason.ends_with("answered: server unavailable"));
        assert!(broker.checks() >= before + 2, "fall");
        broker.ill.store(false, SeqCst);
        let before = broker.checks();
        let event = next(&mut events).await;
        assert_eq!((event.from, event.to), (Some(State::Down), State::Up));
        assert!(broker.checks() >= before + 3, "rise");
    }
}

#[tokio::test]
async fn a_failed_connection_is_known_at_once() {
    let broker = Broker::default();
    let server = broker.start().await;
    let (first, mut second) = (
        target(1, server.address, mqtt()),
        target(2, server.address, mqtt()),
    );
    second.health.interval = Duration::from_secs(3600);
    let (checks, mut events) = Checks::start(1, [first, second, target(3, nowhere().await, TCP)]);
    first_round(&checks).await;
    while events.try_recv().is_ok() {}
    let begun = broker.checks();
    checks.passive(server.address, "refused a client's connection");
    let mut ids = Vec::new();
    for _ in 0..2 {
        let event = events.try_recv().unwrap();
        assert_eq!((event.from, event.to), (Some(State::Up), State::Down));
        assert_eq!(event.cause, Cause::Connection);
        assert_eq!(event.reason, "refused a client's connection");
        ids.push(event.id);
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 2]);
    // Once more is no news.
    checks.passive(server.address, "again");
    quiet(&mut events);
    // A check that began later brings one back; the other's is an hour away.
    let event = next(&mut events).await;
    assert_eq!((event.id, event.to), (1, State::Up));
    assert!(broker.checks() > begun);
    assert_eq!(checks.state(2), Some(State::Down));
}

#[tokio::test]
async fn a_check_that_was_under_way_does_not_clear_a_failed_connection() {
    let broker = Broker {
        pause: Duration::from_millis(300),
        ..Broker::default()
    };
    let server = broker.start().await;
    let mut target = target(1, server.address, mqtt());
    target.health.interval = Duration::from_secs(3600);
    let (checks, mut events) = Checks::start(1, [target]);
    broker.checked(1).await;
    checks.passive(server.address, "silent");
    assert_eq!(next(&mut events).await.to, State::Down);
    first_round(&checks).await;
    assert_eq!(checks.state(1), Some(State::Down));
    quiet(&mut events);
}

#[tokio::test]
async fn as_many_checks_as_ever_confirm_a_failed_connection() {
    let broker = Broker::default();
    let server = broker.start().await;
    let mut target = target(1, server.address, mqtt());
    target.health.rise = 2;
    target.health.fall = 3;
    target.health.interval = Duration::from_millis(150);
    target.health.jitter = 0;
    let (checks, mut events) = Checks::start(1, [target]);
    first_round(&checks).await;
    while events.try_recv().is_ok() {}
    // Fewer do not, ...
    broker.ill.store(true, SeqCst);
    checks.passive(server.address, "silent");
    assert_eq!(next(&mut events).await.cause, Cause::Connection);
    broker.checked(2).await;
    broker.ill.store(false, SeqCst);
    let event = next(&mut events).await;
    assert_eq!((event.from, event.to), (Some(State::Down), State::Up));
    // ... as many do, ...
    broker.ill.store(true, SeqCst);
    let before = broker.checks();
    checks.passive(server.address, "silent");
    assert_eq!(next(&mut events).await.cause, Cause::Connection);
    let event = next(&mut events).await;
    assert_eq!((event.from, event.to), (Some(State::Down), State::Down));
    assert_eq!(event.cause, Cause::Checks);
    assert!(broker.checks() >= before + 3);
    // ... and once is enough.
    broker.checked(2).await;
    quiet(&mut events);
}

#[tokio::test]
async fn targets_that_stay_keep_verdict_and_rhythm() {
    let broker = Broker::default();
    let server = broker.start().await;
    let hourly = |id| {
        let mut target = target(id, server.address, mqtt());
        target.health.interval = Duration::from_secs(3600);
        target
    };
    let (mut checks, mut events) = Checks::start(1, [hourly(1), hourly(2), hourly(3)]);
    first_round(&checks).await;
    assert_eq!(broker.checks(), 3);
    while events.try_recv().is_ok() {}

    // One stays as it is, one is checked otherwise, one goes, one is new.
    let mut changed = hourly(2);
    changed.health.fall = 5;
    checks.update([hourly(1), changed, hourly(4)]);
    first_round(&checks).await;
    let event = next(&mut events).await;
    assert_eq!((event.id, event.from, event.to), (4, None, State::Up));
    broker_settles(&broker, 5).await;
    quiet(&mut events);
    assert_eq!(checks.state(2), Some(State::Up));
    assert_eq!(checks.state(3), None);
    checks.passive(server.address, "refused");
    let mut ids: Vec<_> = (0..3).map(|_| events.try_recv().unwrap().id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 4]);
}

/// That many checks came, and no more.
async fn broker_settles(broker: &Broker, checks: usize) {
    timeout(PATIENCE, async {
        while broker.checks() < checks {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(broker.checks(), checks);
}

#[tokio::test]
async fn another_address_is_another_backend() {
    let broker = Broker::default();
    let server = broker.start().await;
    let (mut checks, mut events) = Checks::start(1, [target(1, server.address, mqtt())]);
    assert_eq!(next(&mut events).await.to, State::Up);
    let address = nowhere().await;
    checks.update([target(1, address, mqtt())]);
    let event = next(&mut events).await;
    assert_eq!(
        (event.from, event.to, event.address),
        (None, State::Down, address)
    );
}

#[tokio::test]
async fn checks_end_with_their_owner() {
    let broker = Broker::default();
    let server = broker.start().await;
    let (checks, mut events) = Checks::start(1, [target(1, server.address, mqtt())]);
    broker.checked(2).await;
    drop(checks);
    while timeout(PATIENCE, events.recv()).await.unwrap().is_some() {}
    sleep(Duration::from_millis(100)).await;
    let before = broker.checks();
    sleep(Duration::from_millis(300)).await;
    assert_eq!(broker.checks(), before);
}

#[tokio::test]
async fn one_targets_checks_never_overlap_and_hold_up_nobody() {
    let slow = Broker {
        pause: Duration::from_millis(120),
        ..Broker::default()
    };
    let (slow_server, quick) = (slow.start().await, Broker::default());
    let quick_server = quick.start().await;
    let mut late = target(1, slow_server.address, mqtt());
    late.health.jitter = 100;
    let (checks, _events) = Checks::start(1, [late, target(2, quick_server.address, mqtt())]);
    let start = Instant::now();
    slow.checked(6).await;
    // Its checks take longer than the interval: they follow one another. (The first of the six may have begun.)
    assert!(start.elapsed() >= slow.pause * 4, "{:?}", start.elapsed());
    assert_eq!(slow.most.load(SeqCst), 1);
    assert!(
        quick.checks() > slow.checks(),
        "{} {}",
        quick.checks(),
        slow.checks()
    );
    assert_eq!(checks.state(1), Some(State::Up));
}

#[tokio::test]
async fn a_backend_that_flaps_changes_no_more_often_than_it_is_checked() {
    let broker = Broker::default();
    let server = broker.start().await;
    let (checks, mut events) = Checks::start(1, [target(1, server.address, mqtt())]);
    first_round(&checks).await;
    let start = Instant::now();
    let mut calls = 0usize;
    while start.elapsed() < Duration::from_secs(1) {
        // Thousands of clients fail while every check finds it up.
        for _ in 0..100 {
            checks.passive(server.address, "refused");
            calls += 1;
        }
        sleep(Duration::from_millis(1)).await;
    }
    let mut changes = 0;
    while events.try_recv().is_ok() {
        changes += 1;
    }
    // Up by a check, down by the next failure: two for each check, and the first.
    let checked = broker.checks();
    assert!(changes <= 2 * checked + 1, "{changes} of {checked}");
    assert!(
        (5..=30).contains(&checked),
        "{checked} checks in 1 s at an interval of 50 ms"
    );
    assert!(calls > 1000);
}

#[tokio::test]
async fn a_node_without_availability_check_is_not_asked_again_and_again() {
    let asked: Arc<[AtomicUsize; 2]> = Arc::default();
    let counts = asked.clone();
    let server = Server::start(move |mut stream| {
        let counts = counts.clone();
        async move {
            let mut head = [0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            let availability = head[..length].starts_with(b"GET /availability");
            counts[usize::from(availability)].fetch_add(1, SeqCst);
            let status = if availability {
                "404 Not Found"
            } else {
                "200 OK"
            };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    let check = Check::Http {
        port: server.address.port(),
        path: "/status".to_owned(),
        availability: Some("/availability".to_owned()),
    };
    let (checks, _events) = Checks::start(1, [target(1, server.address, check)]);
    timeout(PATIENCE, async {
        while asked[0].load(SeqCst) < 5 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(asked[1].load(SeqCst), 1);
    assert_eq!(checks.state(1), Some(State::Up));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_targets() {
    super::super::raise_descriptor_limit().unwrap();
    let broker = Broker::default();
    let server = broker.start().await;
    let targets = (0..1000).map(|id| {
        let mut target = target(id, server.address, mqtt());
        target.health.interval = Duration::from_secs(1);
        target
    });
    let start = Instant::now();
    let (checks, mut events) = Checks::start(1, targets);
    first_round(&checks).await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!((0..1000).all(|id| checks.state(id) == Some(State::Up)));
    sleep(Duration::from_secs(2)).await;
    let mut count = 0;
    while let Ok(event) = events.try_recv() {
        assert_eq!((event.from, event.to), (None, State::Up));
        count += 1;
    }
    assert_eq!(count, 1000);
    // About once a second each.
    assert!(
        (1500..4500).contains(&broker.checks()),
        "{}",
        broker.checks()
    );
}
