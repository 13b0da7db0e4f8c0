//! TLS that is passed through, by the proxy: the pool by the name that clients ask for, the backend by their address.

mod proxied;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use proxied::{
    Agent, Authority, Identity, PATIENCE, client_config, connect_packet, free_port, served, tls,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

const BOTH: &[&rustls::SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// A broker that ends TLS, and answers a CONNECT with its number. It may want a PROXY header first.
struct TlsBackend {
    address: SocketAddr,
    header: Arc<Mutex<Vec<u8>>>,
}

impl TlsBackend {
    fn start(number: u8, identity: &Identity, header_length: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let backend = Self {
            address: listener.local_addr().unwrap(),
            header: Arc::default(),
        };
        let cert = CertificateDer::from_pem_slice(identity.cert.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(BOTH)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert], key)
            .unwrap();
        let (config, seen) = (Arc::new(config), backend.header.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, seen) = (config.clone(), seen.clone());
                thread::spawn(move || {
                    // Whatever ends it, it is over.
                    let _ = serve(stream, number, config, header_length, &seen);
                });
            }
        });
        backend
    }
}

fn serve(
    mut tcp: TcpStream,
    number: u8,
    config: Arc<ServerConfig>,
    header_length: usize,
    seen: &Mutex<Vec<u8>>,
) -> std::io::Result<()> {
    let mut header = vec![0; header_length];
    tcp.read_exact(&mut header)?;
    *seen.lock().unwrap() = header;
    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), tcp);
    let mut first = [0; 256];
    if stream.read(&mut first)? == 0 {
        return Ok(());
    }
    stream.write_all(&[0x20, 2, 0, 0, number])?;
    let mut buffer = [0; 16_384];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

/// A listener, and a pool for two of the names beside the one that all have.
fn configuration(vip: SocketAddr, more: &str, second: SocketAddr) -> String {
    format!(
        "[[listener]]\nname = \"tls\"\nkind = \"tls-passthrough\"\nbind = [\"{vip}\"]\npool = \"emqx\"\ndatapath = \"proxy\"\n{more}\n\
         routes = {{ \"second.test\" = \"second\", \"*.second.test\" = \"second\" }}\n\
         [pool.second]\n[[pool.second.backend]]\nname = \"other\"\naddress = \"{second}\"\n"
    )
}

#[test]
fn names_have_pools_and_addresses_stick() {
    let authority = Authority::new("servers");
    let names = [
        "first.test",
        "second.test",
        "a.second.test",
        "a.b.second.test",
    ];
    let identity = authority.sign("mqtt", &names);
    let backends = [1, 2, 3, 9].map(|n| TlsBackend::start(n, &identity, 0));
    let vip = free_port();
    let first: Vec<_> = backends[..3].iter().map(|b| b.address).collect();
    let agent = Agent::start("", &configuration(vip, "", backends[3].address), &first);
    for versions in [BOTH, &[&TLS12]] {
        let config = Arc::new(client_config(&authority, None, versions));
        let at = |name: &str| {
            let mut stream = tls(vip, name, &config).unwrap();
            served(&mut stream, "c").unwrap()
        };
        let stuck: Vec<_> = (0..6).map(|_| at("first.test")).collect();
        assert!(
            stuck[0] != 9 && stuck.iter().all(|n| *n == stuck[0]),
            "{stuck:?}"
        );
        for name in ["second.test", "SECOND.test", "a.second.test"] {
            assert_eq!(at(name), 9, "{name}");
        }
        assert_ne!(at("a.b.second.test"), 9, "a star is one label");
    }
    // Without a name: the listener's own pool.
    let mut config = client_config(&authority, None, BOTH);
    config.enable_sni = false;
    let mut stream = tls(vip, "first.test", &Arc::new(config)).unwrap();
    assert_ne!(served(&mut stream, "c").unwrap(), 9);
    // Other addresses go by turns.
    let config = Arc::new(client_config(&authority, None, BOTH));
    let mut seen = std::collections::BTreeSet::new();
    for n in 1..=9 {
        let socket = connected_from(std::net::Ipv4Addr::new(127, 0, 1, n), vip);
        let name = "first.test".try_into().unwrap();
        let connection = rustls::ClientConnection::new(config.clone(), name).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        seen.insert(served(&mut stream, "c").unwrap());
    }
    assert_eq!(Vec::from_iter(seen), [1, 2, 3]);
    // A pool without a backend that serves.
    agent.command(&["disable", "other"]);
    let refused = tls(vip, "second.test", &config);
    assert!(refused.is_err());
    agent.counted("no_backend", 1);
    assert!(tls(vip, "first.test", &config).is_ok());
}

/// A connection from an address of its own.
fn connected_from(source: std::net::Ipv4Addr, to: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn hellos_in_pieces_headers_and_what_is_none() {
    let authority = Authority::new("servers");
    let identity = authority.sign("mqtt", &["first.test", "second.test"]);
    let (first, second) = (
        TlsBackend::start(1, &identity, 28),
        TlsBackend::start(2, &identity, 28),
    );
    let vip = free_port();
    let text = configuration(vip, "proxy_protocol = \"v2\"", second.address);
    let timeouts = "[timeouts]\nsniff = \"1s\"";
    let agent = Agent::start(timeouts, &text, &[first.address]);
    // A hello byte by byte.
    let config = Arc::new(client_config(&authority, None, BOTH));
    let name = "second.test".try_into().unwrap();
    let mut connection = rustls::ClientConnection::new(config, name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    let mut tcp = TcpStream::connect(vip).unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    for byte in &hello {
        tcp.write_all(&[*byte]).unwrap();
        thread::sleep(Duration::from_micros(500));
    }
    let ours = tcp.local_addr().unwrap();
    let mut stream = StreamOwned::new(connection, tcp);
    assert_eq!(served(&mut stream, "c").unwrap(), 2);
    proxied::echoes(&mut stream, &vec![7; 100_000]);
    let header = second.header.lock().unwrap().clone();
    assert_eq!(header[..14], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11");
    assert_eq!(header[24..26], ours.port().to_be_bytes());
    // No hello.
    for (bytes, verdict) in [
        (connect_packet("mqtt"), "tls_malformed"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "tls_malformed"),
        (hello[..hello.len() / 2].to_vec(), "sniff_timeout"),
        (Vec::new(), "sniff_timeout"),
    ] {
        let before = agent.counter(verdict);
        let mut wrong = TcpStream::connect(vip).unwrap();
        wrong.set_read_timeout(Some(PATIENCE)).unwrap();
        wrong.write_all(&bytes).unwrap();
        assert!(!wrong.read(&mut [0]).is_ok_and(|n| n > 0), "{verdict}");
        agent.counted(verdict, before + 1);
    }
    assert_eq!(
        agent.counter("steered_agent"),
        1,
        "nobody else met a backend"
    );
}
