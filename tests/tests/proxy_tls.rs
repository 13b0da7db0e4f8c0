//! TLS termination by the proxy: certificates, clients' certificates, what backends are told, reload.

mod proxied;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use lb_tests::process::Process;
use lb_tests::raw;
use proxied::{
    Agent, Authority, Backend, Directory, Identity, PATIENCE, client_config, connect_packet,
    echoes, eventually, extensions, free_port, served, tls, tlvs,
};
use rustls::version::{TLS12, TLS13};

const BOTH: &[&rustls::SupportedProtocolVersion] = &[&TLS13, &TLS12];
const OLDER: &[&rustls::SupportedProtocolVersion] = &[&TLS12];

/// Writes a certificate and its key; what `tls` says of them.
fn keys(directory: &Directory, name: &str, identity: &Identity) -> String {
    let cert = directory.write(&format!("{name}.crt"), &identity.cert);
    let key = directory.write(&format!("{name}.key"), &identity.key);
    format!("cert = {cert:?}, key = {key:?}")
}

/// Who signs servers' and clients' certificates, the keys of a server, and the file for `client_ca`.
fn both_sides(files: &Directory) -> (Authority, Authority, String, PathBuf) {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let server = keys(files, "server", &servers.sign("mqtt", &["mqtt.test"]));
    let client_ca = files.write("clients.crt", &clients.pem);
    (servers, clients, server, client_ca)
}

/// A listener of the pool `emqx`; `more` are further keys, a line each.
fn listener(name: &str, vip: SocketAddr, more: &str) -> String {
    format!(
        "[[listener]]\nname = \"{name}\"\nbind = [\"{vip}\"]\npool = \"emqx\"\ndatapath = \"proxy\"\n{more}\n"
    )
}

#[test]
fn mosquittos_clients_and_broker_over_tls_and_mutual_tls() {
    let files = Directory::new();
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let server = keys(
        &files,
        "server",
        &servers.sign("mqtt", &["localhost", "127.0.0.1"]),
    );
    let (server_ca, client_ca) = (
        files.write("servers.crt", &servers.pem),
        files.write("clients.crt", &clients.pem),
    );
    keys(&files, "device", &clients.sign("device", &[]));
    let broker = free_port();
    let text = format!(
        "user root\npersistence false\nallow_anonymous true\nlistener {} {}\n",
        broker.port(),
        broker.ip()
    );
    let mut mosquitto = Command::new("/usr/sbin/mosquitto");
    mosquitto
        .arg("-c")
        .arg(files.write("mosquitto.conf", &text));
    let log = files.path().join("mosquitto.log");
    let mut mosquitto = Process::start("mosquitto", mosquitto, &log).unwrap();
    let open = |_: &Process| TcpStream::connect(broker).is_ok();
    mosquitto
        .wait_until("an open port", PATIENCE, open)
        .unwrap();

    let (one_sided, mutual) = (free_port(), free_port());
    let listeners = [
        listener("tls", one_sided, &format!("tls = {{ {server} }}")),
        listener(
            "mutual",
            mutual,
            &format!("tls = {{ {server}, client_ca = {client_ca:?} }}"),
        ),
    ];
    let agent = Agent::start("", &listeners.concat(), &[broker]);
    let client = |program: &str, vip: SocketAddr, certificate: bool, more: &[&str]| {
        let mut command = Command::new(program);
        command.args(["-h", "127.0.0.1", "-p", &vip.port().to_string()]);
        command.args(["-t", "greetings", "-q", "1"]);
        command.arg("--cafile").arg(&server_ca).args(more);
        if certificate {
            let of = |name: &str| files.path().join(name);
            command.arg("--cert").arg(of("device.crt"));
            command.arg("--key").arg(of("device.key"));
        }
        command
    };
    for (vip, certificate) in [(one_sided, false), (mutual, true)] {
        // Kept by the broker until the subscriber comes.
        let message = format!("hello through {vip}");
        let publish = ["-i", "pub", "-r", "-m", &message];
        let published = client("mosquitto_pub", vip, certificate, &publish).output();
        let published = published.unwrap();
        assert!(published.status.success(), "{published:?}");
        let subscribe = ["-i", "sub", "-C", "1", "-W", "60"];
        let received = client("mosquitto_sub", vip, certificate, &subscribe).output();
        let received = received.unwrap();
        assert!(received.status.success(), "{received:?}");
        let text = String::from_utf8(received.stdout).unwrap();
        assert_eq!(text.trim_end(), message);
    }
    // Without its certificate it is turned away, and the broker hears nothing of it.
    let mut refused = client("mosquitto_pub", mutual, false, &["-i", "nobody", "-m", "x"]);
    let refused = refused.output().unwrap();
    assert!(!refused.status.success());
    agent.counted("tls_client_certificate", 1);
    assert!(!mosquitto.output().contains("nobody"));
}

