//! ClientHellos as rustls writes them, and anything else.

mod client_hello_oracle;

use std::sync::Arc;

use client_hello_oracle::{check, check_message, records};
use lb_common::tls::Sniff;
use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// The handshake message of a client that asks for a name.
fn hello(name: &str, alpn: Vec<Vec<u8>>, sni: bool) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn;
    config.enable_sni = sni;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut stream).unwrap();
    }
    stream.split_off(5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_name_of_a_real_client(
        name in "[a-zA-Z][a-z0-9]{0,20}(\\.[a-z][a-z0-9]{0,20}){0,4}",
        alpn in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..40),
        sni: bool, size in 1..2000_usize,
    ) {
        let stream = records(&hello(&name, alpn, sni), size);
        let Ok(Sniff::Hello(found)) = check(&stream) else {
            return Err(TestCaseError::fail("no hello"));
        };
        let expected = sni.then(|| name.to_ascii_lowercase());
        prop_assert_eq!(found.as_ref().map(|name| name.as_str()), expected.as_deref());
    }

    #[test]
    fn one_byte_of_a_real_hello_is_another(at: prop::sample::Index, byte: u8) {
        let mut message = hello("mqtt.example", Vec::new(), true);
        let at = at.index(message.len());
        message[at] = byte;
        check_message(&message);
    }

    #[test]
    fn anything(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = check(&bytes);
        check_message(&bytes);
    }
}
