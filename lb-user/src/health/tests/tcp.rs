use lb_common::proxy_v2;
use tokio::sync::mpsc;

use super::*;

const CHECK: Check = Check::Tcp { port: None };

#[tokio::test]
async fn whoever_accepts_is_up_and_sees_a_clean_end() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (sender, mut received) = mpsc::unbounded_channel();
        let server = Server::start_at(address, move |stream| {
            let sender = sender.clone();
            async move { sender.send(read_to_fin(stream).await).unwrap() }
        })
        .await;
        let port = server.address.port();
        let reason = success(&target(1, server.address, CHECK)).await;
        assert_eq!(reason, format!(":{port} accepts connections"));
        assert_eq!(received.recv().await.unwrap(), b"");
    }
}

#[tokio::test]
async fn nobody_there_is_down() {
    let address = nowhere().await;
    let reason = failure(&target(1, address, CHECK)).await;
    assert_eq!(reason, format!("connect to :{}: refused", address.port()));
}

#[tokio::test]
async fn no_answer_is_down() {
    // A queue of connections that nobody takes is full after a few; then SYNs are dropped.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    for _ in 0..8 {
        let connect = TcpStream::connect(address);
        if let Ok(stream) = tokio::time::timeout(Duration::from_millis(200), connect).await {
            queued.push(stream.unwrap());
        }
    }
    let reason = failure(&impatient(target(1, address, CHECK))).await;
    let expected = format!("connect to :{} timed out after 200ms", address.port());
    assert_eq!(reason, expected);
}

#[tokio::test]
async fn the_port_may_be_another_one() {
    let server = Server::start(|_| forever()).await;
    let port = Some(server.address.port());
    success(&target(1, nowhere().await, Check::Tcp { port })).await;
}

#[tokio::test]
async fn the_proxy_header_goes_to_the_clients_port_only() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (sender, mut received) = mpsc::unbounded_channel();
        let server = Server::start_at(address, move |stream| {
            let sender = sender.clone();
            async move {
                let mut header = [0; proxy_v2::MAX_LEN];
                let (from, to) = (stream.peer_addr().unwrap(), stream.local_addr().unwrap());
                let length = proxy_v2::encode(from, to, &mut header);
                let expected = header[..length].to_vec();
                sender.send((read_to_fin(stream).await, expected)).unwrap();
            }
        })
        .await;
        let mut target = target(1, server.address, CHECK);
        target.proxy_protocol = true;
        success(&target).await;
        let (seen, expected) = received.recv().await.unwrap();
        assert_eq!(seen, expected);

        target.address.set_port(1);
        target.health.check = Check::Tcp {
            port: Some(server.address.port()),
        };
        success(&target).await;
        assert_eq!(received.recv().await.unwrap().0, b"");
    }
}

#[tokio::test]
async fn what_this_host_lacks_is_not_the_backends_fault() {
    for code in [libc::EMFILE, libc::EADDRNOTAVAIL] {
        let error = std::io::Error::from_raw_os_error(code);
        let failure = super::super::check::failed("connect", error);
        assert!(matches!(failure, Failure::Here { .. }), "{failure:?}");
    }
    for code in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH] {
        let error = std::io::Error::from_raw_os_error(code);
        let failure = super::super::check::failed("connect", error);
        assert!(matches!(failure, Failure::Backend(_)), "{failure:?}");
    }
}