#[test]
fn backends_are_told_what_the_handshake_told() {
    let files = Directory::new();
    let (servers, clients, server, client_ca) = both_sides(&files);
    let backend = Backend::start(1);
    let (full, without_name) = (free_port(), free_port());
    let tls_keys = format!(
        "tls = {{ {server}, client_ca = {client_ca:?}, client_auth = \"optional\", alpn = [\"mqtt\"] }}"
    );
    let listeners = [
        listener(
            "full",
            full,
            &format!("{tls_keys}\nproxy_protocol = \"v2-ssl-cn\""),
        ),
        listener(
            "without",
            without_name,
            &format!("{tls_keys}\nproxy_protocol = \"v2-ssl\""),
        ),
    ];
    let _agent = Agent::start("", &listeners.concat(), &[backend.address]);
    let device = clients.sign("device-7", &[]);
    let connect = |vip, config: &Arc<_>| {
        let mut stream = tls(vip, "mqtt.test", config).unwrap();
        served(&mut stream, "someone").unwrap();
        // A ticket for the next time comes with or before this.
        echoes(&mut stream, b"x");
        let header = backend.header.lock().unwrap().clone();
        let all = extensions(&header);
        let of = |kind: u8| all.iter().find(|(k, _)| *k == kind).map(|(_, v)| v.clone());
        assert_eq!(of(0x02).unwrap(), b"mqtt.test");
        let ssl = of(0x20).unwrap();
        let (flags, verify) = (ssl[0], ssl[1..5] == [0; 4]);
        (of(0x01), flags, verify, tlvs(&ssl[5..]))
    };
    let version = |name: &str| (0x21, name.as_bytes().to_vec());
    let name = (0x22, b"device-7".to_vec());

    let mut config = client_config(&servers, Some(&device), BOTH);
    config.alpn_protocols = vec![b"mqtt".to_vec()];
    let config = Arc::new(config);
    let (alpn, flags, verified, inner) = connect(full, &config);
    assert_eq!(alpn.unwrap(), b"mqtt");
    assert_eq!((flags, verified), (7, true), "over this connection");
    assert_eq!(inner, [version("TLSv1.3"), name.clone()]);
    // A session that is resumed: the certificate belongs to it, but wasn't shown again.
    let (_, flags, verified, inner) = connect(full, &config);
    assert_eq!((flags, verified), (5, true), "in this session");
    assert_eq!(inner, [version("TLSv1.3"), name.clone()]);

    let older = Arc::new(client_config(&servers, Some(&device), &[&TLS12]));
    let (alpn, flags, _, inner) = connect(full, &older);
    assert_eq!((alpn, flags), (None, 7));
    assert_eq!(inner, [version("TLSv1.2"), name]);

    let (_, flags, _, inner) = connect(
        without_name,
        &Arc::new(client_config(&servers, Some(&device), BOTH)),
    );
    assert_eq!((flags, inner), (7, vec![version("TLSv1.3")]));

    let anonymous = Arc::new(client_config(&servers, None, BOTH));
    let (_, flags, verified, inner) = connect(full, &anonymous);
    assert_eq!((flags, verified), (1, false));
    assert_eq!(inner, [version("TLSv1.3")]);
}

