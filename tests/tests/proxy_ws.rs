//! MQTT over WebSocket through the proxy, on the loopback interface: raw clients that do what clients shouldn't, and
//! nodes whose WebSocket is not of our making.

mod front;
mod proxied;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use front::*;
use lb_tests::raw;
use proxied::{Agent, connect_packet, eventually, free_port, served};

fn agent(more: &str, keys: &str, nodes: &[&Node]) -> (Agent, SocketAddr) {
    let vip = free_port();
    let listener = format!(
        "[[listener]]\nname = \"ws\"\nkind = \"ws\"\nbind = [\"{vip}\"]\npool = \"emqx\"\n{keys}\n"
    );
    let backends: Vec<_> = nodes.iter().map(|n| n.mqtt()).collect();
    (Agent::start(more, &listener, &backends), vip)
}

#[test]
fn a_client_that_moves_from_tcp_to_websocket_stays() {
    let nodes = [Node::start(1), Node::start(2), Node::start(3)];
    let (plain, ws) = (free_port(), free_port());
    let listeners = format!(
        "[[listener]]\nname = \"mqtt\"\nbind = [\"{plain}\"]\ndatapath = \"proxy\"\npool = \"emqx\"\n\
         [[listener]]\nname = \"ws\"\nkind = \"ws\"\nbind = [\"{ws}\"]\npool = \"emqx\"\n"
    );
    let backends: Vec<_> = nodes.iter().map(Node::mqtt).collect();
    let agent = Agent::start("", &listeners, &backends);
    let mut on = [0; 3];
    for n in 0..12 {
        let id = format!("c{n}");
        let first = if n % 2 == 0 {
            let mut stream = tcp(plain);
            served(&mut stream, &id).unwrap()
        } else {
            client(ws, &id).1
        };
        on[usize::from(first) - 1] += 1;
        let (mut stream, over_ws) = client(ws, &id);
        assert_eq!(over_ws, first, "{id} over WebSocket");
        assert_eq!(
            served(&mut tcp(plain), &id).unwrap(),
            first,
            "{id} over TCP"
        );
        stream.write_all(&frame(0x82, b"hello")).unwrap();
        assert_eq!(next(&mut stream), Some((0x82, b"hello".to_vec())));
    }
    assert_eq!(on, [4, 4, 4]);
    let status = agent.status();
    assert_eq!(status["listeners"][1]["kind"], "ws");
    assert_eq!(status["listeners"][1]["datapath"], "proxy");
    eventually("their connections are over", || {
        agent.status()["flows"]["current"] == 0
    });
}

#[test]
fn frames_pass_untouched_however_the_connect_comes() {
    let node = Node::start(1);
    let (_agent, vip) = agent("", "", &[&node]);
    let packet = connect_packet("torture");
    let halves = packet.split_at(9);
    let bytewise = |control: bool| {
        let last = packet.len() - 1;
        let one = |(n, byte): (usize, &u8)| {
            let bits = if n == last { 0x80 } else { 0 } | if n == 0 { 2 } else { 0 };
            let mut bytes = Vec::new();
            if control && n % 3 == 1 {
                bytes.extend(frame(0x89, &[n as u8]));
                bytes.extend(frame(0x8a, b"nobody asked"));
            }
            bytes.extend(frame(bits, &[*byte]));
            bytes
        };
        packet.iter().enumerate().map(one).collect::<Vec<_>>()
    };
    let zero = |bits: u8| frame(bits, b"");
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("one frame", vec![frame(0x82, &packet)]),
        (
            "a byte at a time on the wire",
            frame(0x82, &packet).iter().map(|b| vec![*b]).collect(),
        ),
        ("a fragment for each byte", bytewise(false)),
        ("the same in one segment", vec![bytewise(false).concat()]),
        ("control frames in between", bytewise(true)),
        ("the same in one segment", vec![bytewise(true).concat()]),
        (
            "two messages",
            vec![frame(0x82, halves.0), frame(0x82, halves.1)],
        ),
        (
            "empty fragments",
            vec![
                [
                    zero(0x02),
                    frame(0x00, halves.0),
                    zero(0),
                    frame(0x80, halves.1),
                ]
                .concat(),
            ],
        ),
        (
            "an empty message first",
            vec![zero(0x82), frame(0x82, &packet)],
        ),
    ];
    for (name, pieces) in cases {
        let mut stream = upgraded(vip);
        let mut pings = Vec::new();
        for piece in &pieces {
            stream.write_all(piece).unwrap();
        }
        // A pong for each ping that came before the identifier's end, and then the CONNACK.
        let connack = loop {
            match next(&mut stream).unwrap_or_else(|| panic!("{name}: closed")) {
                (0x8a, payload) => pings.push(payload),
                other => break other,
            }
        };
        assert_eq!(connack, (0x82, vec![0x20, 2, 0, 0, 1]), "{name}");
        let all = pieces.concat();
        let asked = if name.contains("control") || pings.len() > 1 {
            (0..packet.len())
                .filter(|n| n % 3 == 1)
                .map(|n| vec![n as u8])
                .collect()
        } else {
            Vec::<Vec<u8>>::new()
        };
        assert_eq!(pings, asked, "{name}");
        // What the node got, but for control frames before the identifier's end, is what was sent.
        let got = node.last().frames;
        let mut wanted = all.clone();
        if !asked.is_empty() {
            wanted = bytewise(false).concat();
        }
        assert!(got == wanted, "{name}: {got:02x?}\n{wanted:02x?}");
        // From here on everything is between the two.
        stream.write_all(&frame(0x89, b"to the node")).unwrap();
        assert_eq!(
            next(&mut stream),
            Some((0x8a, b"to the node".to_vec())),
            "{name}"
        );
    }
}

