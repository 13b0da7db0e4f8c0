//! What the tests of the proxy share: `mqlb` on the loopback interface, backends that report what came,
//! certificates, and clients.

#![allow(
    dead_code,
    reason = "every test file compiles this module and uses another part of it"
)]

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::http;
use lb_tests::mqlb::binary;
use lb_tests::process::{Process, raise_descriptor_limit};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyPair, RevokedCertParams,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

pub const PATIENCE: Duration = Duration::from_secs(60);

/// A backend that says who it is: it answers a CONNECT with a CONNACK and its number, then echoes.
pub struct Backend {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    /// What came before the CONNECT of the last connection.
    pub header: Arc<Mutex<Vec<u8>>>,
}

impl Backend {
    pub fn start(number: u8) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let backend = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            header: Arc::default(),
        };
        let (connections, header) = (backend.connections.clone(), backend.header.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (connections, header) = (connections.clone(), header.clone());
                thread::spawn(move || {
                    connections.fetch_add(1, Relaxed);
                    // Whatever ends it, it is over.
                    let _ = serve(stream, number, &header);
                    connections.fetch_sub(1, Relaxed);
                });
            }
        });
        backend
    }
}

fn serve(mut stream: TcpStream, number: u8, header: &Mutex<Vec<u8>>) -> std::io::Result<()> {
    let mut first = vec![0; 4096];
    let n = stream.read(&mut first)?;
    let at = first[..n].windows(6).position(|w| w == b"\0\x04MQTT");
    let Some(at) = at else { return Ok(()) };
    *header.lock().unwrap() = first[..at - 2].to_vec();
    stream.write_all(&[0x20, 2, 0, 0, number])?;
    let mut buffer = vec![0; 65_536];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            // The rest after the client's FIN: half-closed connections still carry it.
            return stream.write_all(b"bye");
        }
        stream.write_all(&buffer[..n])?;
    }
}

/// The extensions of a PROXY header of version 2 that is for IPv4.
pub fn extensions(header: &[u8]) -> Vec<(u8, Vec<u8>)> {
    assert_eq!(header[..14], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11");
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    assert_eq!(header.len(), 16 + length);
    tlvs(&header[28..])
}

pub fn tlvs(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let [kind, high, low, rest @ ..] = bytes {
        let (value, rest) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        found.push((*kind, value.to_vec()));
        bytes = rest;
    }
    found
}

/// A CONNECT whose client is silent for an hour.
pub fn connect_packet(id: &str) -> Vec<u8> {
    connect_with(id, 3600)
}

pub fn connect_with(id: &str, keep_alive: u16) -> Vec<u8> {
    let mut packet = vec![0x10, u8::try_from(12 + id.len()).unwrap(), 0, 4];
    packet.extend_from_slice(b"MQTT\x04\x02");
    packet.extend_from_slice(&keep_alive.to_be_bytes());
    packet.extend_from_slice(&[0, u8::try_from(id.len()).unwrap()]);
    packet.extend_from_slice(id.as_bytes());
    packet
}

/// An address that nobody listens on, for somebody else to do so. The kernel gives its port to no client meanwhile,
/// of which there are thousands: it is below those that it chooses from (ip(7), `ip_local_port_range`).
pub fn free_port() -> SocketAddr {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        // Other processes begin elsewhere.
        let begin = u64::from(std::process::id()).wrapping_mul(0x9e37_79b9) % 12_000;
        let port = 20_000 + (begin + NUMBER.fetch_add(1, Relaxed)) % 12_000;
        let port = u16::try_from(port).unwrap();
        if let Ok(socket) = TcpListener::bind(("127.0.0.1", port)) {
            return socket.local_addr().unwrap();
        }
    }
}

pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    within(PATIENCE, what, holds);
}

pub fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < limit, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A directory that goes when it is dropped.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let path = std::env::temp_dir().join(format!(
            "mqlb-tls-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Relaxed)
        ));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Only files of its own are in there.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `mqlb`.
pub struct Agent {
    directory: Directory,
    config: PathBuf,
    pub process: Process,
    admin: SocketAddr,
}

impl Agent {
    /// `listeners` is the text of all listeners, whose pool is `emqx`; `more` goes before them.
    pub fn start(more: &str, listeners: &str, backends: &[SocketAddr]) -> Self {
        Self::start_with(more, listeners, backends, &[])
    }

    /// The same, started by another program.
    pub fn start_with(
        more: &str,
        listeners: &str,
        backends: &[SocketAddr],
        starter: &[&str],
    ) -> Self {
        Self::start_as(("", more), listeners, backends, starter)
    }