#[test]
fn a_certificate_for_each_name() {
    let files = Directory::new();
    let authority = Authority::new("servers");
    let identities = [
        authority.sign("first", &["first.test"]),
        authority.sign("exact", &["a.wild.test"]),
        authority.sign("wild", &["*.wild.test"]),
    ];
    let of = |name: &str, kind: fn(&Identity) -> &String| {
        let paths = identities.iter().enumerate();
        let paths = paths.map(|(n, i)| files.write(&format!("{n}.{name}"), kind(i)));
        format!("{:?}", paths.collect::<Vec<_>>())
    };
    let (certs, keys) = (of("crt", |i| &i.cert), of("key", |i| &i.key));
    let backend = Backend::start(1);
    let vip = free_port();
    let text = listener(
        "tls",
        vip,
        &format!("tls = {{ cert = {certs}, key = {keys} }}"),
    );
    let agent = Agent::start("", &text, &[backend.address]);
    let config = Arc::new(client_config(&authority, None, BOTH));
    for (name, right) in [
        ("first.test", true),
        ("a.wild.test", true),
        ("b.wild.test", true),
        ("B.Wild.Test", true),
        // Gets the first, which isn't for it.
        ("c.b.wild.test", false),
        ("elsewhere.test", false),
    ] {
        let connected = tls(vip, name, &config);
        assert_eq!(connected.is_ok(), right, "{name}");
        if let Ok(mut stream) = connected {
            served(&mut stream, "c").unwrap();
        }
    }
    agent.counted("tls_alert", 2);
    let exact = tls(vip, "a.wild.test", &config).unwrap();
    let shown = exact.conn.peer_certificates().unwrap()[0].to_vec();
    let pem = |der: &[u8]| identities[1].cert.contains(&first_line(der));
    assert!(pem(&shown), "the exact name before the wildcard");
}

/// The first line of a certificate in PEM, without the frame.
fn first_line(der: &[u8]) -> String {
    let encoded = Command::new("openssl")
        .args(["base64", "-A"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut encoded = encoded.expect("openssl");
    encoded.stdin.take().unwrap().write_all(der).unwrap();
    let output = encoded.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text[..64].to_owned()
}

#[test]
fn who_is_not_served_and_what_is_counted() {
    let files = Directory::new();
    let (servers, clients, server, client_ca) = both_sides(&files);
    let backend = Backend::start(1);
    let (vip, picky) = (free_port(), free_port());
    let mutual = format!("tls = {{ {server}, client_ca = {client_ca:?} }}");
    let alpn = format!("tls = {{ {server}, alpn = [\"mqtt\"] }}");
    let listeners = [
        listener("mutual", vip, &mutual),
        listener("picky", picky, &alpn),
    ];
    let timeouts = "[timeouts]\nhandshake = \"1s\"";
    let agent = Agent::start(timeouts, &listeners.concat(), &[backend.address]);
    // A TLS 1.3 client has finished before the server says no: it hears it with the first read.
    let refused = |identity: Option<&Identity>, versions| {
        let config = Arc::new(client_config(&servers, identity, versions));
        match tls(vip, "mqtt.test", &config) {
            Ok(mut stream) => served(&mut stream, "c").is_err(),
            Err(_) => true,
        }
    };
    let good = clients.sign("device", &[]);
    assert!(!refused(Some(&good), BOTH) && !refused(Some(&good), OLDER));
    assert!(
        refused(None, BOTH) && refused(None, OLDER),
        "no certificate"
    );
    agent.counted("tls_client_certificate", 2);
    let others = Authority::new("others");
    assert!(
        refused(Some(&others.sign("device", &[])), BOTH),
        "of somebody else"
    );
    let expired = clients.sign_as("device", &[], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    assert!(refused(Some(&expired), BOTH), "expired");
    agent.counted("tls_client_certificate", 4);

    // A client that doesn't trust us says so.
    let distrustful = Arc::new(client_config(&others, Some(&good), BOTH));
    assert!(tls(vip, "mqtt.test", &distrustful).is_err());
    agent.counted("tls_alert", 1);
    // No protocol in common.
    let mut config = client_config(&servers, None, BOTH);
    config.alpn_protocols = vec![b"h2".to_vec()];
    assert!(tls(picky, "mqtt.test", &Arc::new(config)).is_err());
    agent.counted("tls_incompatible", 1);
    // TLS 1.1, as its client says hello: it is told no.
    let mut old = TcpStream::connect(vip).unwrap();
    old.set_read_timeout(Some(PATIENCE)).unwrap();
    old.write_all(&hello_of_tls_1_1()).unwrap();
    let mut alert = [0; 7];
    old.read_exact(&mut alert).unwrap();
    // Fatal: protocol_version, or handshake_failure because of what only newer clients send.
    assert_eq!((alert[0], alert[5]), (21, 2));
    assert!(matches!(alert[6], 40 | 70), "{alert:?}");
    agent.counted("tls_incompatible", 2);
    // MQTT without TLS.
    let mut plain = TcpStream::connect(vip).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(&connect_packet("plain")).unwrap();
    let mut answer = Vec::new();
    // At most an alert.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(&[0x20]));
    agent.counted("tls_malformed", 1);
    // Silent, and half a hello.
    for part in [0, 20] {
        let mut silent = TcpStream::connect(vip).unwrap();
        silent.set_read_timeout(Some(PATIENCE)).unwrap();
        silent.write_all(&hello_of_tls_1_1()[..part]).unwrap();
        let ended = raw::read(&mut silent, &mut [0]);
        assert!(ended.is_err() || ended.is_ok_and(|n| n == 0));
    }
    agent.counted("tls_timeout", 2);
    let mut gone = TcpStream::connect(vip).unwrap();
    gone.write_all(&hello_of_tls_1_1()[..20]).unwrap();
    gone.shutdown(Shutdown::Both).unwrap();
    agent.counted("closed_early", 1);
    // No CONNECT inside.
    let config = Arc::new(client_config(&servers, Some(&good), BOTH));
    let mut wrong = tls(vip, "mqtt.test", &config).unwrap();
    wrong.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(!wrong.read(&mut [0]).is_ok_and(|n| n > 0));
    agent.counted("reject_not_connect", 1);
}

/// A ClientHello whose newest version is TLS 1.1.
fn hello_of_tls_1_1() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend_from_slice(&[7; 32]);
    // No session; TLS_RSA_WITH_AES_128_CBC_SHA and TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA; no compression.
    hello.extend_from_slice(&[0, 0, 4, 0x00, 0x2f, 0xc0, 0x13, 1, 0]);
    let length = u8::try_from(hello.len()).unwrap();
    let record = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], &hello[..]];
    record.concat()
}

