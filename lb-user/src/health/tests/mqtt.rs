use std::sync::Arc;

use lb_common::mqtt::{Protocol, Sniff, refusal, sniff};
use lb_common::proxy_v2;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::*;

const CHECK: Check = Check::Mqtt { port: None };
/// Of a CONNECT with [`IDENTIFIER`].
const CONNECT: usize = 2 + 10 + 2 + 23;

/// Answers whatever comes first with `answer`; gives what came before and after that.
async fn broker(
    address: &str,
    first: usize,
    answer: &[u8],
) -> (
    Server,
    mpsc::UnboundedReceiver<(SocketAddr, Vec<u8>, Vec<u8>)>,
) {
    let (sender, received) = mpsc::unbounded_channel();
    let answer: Arc<[u8]> = answer.into();
    let server = Server::start_at(address, move |mut stream| {
        let (sender, answer) = (sender.clone(), answer.clone());
        async move {
            let peer = stream.peer_addr().unwrap();
            let mut hello = vec![0; first];
            stream.read_exact(&mut hello).await.unwrap();
            stream.write_all(&answer).await.unwrap();
            sender
                .send((peer, hello, read_to_fin(stream).await))
                .unwrap();
        }
    })
    .await;
    (server, received)
}

#[tokio::test]
async fn a_broker_that_accepts_gets_a_clean_good_bye() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (server, mut received) = broker(address, CONNECT, &[0x20, 2, 0, 0]).await;
        let reason = success(&target(1, server.address, CHECK)).await;
        let port = server.address.port();
        assert_eq!(reason, format!("CONNECT to :{port} answered: accepted"));
        let (_, hello, rest) = received.recv().await.unwrap();
        match sniff(&hello) {
            Ok(Sniff::Connect(connect)) => {
                assert_eq!(connect.client_id, IDENTIFIER);
                assert_eq!(connect.protocol, Protocol::V311);
            }
            other => panic!("no CONNECT: {other:?}"),
        }
        assert_eq!(rest, [0xe0, 0]);
    }
}

#[tokio::test]
async fn a_broker_that_wants_a_password_is_alive() {
    for answer in [
        &[0x20, 2, 0, 5][..],
        &[0x20, 2, 0, 4],
        &[0x20, 3, 0, 0x84, 0],
    ] {
        let (server, mut received) = broker("127.0.0.1:0", CONNECT, answer).await;
        let reason = success(&target(1, server.address, CHECK)).await;
        assert!(reason.contains("alive, "), "{reason}");
        // No packet may follow a refusal, and the answer was read to its end: no RST.
        assert_eq!(received.recv().await.unwrap().2, b"");
    }
}

#[tokio::test]
async fn a_broker_that_is_unavailable_is_down() {
    for answer in [refusal(Protocol::V311), refusal(Protocol::V5)] {
        let (server, _) = broker("127.0.0.1:0", CONNECT, answer).await;
        let port = server.address.port();
        assert_eq!(
            failure(&target(1, server.address, CHECK)).await,
            format!("CONNECT to :{port} answered: server unavailable")
        );
    }
}

#[tokio::test]
async fn whoever_is_no_broker_is_down() {
    for (answer, expected) in [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n" as &[u8],
            ": no CONNACK but [48, 54, 54, 50]",
        ),
        (&[0x20, 0x82, 0, 0], ": no CONNACK but [20, 82, 00, 00]"),
        (&[0x20, 2, 7, 0], ": no CONNACK but [20, 02, 07, 00]"),
        (&[0x20, 2, 0, 0x77], " answered: refused with code 0x77"),
        (b"SSH", " timed out after 200ms"),
        (b"", " timed out after 200ms"),
    ] {
        let (server, _received) = broker("127.0.0.1:0", CONNECT, answer).await;
        let port = server.address.port();
        assert_eq!(
            failure(&impatient(target(1, server.address, CHECK))).await,
            format!("CONNECT to :{port}{expected}")
        );
    }
}

#[tokio::test]
async fn a_broker_that_hangs_up_is_down() {
    let server = Server::start(|mut stream| async move {
        stream.read_exact(&mut [0; CONNECT]).await.unwrap();
    })
    .await;
    let port = server.address.port();
    assert_eq!(
        failure(&target(1, server.address, CHECK)).await,
        format!("CONNECT to :{port}: closed by the other side")
    );
}

#[tokio::test]
async fn the_proxy_header_comes_first() {
    for (address, length) in [
        ("127.0.0.1:0", proxy_v2::V4_LEN),
        ("[::1]:0", proxy_v2::MAX_LEN),
    ] {
        let (server, mut received) = broker(address, length + CONNECT, &[0x20, 2, 0, 0]).await;
        let mut target = target(1, server.address, CHECK);
        target.proxy_protocol = true;
        success(&target).await;
        let (peer, hello, rest) = received.recv().await.unwrap();
        let mut header = [0; proxy_v2::MAX_LEN];
        assert_eq!(proxy_v2::encode(peer, server.address, &mut header), length);
        assert_eq!(hello[..length], header[..length]);
        assert!(matches!(sniff(&hello[length..]), Ok(Sniff::Connect(_))));
        assert_eq!(rest, [0xe0, 0]);
    }
}
