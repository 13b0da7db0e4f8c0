//! Links, routes, neighbours, and the next hops made of them.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use mqlb::net::{
    Hop, Link, NetError, by_index, by_name, hop_to, links, neighbour, netlink, route_to,
};

use crate::namespace::{Namespace, pair};

const HERE: [u8; 6] = [2, 0, 0, 0, 1, 1];
const THERE: [u8; 6] = [2, 0, 0, 0, 1, 2];
const PATIENCE: Duration = Duration::from_secs(5);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn hop(namespace: &Namespace, dest: &str, timeout: Duration) -> Result<Hop, NetError> {
    let dest = ip(dest);
    namespace.block_on(move || async move { hop_to(&netlink::open()?, dest, timeout).await })
}

fn index(namespace: &Namespace, name: &'static str) -> u32 {
    namespace.block_on(move || async move {
        by_name(&netlink::open().unwrap(), name)
            .await
            .unwrap()
            .index
    })
}

/// `ip neigh show` of one address.
fn neigh(namespace: &Namespace, ip: &'static str) -> String {
    namespace.run(move || {
        let output = Command::new("ip")
            .args(["neigh", "show", ip])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    })
}

#[test]
fn on_link() {
    let Some((here, _there)) = pair() else { return };
    let ifindex = index(&here, "eth0");
    for (dest, source) in [("10.77.1.2", "10.77.1.1"), ("fd77:1::2", "fd77:1::1")] {
        let expected = Hop {
            ifindex,
            src_mac: HERE,
            dst_mac: THERE,
            vlan: None,
            mtu: 1500,
            source: ip(source),
            neighbour: ip(dest),
            neighbour_ifindex: ifindex,
        };
        assert_eq!(hop(&here, dest, PATIENCE).unwrap(), expected);
    }
}

#[test]
fn by_gateway() {
    let Some((here, _there)) = pair() else { return };
    let ifindex = index(&here, "eth0");
    here.ip("route add 10.88.0.0/16 via 10.77.1.2 mtu 1400");
    here.ip("-6 route add fd88::/64 via fd77:1::2 mtu 1400");
    // RFC 5549: an IPv4 route whose gateway is an IPv6 neighbour.
    here.ip("route add 10.89.0.0/16 via inet6 fd77:1::2 dev eth0 src 10.77.1.1");
    let rows = [
        ("10.88.3.4", "10.77.1.2", "10.77.1.1", 1400),
        ("fd88::34", "fd77:1::2", "fd77:1::1", 1400),
        ("10.89.3.4", "fd77:1::2", "10.77.1.1", 1500),
    ];
    for (dest, gateway, source, mtu) in rows {
        let route = here
            .block_on(move || async move { route_to(&netlink::open()?, ip(dest)).await })
            .unwrap();
        assert_eq!(
            (route.ifindex, route.gateway, route.source, route.mtu),
            (ifindex, Some(ip(gateway)), ip(source), mtu)
        );
        let hop = hop(&here, dest, PATIENCE).unwrap();
        assert_eq!(
            (hop.dst_mac, hop.neighbour, hop.source, hop.mtu),
            (THERE, ip(gateway), ip(source), mtu),
            "{dest}"
        );
    }
}