#[test]
fn packets_behind_the_connect_and_long_messages_pass() {
    let node = Node::start(1);
    let (_agent, vip) = agent("", "", &[&node]);
    let mut stream = upgraded(vip);
    // Several packets in one frame, half a message behind them.
    let long: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let (one, two) = long.split_at(1_000_001);
    let first = [connect_packet("long"), b"\xc0\0".to_vec()].concat();
    let bytes = [
        frame(0x82, &first),
        frame(0x02, one),
        frame(0x89, b"?"),
        frame(0x80, two),
        frame(0x88, &[3, 0xe8]),
    ]
    .concat();
    let mut writer = stream.try_clone().unwrap();
    let sent = bytes.clone();
    let writing = thread::spawn(move || writer.write_all(&sent).unwrap());
    let connack = next(&mut stream);
    assert_eq!(connack, Some((0x82, vec![0x20, 2, 0, 0, 1])));
    let mut messages = Vec::new();
    let mut pongs = 0;
    let code = loop {
        match next(&mut stream).expect("more") {
            (0x8a, payload) => {
                assert_eq!(payload, b"?");
                pongs += 1;
            }
            (0x88, payload) => break payload,
            (0x82, payload) => messages.push(payload),
            other => panic!("{:02x}", other.0),
        }
    };
    writing.join().unwrap();
    assert!(messages == [long], "the message comes back as it was");
    assert_eq!((pongs, &code[..]), (1, &[3, 0xe8][..]));
    assert!(
        node.last().frames == bytes,
        "and the node got what was sent"
    );
    assert_eq!(next(&mut stream), None);
}

#[test]
fn the_node_is_asked_what_the_client_asked() {
    let node = Node::start(1);
    let keys = "proxy_protocol = \"v2\"\ntrusted_proxies = [\"127.0.0.1\"]\npath = \"/broker\"";
    let (agent, vip) = agent("", keys, &[&node]);
    let mut stream = tcp(vip);
    stream
        .write_all(b"PROXY TCP4 192.0.2.7 192.0.2.9 4711 8083\r\n")
        .unwrap();
    let request = UPGRADE.replace("/mqtt", "/broker?v=5").replace(
        "\r\n\r\n",
        "\r\nCookie: a=b\r\nX-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\n\
         Sec-WebSocket-Extensions: permessage-deflate\r\nX-Own: kept\r\n\r\n",
    );
    stream.write_all(request.as_bytes()).unwrap();
    let head = read_head(&mut stream).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert_eq!(header(&head, "sec-websocket-extensions"), None);
    stream
        .write_all(&frame(0x82, &connect_packet("far")))
        .unwrap();
    assert_eq!(next(&mut stream).unwrap().1[4], 1);
    let seen = node.last();
    assert_eq!(seen.before[..12], *b"\r\n\r\n\0\r\nQUIT\n");
    assert_eq!(seen.before[16..24], [192, 0, 2, 7, 192, 0, 2, 9]);
    assert!(
        seen.head.starts_with("GET /broker?v=5 HTTP/1.1\r\n"),
        "{}",
        seen.head
    );
    for (name, value) in [
        ("host", Some("mqtt.example")),
        ("x-forwarded-for", Some("192.0.2.7")),
        ("x-forwarded-port", Some("4711")),
        ("x-forwarded-proto", Some("http")),
        ("forwarded", None),
        ("cookie", Some("a=b")),
        ("x-own", Some("kept")),
        ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZQ==")),
        ("sec-websocket-protocol", Some("mqtt")),
        ("sec-websocket-extensions", None),
    ] {
        assert_eq!(header(&seen.head, name).as_deref(), value, "{name}");
    }
    // As the client wrote it.
    assert!(seen.head.contains("\r\nX-Own: kept\r\n"), "{}", seen.head);
    let flows = agent.command(&["flows"]);
    assert!(String::from_utf8_lossy(&flows.stdout).contains("192.0.2.7:4711"));
}

