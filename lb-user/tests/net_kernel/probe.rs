//! What the probe says of a listener whose kernel was told which options to speak.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use mqlb::net::{NetError, PeerTcp, probe};
use socket2::{Domain, Socket, Type};

use crate::namespace::{Namespace, pair};

const PATIENCE: Duration = Duration::from_secs(5);

/// Listens in the namespace; a receive buffer fixes the window scale.
fn listen(
    namespace: &Namespace,
    addr: &'static str,
    receive_buffer: Option<usize>,
) -> (TcpListener, SocketAddr) {
    namespace.run(move || {
        let addr: SocketAddr = addr.parse().unwrap();
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        socket.bind(&addr.into()).unwrap();
        socket.listen(8).unwrap();
        let listener = TcpListener::from(socket);
        let addr = listener.local_addr().unwrap();
        (listener, addr)
    })
}

fn probe_from(
    namespace: &Namespace,
    addr: SocketAddr,
    timeout: Duration,
) -> Result<PeerTcp, NetError> {
    namespace.block_on(move || probe(addr, None, timeout))
}

#[test]
fn each_option_on_and_off() {
    let Some((here, there)) = pair() else { return };
    for ip in ["10.77.1.2:0", "[fd77:1::2]:0"] {
        let (_listener, addr) = listen(&there, ip, None);
        let mss = if addr.is_ipv4() { 1460 } else { 1440 };
        // New devices may drop the first packets.
        probe_from(&here, addr, PATIENCE).unwrap();
        for options in 0..8 {
            let [timestamps, sack, scaling] = [1, 2, 4].map(|bit| options & bit != 0);
            for (name, on) in [
                ("timestamps", timestamps),
                ("sack", sack),
                ("window_scaling", scaling),
            ] {
                there.sysctl(&format!("ipv4/tcp_{name}"), if on { "1" } else { "0" });
            }
            let peer = probe_from(&here, addr, PATIENCE).unwrap();
            assert_eq!(
                (peer.timestamps, peer.sack, peer.window_scale.is_some()),
                (timestamps, sack, scaling),
                "{addr}"
            );
            assert_eq!(peer.mss, mss, "{addr}, timestamps {timestamps}");
            let rtt = peer.rtt.expect("the SYN need not be repeated");
            assert!(rtt > Duration::ZERO && rtt < PATIENCE, "{addr}: {rtt:?}");
        }
    }
}

#[test]
fn the_window_scale_is_the_peers() {
    let Some((here, there)) = pair() else { return };
    // Linux doubles the buffer that is asked for and expects half of it to be overhead; the shift makes
    // the rest fit into 16 bits. Our own end's default is larger than these.
    for (bytes, shift) in [(50_000, 0), (100_000, 1), (200_000, 2)] {
        let (_listener, addr) = listen(&there, "10.77.1.2:0", Some(bytes));
        assert_eq!(
            probe_from(&here, addr, PATIENCE).unwrap().window_scale,
            Some(shift),
            "{bytes} bytes"
        );
    }
}

#[test]
fn the_mss_is_the_smaller_of_peer_and_path() {
    let Some((here, there)) = pair() else { return };
    let (_listener, addr) = listen(&there, "10.77.1.2:0", None);
    there.ip("route change 10.77.1.0/24 dev eth0 src 10.77.1.2 advmss 1200");
    assert_eq!(
        probe_from(&here, addr, PATIENCE).unwrap().mss,
        1200,
        "what the peer announces"
    );
    here.ip("route change 10.77.1.0/24 dev eth0 src 10.77.1.1 mtu 1000");
    assert_eq!(
        probe_from(&here, addr, PATIENCE).unwrap().mss,
        960,
        "what the path allows"
    );
}

#[test]
fn a_repeated_syn_gives_no_round_trip_time_unless_there_are_timestamps() {
    let Some((here, there)) = pair() else { return };
    let (_listener, addr) = listen(&there, "10.77.1.2:0", None);
    for timestamps in [false, true] {
        there.sysctl("ipv4/tcp_timestamps", if timestamps { "1" } else { "0" });
        // The first SYN goes astray, the second, a second later, does not.
        here.ip("neigh replace 10.77.1.2 lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
        let peer = here.block_on(move || async move {
            let found = async {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let found =
                    "neigh replace 10.77.1.2 lladdr 02:00:00:00:01:02 dev eth0 nud permanent";
                assert!(
                    std::process::Command::new("ip")
                        .args(found.split(' '))
                        .status()
                        .unwrap()
                        .success()
                );
            };
            tokio::join!(probe(addr, None, PATIENCE), found).0.unwrap()
        });
        assert_eq!(
            (peer.timestamps, peer.rtt.is_some()),
            (timestamps, timestamps),
            "{peer:?}"
        );
    }
}

#[test]
fn the_listener_sees_a_reset_from_the_wanted_source() {
    let Some((here, there)) = pair() else { return };
    here.ip("addr add 10.77.1.50/32 dev eth0");
    let (listener, addr) = listen(&there, "10.77.1.2:0", None);
    here.block_on(move || probe(addr, Some("10.77.1.50".parse().unwrap()), PATIENCE))
        .unwrap();
    let (mut stream, from) = listener.accept().unwrap();
    assert_eq!(from.ip().to_string(), "10.77.1.50");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(
        stream.read(&mut [0; 1]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[test]
fn refused_and_silent() {
    let Some((here, there)) = pair() else { return };
    let closed: SocketAddr = "10.77.1.2:9".parse().unwrap();
    assert!(matches!(
        probe_from(&here, closed, PATIENCE),
        Err(NetError::Refused { .. })
    ));
    // A neighbour whose address is known and where nobody is.
    here.ip("neigh add 10.77.1.9 lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
    let start = Instant::now();
    let error = probe_from(
        &here,
        "10.77.1.9:1883".parse().unwrap(),
        Duration::from_millis(200),
    )
    .unwrap_err();
    assert!(matches!(error, NetError::Silent { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(2));
    // No way at all.
    let error = probe_from(&here, "192.0.2.1:1883".parse().unwrap(), PATIENCE).unwrap_err();
    assert!(matches!(error, NetError::Connect { .. }), "{error}");
    drop(there);
}
