//! Block list, limits of connections at a time and rates of CONNECTs, on real traffic.
//!
//! Connections at a time are counted by the sweep: what is opened while it walks may count twice until the
//! next one. So who is within a limit may be refused for a moment ([`accepted`] comes again), but who is
//! beyond it never gets in.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::{connections_seen, wait_for};
use lb_tests::balancer::Options;
use lb_tests::broker::NAME_TOPIC;
use lb_tests::lab::Lab;
use lb_tests::mqlb::Mqlb;
use lb_tests::raw::{self, Connect, PING, PONG};

/// For what must happen soon.
const SOON: Duration = Duration::from_secs(15);

/// A version of MQTT, and what follows the remaining length of CONNACKs that refuse in it.
struct Version {
    protocol: &'static str,
    level: u8,
    banned: &'static [u8],
    quota: &'static [u8],
}

const VERSIONS: [Version; 3] = [
    Version {
        protocol: "MQIsdp",
        level: 3,
        banned: &[0, 5],
        quota: &[0, 3],
    },
    Version {
        protocol: "MQTT",
        level: 4,
        banned: &[0, 5],
        quota: &[0, 3],
    },
    Version {
        protocol: "MQTT",
        level: 5,
        banned: &[0, 0x8a, 0],
        quota: &[0, 0x97, 0],
    },
];

impl Version {
    fn connect(&self, id: &str) -> Vec<u8> {
        let connect = Connect {
            protocol: self.protocol,
            level: self.level,
            ..Connect::new(id)
        };
        connect.encode()
    }
}

/// A CONNECT of MQTT 3.1.1.
fn connect(id: &str) -> Vec<u8> {
    Connect::new(id).encode()
}

/// What becomes of a CONNECT.
#[derive(Debug)]
enum Outcome {
    Accepted(TcpStream),
    /// A CONNACK with another code, then the end of the connection; what follows the remaining length.
    Refused(Vec<u8>),
    Reset,
}

impl Outcome {
    fn refused(self) -> Vec<u8> {
        match self {
            Self::Refused(body) => body,
            other => panic!("{other:?} in place of a refusal"),
        }
    }
}

/// Connects from an address and sends a CONNECT.
fn attempt(lab: &Lab, source: IpAddr, connect: &[u8]) -> Outcome {
    let mut stream = raw::connect_from(lab, source, SOON).expect("a SYN-ACK");
    let answer = stream
        .write_all(connect)
        .and_then(|()| raw::read_packet(&mut stream));
    match answer {
        Ok((0x20, body)) if body[1] == 0 => Outcome::Accepted(stream),
        Ok((0x20, body)) => {
            let ended = raw::read(&mut stream, &mut [0]).unwrap();
            assert_eq!(ended, 0, "closed behind {body:?}");
            Outcome::Refused(body)
        }
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Outcome::Reset,
        other => panic!("{other:?} in place of a CONNACK"),
    }
}