    /// The same, with further keys of `[admin]`.
    pub fn start_with_admin(keys: &str, listeners: &str, backends: &[SocketAddr]) -> Self {
        Self::start_as((keys, ""), listeners, backends, &[])
    }

    fn start_as(
        (keys, more): (&str, &str),
        listeners: &str,
        backends: &[SocketAddr],
        starter: &[&str],
    ) -> Self {
        // Of 1,024, which is what a login gets, one flood would take all.
        raise_descriptor_limit().unwrap();
        let directory = Directory::new();
        let admin = free_port();
        let mut text = format!(
            "[admin]\nhttp = \"{admin}\"\n{keys}\n[agent]\nname = \"tls\"\nstate_dir = \"{}\"\n{more}\n{listeners}\n[pool.emqx]\n",
            directory.path().join("state").display()
        );
        for (n, address) in (1..).zip(backends) {
            text += &format!(
                "[[pool.emqx.backend]]\nname = \"emqx{n}\"\naddress = \"{address}\"\nweight = 1\n"
            );
        }
        let config = directory.write("mqlb.toml", &text);
        let binary = binary().unwrap();
        let mut words: Vec<_> = starter.iter().map(OsStr::new).collect();
        words.push(binary.as_os_str());
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.args(["run", "--config"]).arg(&config);
        let log = directory.path().join("log");
        let mut process = Process::start("mqlb", command, &log).unwrap();
        let ready = |p: &Process| p.output().contains("READY");
        process.wait_until("READY", PATIENCE, ready).unwrap();
        Self {
            directory,
            config,
            process,
            admin,
        }
    }

    pub const fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary().unwrap());
        command.args(arguments).arg("--config").arg(&self.config);
        command.output().unwrap()
    }

    pub fn status(&self) -> Value {
        status(self.admin)
    }

    pub fn counter(&self, verdict: &str) -> u64 {
        counter(&self.status(), verdict)
    }

    pub fn counted(&self, verdict: &str, at_least: u64) {
        eventually(verdict, || self.counter(verdict) >= at_least);
    }
}

/// What the agent with this admin interface says.
pub fn status(admin: SocketAddr) -> Value {
    serde_json::from_str(&http::get_here(admin, "/api/v1/status").unwrap()).unwrap()
}

/// Packets under a verdict.
pub fn counter(status: &Value, verdict: &str) -> u64 {
    let packets = &status["counters"][verdict]["packets"];
    packets
        .as_u64()
        .unwrap_or_else(|| panic!("no counter {verdict}"))
}

impl Drop for Agent {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{}", self.process.output());
        }
        self.process.kill();
        let _ = &self.directory;
    }
}

/// Who signs certificates.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
pub struct Identity {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for these names and addresses, and with this common name.
    pub fn sign(&self, common_name: &str, names: &[&str]) -> Identity {
        self.sign_as(common_name, names, |_| {})
    }

    pub fn sign_as(
        &self,
        common_name: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let names: Vec<_> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.remove(DnType::CommonName);
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity {
            cert,
            key: key.serialize_pem(),
        }
    }
}

impl Authority {
    /// A list that revokes the certificates with these numbers, and should be replaced in this year.
    pub fn revoke(&self, serials: &[u64], year: i32) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: (*serial).into(),
            revocation_time: rcgen::date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2021, 1, 1),
            next_update: rcgen::date_time_ymd(year, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

pub type TlsClient = StreamOwned<ClientConnection, TcpStream>;

/// What a client trusts, shows and speaks.
pub fn client_config(
    trusted: &Authority,
    shown: Option<&Identity>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(trusted.pem.as_bytes()).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match shown {
        None => builder.with_no_client_auth(),
        Some(Identity { cert, key }) => {
            let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![cert], key).unwrap()
        }
    }
}

/// Connects and shakes hands.
pub fn tls(vip: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> std::io::Result<TlsClient> {
    let mut stream = TcpStream::connect(vip)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(config.clone(), name).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(connection, stream))
}

/// Sends a CONNECT; the number of the backend that answered.
pub fn served(stream: &mut (impl Read + Write), id: &str) -> std::io::Result<u8> {
    stream.write_all(&connect_packet(id))?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer[..4], [0x20, 2, 0, 0]);
    Ok(answer[4])
}

/// What comes back is what was sent.
pub fn echoes(stream: &mut (impl Read + Write), data: &[u8]) {
    stream.write_all(data).unwrap();
    let mut back = vec![0; data.len()];
    stream.read_exact(&mut back).unwrap();
    assert!(back == data, "what comes back is what was sent");
}
