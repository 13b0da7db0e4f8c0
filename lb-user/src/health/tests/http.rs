use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;

use super::*;

const STATUS: &str = "/api/v5/status";
const AVAILABILITY: &str = "/api/v5/load_rebalance/availability_check";

fn http(address: SocketAddr, availability: bool) -> Target {
    // The port of the API is not the clients'.
    let clients = SocketAddr::new(address.ip(), 1883);
    let check = Check::Http {
        port: address.port(),
        path: STATUS.to_owned(),
        availability: availability.then(|| AVAILABILITY.to_owned()),
    };
    target(1, clients, check)
}

/// Path, status and length of the body.
type Answers = &'static [(&'static str, &'static str, usize)];

/// Reads the head of a request; everything up to and with the empty line.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Answers each request by its path with a status line's end and a body, and keeps the requests.
async fn api(answers: Answers) -> (Server, Arc<Mutex<Vec<String>>>) {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let kept = requests.clone();
    let server = Server::start(move |mut stream| {
        let kept = kept.clone();
        async move {
            let head = read_head(&mut stream).await;
            let path = head.split(' ').nth(1).unwrap().to_owned();
            kept.lock().await.push(head);
            let (_, status, body) = answers.iter().find(|(p, _, _)| *p == path).unwrap();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {body}\r\n\r\n{}",
                "x".repeat(*body)
            );
            // The check may have gone before the end of a long body.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    (server, requests)
}

#[tokio::test]
async fn status_200_is_up_and_the_request_says_who_asks() {
    let (server, requests) = api(&[(STATUS, "200 OK", 5)]).await;
    let port = server.address.port();
    let reason = success(&http(server.address, false)).await;
    assert_eq!(reason, format!("GET :{port}{STATUS} answered 200"));
    let requests = requests.lock().await;
    let [request] = &requests[..] else {
        panic!("{requests:?}")
    };
    assert!(
        request.starts_with(&format!("GET {STATUS} HTTP/1.1\r\n")),
        "{request}"
    );
    assert!(
        request.contains(&format!("host: 127.0.0.1:{port}\r\n")),
        "{request}"
    );
    assert!(request.contains("user-agent: mqlb/"), "{request}");
    assert!(request.contains("connection: close\r\n"), "{request}");
}

#[tokio::test]
async fn any_other_status_is_down() {
    let others: [Answers; 5] = [
        &[(STATUS, "500 Internal Server Error", 0)],
        &[(STATUS, "503 Service Unavailable", 20)],
        &[(STATUS, "404 Not Found", 0)],
        &[(STATUS, "204 No Content", 0)],
        &[(STATUS, "302 Found", 0)],
    ];
    for answer in others {
        let (server, _) = api(answer).await;
        let reason = failure(&http(server.address, true)).await;
        let port = server.address.port();
        assert_eq!(
            reason,
            format!("GET :{port}{STATUS} answered {}", &answer[0].1[..3])
        );
    }
}

#[tokio::test]
async fn the_availability_check_tells_who_is_evacuated() {
    let cases: [(Answers, State, bool); 4] = [
        (
            &[(STATUS, "200 OK", 0), (AVAILABILITY, "200 OK", 2)],
            State::Up,
            false,
        ),
        (
            &[(STATUS, "200 OK", 0), (AVAILABILITY, "503 no", 2)],
            State::Evacuating,
            false,
        ),
        (
            &[(STATUS, "200 OK", 0), (AVAILABILITY, "404 what?", 9)],
            State::Up,
            true,
        ),
        (
            &[(STATUS, "200 OK", 0), (AVAILABILITY, "401 who?", 9)],
            State::Up,
            false,
        ),
    ];
    for (answers, state, unknown) in cases {
        let (server, requests) = api(answers).await;
        let finding = once(&http(server.address, true)).await.unwrap();
        assert_eq!((finding.state, finding.no_availability), (state, unknown));
        assert_eq!(requests.lock().await.len(), 2);
        if state == State::Evacuating {
            let port = server.address.port();
            assert_eq!(
                finding.reason,
                format!("GET :{port}{AVAILABILITY} answered 503")
            );
        }
    }
}

#[tokio::test]
async fn a_dead_node_is_not_asked_whether_it_is_evacuated() {
    let (server, requests) = api(&[(STATUS, "500 no", 0)]).await;
    failure(&http(server.address, true)).await;
    assert_eq!(requests.lock().await.len(), 1);
}

#[tokio::test]
async fn a_long_body_does_no_harm() {
    let (server, _) = api(&[(STATUS, "200 OK", 10 << 20)]).await;
    success(&http(server.address, false)).await;
}

/// What a server that answers with these bytes, and then closes or waits, is found to be.
async fn answered(bytes: &'static [u8], closes: bool) -> String {
    let server = Server::start(move |mut stream| async move {
        read_head(&mut stream).await;
        // The check may have seen enough.
        let _ = stream.write_all(bytes).await;
        if !closes {
            forever().await;
        }
    })
    .await;
    let reason = failure(&impatient(http(server.address, false))).await;
    let prefix = format!("GET :{}{STATUS}", server.address.port());
    reason.strip_prefix(&prefix).expect(&reason).to_owned()
}

#[tokio::test]
async fn what_is_no_whole_answer_is_down() {
    let late = " timed out after 200ms";
    assert_eq!(answered(b"", false).await, late);
    assert_eq!(answered(b"HTTP/1.1 200 OK\r\n", false).await, late);
    let stalled = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
    assert_eq!(answered(stalled, false).await, late);
    for (bytes, closes) in [
        (b"" as &[u8], true),
        (b"HTTP/1.1 200 OK\r\n", true),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", false),
        (
            b"\x20\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
            false,
        ),
        (LONG_HEAD, false),
    ] {
        let reason = answered(bytes, closes).await;
        assert!(reason.starts_with(": "), "{reason}");
        assert!(!reason.contains("timed out"), "{reason}");
    }
}

static LONG_HEAD: &[u8] = &{
    let mut head = [b'x'; 20_000];
    let start = *b"HTTP/1.1 200 OK\r\nx: ";
    let mut at = 0;
    while at < start.len() {
        head[at] = start[at];
        at += 1;
    }
    head
};
