//! The agent is not in the path: sessions go on while it is dead, and the next one takes them over.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use lb_tests::balancer::Options;
use lb_tests::lab::Lab;
use lb_tests::mqlb::Mqlb;
use lb_tests::raw::{self, Connect};
use serde_json::Value;

/// Sends a word each way through an established session.
fn talk(client: &mut TcpStream, backend: &mut TcpStream, word: &[u8]) {
    say(client, backend, word);
    say(backend, client, word);
}

fn say(from: &mut TcpStream, to: &mut TcpStream, word: &[u8]) {
    from.write_all(word).unwrap();
    let mut heard = vec![0; word.len()];
    to.read_exact(&mut heard).unwrap();
    assert_eq!(heard, word);
}

fn sessions(
    lab: &Lab,
    accepted: &std::sync::mpsc::Receiver<(TcpStream, Vec<u8>)>,
    name: &str,
) -> Vec<(TcpStream, TcpStream)> {
    let connect = |vip| {
        let connect = Connect::new(&format!("{name}-{vip}")).encode();
        let mut client = raw::open(lab, vip, &connect).unwrap();
        common::expect_connack(&mut client);
        let (backend, _) = accepted
            .recv_timeout(std::time::Duration::from_secs(10))
            .unwrap();
        (client, backend)
    };
    lab.topology
        .plan
        .vip()
        .addresses()
        .into_iter()
        .map(connect)
        .collect()
}

#[test]
fn sessions_outlive_a_killed_agent_and_its_successor_goes_on() {
    let lab = common::lab_without_brokers(1);
    let (_stand_in, accepted) = common::accepting_backend(&lab, 0);
    let mut mqlb = Mqlb::start(&lab, &common::unchecked()).unwrap();
    let mut old = sessions(&lab, &accepted, "old");
    let talk_all = |sessions: &mut Vec<(TcpStream, TcpStream)>, word: &[u8]| {
        for (client, backend) in sessions {
            talk(client, backend, word);
        }
    };
    talk_all(&mut old, b"before");
    mqlb.kill();
    talk_all(&mut old, b"nobody is there");
    mqlb.restart().unwrap();
    talk_all(&mut old, b"after");

    // The successor knows them, and serves new ones.
    let mut new = sessions(&lab, &accepted, "new");
    talk_all(&mut new, b"new");
    talk_all(&mut old, b"old");
    let json = |arguments: &[&str]| {
        serde_json::from_str::<Value>(&mqlb.command(arguments).unwrap()).unwrap()
    };
    assert_eq!(
        json(&["flows", "--json"])["flows"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
    for (vip, name) in lab
        .topology
        .plan
        .vip()
        .addresses()
        .into_iter()
        .zip(["old", "old"])
    {
        let located = json(&["where", &format!("{name}-{vip}"), "--json"]);
        assert_eq!(
            (&located["backend"], &located["connected"]),
            (&Value::from("emqx1"), &Value::from(true)),
            "{located}"
        );
    }
    assert_eq!(json(&["where", "nobody", "--json"])["backend"], Value::Null);
}

#[test]
fn a_second_agent_is_told_who_runs() {
    let lab = common::lab_with_brokers(1);
    let mqlb = Mqlb::start(&lab, &Options::default()).unwrap();
    let second = mqlb.second().unwrap();
    let says = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{says}");
    assert!(says.contains(&format!("process {}", mqlb.pid())), "{says}");
    // The first is none the worse for it.
    let fleet = lab.fleet().unwrap();
    fleet.connect(0..10).unwrap().check().unwrap();
    assert_eq!(mqlb.steered().unwrap().kernel, 10);
}

#[test]
fn another_layout_is_refused_with_its_price_and_goes_by_unload() {
    let lab = common::lab_without_brokers(1);
    let (_stand_in, accepted) = common::accepting_backend(&lab, 0);
    let mut mqlb = Mqlb::start(&lab, &common::unchecked()).unwrap();
    let mut old = sessions(&lab, &accepted, "old");
    mqlb.kill();
    // The same maps under a version that never was.
    let pins = std::path::Path::new("/sys/fs/bpf/mqlb").join(lab.id());
    let version = std::fs::read_dir(&pins).unwrap().next().unwrap().unwrap();
    std::fs::rename(version.path(), pins.join("v0")).unwrap();
    let refused = mqlb.second().unwrap();
    let says = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{says}");
    for word in ["v0", "about 2 connections", "mqlb unload"] {
        assert!(says.contains(word), "{word}: {says}");
    }
    // Nothing was touched.
    for (client, backend) in &mut old {
        talk(client, backend, b"still here");
    }
    assert!(mqlb.command(&["unload"]).unwrap().contains("removed"));
    assert!(
        mqlb.command(&["unload"])
            .unwrap()
            .contains("nothing to remove")
    );
    mqlb.restart().unwrap();
    for (mut client, mut backend) in sessions(&lab, &accepted, "new") {
        talk(&mut client, &mut backend, b"new");
    }
}
