//! What an operator tells a running agent: drain, disable, ready, weight, another configuration.

mod common;

use std::net::Ipv6Addr;
use std::time::Duration;

use lb_tests::balancer::Options;
use lb_tests::dns::NameServer;
use lb_tests::lab::Lab;
use lb_tests::mqlb::Mqlb;
use lb_tests::raw::{self, Connect};

/// How many of `clients` new clients each backend gets.
fn placed(lab: &Lab, prefix: &str, clients: u32) -> Vec<usize> {
    let fleet = lab.fleet_with(|o| o.prefix = prefix.into()).unwrap();
    let round = fleet.connect(0..clients).unwrap();
    round.check().unwrap();
    let placed = round.per_broker();
    (0..lab.topology.brokers.len())
        .map(|n| placed.get(&Lab::broker_name(n)).copied().unwrap_or(0))
        .collect()
}

#[test]
fn orders_act_at_once() {
    let lab = common::lab_with_brokers(3);
    let mut mqlb = Mqlb::start(&lab, &Options::default()).unwrap();
    let fleet = lab.fleet().unwrap();
    fleet.connect(0..30).unwrap().check().unwrap();

    mqlb.command(&["drain", "emqx1"]).unwrap();
    assert_eq!(placed(&lab, "drained", 30), [0, 15, 15]);
    // Who is there stays; who comes back is bound elsewhere.
    assert_eq!(lab.connections().unwrap()["emqx1"], 10);
    fleet.disconnect(0..30).unwrap();
    let back = fleet.connect(0..30).unwrap();
    back.check().unwrap();
    assert_eq!(back.per_broker().get("emqx1"), None);
    assert_eq!(back.returned, 20);

    mqlb.command(&["ready", "emqx1"]).unwrap();
    mqlb.command(&["weight", "emqx1", "4"]).unwrap();
    assert_eq!(placed(&lab, "weighted", 60), [40, 10, 10]);
    assert_eq!(mqlb.backend("emqx1").unwrap()["weight"], 4);
    mqlb.restart().unwrap();
    assert_eq!(mqlb.backend("emqx1").unwrap()["weight"], 4);
    mqlb.command(&["weight", "emqx1", "config"]).unwrap();
    assert_eq!(mqlb.backend("emqx1").unwrap()["weight"], 1);

    mqlb.command(&["disable", "emqx/emqx2"]).unwrap();
    common::wait_for("emqx2 is empty", Duration::from_secs(10), || {
        lab.connections().unwrap()["emqx2"] == 0
    });
    assert_eq!(placed(&lab, "disabled", 20), [10, 0, 10]);
    assert!(mqlb.counter("reset_drained").unwrap() > 0);

    let error = mqlb.command(&["drain", "emqx9"]).unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("emqx/emqx1, emqx/emqx2, emqx/emqx3"),
        "{error}"
    );
}

#[test]
fn with_all_brokers_disabled_clients_are_refused_in_mqtt_terms() {
    let lab = common::lab_with_brokers(1);
    let mqlb = Mqlb::start(&lab, &Options::default()).unwrap();
    mqlb.command(&["disable", "emqx1"]).unwrap();
    for vip in lab.topology.plan.vip().addresses() {
        let mut client = raw::open(&lab, vip, &Connect::new("nobody").encode()).unwrap();
        let (first, body) = raw::read_packet(&mut client).unwrap();
        assert_eq!((first, &body[..]), (0x20, &[0, 3][..]));
    }
    assert_eq!(mqlb.counter("no_backend").unwrap(), 2);
}

#[test]
fn another_configuration_takes_effect_as_a_whole_or_not_at_all() {
    let lab = common::lab_with_brokers(3);
    let mut mqlb = Mqlb::start(&lab, &Options::default()).unwrap();
    let good = mqlb.configuration().unwrap();
    let fleet = lab.fleet().unwrap();
    fleet.connect(0..30).unwrap().check().unwrap();

    // A file with a mistake changes nothing, by command and by signal.
    mqlb.write_configuration(&good.replace("weight = 1", "weight = \"x\""))
        .unwrap();
    let error = format!("{:#}", mqlb.command(&["reload"]).unwrap_err());
    assert!(
        error.contains("mqlb.toml:") && error.contains("weight"),
        "{error}"
    );
    mqlb.signal(libc::SIGHUP).unwrap();
    common::wait_for("SIGHUP", Duration::from_secs(5), || {
        mqlb.log().contains("the configuration stays as it was")
    });
    assert_eq!(placed(&lab, "same", 30), [10, 10, 10]);

    // Without the third backend: it keeps what it has and gets nobody new.
    let removed = good[..good.rfind("[[pool.emqx.backend]]").unwrap()].to_owned();
    mqlb.write_configuration(&removed).unwrap();
    let done = mqlb.command(&["reload"]).unwrap();
    assert!(
        done.contains("emqx3") && done.lines().count() == 1,
        "{done}"
    );
    assert_eq!(placed(&lab, "without", 30), [15, 15, 0]);
    assert_eq!(lab.connections().unwrap()["emqx3"], 10);
    let leaving = mqlb.backend("emqx3").unwrap();
    assert_eq!(
        (&leaving["removed"], &leaving["state"]),
        (&true.into(), &"draining".into())
    );
    assert_eq!(
        fleet.gauges.lost.load(std::sync::atomic::Ordering::Relaxed),
        0
    );

    // It is forgotten with its last connection.
    fleet.disconnect(0..30).unwrap();
    common::wait_for("emqx3 is forgotten", Duration::from_secs(30), || {
        mqlb.backend("emqx3").is_err()
    });

    // And comes back, with another weight for the first.
    mqlb.write_configuration(&good.replacen("weight = 1", "weight = 2", 1))
        .unwrap();
    mqlb.signal(libc::SIGHUP).unwrap();
    mqlb.wait_for_state("emqx3", "up", Duration::from_secs(10))
        .unwrap();
    assert_eq!(placed(&lab, "again", 40), [20, 10, 10]);
}

