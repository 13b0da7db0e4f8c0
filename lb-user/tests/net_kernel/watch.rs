//! Changes are noticed, gathered, and not lost.

use std::time::Duration;

use mqlb::net::{Change, Watch, hop_to, netlink};
use tokio::time::timeout;

use crate::namespace::{Namespace, pair};

const SETTLE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(5);

/// A subscription in a namespace that has come to rest: a new device is brought up in steps, some of
/// them late.
async fn watch_at_rest(settle: Duration) -> Watch {
    let mut rest = Watch::start(SETTLE).unwrap();
    while timeout(SETTLE * 6, rest.changed()).await.is_ok() {}
    Watch::start(settle).unwrap()
}

/// What is reported after `work`, which runs in the namespace once the subscription stands, until
/// nothing has come for a while.
fn changes_after(namespace: &Namespace, work: &'static str) -> Vec<Change> {
    namespace.block_on(move || async move {
        let mut watch = watch_at_rest(SETTLE).await;
        for arguments in work.split(';') {
            let status = std::process::Command::new("ip")
                .args(arguments.split_whitespace())
                .status()
                .unwrap();
            assert!(status.success(), "ip {arguments}");
        }
        let mut changes = Vec::new();
        while let Ok(change) = timeout(SETTLE * 6, watch.changed()).await {
            changes.push(change.unwrap());
        }
        changes
    })
}

fn union(changes: &[Change]) -> Change {
    let mut all = Change::default();
    changes.iter().for_each(|change| all |= *change);
    all
}

#[test]
fn each_kind_of_change() {
    let Some((here, _there)) = pair() else { return };
    let none = Change::default();
    let rows = [
        (
            "link set eth0 mtu 1400",
            Change {
                links: true,
                ..none
            },
        ),
        (
            "route add 10.88.0.0/16 via 10.77.1.2",
            Change {
                routes: true,
                ..none
            },
        ),
        (
            "-6 route add fd88::/64 via fd77:1::2",
            Change {
                routes: true,
                ..none
            },
        ),
        (
            "rule add from 10.99.0.0/16 table 99",
            Change {
                routes: true,
                ..none
            },
        ),
        (
            "nexthop add id 7 via 10.77.1.2 dev eth0",
            Change {
                routes: true,
                ..none
            },
        ),
        (
            "addr add 10.77.1.5/32 dev eth0",
            Change {
                addresses: true,
                routes: true,
                ..none
            },
        ),
        (
            "neigh add 10.77.1.9 lladdr 02:00:00:00:00:99 dev eth0",
            Change {
                neighbours: true,
                ..none
            },
        ),
    ];
    for (work, expected) in rows {
        assert_eq!(union(&changes_after(&here, work)), expected, "{work}");
    }
}

#[test]
fn a_burst_is_one_change() {
    let Some((here, _there)) = pair() else { return };
    here.block_on(|| async {
        let mut watch = watch_at_rest(Duration::from_secs(1)).await;
        for host in 0..20 {
            let route = format!("route add 10.88.{host}.0/24 via 10.77.1.2");
            assert!(
                std::process::Command::new("ip")
                    .args(route.split(' '))
                    .status()
                    .unwrap()
                    .success()
            );
        }
        let change = timeout(PATIENCE, watch.changed()).await.unwrap().unwrap();
        assert_eq!(
            change,
            Change {
                routes: true,
                ..Change::default()
            }
        );
        assert!(
            timeout(SETTLE * 6, watch.changed()).await.is_err(),
            "the burst was reported twice"
        );
    });
}

#[test]
fn a_neighbour_that_moves() {
    let Some((here, there)) = pair() else { return };
    let tid = there.tid();
    let (before, change, after) = here.block_on(move || async move {
        let handle = netlink::open().unwrap();
        let dest = "10.77.1.2".parse().unwrap();
        let before = hop_to(&handle, dest, PATIENCE).await.unwrap();
        let mut watch = watch_at_rest(SETTLE).await;
        // The other end gets another address and says so (gratuitous ARP).
        let script = "echo 1 > /proc/sys/net/ipv4/conf/eth0/arp_notify && ip link set eth0 address 02:00:00:00:01:07";
        let net = format!("--net=/proc/{tid}/ns/net");
        let moved = std::process::Command::new("nsenter").args([net.as_str(), "sh", "-c", script]).status().unwrap();
        assert!(moved.success());
        let change = timeout(PATIENCE, watch.changed()).await.unwrap().unwrap();
        (before, change, hop_to(&handle, dest, PATIENCE).await.unwrap())
    });
    assert_eq!(before.dst_mac, [2, 0, 0, 0, 1, 2]);
    assert_eq!(
        change,
        Change {
            neighbours: true,
            ..Change::default()
        }
    );
    assert_eq!(after.dst_mac, [2, 0, 0, 0, 1, 7]);
}

