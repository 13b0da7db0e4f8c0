//! Reserved ports of a namespace: others' entries stay, and the kernel obeys.

use mqlb::net::ports::{overlap, reserve, reserved};

use crate::namespace::Namespace;

#[test]
fn a_range_is_reserved_beside_others() {
    let Some(namespace) = Namespace::new() else {
        return;
    };
    namespace.sysctl("ipv4/ip_local_reserved_ports", "8080,30100-30200");
    namespace.run(|| {
        assert!(
            reserve(20000..=29999).unwrap(),
            "there was something to write"
        );
        assert!(!reserve(20000..=29999).unwrap(), "and now there is not");
        assert!(!reserve(21000..=22000).unwrap());
        assert_eq!(
            reserved().unwrap(),
            [8080..=8080, 20000..=29999, 30100..=30200]
        );
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap();
        assert_eq!(text.trim(), "8080,20000-29999,30100-30200");
    });
}

#[test]
fn a_list_longer_than_a_page_survives() {
    let Some(namespace) = Namespace::new() else {
        return;
    };
    namespace.run(|| {
        // Every second port: one entry each, about 12 kB of text.
        let text: Vec<String> = (10_000..14_000u16)
            .step_by(2)
            .map(|port| port.to_string())
            .collect();
        std::fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", text.join(",")).unwrap();
        let before = reserved().unwrap();
        assert_eq!(before.len(), 2000);
        assert!(reserve(20000..=29999).unwrap());
        let after = reserved().unwrap();
        assert_eq!(after[..2000], before[..]);
        assert_eq!(after[2000..], [20000..=29999]);
    });
}

#[test]
fn the_kernel_hands_out_what_is_left() {
    let Some(namespace) = Namespace::new() else {
        return;
    };
    namespace.sysctl("ipv4/ip_local_port_range", "40000 40019");
    namespace.run(|| {
        let before = overlap(40000..=40015).unwrap();
        assert_eq!(
            (before.local, before.shared, before.left),
            (40000..=40019, 16, 4)
        );
        reserve(40000..=40015).unwrap();
        let sockets: Vec<_> = (0..4)
            .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        let mut ports: Vec<u16> = sockets
            .iter()
            .map(|socket| socket.local_addr().unwrap().port())
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, [40016, 40017, 40018, 40019]);
        assert!(
            std::net::UdpSocket::bind("127.0.0.1:0").is_err(),
            "the reserved ports are not given away"
        );
    });
}