#[test]
fn vlan_device() {
    let Some((here, there)) = pair() else { return };
    if !here.has_vlan_devices() {
        return;
    }
    for (namespace, host) in [(&here, 1), (&there, 2)] {
        namespace.ip(&format!(
            "link add link eth0 name eth0.42 address 02:00:00:00:42:0{host} type vlan id 42"
        ));
        namespace.ip("link set eth0.42 up mtu 1480");
        namespace.ip(&format!("addr add 10.77.42.{host}/24 dev eth0.42"));
        namespace.ip(&format!("addr add fd77:42::{host}/64 dev eth0.42 nodad"));
    }
    let (parent, vlan) = (index(&here, "eth0"), index(&here, "eth0.42"));
    for dest in ["10.77.42.2", "fd77:42::2"] {
        let hop = hop(&here, dest, PATIENCE).unwrap();
        assert_eq!(
            (hop.ifindex, hop.vlan, hop.mtu, hop.neighbour_ifindex),
            (parent, Some(42), 1480, vlan)
        );
        assert_eq!(
            (hop.src_mac, hop.dst_mac),
            ([2, 0, 0, 0, 0x42, 1], [2, 0, 0, 0, 0x42, 2])
        );
    }

    // A tag on a tag, and a tag that is not 802.1Q: refused, because the packet path would send one.
    here.ip("link add link eth0.42 name inner type vlan id 7");
    here.ip("link add link eth0 name service type vlan protocol 802.1ad id 9");
    for (device, net) in [("inner", "10.77.7"), ("service", "10.77.9")] {
        here.ip(&format!("link set {device} up"));
        here.ip(&format!("addr add {net}.1/24 dev {device}"));
        let error = hop(&here, &format!("{net}.2"), PATIENCE).unwrap_err();
        assert!(
            matches!(&error, NetError::StackedVlan { device: named } if named == device),
            "{error}"
        );
    }
}

#[test]
fn links_are_listed() {
    let Some((here, there)) = pair() else { return };
    let list = |namespace: &Namespace| {
        namespace.block_on(|| async { links(&netlink::open().unwrap()).await.unwrap() })
    };
    let find =
        |list: &[Link], name: &str| list.iter().find(|link| link.name == name).cloned().unwrap();

    here.ip("link add plain type veth peer name other");
    let found = list(&here);
    let (lo, eth0, plain) = (
        find(&found, "lo"),
        find(&found, "eth0"),
        find(&found, "plain"),
    );
    assert!(lo.up && !lo.ethernet && lo.vlan.is_none());
    // A veth device has a "parent" on the wire too, its peer: it is no VLAN for that.
    assert!(eth0.up && eth0.ethernet && eth0.vlan.is_none());
    assert!(!plain.up && plain.ethernet && plain.vlan.is_none());
    assert_eq!((eth0.mac, eth0.mtu), (HERE, 1500));

    let lookup = here.block_on(move || async move {
        let handle = netlink::open().unwrap();
        let eth0 = by_index(&handle, eth0.index).await.unwrap();
        assert_eq!(eth0, by_name(&handle, "eth0").await.unwrap());
        assert!(matches!(
            by_index(&handle, 9999).await,
            Err(NetError::NoLink(_))
        ));
        (
            eth0,
            by_name(&handle, "eth7").await.unwrap_err().to_string(),
        )
    });
    assert_eq!(lookup.0.mac, HERE);
    assert_eq!(
        lookup.1,
        "no network device eth7: `ip link` lists those that exist"
    );

    if !here.has_vlan_devices() {
        return;
    }
    here.ip("link add link eth0 name eth0.42 type vlan id 42");
    // Its parent is not in the namespace where it is used.
    here.ip("link add link eth0 name away type vlan id 43");
    here.ip(&format!("link set away netns {}", there.tid()));
    let vlan = find(&list(&here), "eth0.42");
    let tag = vlan.vlan.unwrap();
    assert_eq!(
        (tag.parent, tag.id, tag.ethertype, vlan.up),
        (lookup.0.index, 42, 0x8100, false)
    );
    let away = find(&list(&there), "away");
    assert!(away.ethernet && away.vlan.is_none());
}

