//! The hosted set-up (docs/hosted.md): nodes on a private network with IPv6 only, found by name, that come
//! after the balancer and move.

mod common;

use std::net::Ipv6Addr;

use lb_tests::dns::NameServer;
use lb_tests::emqx::node::Node;
use lb_tests::lab::Lab;
use lb_tests::recipe::{Options, Program, Recipe};

/// Takes IPv4 away from the network between balancer and nodes.
fn ipv6_only(lab: &Lab) {
    let plan = &lab.topology.plan;
    let gateway = plan.gateway().v4;
    let lb = &lab.topology.lb;
    lb.ip([format!("addr del {gateway}/24 dev eth1")]).unwrap();
    for (n, netns) in lab.topology.brokers.iter().enumerate() {
        let own = plan.broker(n).v4;
        netns.ip([format!("addr del {own}/24 dev eth0")]).unwrap();
    }
}

fn private(n: usize) -> String {
    format!("emqx{n}.service.internal")
}

#[test]
fn nodes_on_a_network_with_ipv6_only_are_found_by_name_whenever_they_come_and_wherever_they_go() {
    for program in Program::all().unwrap() {
        eprintln!("{}", program.name);
        let lab = common::lab_without_brokers(3);
        ipv6_only(&lab);
        let lb = &lab.topology.lb;
        let names = NameServer::start(lb, (Ipv6Addr::LOCALHOST, 53).into()).unwrap();
        let resolv_conf = lab.directory().join("resolv.conf");
        std::fs::write(&resolv_conf, "nameserver ::1\n").unwrap();
        let options = Options {
            variables: vec![
                ("EMQX1_HOST", private(1)),
                ("EMQX2_HOST", private(2)),
                ("EMQX3_HOST", private(3)),
                ("EMQX1_WEIGHT", "1".into()),
                ("EMQX2_WEIGHT", "1".into()),
                ("EMQX3_WEIGHT", "1".into()),
            ],
            resolv_conf: Some(resolv_conf),
            // The platform starts services in any order: nobody has a name yet.
            up: Some(0),
            ..Options::default()
        };
        let mut recipe = Recipe::start(&lab, &program, &options).unwrap();

        let nodes = Node::start_all(&lab).unwrap();
        for n in 0..3 {
            names.set(&private(n + 1), lab.topology.plan.broker(n).v6);
        }
        recipe.wait_until_up(3).unwrap();
        let fleet = lab.fleet().unwrap();
        let first = fleet.connect(0..10).unwrap();
        first.check().unwrap();
        let mut counts: Vec<_> = first.per_broker().into_values().collect();
        counts.sort_unstable();
        assert_eq!(counts, [3, 3, 4]);

        // A new deployment of the first node: another address under the same name.
        let old = lab.topology.plan.broker(0).v6;
        let new = Ipv6Addr::from(u128::from(old) + 0x100);
        let moved = [
            format!("addr del {old}/64 dev eth0"),
            format!("addr add {new}/64 dev eth0 nodad"),
            format!("route replace ::/0 via {}", lab.topology.plan.gateway().v6),
        ];
        lab.topology.brokers[0].ip(moved).unwrap();
        recipe.wait_until_up(2).unwrap();
        names.set(&private(1), new);
        recipe.wait_until_up(3).unwrap();
        // It takes clients at its new address.
        let before = nodes[0].connections().unwrap();
        fleet.connect(100..109).unwrap().check().unwrap();
        assert!(nodes[0].connections().unwrap() > before);
        let mine = first
            .placed
            .iter()
            .filter(|(_, node)| **node == Node::name(0));
        for (&client, node) in mine {
            let round = fleet.connect(client..client + 1).unwrap();
            round.check().unwrap();
            assert_eq!(
                &round.placed[&client], node,
                "bound to the name, not the address"
            );
        }
    }
}
