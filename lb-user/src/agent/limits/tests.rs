//! What is counted, what is refused, what survives.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::layout::{Flow, FlowKey, Listener, Source, SourceKey, State, flags, v4_mapped};
use lb_common::limits::credit::{ALL, CELLS, Credit, UNLIMITED, of_backend};

use super::prefix::key;
use super::prefixes::Prefixes;
use super::quota::{Change, Quota};
use super::rules::{Rules, unserved};
use super::store::{Store, StoreError};
use super::{BadPrefix, Blocks, parse_prefix};

fn client(host: u8, port: u16) -> FlowKey {
    FlowKey::v4([10, 1, 0, host], port, [10, 77, 0, 2], 1883)
}

/// Both entries of a connection.
fn connection(host: u8, port: u16, slot: u16, bits: u8) -> [(FlowKey, Flow); 2] {
    let client = client(host, port);
    let backend = FlowKey::v4([10, 77, 1, 2], 1883, [10, 77, 1, 1], 20_000 + port);
    let common = Flow {
        state: State::Open as u8,
        backend: slot,
        listener: 1,
        ..Flow::ZERO
    };
    [
        (
            client,
            Flow {
                flags: flags::FROM_CLIENT | bits,
                ..common
            },
        ),
        (
            backend,
            Flow {
                flags: bits,
                ..common
            },
        ),
    ]
}

/// Two VIPs of one listener of the configuration: cell 0. A third is served no more.
fn rules(source_flows: u32) -> Arc<Rules> {
    let listener = Listener {
        source_flows,
        v4_bits: 96 + 24,
        v6_bits: 64,
        ..Listener::default()
    };
    let mut most = vec![UNLIMITED; CELLS as usize];
    most[0] = 10;
    most[ALL as usize] = 100;
    most[of_backend(6) as usize] = 2;
    Arc::new(Rules {
        listeners: vec![listener, listener, unserved()],
        most,
        ..Rules::default()
    })
}

fn source(opened: u32, open_until: u32) -> Source {
    Source {
        connects: 7,
        punts: 8,
        credit: Credit { opened, open_until },
    }
}

fn source_key(c: u8) -> SourceKey {
    SourceKey {
        prefix: v4_mapped([10, c, 0, 0]),
        pool: 0,
        _pad: 0,
    }
}

#[test]
fn live_connections_are_counted_and_closed_ones_are_not() {
    let opened = (0..CELLS).map(|i| i * 100).collect();
    let mut quota = Quota::new(rules(0), opened, HashMap::new());
    let both_fins = flags::FIN_SELF | flags::FIN_PEER;
    for (key, flow) in [
        connection(1, 1, 6, 0),
        connection(1, 2, 7, flags::FIN_SELF),
        connection(1, 3, 8, 0),
        connection(1, 4, 6, flags::RST),
        connection(1, 5, 6, both_fins),
    ]
    .concat()
    {
        quota.see(&key, &flow);
    }
    // Being set up: the backend's entry counts, whoever made it.
    let [_, (key, flow)] = connection(1, 6, 8, 0);
    quota.see(
        &key,
        &Flow {
            state: State::Setup as u8,
            ..flow
        },
    );
    // Of a VIP that is served no more.
    let [_, (key, flow)] = connection(1, 8, 8, 0);
    quota.see(
        &key,
        &Flow {
            listener: 2,
            ..flow
        },
    );
    // Being read: no backend yet.
    let [(key, flow), _] = connection(1, 7, 0, 0);
    quota.see(
        &key,
        &Flow {
            state: State::Sniff as u8,
            ..flow
        },
    );
    let untils: HashMap<u32, u32> = quota.untils().collect();
    let left = |cell: u32| untils[&cell].wrapping_sub(cell * 100);
    assert_eq!(
        left(0),
        10 - 4,
        "both addresses of the listener in one cell"
    );
    assert_eq!(left(of_backend(6)), 0, "2 of 2, over IPv4 and IPv6");
    assert_eq!(left(of_backend(8)), UNLIMITED - 3);
    assert_eq!(left(1), UNLIMITED);
    assert_eq!(left(ALL), 100 - 6, "12 entries, closed or not");
    assert!(quota.changes().is_empty(), "no source is limited");
}