#[test]
fn wrong_frames_are_closed_with_a_code_and_counted() {
    let node = Node::start(1);
    let (agent, vip) = agent("", "", &[&node]);
    let long = [vec![0x82, 0x80 | 127], vec![0, 0, 0, 0, 0, 0, 0, 9]].concat();
    let huge = [
        b"\x10\xff\xff\x03\0\x04MQTT\x05\x02\0\x3c\xe0\xfe\x03".to_vec(),
        b"\x26\0\x80".to_vec(),
        vec![b'x'; 128],
        b"\x4e\x20".to_vec(),
        vec![b'y'; 20_000],
    ]
    .concat();
    let cases: Vec<(Vec<u8>, u16, &str)> = vec![
        (
            [vec![0x82, 20], connect_packet("unmasked")].concat(),
            1002,
            "reject_ws_unmasked",
        ),
        (frame(0xc2, b"rsv1"), 1002, "reject_ws_reserved"),
        (frame(0xa2, b"rsv2"), 1002, "reject_ws_reserved"),
        (frame(0x92, b"rsv3"), 1002, "reject_ws_reserved"),
        (frame(0x83, b"opcode"), 1002, "reject_ws_reserved"),
        (frame(0x8b, b"opcode"), 1002, "reject_ws_reserved"),
        (frame(0x81, b"text"), 1003, "reject_ws_text"),
        (long, 1002, "reject_ws_length"),
        (frame(0x09, b"half a ping"), 1002, "reject_ws_control"),
        (frame(0x89, &[b'x'; 126]), 1002, "reject_ws_control"),
        (frame(0x88, &[3]), 1002, "reject_ws_control"),
        (
            frame(0x88, &1005u16.to_be_bytes()),
            1002,
            "reject_ws_control",
        ),
        (frame(0x88, &[3, 0xe8, 0xff]), 1007, "reject_ws_control"),
        (frame(0x80, b"of what?"), 1002, "reject_ws_fragment"),
        (
            [frame(0x02, b"\x10"), frame(0x82, b"\x10")].concat(),
            1002,
            "reject_ws_fragment",
        ),
        (frame(0x82, b"GET / HTTP/1.1"), 1002, "reject_not_connect"),
        (frame(0x82, &huge), 1009, "reject_oversized_packet"),
    ];
    let mut counts = std::collections::BTreeMap::<&str, u64>::new();
    for (bytes, code, counter) in cases {
        let mut stream = upgraded(vip);
        stream.write_all(&bytes).unwrap();
        assert_eq!(closed(&mut stream), Some(code), "{:02x?}", &bytes[..2]);
        assert_eq!(next(&mut stream), None, "nothing follows a close frame");
        *counts.entry(counter).or_default() += 1;
    }
    for (counter, times) in counts {
        eventually(counter, || agent.counter(counter) == times);
    }
    // Who closes properly is answered in kind.
    let mut stream = upgraded(vip);
    stream.write_all(&frame(0x88, b"\x03\xe9bye")).unwrap();
    assert_eq!(next(&mut stream), Some((0x88, b"\x03\xe9bye".to_vec())));
    assert_eq!(node.websockets(), 0, "none of this reached the node");
}

#[test]
fn handshakes_that_cannot_be_are_refused() {
    let node = Node::start(1);
    let (agent, vip) = agent("", "", &[&node]);
    for (from, to, status) in [
        ("/mqtt", "/other", "404"),
        ("Version: 13", "Version: 8", "426"),
        ("Protocol: mqtt", "Protocol: chat", "400"),
        ("Key: dGhl", "Key: dG", "400"),
        ("Upgrade: websocket\r\n", "", "426"),
        ("GET", "PUT", "400"),
    ] {
        let (head, why) = ask(&mut tcp(vip), &UPGRADE.replacen(from, to, 1));
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{to}: {head}{why}"
        );
        if status == "426" {
            assert_eq!(
                header(&head, "sec-websocket-version").as_deref(),
                Some("13")
            );
        }
    }
    agent.counted("reject_ws_upgrade", 6);
    // No HTTP, and too much of it.
    let mut stream = tcp(vip);
    stream
        .write_all(b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0\r\n\r\n")
        .unwrap();
    assert!(read_head(&mut stream).is_ok_and(|head| head.starts_with("HTTP/1.1 400 ")));
    agent.counted("reject_http", 1);
    let mut stream = tcp(vip);
    let long = format!(
        "GET /mqtt HTTP/1.1\r\nX-Long: {}\r\n\r\n",
        "x".repeat(40_000)
    );
    let _ = stream.write_all(long.as_bytes());
    assert!(read_head(&mut stream).is_ok_and(|head| head.starts_with("HTTP/1.1 431 ")));
    agent.counted("reject_http", 2);
}

