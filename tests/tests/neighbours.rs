//! Link addresses that change under a stream: of the client, the broker, and the balancer on both sides.

mod common;

use std::thread;
use std::time::Duration;

use lb_tests::balancer::Options;
use lb_tests::lab::Lab;
use lb_tests::mqlb::Mqlb;
use lb_tests::netns::Netns;

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
            let (client, backend) = common::session(&lab, &accepted, vip);
            let stream = thread::spawn(move || common::transfer(client, backend, LENGTH));
            thread::sleep(Duration::from_millis(200));
            assert!(!stream.is_finished(), "the stream is too short");
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