#[test]
fn one_table_of_bindings_and_the_common_name_as_the_key() {
    let files = Directory::new();
    let (servers, clients, server, client_ca) = both_sides(&files);
    let backends = [Backend::start(1), Backend::start(2), Backend::start(3)];
    let addresses = [0, 1, 2].map(|n| backends[n].address);
    let (plain, secure, by_name) = (free_port(), free_port(), free_port());
    let listeners = [
        listener("plain", plain, ""),
        listener("secure", secure, &format!("tls = {{ {server} }}")),
        listener(
            "name",
            by_name,
            &format!("tls = {{ {server}, client_ca = {client_ca:?} }}\nsticky = \"cn\""),
        ),
    ];
    let agent = Agent::start("", &listeners.concat(), &addresses);
    let config = Arc::new(client_config(&servers, None, BOTH));
    for n in 0..6 {
        let id = format!("client-{n}");
        let mut first = TcpStream::connect(plain).unwrap();
        let at = served(&mut first, &id).unwrap();
        drop(first);
        let mut second = tls(secure, "mqtt.test", &config).unwrap();
        assert_eq!(served(&mut second, &id).unwrap(), at, "{id}");
    }
    for device in ["pump", "valve", "meter", "lamp"] {
        let identity = clients.sign(device, &[]);
        let config = Arc::new(client_config(&servers, Some(&identity), BOTH));
        let nodes: Vec<_> = (0..4)
            .map(|n| {
                let mut stream = tls(by_name, "mqtt.test", &config).unwrap();
                served(&mut stream, &format!("{device}-{n}")).unwrap()
            })
            .collect();
        assert!(nodes.iter().all(|n| *n == nodes[0]), "{device}: {nodes:?}");
        let found = agent.command(&["where", device]);
        let found = String::from_utf8(found.stdout).unwrap();
        assert!(found.contains(&format!("emqx{}", nodes[0])), "{found}");
    }
}