#[test]
fn listeners_come_and_go() {
    let lab = common::lab_without_brokers(1);
    let (_stand_in, accepted) = common::accepting_backend(&lab, 0);
    let mqlb = Mqlb::start(&lab, &common::unchecked()).unwrap();
    let vip = lab.topology.plan.vip().addresses()[0];
    let (mut client, mut backend) = common::session(&lab, &accepted, vip);
    let good = mqlb.configuration().unwrap();
    let second = good.replacen(
        "[[listener]]",
        &format!("[[listener]]\nname = \"second\"\nbind = [\"{vip}:1884\"]\npool = \"emqx\"\n\n[[listener]]"),
        1,
    );
    mqlb.write_configuration(&second).unwrap();
    mqlb.command(&["reload"]).unwrap();
    let at_second = || {
        lab.topology.clients.enter(|| {
            std::net::TcpStream::connect_timeout(&(vip, 1884).into(), Duration::from_secs(5))
        })
    };
    let mut new = at_second().unwrap().unwrap();
    use std::io::{Read as _, Write as _};
    new.write_all(&Connect::new("second").encode()).unwrap();
    common::expect_connack(&mut new);

    mqlb.write_configuration(&good).unwrap();
    mqlb.command(&["reload"]).unwrap();
    assert!(
        at_second().unwrap().is_err(),
        "a listener that is gone answers"
    );
    // Neither the old listener's connection nor the gone one's has noticed.
    let (mut second_backend, _) = accepted.recv_timeout(Duration::from_secs(5)).unwrap();
    for (from, to) in [(&mut client, &mut backend), (&mut new, &mut second_backend)] {
        from.write_all(b"still here").unwrap();
        let mut heard = [0; 10];
        to.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"still here");
    }

    // What a running data path can't change is refused.
    mqlb.write_configuration(&good.replacen("[xdp]", "[xdp]\nmax_flows = 4711", 1))
        .unwrap();
    let error = format!("{:#}", mqlb.command(&["reload"]).unwrap_err());
    assert!(error.contains("max_flows"), "{error}");
}

/// The backend of a client that connects over IPv6.
fn found_by(lab: &Lab, client: u32) -> String {
    let fleet = lab
        .fleet_with(|options| {
            options.servers = vec![lab.topology.plan.vip().sockets(1883)[1]];
            options.prefix = "named".into();
        })
        .unwrap();
    let round = fleet.connect(client..client + 1).unwrap();
    round.check().unwrap();
    round.placed[&client].clone()
}

#[test]
fn a_backend_that_is_named_is_followed() {
    const NAME: &str = "brokers.internal";
    let lab = common::lab_with_brokers(2);
    let names = NameServer::start(&lab.topology.lb, (Ipv6Addr::LOCALHOST, 53).into()).unwrap();
    names.set(NAME, lab.topology.plan.broker(0).v6);
    let resolv_conf = lab.directory().join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver ::1\n").unwrap();
    let options = Options {
        resolv_conf: Some(resolv_conf),
        ..Options::default()
    };
    let mqlb = Mqlb::start(&lab, &options).unwrap();
    // From two written addresses to one name.
    let vip = lab.topology.plan.vip().v6;
    let good = mqlb.configuration().unwrap();
    let head = &good[..good.find("[[pool.emqx.backend]]").unwrap()];
    let bind = head.find("bind = ").unwrap();
    let end = bind + head[bind..].find('\n').unwrap();
    let named = format!(
        "{}bind = [\"[{vip}]:1883\"]{}[[pool.emqx.backend]]\nname = \"named\"\naddress = \"{NAME}:1883\"\n",
        &head[..bind],
        &head[end..]
    );
    mqlb.write_configuration(&named).unwrap();
    mqlb.command(&["reload"]).unwrap();
    mqlb.wait_for_state("named", "up", Duration::from_secs(10))
        .unwrap();
    assert_eq!(found_by(&lab, 0), "emqx1");

    let fleet = lab
        .fleet_with(|options| options.servers = vec![lab.topology.plan.vip().sockets(1883)[1]])
        .unwrap();
    fleet.connect(0..5).unwrap().check().unwrap();
    names.set(NAME, lab.topology.plan.broker(1).v6);
    let moved = format!("[{}]:1883", lab.topology.plan.broker(1).v6);
    common::wait_for("the name is followed", Duration::from_secs(15), || {
        let backend = mqlb.backend("named").unwrap();
        backend["address"][0] == moved.as_str() && backend["state"] == "up"
    });
    assert_eq!(found_by(&lab, 1), "emqx2");
    // Who was there, stays.
    let lost = &fleet.gauges.lost;
    assert_eq!(lost.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(lab.connections().unwrap()["emqx1"], 5);
}