#[test]
fn sources_are_written_where_it_matters() {
    let count = |live: u8, known: Option<Source>| {
        let before = known.map(|s| (source_key(1), s)).into_iter().collect();
        let mut quota = Quota::new(rules(8), vec![0; CELLS as usize], before);
        for n in 0..live {
            let [(key, flow), _] = connection(n, 1, 6, 0);
            quota.see(&key, &flow);
        }
        quota.changes()
    };
    let limit = |until| vec![Change::Limit(source_key(1), until)];
    assert_eq!(count(2, Some(source(12, 18))), [], "it has what it may");
    assert_eq!(count(1, Some(source(12, 18))), [], "6 are enough for now");
    assert_eq!(count(2, Some(source(12, 19))), limit(18), "one too many");
    assert_eq!(count(1, Some(source(12, 16))), limit(19), "half is used");
    assert_eq!(count(0, Some(source(12, 12))), limit(20));
    assert_eq!(
        count(9, Some(source(12, 13))),
        limit(12),
        "the limit is new"
    );
    assert_eq!(count(4, None), [], "the program gives it 8");
    let made = Source {
        credit: Credit {
            opened: 0,
            open_until: 3,
        },
        ..Source::default()
    };
    assert_eq!(count(5, None), [Change::Make(source_key(1), made)]);
}

#[test]
fn the_client_entry_counts_for_the_source_from_its_first_data_on() {
    let before = [(source_key(1), source(5, 8))].into();
    let mut quota = Quota::new(rules(8), vec![0; CELLS as usize], before);
    for state in [State::Sniff, State::Open] {
        let [(key, flow), backend] = connection(1, state as u16, 6, 0);
        quota.see(
            &key,
            &Flow {
                state: state as u8,
                ..flow
            },
        );
        quota.see(&backend.0, &backend.1);
    }
    assert_eq!(quota.changes(), [Change::Limit(source_key(1), 5 + 6)]);
}

#[test]
fn prefixes_as_text() {
    let parsed = |text: &str| parse_prefix(text).map(|p| p.to_string());
    assert_eq!(parsed("192.0.2.0/24").unwrap(), "192.0.2.0/24");
    assert_eq!(parsed("192.0.2.7").unwrap(), "192.0.2.7/32");
    assert_eq!(parsed("2001:db8::/32").unwrap(), "2001:db8::/32");
    assert_eq!(parsed("0.0.0.0/0").unwrap(), "0.0.0.0/0");
    assert_eq!(parsed("2000::/3").unwrap(), "2000::/3");
    for (text, error) in [
        ("", "neither an address nor a prefix"),
        ("192.0.2.0/x", "neither an address nor a prefix"),
        ("192.0.2.0/33", "at most 32 bits"),
        ("192.0.2.7/24", "write 192.0.2.0/24"),
        ("2001:db8::1/32", "write 2001:db8::/32"),
        ("::/0", "IPv4"),
        ("::/64", "IPv4"),
        ("::ffff:192.0.2.1", "IPv4"),
    ] {
        let said = parse_prefix(text).unwrap_err().to_string();
        assert!(said.contains(error), "{text:?}: {said}");
    }
    assert!(matches!(parse_prefix("::/0"), Err(BadPrefix::InIpv6(_))));
}

#[test]
fn a_set_of_prefixes() {
    let set: Prefixes = ["10.0.0.0/8", "10.1.2.3", "2001:db8::/32"]
        .iter()
        .map(|text| key(&parse_prefix(text).unwrap()).unwrap())
        .collect();
    let holds = |text: &str| {
        let address: IpAddr = text.parse().unwrap();
        set.hold(&crate::agent::nodes::mapped(address))
    };
    assert!(holds("10.255.0.1") && holds("10.1.2.3") && holds("2001:db8:1::1"));
    assert!(!holds("11.0.0.1") && !holds("2001:db9::1") && !holds("::"));
    assert!(Prefixes::default().is_empty() && !set.is_empty());
}

#[test]
fn what_was_blocked_by_command_survives() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("made/for/us");
    let store = Store::new(state.clone());
    assert_eq!(store.load().unwrap(), Blocks::default());
    let blocks = Blocks {
        sources: vec![parse_prefix("10.0.0.0/8").unwrap()],
        clients: vec!["it's \"quoted\"\n".to_owned()],
    };
    store.save(&blocks).unwrap();
    assert_eq!(Store::new(state.clone()).load().unwrap(), blocks);
    store.save(&Blocks::default()).unwrap();
    assert_eq!(store.load().unwrap(), Blocks::default());
    let names: Vec<_> = std::fs::read_dir(&state)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["blocked.json"], "nothing else is left behind");
}

#[test]
fn a_damaged_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("blocked.json");
    let store = Store::new(directory.path().to_owned());
    for text in [
        "",
        "{\"sources\": [\"10.0.0.1/8\"], \"clients\": []}",
        "{\"sources\": []}",
    ] {
        std::fs::write(&file, text).unwrap();
        let error = store.load().unwrap_err();
        assert!(matches!(&error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("blocked.json"), "{error}");
    }
}

#[test]
fn a_state_directory_that_cannot_be_written_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Store::new(file).save(&Blocks::default()).unwrap_err();
    assert!(matches!(error, StoreError::Write { .. }), "{error}");
}