#[test]
fn data_of_any_size_and_how_connections_end() {
    let files = Directory::new();
    let servers = Authority::new("servers");
    let server = keys(&files, "server", &servers.sign("mqtt", &["mqtt.test"]));
    let backend = Backend::start(1);
    let vip = free_port();
    let text = listener("tls", vip, &format!("tls = {{ {server} }}"));
    let agent = Agent::start("", &text, &[backend.address]);
    for versions in [BOTH, &[&TLS12]] {
        let config = Arc::new(client_config(&servers, None, versions));
        let mut stream = tls(vip, "mqtt.test", &config).unwrap();
        served(&mut stream, "c").unwrap();
        let data: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
        for size in [1, 100, 16_384, 16_385, 200_000] {
            echoes(&mut stream, &data[..size]);
        }
        // More than all buffers take, while nothing is read: what is sent waits, and nothing is lost.
        let mut sent = 0;
        stream
            .sock
            .set_write_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        while sent < 64 << 20 {
            match stream.write(&data) {
                Ok(n) => sent += n,
                Err(_) => break,
            }
        }
        assert!(sent < 64 << 20, "back-pressure reaches the sender");
        stream.sock.set_write_timeout(None).unwrap();
        drop(stream);
        // close_notify and a half-closed connection: what comes back still does.
        let mut stream = tls(vip, "mqtt.test", &config).unwrap();
        served(&mut stream, "c").unwrap();
        stream.write_all(b"last words").unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"last wordsbye");
        // Without close_notify.
        let mut stream = tls(vip, "mqtt.test", &config).unwrap();
        served(&mut stream, "c").unwrap();
        stream.sock.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"bye");
    }
    eventually("both sides are gone", || {
        backend.connections.load(Relaxed) == 0 && agent.status()["flows"]["current"] == 0
    });
    // A refusal in MQTT terms comes through TLS.
    agent.command(&["disable", "emqx1"]);
    let config = Arc::new(client_config(&servers, None, BOTH));
    let mut stream = tls(vip, "mqtt.test", &config).unwrap();
    stream.write_all(&connect_packet("c")).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, [0x20, 2, 0, 3]);
}

#[test]
fn certificates_are_renewed_without_losing_a_connection() {
    let files = Directory::new();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let server = keys(&files, "server", &old.sign("mqtt", &["mqtt.test"]));
    let backend = Backend::start(1);
    let vip = free_port();
    let text = listener("tls", vip, &format!("tls = {{ {server} }}"));
    let agent = Agent::start("", &text, &[backend.address]);
    let trusts = |authority| Arc::new(client_config(authority, None, BOTH));
    let (trusts_old, trusts_new) = (trusts(&old), trusts(&new));
    let mut stays = tls(vip, "mqtt.test", &trusts_old).unwrap();
    served(&mut stays, "stays").unwrap();
    let reload = || {
        let output = agent.command(&["reload"]);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (code, said) = reload();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("nothing has changed"), "{said}");
    // The key of another certificate: said, and nothing changes.
    let next = new.sign("mqtt", &["mqtt.test"]);
    files.write("server.crt", &next.cert);
    let (code, said) = reload();
    assert_ne!(code, Some(0));
    let complaint = "is not that of the certificate in";
    assert!(
        said.contains(complaint) && said.contains("mqlb.toml:"),
        "{said}"
    );
    tls(vip, "mqtt.test", &trusts_old).unwrap();
    // Half a file.
    files.write("server.key", &next.key[..next.key.len() / 2]);
    assert_ne!(reload().0, Some(0));
    tls(vip, "mqtt.test", &trusts_old).unwrap();
    // The right one: the same text, other files.
    files.write("server.key", &next.key);
    let (code, said) = reload();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("listener tls: tls"), "{said}");
    let mut newcomer = tls(vip, "mqtt.test", &trusts_new).unwrap();
    served(&mut newcomer, "newcomer").unwrap();
    assert!(tls(vip, "mqtt.test", &trusts_old).is_err());
    echoes(&mut stays, b"still here");
}