/// Connects, and comes again while there is no room.
fn accepted(lab: &Lab, source: IpAddr, id: &str) -> TcpStream {
    let begun = Instant::now();
    loop {
        match attempt(lab, source, &connect(id)) {
            Outcome::Accepted(stream) => return stream,
            other => assert!(begun.elapsed() < SOON, "{id} from {source}: {other:?}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// SYNs from an address are not answered, but counted.
fn is_dropped(lab: &Lab, mqlb: &Mqlb, source: IpAddr) {
    let counted = mqlb.counter("source_blocked").unwrap();
    // A second SYN comes after one second.
    let error = raw::connect_from(lab, source, Duration::from_millis(1500)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{source}");
    assert!(
        mqlb.counter("source_blocked").unwrap() > counted,
        "{source}"
    );
}

fn works(stream: &mut TcpStream) {
    let mut answer = [0; 2];
    stream.write_all(&PING).unwrap();
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, PONG);
}

/// The connection ends by a RST, and without a byte.
fn is_cut_off(stream: &mut TcpStream) {
    match raw::read(stream, &mut [0]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{other:?} in place of a RST"),
    }
}

/// Until a client's stack has acknowledged everything: whose address is blocked can't tell any more what it
/// has, and accepts only the RST with the right number (RFC 5961, section 3.2).
fn acknowledged() {
    thread::sleep(Duration::from_millis(200));
}

/// Connections at the brokers.
fn connections(lab: &Lab) -> Vec<usize> {
    lab.connections().unwrap().into_values().collect()
}

fn total(lab: &Lab) -> usize {
    connections(lab).iter().sum()
}

/// Asks the broker for its name, which is retained.
fn broker_of(stream: &mut TcpStream) -> String {
    stream.write_all(&raw::subscribe(1, NAME_TOPIC)).unwrap();
    loop {
        let (first, body) = raw::read_packet(stream).unwrap();
        if first & 0xf0 == 0x30 {
            return String::from_utf8(body[2 + NAME_TOPIC.len()..].to_vec()).unwrap();
        }
    }
}

/// A prefix of the lab's network for each family, which holds the clients' first further addresses and not
/// their usual ones.
const PREFIXES: [&str; 2] = ["10.77.0.128/29", "fd77::80/125"];

#[test]
fn who_is_blocked_by_address_is_cut_off_and_nobody_else() {
    let lab = common::lab_with_brokers(2);
    let mut mqlb = Mqlb::start(&lab, &common::unchecked()).unwrap();
    let others = lab.topology.plan.client().addresses();
    let strangers = lab.topology.add_client(0).unwrap().addresses();
    let mut staying = Vec::new();
    for ((other, stranger), prefix) in others.into_iter().zip(strangers).zip(PREFIXES) {
        staying.push(accepted(&lab, other, &format!("stays at {other}")));
        let mut going = accepted(&lab, stranger, "goes");
        works(&mut going);
        acknowledged();
        let done = mqlb.command(&["block", prefix]).unwrap();
        assert!(done.contains(&format!("{prefix} is blocked")), "{done}");
        is_cut_off(&mut going);
        wait_for("its broker knows", SOON, || total(&lab) == staying.len());
        is_dropped(&lab, &mqlb, stranger);
        works(staying.last_mut().unwrap());
        drop(accepted(&lab, other, "comes"));
        wait_for("who came has left", SOON, || total(&lab) == staying.len());
    }
    let listed = mqlb.command(&["block"]).unwrap();
    let all: Vec<_> = PREFIXES.map(|p| format!("{p} (by mqlb block)")).into();
    assert_eq!(listed.lines().collect::<Vec<_>>(), all);

    mqlb.restart().unwrap();
    staying.iter_mut().for_each(works);
    assert_eq!(mqlb.command(&["block"]).unwrap(), listed);
    for stranger in strangers {
        is_dropped(&lab, &mqlb, stranger);
    }
    // Nor is it forgotten with the data path.
    mqlb.kill();
    mqlb.command(&["unload"]).unwrap();
    mqlb.restart().unwrap();
    for ((other, stranger), prefix) in others.into_iter().zip(strangers).zip(PREFIXES) {
        is_dropped(&lab, &mqlb, stranger);
        accepted(&lab, other, "comes");
        mqlb.command(&["unblock", prefix]).unwrap();
        works(&mut accepted(&lab, stranger, "goes"));
    }
    mqlb.restart().unwrap();
    assert_eq!(mqlb.command(&["block"]).unwrap(), "nobody is blocked\n");
    for stranger in strangers {
        works(&mut accepted(&lab, stranger, "goes"));
    }
}

#[test]
fn who_is_blocked_by_identifier_is_cut_off_and_refused_in_mqtt_terms() {
    let lab = common::lab_with_brokers(2);
    let mut mqlb = Mqlb::start(&lab, &common::unchecked()).unwrap();
    let home = lab.topology.plan.client().addresses();
    let mut staying = accepted(&lab, home[0], "sensor-10");
    // It has a binding by then, so the kernel knows it.
    for _ in 0..2 {
        accepted(&lab, home[0], "sensor-1");
    }
    let mut going = home.map(|source| {
        let id = format!("sensor-1{}", if source.is_ipv4() { "" } else { " six" });
        accepted(&lab, source, &id)
    });
    for (session, id) in going.iter_mut().zip(["sensor-1", "sensor-1 six"]) {
        works(session);
        mqlb.command(&["block", "--client", id]).unwrap();
        is_cut_off(session);
    }
    wait_for("the brokers know", SOON, || total(&lab) == 1);

    let all_refused = |mqlb: &Mqlb| {
        let before = (
            connections_seen(&lab),
            mqlb.counter("client_blocked").unwrap(),
        );
        for source in home {
            for version in &VERSIONS {
                let answer = attempt(&lab, source, &version.connect("sensor-1")).refused();
                assert_eq!(answer, version.banned, "{} from {source}", version.level);
            }
        }
        let after = (
            connections_seen(&lab),
            mqlb.counter("client_blocked").unwrap(),
        );
        assert_eq!(after, (before.0, before.1 + 6), "at brokers, counted");
    };
    all_refused(&mqlb);
    works(&mut staying);
    // Identifiers are compared as a whole.
    for id in ["sensor-1 ", "Sensor-1", "sensor-", "sensor-11"] {
        works(&mut accepted(&lab, home[1], id));
    }
    mqlb.restart().unwrap();
    all_refused(&mqlb);
    let listed = mqlb.command(&["block"]).unwrap();
    let all = "client \"sensor-1\" (by mqlb block)\nclient \"sensor-1 six\" (by mqlb block)\n";
    assert_eq!(listed, all);

    mqlb.command(&["unblock", "--client", "sensor-1"]).unwrap();
    for (source, version) in home.into_iter().zip(&VERSIONS[1..]) {
        let outcome = attempt(&lab, source, &version.connect("sensor-1"));
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
    }
    let other = attempt(&lab, home[1], &connect("sensor-1 six")).refused();
    assert_eq!(other, VERSIONS[1].banned);
}

#[test]
fn the_configuration_has_a_block_list_too() {
    let lab = common::lab_with_brokers(1);
    let mut options = common::unchecked();
    options.extra = format!(
        "\n[limits]\nblocked_sources = [\"{}\", \"{}\"]\nblocked_clients = [\"sensor-1\"]\n",
        PREFIXES[0], PREFIXES[1]
    );
    let mqlb = Mqlb::start(&lab, &options).unwrap();
    let home = lab.topology.plan.client().addresses();
    let strangers = lab.topology.add_client(0).unwrap().addresses();
    for stranger in strangers {
        is_dropped(&lab, &mqlb, stranger);
    }
    let refused = || attempt(&lab, home[0], &connect("sensor-1")).refused();
    assert_eq!(refused(), VERSIONS[1].banned);
    works(&mut accepted(&lab, home[0], "sensor-2"));
    for target in [&[PREFIXES[0]][..], &["--client", "sensor-1"]] {
        let error = mqlb
            .command(&[&["unblock"][..], target].concat())
            .unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("exit status: 2"), "{error}");
        assert!(
            error.contains("blocked by the configuration file"),
            "{error}"
        );
    }

    // Another list in the file lets them in, and cuts off who is there.
    let blocking = mqlb.configuration().unwrap();
    let open = &blocking[..blocking.find("\n[limits]").unwrap()];
    mqlb.write_configuration(open).unwrap();
    mqlb.command(&["reload"]).unwrap();
    let mut sessions: Vec<_> = strangers
        .iter()
        .map(|stranger| accepted(&lab, *stranger, &format!("from {stranger}")))
        .collect();
    sessions.push(accepted(&lab, home[0], "sensor-1"));
    let mut staying = accepted(&lab, home[0], "sensor-2");
    sessions.iter_mut().for_each(works);
    acknowledged();
    mqlb.write_configuration(&blocking).unwrap();
    mqlb.command(&["reload"]).unwrap();
    sessions.iter_mut().for_each(is_cut_off);
    works(&mut staying);
    wait_for("the broker knows", SOON, || total(&lab) == 1);
    assert_eq!(refused(), VERSIONS[1].banned);
    for stranger in strangers {
        is_dropped(&lab, &mqlb, stranger);
    }

    // A file with mistakes changes nothing, and each is named with its line and what to write.
    let wrong = blocking
        .replacen("10.77.0.128/29", "10.77.0.129/29", 1)
        .replacen(
            "[pool.emqx]\n",
            "[pool.emqx]\nclient_connects = \"often\"\n",
            1,
        );
    mqlb.write_configuration(&wrong).unwrap();
    let error = format!("{:#}", mqlb.command(&["reload"]).unwrap_err());
    assert!(error.contains("exit status: 2"), "{error}");
    for (key, complaint, remedy) in [
        (
            "client_connects",
            "is not a number a second",
            "\"100/s burst 300\"",
        ),
        (
            "blocked_sources",
            "has bits behind its length",
            "\"10.77.0.128/29\"",
        ),
    ] {
        let line = wrong
            .lines()
            .position(|line| line.starts_with(key))
            .unwrap()
            + 1;
        let place = format!("mqlb.toml:{line}:");
        for part in [&place, complaint, remedy] {
            assert!(error.contains(part), "{part} in: {error}");
        }
    }
    is_dropped(&lab, &mqlb, strangers[0]);
    works(&mut staying);
}

#[test]
fn a_command_that_blocks_wrongly_says_what_to_write() {
    let lab = common::lab_without_brokers(1);
    let mut mqlb = Mqlb::start(&lab, &common::unchecked()).unwrap();
    let rows: [(&[&str], &str); 8] = [
        (&["block", "somewhere"], "write `192.0.2.7`"),
        (&["block", "10.77.0.129/29"], "write 10.77.0.128/29"),
        (&["block", "10.77.0.0/33"], "at most 32 bits"),
        (&["block", "::/0"], "write those as IPv4"),
        (&["block", "--client", ""], "the empty client identifier"),
        (
            &["block", "10.77.0.1", "--client", "a"],
            "cannot be used with",
        ),
        (&["unblock"], "write PREFIX or --client ID"),
        (&["unblock", "10.77.0.1"], "10.77.0.1/32 is not blocked"),
    ];
    let fails = |mqlb: &Mqlb, arguments: &[&str], status: u8, says: &str| {
        let error = format!("{:#}", mqlb.command(arguments).unwrap_err());
        let status = format!("exit status: {status}");
        for part in [status.as_str(), says] {
            assert!(error.contains(part), "{arguments:?}: {part} in: {error}");
        }
    };
    for (arguments, says) in rows {
        fails(&mqlb, arguments, 2, says);
    }
    assert_eq!(mqlb.command(&["block"]).unwrap(), "nobody is blocked\n");
    mqlb.command(&["block", "10.77.0.128"]).unwrap();
    fails(&mqlb, &["block", "10.77.0.128/32"], 2, "is blocked already");
    mqlb.kill();
    fails(&mqlb, &["block", "10.77.0.129"], 1, "does the agent run?");
}

#[test]
fn a_listener_takes_no_more_than_it_may() {
    const MOST: usize = 3;
    let lab = common::lab_with_brokers(2);
    let options = Options {
        listener: format!("max_flows = {MOST}"),
        ..common::unchecked()
    };
    let mut mqlb = Mqlb::start(&lab, &options).unwrap();
    let home = lab.topology.plan.client().addresses();
    // Addresses of both families are one listener.
    let mut sessions: Vec<_> = (0..MOST)
        .map(|n| accepted(&lab, home[n % 2], &format!("client-{n}")))
        .collect();

    let full = |mqlb: &Mqlb| {
        let before = (
            connections_seen(&lab),
            mqlb.counter("listener_full").unwrap(),
        );
        for source in home {
            for version in &VERSIONS {
                // The second has a binding, so the kernel knows it.
                for id in ["late", "client-0"] {
                    let answer = attempt(&lab, source, &version.connect(id)).refused();
                    assert_eq!(
                        answer, version.quota,
                        "{id}, {} from {source}",
                        version.level
                    );
                }
            }
        }
        let after = (
            connections_seen(&lab),
            mqlb.counter("listener_full").unwrap(),
        );
        assert_eq!(after, (before.0, before.1 + 12), "at brokers, counted");
    };
    full(&mqlb);
    sessions.iter_mut().for_each(works);
    mqlb.restart().unwrap();
    full(&mqlb);

    // Who leaves makes room for one.
    drop(sessions.pop());
    sessions.push(accepted(&lab, home[1], "late"));
    full(&mqlb);
    sessions.iter_mut().for_each(works);

    // More room by a reload.
    let config = mqlb.configuration().unwrap();
    let more = config.replace("max_flows = 3", "max_flows = 4");
    mqlb.write_configuration(&more).unwrap();
    mqlb.command(&["reload"]).unwrap();
    sessions.push(accepted(&lab, home[0], "later"));
    full(&mqlb);
    assert_eq!(total(&lab), MOST + 1);
}

/// A client that was served, with the name of its broker.
struct Served {
    id: String,
    broker: String,
    _stream: TcpStream,
}

#[test]
fn a_backend_that_is_full_is_skipped() {
    const MOST: usize = 2;
    let lab = common::lab_with_brokers(2);
    let options = Options {
        max_flows: vec![2],
        ..common::unchecked()
    };
    let _mqlb = Mqlb::start(&lab, &options).unwrap();
    let home = lab.topology.plan.client().addresses();
    // Nobody is refused, as the second has room.
    let come = |id: String| {
        let source = home[id.len() % 2];
        let outcome = attempt(&lab, source, &connect(&id));
        let Outcome::Accepted(mut stream) = outcome else {
            panic!("{id}: {outcome:?}");
        };
        let broker = broker_of(&mut stream);
        let counts = connections(&lab);
        assert!(counts[0] <= MOST, "{counts:?}");
        Served {
            id,
            broker,
            _stream: stream,
        }
    };
    let mut sessions = Vec::new();
    let fill = |sessions: &mut Vec<Served>, id: &str| {
        wait_for("the first backend is full", SOON, || {
            sessions.push(come(format!("{id}-{}", sessions.len())));
            connections(&lab)[0] == MOST
        });
        for n in 0..6 {
            let beyond = come(format!("{id}-beyond-{n}"));
            assert_eq!(beyond.broker, "emqx2");
        }
    };
    fill(&mut sessions, "client");

    // Who is bound to it finds others in his place, and goes elsewhere.
    let bound = sessions.iter().position(|s| s.broker == "emqx1");
    let bound = sessions.swap_remove(bound.expect("a client of the first backend"));
    let id = bound.id.clone();
    drop(bound);
    wait_for("it has left", SOON, || connections(&lab)[0] < MOST);
    fill(&mut sessions, "another-client");
    assert_eq!(come(id).broker, "emqx2");
}

#[test]
fn with_all_backends_full_clients_are_refused_in_mqtt_terms() {
    const MOST: u32 = 2;
    let lab = common::lab_with_brokers(2);
    let options = Options {
        max_flows: vec![MOST, MOST],
        ..common::unchecked()
    };
    let mut mqlb = Mqlb::start(&lab, &options).unwrap();
    let home = lab.topology.plan.client().addresses();
    let mut sessions: Vec<_> = (0..4)
        .map(|n| accepted(&lab, home[n % 2], &format!("client-{n}")))
        .collect();
    assert_eq!(connections(&lab), [2, 2]);
    let full = |mqlb: &Mqlb| {
        let before = (
            connections_seen(&lab),
            mqlb.counter("backends_full").unwrap(),
        );
        for source in home {
            for version in &VERSIONS {
                for id in ["late", "client-0"] {
                    let answer = attempt(&lab, source, &version.connect(id)).refused();
                    assert_eq!(
                        answer, version.quota,
                        "{id}, {} from {source}",
                        version.level
                    );
                }
            }
        }
        let after = (
            connections_seen(&lab),
            mqlb.counter("backends_full").unwrap(),
        );
        assert_eq!(after, (before.0, before.1 + 12), "at brokers, counted");
        assert_eq!(connections(&lab), [2, 2]);
    };
    full(&mqlb);
    mqlb.restart().unwrap();
    full(&mqlb);
    // Who leaves makes room for one.
    for n in 0..4 {
        drop(sessions.remove(0));
        let mut next = accepted(&lab, home[n % 2], &format!("next-{n}"));
        works(&mut next);
        sessions.push(next);
        full(&mqlb);
    }
}

/// Both addresses of [`lab_tests::plan::Plan::other_client`] 0 and 1 are one source, the usual ones another.
const ONE_SOURCE: &str = "ipv4_prefix = 29\nipv6_prefix = 125\n";

#[test]
fn a_source_has_no_more_connections_than_it_may() {
    let lab = common::lab_with_brokers(2);
    let mut options = common::unchecked();
    options.extra = format!("\n[pool.emqx.sources]\nmax_flows = 2\n{ONE_SOURCE}");
    let mut mqlb = Mqlb::start(&lab, &options).unwrap();
    let home = lab.topology.plan.client().addresses();
    let one = lab.topology.add_client(0).unwrap().addresses();
    let two = lab.topology.add_client(1).unwrap().addresses();
    for n in 0..2 {
        let full = |mqlb: &Mqlb| {
            let before = (connections_seen(&lab), mqlb.counter("source_full").unwrap());
            for source in [one[n], two[n]] {
                for id in ["late", "first"] {
                    let outcome = attempt(&lab, source, &connect(id));
                    assert!(matches!(outcome, Outcome::Reset), "{source}: {outcome:?}");
                }
            }
            let after = (connections_seen(&lab), mqlb.counter("source_full").unwrap());
            assert_eq!(after, (before.0, before.1 + 4), "at brokers, counted");
        };
        let first = accepted(&lab, one[n], "first");
        let mut second = accepted(&lab, two[n], "second");
        full(&mqlb);
        // Others have a limit of their own.
        let others = [(); 2].map(|()| accepted(&lab, home[n], ""));
        drop(first);
        let mut third = accepted(&lab, two[n], "third");
        full(&mqlb);
        mqlb.restart().unwrap();
        full(&mqlb);
        works(&mut second);
        works(&mut third);
        drop(others);
    }
}

#[test]
fn a_source_that_connects_too_often_has_to_wait() {
    const CLIENTS: u32 = 8;
    let lab = common::lab_with_brokers(2);
    let mut options = common::unchecked();
    options.extra = format!("\n[pool.emqx.sources]\nconnects = \"4/s burst 3\"\n{ONE_SOURCE}");
    let mqlb = Mqlb::start(&lab, &options).unwrap();
    let home = lab.topology.plan.client().addresses();
    let one = lab.topology.add_client(0).unwrap().addresses();
    let two = lab.topology.add_client(1).unwrap().addresses();
    let counted = || mqlb.counter("source_rate").unwrap();
    for n in 0..2 {
        // Whoever is within the rate is served at once.
        let before = counted();
        for number in 0..3 {
            let outcome = attempt(&lab, home[n], &connect(&format!("home-{n}-{number}")));
            assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
        }
        assert_eq!(counted(), before);

        // All others at once: their first data is dropped, and served when it comes again.
        let begun = Instant::now();
        thread::scope(|scope| {
            for number in 0..CLIENTS {
                let source = if number % 2 == 0 { one[n] } else { two[n] };
                let id = format!("often-{n}-{number}");
                let lab = &lab;
                scope.spawn(move || {
                    let outcome = attempt(lab, source, &connect(&id));
                    assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
                });
            }
        });
        let took = begun.elapsed();
        let least = Duration::from_millis(250) * (CLIENTS - 3);
        assert!(took >= least, "{CLIENTS} clients in {took:?}");
        assert!(counted() > before);
    }
}

#[test]
fn a_client_that_connects_too_often_is_refused_for_a_while() {
    let lab = common::lab_with_brokers(2);
    let options = Options {
        pool: "client_connects = \"1/s burst 3\"".into(),
        ..common::unchecked()
    };
    let mqlb = Mqlb::start(&lab, &options).unwrap();
    let home = lab.topology.plan.client().addresses();
    let counted = || mqlb.counter("client_rate").unwrap();
    for source in home {
        for version in &VERSIONS {
            let id = format!("often{}{}", version.level, source.is_ipv4());
            let before = counted();
            let begun = Instant::now();
            let mut served = 0;
            let answer = loop {
                let seen = connections_seen(&lab);
                match attempt(&lab, source, &version.connect(&id)) {
                    Outcome::Accepted(_) => served += 1,
                    Outcome::Refused(answer) => {
                        assert_eq!(connections_seen(&lab), seen, "no broker sees it");
                        break answer;
                    }
                    Outcome::Reset => panic!("{id} is reset"),
                }
                assert!(served < 100, "{id} is never refused");
            };
            let most = 3 + begun.elapsed().as_secs() + 1;
            assert!((3..=most).contains(&served), "{served} are served");
            assert_eq!(answer, version.quota, "{id}");
            assert_eq!(counted(), before + 1, "{id}");
            works(&mut accepted(&lab, source, &format!("o{id}")));
        }
    }
    // It is served again when its time has come.
    works(&mut accepted(&lab, home[1], "often5false"));
}
