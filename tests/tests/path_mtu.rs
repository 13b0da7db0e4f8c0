//! Links behind the balancer that carry less than those at it.
//!
//! ```text
//!  far client ── 1400 bytes ── router ── eth0 ─ bridge "front" ── balancer ── broker
//! ```

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::lab::Lab;
use lb_tests::netns::Netns;
use lb_tests::plan::MQTT_PORT;
use lb_tests::raw::Connect;

/// What the narrow link carries, in bytes from the IP header on.
const NARROW: u32 = 1400;

/// Connects a namespace behind a router to the clients' side. Only the router knows that the link is
/// narrow: the far client offers an MSS for 1500 bytes.
fn far_client(lab: &Lab) -> Netns {
    let create = |role: &str| {
        let name = format!("{}-{role}", lab.id());
        lab.undo_with(&format!("ip netns del {name}")).unwrap();
        Netns::create(name).unwrap()
    };
    let (router, far) = (create("router"), create("far"));
    let network = lab.topology.plan.network();
    lab.topology
        .switch
        .ip([
            format!(
                "link add router type veth peer name eth0 netns {}",
                router.name()
            ),
            "link set router master front up".to_owned(),
        ])
        .unwrap();
    router
        .sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ])
        .unwrap();
    router
        .ip([
            format!("addr add 10.{network}.0.20/24 dev eth0"),
            format!("addr add fd{network}::20/64 dev eth0 nodad"),
            "link set eth0 up".to_owned(),
            format!(
                "link add eth1 type veth peer name eth0 netns {}",
                far.name()
            ),
            format!("link set eth1 mtu {NARROW} up"),
            format!("addr add 10.{network}.9.1/24 dev eth1"),
            format!("addr add fd{network}:9::1/64 dev eth1 nodad"),
        ])
        .unwrap();
    far.ip([
        "link set eth0 up".to_owned(),
        format!("addr add 10.{network}.9.2/24 dev eth0"),
        format!("addr add fd{network}:9::2/64 dev eth0 nodad"),
        format!("route add default via 10.{network}.9.1"),
        format!("route add ::/0 via fd{network}:9::1"),
    ])
    .unwrap();
    // Whoever originates traffic computes checksums itself.
    let features = ["-K", "eth0", "tx", "off"];
    let ethtool = far.command("ethtool").unwrap().args(features).output();
    assert!(ethtool.unwrap().status.success());
    // Towards the far client; the splice sends back to where packets come from.
    lab.topology
        .lb
        .ip([
            format!("route add 10.{network}.9.0/24 via 10.{network}.0.20"),
            format!("route add fd{network}:9::/64 via fd{network}::20"),
        ])
        .unwrap();
    far
}

fn connect(far: &Netns, vip: IpAddr) -> TcpStream {
    let timeout = Duration::from_secs(20);
    let server = SocketAddr::new(vip, MQTT_PORT);
    let mut client = far
        .enter(|| TcpStream::connect_timeout(&server, timeout))
        .unwrap()
        .unwrap();
    client.set_read_timeout(Some(timeout)).unwrap();
    client.write_all(&Connect::new("far").encode()).unwrap();
    common::expect_connack(&mut client);
    client
}

#[test]
fn a_backend_learns_of_a_narrow_link_to_the_client() {
    for source in ["snat", "client"] {
        let lab = common::lab_without_brokers(1);
        let (_stand_in, accepted) = common::accepting_backend(&lab, 0);
        let options = lb_tests::balancer::Options {
            source,
            ..common::unchecked()
        };
        let balancer = common::balance(&lab, &options);
        let far = far_client(&lab);
        for (told, vip) in (1..).zip(lab.topology.plan.vip().addresses()) {
            let mut client = connect(&far, vip);
            let (mut backend, _) = accepted
                .recv_timeout(Duration::from_secs(10))
                .expect("a connection at the backend");
            let timeout = Some(Duration::from_secs(20));
            backend.set_write_timeout(timeout).unwrap();
            // Without the router's word no full segment ever arrives.
            let data = vec![b'd'; 1_000_000];
            let sender = {
                let data = data.clone();
                thread::spawn(move || backend.write_all(&data))
            };
            let mut received = Vec::new();
            client
                .read_to_end(&mut received)
                .unwrap_or_else(|error| panic!("{source}, {vip}: {error}"));
            sender.join().unwrap().unwrap();
            assert!(received == data, "{} bytes", received.len());
            if let Some(mqlb) = balancer.mqlb() {
                // The agent writes its counters ten times a second.
                let start = Instant::now();
                while mqlb.counter("path_mtu").unwrap() < told {
                    assert!(start.elapsed() < Duration::from_secs(5), "{source}, {vip}");
                    thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }
}