#[test]
fn errors_say_what_to_do() {
    let Some((here, _there)) = pair() else { return };
    here.ip("route add blackhole 10.90.0.0/16");
    here.ip("-6 route add unreachable fd90::/64");
    let text = |dest: &str| {
        hop(&here, dest, Duration::from_millis(300))
            .unwrap_err()
            .to_string()
    };

    assert!(
        text("192.0.2.1").starts_with("no route to 192.0.2.1 (Network is unreachable"),
        "{}",
        text("192.0.2.1")
    );
    for dest in ["10.90.1.1", "fd90::1", "2001:db8::1"] {
        assert!(
            text(dest).contains("add one with `ip route add"),
            "{}",
            text(dest)
        );
    }
    assert!(
        text("10.77.1.99").starts_with("10.77.1.99 does not answer ARP on eth0"),
        "{}",
        text("10.77.1.99")
    );
    assert!(
        text("fd77:1::99")
            .starts_with("fd77:1::99 does not answer neighbour solicitations on eth0"),
        "{}",
        text("fd77:1::99")
    );
    assert!(
        text("10.77.1.1").contains("10.77.1.1 is a local address here"),
        "{}",
        text("10.77.1.1")
    );
    assert!(
        text("10.77.1.255").contains("is a broadcast address here"),
        "{}",
        text("10.77.1.255")
    );
    assert!(
        text("127.0.0.1").contains("is a local address here"),
        "{}",
        text("127.0.0.1")
    );
}

#[test]
fn an_unanswered_neighbour_fails_in_time_and_recovers() {
    let Some((here, there)) = pair() else { return };
    let start = std::time::Instant::now();
    assert!(matches!(
        hop(&here, "10.77.1.3", Duration::from_millis(200)),
        Err(NetError::NoNeighbour { .. })
    ));
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "took {:?}",
        start.elapsed()
    );
    // The kernel gives an unanswered round three seconds and then says "failed".
    assert!(matches!(
        hop(&here, "10.77.1.3", Duration::from_secs(8)),
        Err(NetError::NoNeighbour { .. })
    ));
    there.ip("addr add 10.77.1.3/24 dev eth0");
    assert_eq!(hop(&here, "10.77.1.3", PATIENCE).unwrap().dst_mac, THERE);
}

#[test]
fn entries_are_kept_warm_and_released() {
    let Some((here, _there)) = pair() else { return };
    let ifindex = index(&here, "eth0");
    for dest in ["10.77.1.2", "fd77:1::2"] {
        hop(&here, dest, PATIENCE).unwrap();
        let row = neigh(&here, dest);
        assert!(
            row.contains("managed") && row.contains("REACHABLE"),
            "{row}"
        );
        here.block_on(move || async move {
            neighbour::release(&netlink::open().unwrap(), ifindex, ip(dest))
                .await
                .unwrap();
        });
        assert!(
            !neigh(&here, dest).contains("managed"),
            "{}",
            neigh(&here, dest)
        );
    }
    here.block_on(move || async move {
        neighbour::release(&netlink::open().unwrap(), ifindex, ip("10.77.1.77"))
            .await
            .expect("nothing to release");
    });
}

#[test]
fn a_stale_entry_is_confirmed_at_once() {
    let Some((here, there)) = pair() else { return };
    for dest in ["10.77.1.2", "fd77:1::2"] {
        here.ip(&format!(
            "neigh replace {dest} lladdr 02:00:00:00:01:02 dev eth0 nud stale"
        ));
        let start = std::time::Instant::now();
        assert_eq!(hop(&here, dest, PATIENCE).unwrap().dst_mac, THERE);
        // Left to itself the kernel waits five seconds before it probes.
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "took {:?}",
            start.elapsed()
        );
        let row = neigh(&here, dest);
        assert!(
            row.contains("REACHABLE") && row.contains("managed"),
            "{row}"
        );
    }
    // Nobody confirms: what is known is still used, as by the kernel.
    there.ip("link set eth0 arp off");
    here.ip("neigh replace 10.77.1.2 lladdr 02:00:00:00:01:02 dev eth0 nud stale");
    assert_eq!(
        hop(&here, "10.77.1.2", Duration::from_millis(100))
            .unwrap()
            .dst_mac,
        THERE
    );
}

#[test]
fn a_permanent_entry_stays_permanent() {
    let Some((here, _there)) = pair() else { return };
    here.ip("neigh add 10.77.1.9 lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
    assert_eq!(
        hop(&here, "10.77.1.9", PATIENCE).unwrap().dst_mac,
        [2, 0, 0, 0, 0, 0x99]
    );
    let row = neigh(&here, "10.77.1.9");
    assert!(
        row.contains("PERMANENT") && !row.contains("managed"),
        "{row}"
    );
}