#[test]
fn refusals_are_mqtt_and_then_a_close_frame() {
    let node = Node::start(1);
    let (agent, vip) = agent("", "max_flows = 1", &[&node]);
    let (mut first, _) = client(vip, "first");
    // A count that was under way when the first came may give away a place too many.
    eventually("the listener is full", || {
        let mut second = upgraded(vip);
        second
            .write_all(&frame(0x82, &connect_packet("second")))
            .unwrap();
        let refused = next(&mut second) == Some((0x82, vec![0x20, 2, 0, 3]));
        assert!(!refused || closed(&mut second) == Some(1013));
        refused
    });
    agent.counted("listener_full", 1);
    agent.command(&["disable", "emqx1"]);
    assert_eq!(
        closed(&mut first),
        Some(1001),
        "a disabled node's clients are sent away"
    );
    assert_eq!(next(&mut first), None);
    eventually("there is room again", || {
        let mut third = upgraded(vip);
        third
            .write_all(&frame(0x82, &connect_packet("third")))
            .unwrap();
        assert_eq!(next(&mut third), Some((0x82, vec![0x20, 2, 0, 3])));
        assert_eq!(closed(&mut third), Some(1013));
        agent.counter("no_backend") > 0
    });
    agent.command(&["ready", "emqx1"]);
    agent.command(&["block", "--client", "bad"]);
    let mut blocked = upgraded(vip);
    blocked
        .write_all(&frame(0x82, &connect_packet("bad")))
        .unwrap();
    assert_eq!(next(&mut blocked), Some((0x82, vec![0x20, 2, 0, 5])));
    assert_eq!(closed(&mut blocked), Some(1008));
}

#[test]
fn a_node_whose_websocket_fails_is_passed_over_and_not_suspected() {
    let good = Node::start(1);
    let bad = [
        Node::without_websocket(2),
        Node::without_websocket(3),
        Node::without_websocket(4),
    ];
    // 2 refuses. 3 has none at that path, and 4 doesn't know what the key is for.
    listen(bad[1].ip, WEBSOCKET, |mut stream| {
        let _ = read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        let _ = stream.read(&mut [0]);
    });
    listen(bad[2].ip, WEBSOCKET, |mut stream| {
        let _ = read_head(&mut stream);
        let _ = stream.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
        );
        let _ = stream.read(&mut [0]);
    });
    let (plain, ws) = (free_port(), free_port());
    let listeners = format!(
        "[[listener]]\nname = \"mqtt\"\nbind = [\"{plain}\"]\ndatapath = \"proxy\"\npool = \"emqx\"\n\
         [[listener]]\nname = \"ws\"\nkind = \"ws\"\nbind = [\"{ws}\"]\npool = \"emqx\"\n"
    );
    let backends: Vec<_> = [&good].into_iter().chain(&bad).map(Node::mqtt).collect();
    let agent = Agent::start("", &listeners, &backends);
    for n in 0..8 {
        assert_eq!(client(ws, &format!("c{n}")).1, 1);
    }
    agent.counted("backend_failed", 3);
    let status = agent.status();
    for backend in status["pools"][0]["backends"].as_array().unwrap() {
        assert_eq!(backend["state"], "up");
    }
    let mut on: Vec<u8> = (0..4)
        .map(|n| served(&mut tcp(plain), &format!("t{n}")).unwrap())
        .collect();
    on.sort_unstable();
    on.dedup();
    assert!(on.len() > 1, "over TCP all of them serve: {on:?}");
}

