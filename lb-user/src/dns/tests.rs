//! Names as a small name server of the test's own has them.

use super::*;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// What the server does about one name and type.
#[derive(Clone, Debug)]
enum Does {
    Answer(u32, Vec<IpAddr>),
    Fail,
    Nothing,
}

#[derive(Default)]
struct Zone {
    records: HashMap<(String, u16), Does>,
    /// Questions that came, by name and type.
    asked: HashMap<(String, u16), usize>,
}

const A: u16 = 1;
const AAAA: u16 = 28;

/// A name server on a port of its own, and the files that lead there.
struct World {
    zone: Arc<Mutex<Zone>>,
    source: Source,
    _directory: tempfile::TempDir,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl World {
    async fn new(hosts: &str, resolv_conf: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let zone = Arc::<Mutex<Zone>>::default();
        let server = tokio::spawn(serve(socket, zone.clone()));
        let directory = tempfile::tempdir().unwrap();
        let text = format!("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n{resolv_conf}");
        std::fs::write(directory.path().join("resolv.conf"), text).unwrap();
        std::fs::write(directory.path().join("hosts"), hosts).unwrap();
        Self {
            zone,
            source: Source::of(directory.path(), port),
            _directory: directory,
            server,
        }
    }

    fn set(&self, name: &str, kind: u16, does: Does) {
        let mut zone = self.zone.lock().unwrap();
        zone.records.insert((name.to_owned(), kind), does);
    }

    fn answer(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let all: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        for (kind, v4) in [(A, true), (AAAA, false)] {
            let of = all
                .iter()
                .filter(|ip| ip.is_ipv4() == v4)
                .copied()
                .collect();
            self.set(name, kind, Does::Answer(ttl, of));
        }
    }

    fn asked(&self, name: &str, kind: u16) -> usize {
        let zone = self.zone.lock().unwrap();
        zone.asked
            .get(&(name.to_owned(), kind))
            .copied()
            .unwrap_or(0)
    }

    async fn resolve(&self, hosts: &[&str]) -> Answers {
        let hosts = hosts.iter().map(|host| (*host).to_owned());
        resolve(&self.source, hosts, &Answers::default()).await
    }
}

async fn serve(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut packet = [0; 1500];
    loop {
        let (len, peer) = socket.recv_from(&mut packet).await.unwrap();
        let reply = reply(&packet[..len], &mut zone.lock().unwrap());
        if let Some(reply) = reply {
            socket.send_to(&reply, peer).await.unwrap();
        }
    }
}

/// RFC 1035, section 4: the question comes back, and each answer points to its name.
fn reply(query: &[u8], zone: &mut Zone) -> Option<Vec<u8>> {
    let (mut at, mut name) = (12, String::new());
    while query[at] != 0 {
        let len = usize::from(query[at]);
        let label = std::str::from_utf8(&query[at + 1..=at + len]).unwrap();
        name += &format!("{}.", label.to_lowercase());
        at += 1 + len;
    }
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    *zone.asked.entry((name.clone(), kind)).or_default() += 1;
    let named = zone.records.keys().any(|(known, _)| *known == name);
    let (code, ttl, addresses) = match zone.records.get(&(name, kind)).cloned() {
        Some(Does::Answer(ttl, addresses)) => (0, ttl, addresses),
        Some(Does::Fail) => (2, 0, vec![]),
        Some(Does::Nothing) => return None,
        None if named => (0, 0, vec![]),
        None => (3, 0, vec![]),
    };
    let mut out = query[..2].to_vec();
    out.extend([
        0x81,
        0x80 | code,
        0,
        1,
        0,
        addresses.len() as u8,
        0,
        0,
        0,
        0,
    ]);
    out.extend(&query[12..at + 5]);
    for address in addresses {
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out.extend(ttl.to_be_bytes());
        match address {
            IpAddr::V4(v4) => out.extend([&[0, 4][..], &v4.octets()].concat()),
            IpAddr::V6(v6) => out.extend([&[0, 16][..], &v6.octets()].concat()),
        }
    }
    Some(out)
}

fn shown(answers: &Answers, host: &str) -> Vec<String> {
    let found = answers.lookup(host, 1883).unwrap();
    found.iter().map(ToString::to_string).collect()
}

/// As by default.
const LONGEST: Duration = Duration::from_secs(300);
/// Long enough for anything that has to happen here.
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn all_addresses_of_both_families() {
    let world = World::new("", "").await;
    world.answer("emqx.example.", 60, &["10.0.0.3", "10.0.0.2", "fd00::2"]);
    world.answer("four.example.", 60, &["10.0.0.4"]);
    let answers = world.resolve(&["emqx.example", "four.example."]).await;
    let expected = ["10.0.0.2:1883", "10.0.0.3:1883", "[fd00::2]:1883"];
    assert_eq!(shown(&answers, "emqx.example"), expected);
    assert_eq!(shown(&answers, "four.example."), ["10.0.0.4:1883"]);
}

#[tokio::test]
async fn what_is_not_there_says_why() {
    let world = World::new("", "").await;
    world.set("broken.example.", A, Does::Fail);
    world.set("broken.example.", AAAA, Does::Fail);
    world.set("silent.example.", A, Does::Nothing);
    world.set("silent.example.", AAAA, Does::Nothing);
    let names = ["none.example", "broken.example", "silent.example"];
    let answers = world.resolve(&names).await;
    for (name, why) in [
        ("none.example", "no address"),
        ("broken.example", "Server Failure"),
        ("silent.example", "timed out"),
        ("other.example", "not asked"),
    ] {
        let error = answers.lookup(name, 1).unwrap_err().to_string();
        assert!(error.contains(why), "{name}: {error}");
    }
}

#[tokio::test]
async fn the_hosts_file_comes_first_and_search_domains_count() {
    let world = World::new("10.0.0.9 emqx.example EMQX2\n", "search mqtt.example").await;
    world.answer("emqx.example.", 60, &["10.0.0.1", "fd00::1"]);
    world.answer("broker.mqtt.example.", 60, &["10.0.0.5"]);
    let answers = world.resolve(&["emqx.example", "emqx2", "broker"]).await;
    assert_eq!(shown(&answers, "emqx.example"), ["10.0.0.9:1883"]);
    assert_eq!(shown(&answers, "emqx2"), ["10.0.0.9:1883"]);
    assert_eq!(shown(&answers, "broker"), ["10.0.0.5:1883"]);
    assert_eq!(
        world.asked("emqx.example.", A) + world.asked("emqx.example.", AAAA),
        0
    );
}

#[tokio::test]
async fn without_files_there_is_no_answer_and_no_panic() {
    let source = Source::of(std::path::Path::new("/nonexistent"), 53);
    let answers = resolve(&source, ["emqx.example".to_owned()], &Answers::default()).await;
    let error = answers.lookup("emqx.example", 1).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/resolv.conf: "), "{error}");
}

#[tokio::test]
async fn a_change_is_seen_when_the_time_to_live_ends() {
    let world = World::new("", "").await;
    world.answer("short.example.", 2, &["10.0.0.1"]);
    world.answer("long.example.", 3600, &["10.0.1.1"]);
    let asked = Instant::now();
    let answers = world.resolve(&["short.example", "long.example"]).await;
    let mut follower = Follower::new(world.source.clone(), answers, LONGEST);
    world.answer("short.example.", 1, &["10.0.0.1", "10.0.0.2"]);
    world.answer("long.example.", 3600, &["10.0.1.2"]);
    let answers = timeout(LONG, follower.changed()).await.unwrap();
    let took = asked.elapsed();
    assert_eq!(
        shown(answers, "short.example"),
        ["10.0.0.1:1883", "10.0.0.2:1883"]
    );
    assert_eq!(shown(answers, "long.example"), ["10.0.1.1:1883"]);
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    // The other name's answer is good for longer.
    assert_eq!(world.asked("long.example.", A), 1);
    // The same addresses in another order are no change; the next one is.
    world.answer("short.example.", 1, &["10.0.0.2", "10.0.0.1"]);
    assert!(
        timeout(Duration::from_secs(3), follower.changed())
            .await
            .is_err()
    );
    assert!(
        world.asked("short.example.", A) >= 4,
        "{}",
        world.asked("short.example.", A)
    );
    world.answer("short.example.", 1, &["10.0.0.3"]);
    let answers = timeout(LONG, follower.changed()).await.unwrap();
    assert_eq!(shown(answers, "short.example"), ["10.0.0.3:1883"]);
}

#[tokio::test]
async fn failures_keep_what_is_known_and_are_asked_again() {
    let world = World::new("", "").await;
    world.answer("emqx.example.", 1, &["10.0.0.1", "fd00::1"]);
    let answers = world.resolve(&["emqx.example"]).await;
    let mut follower = Follower::new(world.source.clone(), answers, LONGEST);
    world.set("emqx.example.", A, Does::Fail);
    world.set("emqx.example.", AAAA, Does::Fail);
    // Asked after 1 s, and 1 s after the failure; the next time would be 2 s later. The resolver itself
    // may ask a server twice.
    assert!(
        timeout(Duration::from_millis(2500), follower.changed())
            .await
            .is_err()
    );
    let asked = world.asked("emqx.example.", A);
    assert!((3..=6).contains(&asked), "{asked}");
    let both = ["10.0.0.1:1883", "[fd00::1]:1883"];
    assert_eq!(shown(follower.answers(), "emqx.example"), both);
    // A new file with the same name, while DNS is down.
    let again = ["emqx.example".to_owned()];
    let answers = resolve(&world.source, again, follower.answers()).await;
    assert_eq!(shown(&answers, "emqx.example"), both);
    // One family comes back, with another address.
    world.set(
        "emqx.example.",
        A,
        Does::Answer(60, vec!["10.0.0.7".parse().unwrap()]),
    );
    let answers = timeout(LONG, follower.changed()).await.unwrap();
    assert_eq!(
        shown(answers, "emqx.example"),
        ["10.0.0.7:1883", "[fd00::1]:1883"]
    );
    // The other family is gone for good.
    world.set("emqx.example.", AAAA, Does::Answer(60, vec![]));
    let answers = timeout(LONG, follower.changed()).await.unwrap();
    assert_eq!(shown(answers, "emqx.example"), ["10.0.0.7:1883"]);
}

#[tokio::test]
async fn a_bound_shortens_what_answers_are_good_for_and_ends_the_wait_for_a_name() {
    let world = World::new("", "").await;
    world.answer("emqx.example.", 600, &["10.0.0.1"]);
    let answers = world.resolve(&["emqx.example", "late.example"]).await;
    let mut follower = Follower::new(world.source.clone(), answers, Duration::from_secs(1));
    world.answer("emqx.example.", 600, &["10.0.0.2"]);
    let answers = timeout(LONG, follower.changed()).await.unwrap();
    assert_eq!(shown(answers, "emqx.example"), ["10.0.0.2:1883"]);
    // Failures don't make it wait ever longer.
    let before = world.asked("late.example.", A);
    let begun = Instant::now();
    while world.asked("late.example.", A) < before + 5 {
        let still = timeout(Duration::from_millis(200), follower.changed()).await;
        assert!(still.is_err(), "{still:?}");
        assert!(begun.elapsed() < LONG, "asked too seldom");
    }
    world.answer("late.example.", 600, &["10.0.0.3"]);
    let answers = timeout(LONG, follower.changed()).await.unwrap();
    assert_eq!(shown(answers, "late.example"), ["10.0.0.3:1883"]);
}

#[tokio::test]
async fn a_busy_loop_does_not_keep_it_from_its_answers() {
    let world = World::new("", "").await;
    world.answer("emqx.example.", 1, &["10.0.0.1"]);
    let answers = world.resolve(&["emqx.example"]).await;
    let mut follower = Follower::new(world.source.clone(), answers, LONGEST);
    world.answer("emqx.example.", 1, &["10.0.0.2"]);
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < LONG);
        tokio::select! {
            biased;
            answers = follower.changed() => {
                assert_eq!(shown(answers, "emqx.example"), ["10.0.0.2:1883"]);
                break;
            }
            // Everything that waits is cancelled a thousand times a second.
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
}

#[test]
fn times_have_bounds_and_failures_back_off() {
    let found = |seconds| Reply {
        v4: Outcome::Addresses(vec![[10, 0, 0, 1].into()], Duration::from_secs(seconds)),
        v6: Outcome::None,
    };
    let mut answer = Answer::unasked();
    let now = Instant::now();
    let mut wait = |reply: &Reply| {
        answer.take("emqx.example", reply, LONGEST, now);
        (answer.due - now).as_secs()
    };
    assert_eq!(
        [wait(&found(0)), wait(&found(77)), wait(&found(4000))],
        [1, 77, 300]
    );
    let failed = Reply::failed("down");
    let waits: Vec<u64> = (0..11).map(|_| wait(&failed)).collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    assert_eq!([wait(&found(9)), wait(&failed)], [9, 1]);
}
