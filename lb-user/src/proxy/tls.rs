//! TLS towards clients: the handshake, and what it tells of them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use lb_common::layout::Verdict;
use lb_common::proxy_v2;
use rustls::crypto::ring;
use rustls::server::{ClientHello, NoClientAuth, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, HandshakeKind, ProtocolVersion, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::stream::{Stream, reset};
use crate::config::{Tls, common_name};

/// A listener's side of TLS.
pub(super) struct Server {
    configured: Tls,
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Server").field(&self.configured).finish()
    }
}

impl Server {
    /// # Errors
    /// rustls can't use what is configured, or there are no random numbers.
    pub fn new(configured: &Tls) -> anyhow::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let verifier = match &configured.clients {
            None => Arc::new(NoClientAuth),
            Some(clients) => clients
                .verifier()
                .map_err(|error| anyhow::anyhow!("client_ca: {error}"))?,
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(Certificates::new(configured)?));
        config.alpn_protocols = configured.alpn.iter().map(|p| p.clone().into()).collect();
        // Devices that come back in a storm needn't make us sign again. Keys of tickets are as old as this
        // configuration, so none outlives those who sign clients' certificates.
        config.ticketer = ring::Ticketer::new()?;
        Ok(Self {
            configured: configured.clone(),
            acceptor: Arc::new(config).into(),
        })
    }

    /// Whether it was made of this.
    pub fn is_of(&self, configured: &Tls) -> bool {
        self.configured == *configured
    }

    /// Client and server shake hands. A client that fails has heard why.
    pub async fn handshake(
        &self,
        tcp: TcpStream,
        limit: Duration,
    ) -> Result<(Stream, Session), Verdict> {
        let mut handshake = self.acceptor.accept(tcp);
        match tokio::time::timeout(limit, &mut handshake).await {
            Ok(Ok(stream)) => {
                let session = Session::of(&stream);
                Ok((Stream::Tls(Box::new(stream)), session))
            }
            Ok(Err(error)) => Err(verdict(&error)),
            Err(_) => {
                if let Some(tcp) = handshake.get_ref() {
                    reset(tcp);
                }
                Err(Verdict::TlsTimeout)
            }
        }
    }
}

/// Why a handshake failed.
fn verdict(error: &io::Error) -> Verdict {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    match inner {
        // The client went away in the middle.
        None => Verdict::ClosedEarly,
        Some(Error::InvalidMessage(_) | Error::InappropriateMessage { .. }) => {
            Verdict::TlsMalformed
        }
        Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => Verdict::TlsIncompatible,
        Some(Error::NoCertificatesPresented | Error::InvalidCertificate(_)) => {
            Verdict::TlsClientCertificate
        }
        Some(Error::AlertReceived(_)) => Verdict::TlsAlert,
        Some(_) => Verdict::TlsFailed,
    }
}

/// Certificates by the names that they are for.
#[derive(Debug)]
struct Certificates(Vec<(Vec<String>, Arc<CertifiedKey>)>);

impl Certificates {
    fn new(configured: &Tls) -> Result<Self, Error> {
        let all = configured.certificates.iter();
        let all = all.map(|c| Ok((c.names.clone(), Arc::new(c.certified()?))));
        all.collect::<Result<_, _>>().map(Self)
    }

    /// Those for a name: exactly, else by a `*` in place of its first label, else the first of all.
    fn of<'a>(
        &'a self,
        name: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<CertifiedKey>> + use<'a> {
        let name = name.map(str::to_ascii_lowercase);
        let wild = name.as_deref().and_then(|name| name.split_once('.'));
        let wild = wild.map(|(_, rest)| format!("*.{rest}"));
        let of = move |wanted: Option<String>| {
            let has = move |names: &[String]| wanted.as_ref().is_some_and(|w| names.contains(w));
            let found = self.0.iter().filter(move |(names, _)| has(names));
            found.map(|(_, key)| key)
        };
        let first = self.0.first().map(|(_, key)| key);
        of(name).chain(of(wild)).chain(first)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable =
            |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        // A name may have an RSA certificate beside one that old clients don't understand.
        self.of(hello.server_name()).find(usable).cloned()
    }
}

/// What a handshake told of a client.
#[derive(Debug)]
pub(super) struct Session {
    version: &'static str,
    certificate: Option<proxy_v2::Shown>,
    /// Of its certificate.
    pub common_name: Option<String>,
    server_name: Option<String>,
    alpn: Option<Vec<u8>>,
}

impl Session {
    fn of(stream: &TlsStream<TcpStream>) -> Self {
        let (_, connection) = stream.get_ref();
        let certificate = connection
            .peer_certificates()
            .and_then(|chain| chain.first());
        let parsed = certificate.and_then(|c| X509Certificate::from_der(c).ok());
        let shown = match connection.handshake_kind() {
            Some(HandshakeKind::Resumed) => proxy_v2::Shown::Before,
            _ => proxy_v2::Shown::Now,
        };
        Self {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            },
            certificate: certificate.map(|_| shown),
            common_name: parsed.and_then(|(_, parsed)| common_name(&parsed)),
            server_name: connection.server_name().map(str::to_owned),
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
        }
    }

    /// As a PROXY header has it.
    pub fn told(&self, common_name: bool) -> proxy_v2::Tls<'_> {
        proxy_v2::Tls {
            version: self.version,
            certificate: self.certificate,
            common_name: self.common_name.as_deref().filter(|_| common_name),
            authority: self.server_name.as_deref(),
            alpn: self.alpn.as_deref(),
        }
    }
}