#[test]
fn revoked_certificates_are_refused_from_the_reload_on() {
    let files = Directory::new();
    let (servers, clients, server, client_ca) = both_sides(&files);
    let backend = Backend::start(1);
    let vip = free_port();
    let crl = files.write("clients.crl", &clients.revoke(&[9], 2099));
    let mutual = format!("tls = {{ {server}, client_ca = {client_ca:?}, client_crl = {crl:?} }}");
    let agent = Agent::start("", &listener("mutual", vip, &mutual), &[backend.address]);
    let device = |serial: u64| {
        let number = |params: &mut rcgen::CertificateParams| {
            params.serial_number = Some(serial.into());
        };
        let identity = clients.sign_as("device", &[], number);
        Arc::new(client_config(&servers, Some(&identity), BOTH))
    };
    let [one, two, nine] = [1, 2, 9].map(device);
    let connect = |config| {
        let mut stream = tls(vip, "mqtt.test", config)?;
        served(&mut stream, "c")?;
        std::io::Result::Ok(stream)
    };
    let mut stays = connect(&one).unwrap();
    connect(&two).unwrap();
    assert!(connect(&nine).is_err(), "revoked from the start");
    agent.counted("tls_client_certificate", 1);
    let reload = || {
        let output = agent.command(&["reload"]);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    // Of somebody else, or none: said, and nothing changes.
    files.write("clients.crl", "");
    let (code, said) = reload();
    assert_ne!(code, Some(0));
    assert!(
        said.contains("clients.crl holds no revocation list"),
        "{said}"
    );
    assert!(connect(&nine).is_err());
    files.write("clients.crl", &clients.revoke(&[1, 9], 2099));
    let (code, said) = reload();
    assert_eq!(code, Some(0), "{said}");
    // It has a ticket of a session from before, which counts no more.
    assert!(connect(&one).is_err() && connect(&nine).is_err());
    connect(&two).unwrap();
    echoes(&mut stays, b"open connections stay");
    // A list that should have been replaced goes on counting, and that is said.
    files.write("clients.crl", &clients.revoke(&[9], 2022));
    let (code, said) = reload();
    assert_eq!(code, Some(0), "{said}");
    let log = || agent.process.output();
    eventually("it is said", || log().contains("a newer revocation list"));
    connect(&one).unwrap();
    assert!(connect(&nine).is_err());
}

#[test]
fn how_long_certificates_are_valid_is_shown() {
    let files = Directory::new();
    let servers = Authority::new("servers");
    let identity = servers.sign_as("mqtt", &["mqtt.test"], |params| {
        params.not_after = rcgen::date_time_ymd(2033, 5, 18);
    });
    let server = keys(&files, "server", &identity);
    let backend = Backend::start(1);
    let text = listener("tls", free_port(), &format!("tls = {{ {server} }}"));
    let agent = Agent::start("", &text, &[backend.address]);
    let shown = agent.status()["listeners"][0]["certificates"][0].clone();
    assert_eq!(shown["not_after_seconds"], 1_999_987_200);
    assert_eq!(shown["names"][0], "mqtt.test");
    let metrics = lb_tests::http::get_here(agent.admin(), "/metrics").unwrap();
    let file = files.path().join("server.crt").display().to_string();
    let line = format!(
        "mqlb_certificate_not_after_seconds{{listener=\"tls\",file=\"{file}\"}} 1999987200\n"
    );
    assert!(metrics.contains(&line), "{metrics}");
    let status = String::from_utf8(agent.command(&["status"]).stdout).unwrap();
    let row = status.lines().find(|line| line.contains(&file));
    assert!(row.is_some_and(|row| row.contains("2033")), "{status}");
}

#[test]
fn mistakes_are_found_before_anything_runs() {
    let files = Directory::new();
    let authority = Authority::new("servers");
    let server = authority.sign("mqtt", &["mqtt.test"]);
    let good = keys(&files, "server", &server);
    let expired = keys(
        &files,
        "expired",
        &authority.sign_as("mqtt", &["mqtt.test"], |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        }),
    );
    let check = |keys: &str| {
        let text = format!(
            "{}[pool.emqx]\n[[pool.emqx.backend]]\nname = \"emqx1\"\naddress = \"127.0.0.1:1883\"\n",
            listener("tls", "127.0.0.1:8883".parse().unwrap(), keys)
        );
        let config = files.write("check.toml", &text);
        let mut command = Command::new(lb_tests::mqlb::binary().unwrap());
        let output = command
            .args(["check", "--config"])
            .arg(&config)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let (code, said) = check(&format!("tls = {{ {good} }}"));
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("warning"), "{said}");
    let (code, said) = check(&format!("tls = {{ {expired} }}"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("has expired: renew it"), "{said}");
    let at = |name: &str| files.path().join(name).display().to_string();
    let row = |cert: &str, key: &str, more: &str| {
        check(&format!(
            "tls = {{ cert = {:?}, key = {:?}{more} }}",
            at(cert),
            at(key)
        ))
    };
    files.write("empty", "");
    files.write(
        "garbage.crl",
        "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
    );
    let revoked = |crl: &str| {
        format!(
            ", client_ca = {:?}, client_crl = {:?}",
            at("server.crt"),
            at(crl)
        )
    };
    files.write(
        "garbage.crt",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    for ((code, said), wanted) in [
        (
            row("missing.crt", "server.key", ""),
            "missing.crt: No such file",
        ),
        (
            row("server.crt", "missing.key", ""),
            "missing.key: No such file",
        ),
        (row("empty", "server.key", ""), "holds no certificate"),
        (row("server.crt", "empty", ""), "holds no private key"),
        (row("garbage.crt", "server.key", ""), "is damaged"),
        (
            row("server.crt", "expired.key", ""),
            "is not that of the certificate",
        ),
        (
            row("server.crt", "server.key", ", client_auth = \"required\""),
            "nothing says who signs",
        ),
        (
            row(
                "server.crt",
                "server.key",
                &format!(", client_crl = {:?}", at("empty")),
            ),
            "nothing says who signs them",
        ),
        (
            row("server.crt", "server.key", &revoked("empty")),
            "empty holds no revocation list",
        ),
        (
            row("server.crt", "server.key", &revoked("garbage.crl")),
            "garbage.crl holds a damaged revocation list",
        ),
        (
            row("server.crt", "server.key", ", client_ca = \"clients.crt\""),
            "is not an absolute path",
        ),
    ] {
        assert_eq!(code, Some(2), "{wanted}: {said}");
        // In line 6, where tls is.
        assert!(
            said.contains(wanted) && said.contains("check.toml:6:"),
            "{wanted}: {said}"
        );
    }
}

#[test]
fn a_flood_of_clients_in_the_handshake_keeps_nobody_out() {
    let files = Directory::new();
    let servers = Authority::new("servers");
    let server = keys(&files, "server", &servers.sign("mqtt", &["mqtt.test"]));
    let backend = Backend::start(1);
    let vip = free_port();
    let text = listener("tls", vip, &format!("tls = {{ {server} }}"));
    // So few files that the flood would use them up.
    let few = ["prlimit", "--nofile=300:300"];
    let timeouts = "[timeouts]
handshake = \"600s\"";
    let agent = Agent::start_with(timeouts, &text, &[backend.address], &few);
    let half_a_hello = &hello_of_tls_1_1()[..30];
    let flood: Vec<_> = (0..1000)
        .map(|_| {
            let mut stream = TcpStream::connect(vip).unwrap();
            // Those that were let go already can't be written to.
            let _ = stream.write_all(half_a_hello);
            stream
        })
        .collect();
    agent.counted("setup_evicted", 800);
    let config = Arc::new(client_config(&servers, None, BOTH));
    let mut stream = tls(vip, "mqtt.test", &config).unwrap();
    served(&mut stream, "honest").unwrap();
    drop(flood);
}

#[test]
fn proxy_headers_come_before_the_handshake() {
    let files = Directory::new();
    let servers = Authority::new("servers");
    let server = keys(&files, "server", &servers.sign("mqtt", &["mqtt.test"]));
    let backend = Backend::start(1);
    let vip = free_port();
    let more =
        format!("tls = {{ {server} }}\nproxy_protocol = \"v2\"\ntrusted_proxies = [\"127.0.0.1\"]");
    let _agent = Agent::start("", &listener("tls", vip, &more), &[backend.address]);
    let config = Arc::new(client_config(&servers, None, BOTH));
    for parts in [1, 3] {
        let mut tcp = TcpStream::connect(vip).unwrap();
        tcp.set_nodelay(true).unwrap();
        let header = b"PROXY TCP4 192.0.2.7 192.0.2.9 4711 8883\r\n";
        for part in header.chunks(header.len().div_ceil(parts)) {
            tcp.write_all(part).unwrap();
            thread::sleep(Duration::from_millis(50));
        }
        let name = "mqtt.test".try_into().unwrap();
        let connection = rustls::ClientConnection::new(config.clone(), name).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, tcp);
        served(&mut stream, "far").unwrap();
        let header = backend.header.lock().unwrap().clone();
        assert_eq!(header[16..20], [192, 0, 2, 7]);
        assert!(extensions(&header).is_empty());
    }
}
