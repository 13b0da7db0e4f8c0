//! TLS that is passed through by XDP: the agent reads the ClientHello, the kernel splices.

mod common;
mod proxied;

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;

use lb_tests::balancer::Options;
use lb_tests::lab::Lab;
use lb_tests::raw;
use lb_tests::stand_in::StandIn;
use proxied::{Authority, Identity, client_config, connect_packet, echoes, served};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};

/// Backend `n` ends TLS, answers a CONNECT with its number and echoes.
fn tls_backend(lab: &Lab, n: usize, identity: &Identity) -> StandIn {
    let cert = CertificateDer::from_pem_slice(identity.cert.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    let config = Arc::new(config);
    let number = u8::try_from(n).unwrap();
    StandIn::start(lab, n, move |tcp| {
        let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), tcp);
        let mut buffer = [0; 16_384];
        if !stream.read(&mut buffer).is_ok_and(|n| n > 0) {
            return;
        }
        // Whatever ends it, it is over.
        let _ = stream.write_all(&[0x20, 2, 0, 0, number]);
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..n]).is_err() {
                return;
            }
        }
    })
    .unwrap()
}

/// A TLS connection from the clients' namespace.
fn connect(
    lab: &Lab,
    vip: IpAddr,
    name: &'static str,
    config: &Arc<ClientConfig>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut connection = ClientConnection::new(config.clone(), name.try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut hello).unwrap();
    }
    let tcp = raw::open(lab, vip, &hello).unwrap();
    StreamOwned::new(connection, tcp)
}

#[test]
fn names_have_pools_addresses_stick_and_the_kernel_splices() {
    let lab = common::lab_without_brokers(3);
    let authority = Authority::new("servers");
    let identity = authority.sign("mqtt", &["first.test", "last.test"]);
    let _backends = [0, 1, 2].map(|n| tls_backend(&lab, n, &identity));
    let last = lab.topology.plan.broker(2).sockets(1883);
    let options = Options {
        listener:
            "datapath = \"xdp\"\nkind = \"tls-passthrough\"\nroutes = { \"last.test\" = \"last\" }"
                .into(),
        extra: format!(
            "\n[pool.last]\n[[pool.last.backend]]\nname = \"last\"\naddress = [\"{}\", \"{}\"]\n",
            last[0], last[1]
        ),
        ..common::unchecked()
    };
    let balancer = common::balance(&lab, &options);
    let mqlb = balancer.mqlb().expect("only mqlb does this");
    let mut connections = 0;
    for vip in lab.topology.plan.vip().addresses() {
        for versions in [&[&TLS13], &[&TLS12]] {
            let config = Arc::new(client_config(&authority, None, versions));
            let mut at = |name| {
                let mut stream = connect(&lab, vip, name, &config);
                let at = served(&mut stream, "c").unwrap();
                connections += 1;
                (at, stream)
            };
            let (first, mut stream) = at("first.test");
            echoes(&mut stream, &vec![7; 300_000]);
            for _ in 0..3 {
                assert_eq!(at("first.test").0, first, "the address sticks");
                assert_eq!(at("last.test").0, 2);
            }
        }
        let mut wrong = raw::open(&lab, vip, &connect_packet("mqtt")).unwrap();
        assert!(!wrong.read(&mut [0]).is_ok_and(|n| n > 0), "no TLS");
    }
    assert_eq!(mqlb.counter("steered_agent").unwrap(), connections);
    assert_eq!(mqlb.counter("steered_kernel").unwrap(), 0);
    assert_eq!(mqlb.counter("tls_malformed").unwrap(), 2);
    assert!(mqlb.counter("spliced").unwrap() > connections);
}