#[test]
fn a_neighbour_that_moves_in_silence_is_found_again() {
    let Some((here, there)) = pair() else { return };
    // The kernel's patience, shortened: what takes it half a minute by default takes seconds.
    for (name, value) in [
        ("base_reachable_time_ms", "200"),
        ("delay_first_probe_time", "1"),
        ("retrans_time_ms", "50"),
        ("interval_probe_time_ms", "200"),
    ] {
        here.sysctl(&format!("ipv4/neigh/eth0/{name}"), value);
    }
    let tid = there.tid();
    here.block_on(move || async move {
        let handle = netlink::open().unwrap();
        let dest = "10.77.1.2".parse().unwrap();
        let hop = hop_to(&handle, dest, PATIENCE).await.unwrap();
        assert_eq!(hop.dst_mac, [2, 0, 0, 0, 1, 2]);
        let mut watch = Watch::start(SETTLE).unwrap();
        let net = format!("--net=/proc/{tid}/ns/net");
        let script = "ip link set eth0 address 02:00:00:00:01:07";
        let moved = std::process::Command::new("nsenter")
            .args([net.as_str(), "sh", "-c", script])
            .status()
            .unwrap();
        assert!(moved.success());
        // Nobody sends or asks for anything: only the kernel's care for managed entries can notice.
        let found = timeout(PATIENCE * 2, async {
            let table = || {
                std::process::Command::new("ip")
                    .args(["neigh", "show", "10.77.1.2"])
                    .output()
                    .unwrap()
            };
            while !String::from_utf8_lossy(&table().stdout).contains("02:00:00:00:01:07") {
                tokio::time::sleep(SETTLE).await;
            }
        });
        found.await.expect("the new address was not found");
        let change = timeout(PATIENCE, watch.changed()).await.unwrap().unwrap();
        assert_eq!(
            change,
            Change {
                neighbours: true,
                ..Change::default()
            }
        );
    });
}

#[test]
fn confirming_a_known_neighbour_is_no_change() {
    let Some((here, _there)) = pair() else { return };
    here.block_on(|| async {
        let handle = netlink::open().unwrap();
        let dest = "10.77.1.2".parse().unwrap();
        let mut watch = watch_at_rest(SETTLE).await;
        hop_to(&handle, dest, PATIENCE).await.unwrap();
        let change = timeout(PATIENCE, watch.changed()).await.unwrap().unwrap();
        assert_eq!(
            change,
            Change {
                neighbours: true,
                ..Change::default()
            },
            "its first link address"
        );
        let stale = "neigh replace 10.77.1.2 lladdr 02:00:00:00:01:02 dev eth0 nud stale";
        assert!(
            std::process::Command::new("ip")
                .args(stale.split(' '))
                .status()
                .unwrap()
                .success()
        );
        hop_to(&handle, dest, PATIENCE).await.unwrap();
        assert!(
            timeout(SETTLE * 6, watch.changed()).await.is_err(),
            "stale, probe and reachable are not news"
        );
    });
}

#[test]
fn an_overflow_is_everything() {
    let Some((here, _there)) = pair() else { return };
    here.block_on(|| async {
        let mut watch = watch_at_rest(SETTLE).await;
        // Far more events than the socket buffer holds, none of them read meanwhile.
        let batch: String = (0..4000)
            .map(|n| {
                format!(
                    "route add 10.{}.{}.0/24 via 10.77.1.2\n",
                    100 + n / 250,
                    n % 250
                )
            })
            .collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), batch).unwrap();
        let status = std::process::Command::new("ip")
            .arg("-batch")
            .arg(file.path())
            .status()
            .unwrap();
        assert!(status.success());
        let change = timeout(PATIENCE, watch.changed()).await.unwrap().unwrap();
        assert_eq!(change, Change::EVERYTHING);
        // And it goes on working.
        while timeout(SETTLE * 6, watch.changed()).await.is_ok() {}
        assert!(
            std::process::Command::new("ip")
                .args("link set eth0 mtu 1400".split(' '))
                .status()
                .unwrap()
                .success()
        );
        let change = timeout(PATIENCE, watch.changed()).await.unwrap().unwrap();
        assert_eq!(
            change,
            Change {
                links: true,
                ..Change::default()
            }
        );
    });
}