#[test]
fn a_flood_of_the_silent_keeps_nobody_out() {
    let node = Node::start(1);
    for kind in ["ws", "http"] {
        // However far they go before they fall silent.
        for (name, said) in [
            ("nothing", ""),
            ("half a request", &UPGRADE[..40]),
            ("no CONNECT", UPGRADE),
        ] {
            let vip = free_port();
            let listener = format!(
                "[[listener]]\nname = \"ws\"\nkind = \"{kind}\"\nbind = [\"{vip}\"]\npool = \"emqx\"\n"
            );
            // So few files that the flood would use them up.
            let few = ["prlimit", "--nofile=300:300"];
            let more = "[timeouts]\nsniff = \"600s\"";
            let agent = Agent::start_with(more, &listener, &[node.mqtt()], &few);
            let (mut open, _) = client(vip, "before");
            let flood: Vec<_> = (0..1000)
                .map(|_| {
                    let mut stream = TcpStream::connect(vip).unwrap();
                    // Those that were let go already can't be written to.
                    let _ = stream.write_all(said.as_bytes());
                    stream
                })
                .collect();
            eventually(&format!("{kind}, {name}: the oldest go"), || {
                agent.counter("setup_evicted") >= 700
            });
            let (mut honest, _) = client(vip, "honest");
            for stream in [&mut open, &mut honest] {
                stream.write_all(&frame(0x82, b"here")).unwrap();
                assert_eq!(
                    next(stream),
                    Some((0x82, b"here".to_vec())),
                    "{kind}, {name}"
                );
            }
            // The youngest of them are still waited for, the oldest aren't.
            let gone = |stream: &TcpStream| {
                stream.set_nonblocking(true).unwrap();
                let mut rest = [0; 4096];
                loop {
                    match (&*stream).read(&mut rest) {
                        Ok(0) => return true,
                        Ok(_) => {}
                        Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
                    }
                }
            };
            assert!(!gone(&flood[999]), "{kind}, {name}");
            eventually("the oldest are gone", || flood[..700].iter().all(gone));
        }
    }
}

#[test]
fn who_is_sent_away_hears_it_between_two_frames_or_not_at_all() {
    // A node whose first frame's header says more than comes.
    let ip = address();
    listen(ip, MQTT, drop);
    listen(ip, WEBSOCKET, |mut stream| {
        let head = read_head(&mut stream).unwrap();
        let key = header(&head, "sec-websocket-key").unwrap();
        let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
        let (first, half) = (b"\x82\x05\x20\x02\0\0\x01", b"\x82\x7e\x01\0half");
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).unwrap();
        stream.write_all(first).unwrap();
        // Whoever sends a second, short frame behind the CONNECT gets half a frame.
        let mut head = [0; 6];
        let mut frames = 0;
        while stream.read_exact(&mut head).is_ok() {
            let mut payload = vec![0; usize::from(head[1] & 0x7f)];
            stream.read_exact(&mut payload).unwrap();
            frames += 1;
            if frames == 2 {
                stream.write_all(half).unwrap();
            }
        }
    });
    let vip = free_port();
    let listener = format!(
        "[[listener]]\nname = \"ws\"\nkind = \"ws\"\nbind = [\"{vip}\"]\npool = \"emqx\"\n"
    );
    let agent = Agent::start("", &listener, &[SocketAddr::new(ip, MQTT)]);
    let (mut whole, _) = client(vip, "whole");
    let (mut half, _) = client(vip, "half");
    half.write_all(&frame(0x82, b"more")).unwrap();
    let mut begun = [0; 8];
    half.read_exact(&mut begun).unwrap();
    assert_eq!(begun, *b"\x82\x7e\x01\0half");
    agent.command(&["disable", "emqx1"]);
    assert_eq!(closed(&mut whole), Some(1001));
    assert_eq!(next(&mut whole), None);
    let mut rest = Vec::new();
    let end = half.read_to_end(&mut rest);
    assert!(end.is_err() && rest.is_empty(), "{rest:02x?}");
}

#[test]
fn the_silent_do_not_stay() {
    let node = Node::start(1);
    let more = "[timeouts]\nsniff = \"1s\"";
    let (agent, vip) = agent(more, "", &[&node]);
    let begun = Instant::now();
    let mut silent = tcp(vip);
    assert_eq!(raw::read(&mut silent, &mut [0]).unwrap_or(0), 0);
    let mut slow = tcp(vip);
    slow.write_all(b"GET /mqtt HTTP/1.1\r\nHost: ").unwrap();
    let mut answer = Vec::new();
    let _ = slow.read_to_end(&mut answer);
    agent.counted("sniff_timeout", 2);
    let mut upgraded = upgraded(vip);
    upgraded.write_all(&frame(0x82, b"\x10")).unwrap();
    assert_eq!(closed(&mut upgraded), Some(1008));
    agent.counted("sniff_timeout", 3);
    assert!(begun.elapsed() > Duration::from_millis(2500));
    assert_eq!(node.websockets(), 0);
}
