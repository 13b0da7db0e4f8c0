//! What changes on the way under a stream: link addresses, of the client, the broker, and the balancer on both
//! sides; the route to the broker; links that go down and come up.

mod common;

use std::io::Read;
use std::net::{IpAddr, TcpStream};
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lb_tests::balancer::Options;
use lb_tests::lab::Lab;
use lb_tests::mqlb::Mqlb;
use lb_tests::netns::{Netns, run};
use lb_tests::raw::{self, Connect};

const LENGTH: usize = 64 << 20;

/// Has the kernel announce a new link address, as failover software does for the address that it moves.
fn announce(netns: &Netns, device: &str) {
    let v4 = format!("net/ipv4/conf/{device}/arp_notify");
    let v6 = format!("net/ipv6/conf/{device}/ndisc_notify");
    netns.sysctl(&[(&v4, "1"), (&v6, "1")]).unwrap();
}

#[test]
fn a_stream_goes_on_when_any_link_address_changes() {
    let lab = common::lab_without_brokers(1);
    let (_stand_in, accepted) = common::accepting_backend(&lab, 0);
    let mqlb = Mqlb::start(&lab, &Options::default()).unwrap();
    let topology = &lab.topology;
    let places = |lab: &Lab| {
        [
            (lab.topology.clients.clone(), "eth0"),
            (lab.topology.brokers[0].clone(), "eth0"),
            (lab.topology.lb.clone(), "eth0"),
            (lab.topology.lb.clone(), "eth1"),
        ]
    };
    for (netns, device) in places(&lab) {
        announce(&netns, device);
    }
    for vip in topology.plan.vip().addresses() {
        for (n, (netns, device)) in (1u8..).zip(places(&lab)) {
            let stream = stream(&lab, &accepted, vip);
            let address = format!("02:00:5e:{:02x}:00:{n:02x}", u8::from(vip.is_ipv6()));
            netns
                .ip([format!("link set {device} address {address}")])
                .unwrap();
            stream.join().unwrap_or_else(|_| {
                panic!(
                    "{vip}: {device} of {} changed:\n{}",
                    netns.name(),
                    mqlb.log()
                )
            });
        }
    }
}

type Accepted = Receiver<(TcpStream, Vec<u8>)>;

/// A transfer both ways through the balancer, begun.
fn stream(lab: &Lab, accepted: &Accepted, vip: IpAddr) -> JoinHandle<()> {
    let (client, backend) = common::session(lab, accepted, vip);
    let stream = thread::spawn(move || common::transfer(client, backend, LENGTH));
    thread::sleep(Duration::from_millis(200));
    assert!(!stream.is_finished(), "the stream is too short");
    stream
}

/// TCP segments of one family that a namespace has forwarded.
fn forwarded(netns: &Netns) -> u64 {
    let counted = run(netns
        .command("nft")
        .unwrap()
        .args(["-j", "list", "counters", "table", "inet", "seen"]))
    .unwrap();
    let counted: serde_json::Value = serde_json::from_str(&counted).unwrap();
    let counters = counted["nftables"].as_array().unwrap();
    let packets = counters
        .iter()
        .filter_map(|c| c["counter"]["packets"].as_u64());
    packets.sum()
}

#[test]
fn a_stream_goes_on_when_the_backend_moves_behind_another_gateway_and_back() {
    let lab = common::lab_without_brokers(2);
    let (_stand_in, accepted) = common::accepting_backend(&lab, 0);
    let mqlb = Mqlb::start(&lab, &Options::default()).unwrap();
    let topology = &lab.topology;
    // The other broker's host runs no broker; it forwards.
    let gateway = &topology.brokers[1];
    gateway
        .sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/eth0/send_redirects", "0"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ])
        .unwrap();
    gateway
        .nft(
            "table inet seen {\n counter segments { }\n chain forward {\n type filter hook forward priority 0;\n \
             meta l4proto tcp counter name segments\n }\n}\n",
        )
        .unwrap();
    for (v, vip) in topology.plan.vip().addresses().into_iter().enumerate() {
        let broker = topology.plan.broker(0).addresses()[v];
        let by = topology.plan.broker(1).addresses()[v];
        for (command, passes) in [
            (format!("route replace {broker} via {by} dev eth1"), true),
            (format!("route del {broker} via {by} dev eth1"), false),
        ] {
            let before = forwarded(gateway);
            let stream = stream(&lab, &accepted, vip);
            topology.lb.ip([&command]).unwrap();
            stream
                .join()
                .unwrap_or_else(|_| panic!("{vip}: {command}:\n{}", mqlb.log()));
            let came = forwarded(gateway) - before;
            if passes {
                assert!(came > 100, "{vip}: {command}: {came} segments");
            }
            // What begins now goes by the new way from its first segment on.
            let before = forwarded(gateway);
            stream_of_one(&lab, &accepted, vip);
            let came = forwarded(gateway) - before;
            assert_eq!(came > 0, passes, "{vip}: {command}: {came} segments");
        }
    }
}

/// A connection with a few bytes each way, to its end.
fn stream_of_one(lab: &Lab, accepted: &Accepted, vip: IpAddr) {
    let (client, backend) = common::session(lab, accepted, vip);
    common::transfer(client, backend, 1000);
}

#[test]
fn a_stream_goes_on_when_a_link_goes_down_and_comes_up() {
    let lab = common::lab_without_brokers(1);
    let (_stand_in, accepted) = common::accepting_backend(&lab, 0);
    let mqlb = Mqlb::start(&lab, &Options::default()).unwrap();
    let topology = &lab.topology;
    for device in ["eth0", "eth1"] {
        // Without this the kernel takes the IPv6 addresses from an interface that goes down.
        let keep = format!("net/ipv6/conf/{device}/keep_addr_on_down");
        topology.lb.sysctl(&[(&keep, "1")]).unwrap();
    }
    for vip in topology.plan.vip().addresses() {
        for device in ["eth0", "eth1"] {
            let stream = stream(&lab, &accepted, vip);
            topology.lb.ip([format!("link set {device} down")]).unwrap();
            thread::sleep(Duration::from_millis(300));
            topology.lb.ip([format!("link set {device} up")]).unwrap();
            stream
                .join()
                .unwrap_or_else(|_| panic!("{vip}: {device} was down:\n{}", mqlb.log()));
            for any in topology.plan.vip().addresses() {
                common::wait_for("new clients are served", Duration::from_secs(10), || {
                    is_served(&lab, &accepted, any)
                });
            }
        }
    }
}

/// Whether a client is served, or refused.
fn is_served(lab: &Lab, accepted: &Accepted, vip: IpAddr) -> bool {
    let connect = Connect::new("comes-now").encode();
    let mut client = raw::open(lab, vip, &connect).unwrap();
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    let served = answer == raw::CONNACK;
    if served {
        let patience = Duration::from_secs(10);
        accepted
            .recv_timeout(patience)
            .expect("it is at the backend");
    }
    served
}
