//! `tls = { … }` of a listener, and the keys that mean nothing without.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::certificate::{Authorities, Certificate, Complaint, Files, Revoked};
use super::model::{ProxyProtocol, Sticky};
use super::problem::{At, Problems};
use super::section::Section;
use super::tree::Node;

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Tls {
    /// At least one. The first serves clients that ask for no name, or for one that nobody has.
    pub certificates: Vec<Certificate>,
    /// `None`: clients are not asked for certificates.
    pub clients: Option<Clients>,
    /// Protocols, in the order of preference; empty: what a client offers isn't looked at.
    pub alpn: Vec<String>,
}

/// Certificates of clients.
#[derive(Clone, Debug, PartialEq)]
pub struct Clients {
    pub authorities: Authorities,
    /// Whether one is needed.
    pub required: bool,
    /// Which of them count no more; `None`: nobody is asked.
    pub revoked: Option<Revoked>,
}

impl Clients {
    /// As rustls wants them.
    ///
    /// # Errors
    /// A certificate or a revocation list can't be used.
    pub fn verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let roots = self.authorities.roots().map_err(|e| e.to_string())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let lists = self.revoked.iter().flat_map(Revoked::lists);
        let builder = builder.with_crls(lists);
        let builder = if self.required {
            builder
        } else {
            builder.allow_unauthenticated()
        };
        builder.build().map_err(|e| e.to_string())
    }
}

impl Tls {
    /// Certificates that clients will refuse now, and revocation lists that are out of date.
    pub fn complaints(&self, now: std::time::SystemTime) -> impl Iterator<Item = String> {
        let certificates = self.certificates.iter().filter_map(move |certificate| {
            let complaint = certificate.validity.complaint(now)?;
            Some(format!(
                "the certificate {certificate} {complaint}: renew it, then `mqlb reload`"
            ))
        });
        let revoked = self.clients.iter().filter_map(|c| c.revoked.as_ref());
        let old = revoked
            .filter(move |revoked| revoked.is_old(now))
            .map(|revoked| {
                format!(
                    "a newer revocation list than {} should be out: fetch it, then `mqlb reload`",
                    revoked.file.display()
                )
            });
        certificates.chain(old)
    }
}

impl std::fmt::Display for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let certificates: Vec<_> = self.certificates.iter().map(ToString::to_string).collect();
        f.write_str(&certificates.join(", "))?;
        if let Some(clients) = &self.clients {
            let how = if clients.required {
                "required of"
            } else {
                "asked of"
            };
            write!(
                f,
                "; certificates {how} clients, signed by {}",
                clients.authorities.file.display()
            )?;
            if let Some(revoked) = &clients.revoked {
                write!(f, ", but for those in {}", revoked.file.display())?;
            }
        }
        if !self.alpn.is_empty() {
            write!(f, "; ALPN {}", self.alpn.join(", "))?;
        }
        Ok(())
    }
}

const KEYS: [&str; 7] = [
    "cert",
    "key",
    "directory",
    "client_ca",
    "client_crl",
    "client_auth",
    "alpn",
];
const EXAMPLE: &str = "\"/etc/mqlb/server.crt\"";

/// The files are read, too.
pub(super) fn read(problems: &Problems, files: Files, node: &Node) -> Option<Tls> {
    let section = Section::new(problems, "tls", Some(node), &KEYS);
    let certificates = certificates(problems, files, &section);
    let clients = clients(problems, files, &section);
    let alpn = section.texts("alpn", "[\"mqtt\"]").into_iter();
    let alpn = alpn.filter_map(|At { span, value }| {
        if (1..=255).contains(&value.len()) {
            return Some(value.to_owned());
        }
        problems.report(
            &span,
            "a protocol of ALPN has 1 to 255 bytes",
            "write alpn = [\"mqtt\"], or leave it out",
        );
        None
    });
    Some(Tls {
        alpn: alpn.collect(),
        certificates: certificates?,
        clients,
    })
}

fn certificates(problems: &Problems, files: Files, section: &Section) -> Option<Vec<Certificate>> {
    if let Some(directory) = paths(problems, section, "directory").first() {
        for (key, node) in ["cert", "key"].map(|key| (key, section.get(key))) {
            if let Some(node) = node {
                problems.report(
                    &node.span,
                    format!("{key} and directory both say where certificates are"),
                    "write cert and key, or directory",
                );
            }
        }
        return of_directory(problems, files, directory);
    }
    if section.get("directory").is_some() {
        // Its path was reported.
        return None;
    }
    section.required("cert", EXAMPLE)?;
    section.required("key", "\"/etc/mqlb/server.key\"")?;
    let certs = paths(problems, section, "cert");
    let keys = paths(problems, section, "key");
    if certs.len() != keys.len() || certs.is_empty() {
        problems.report(
            section.span(),
            format!("tls has {} certificates and {} keys", certs.len(), keys.len()),
            "write one key for each cert, in the same order: cert = [\"/etc/mqlb/a.crt\", \"/etc/mqlb/b.crt\"], key = [\"/etc/mqlb/a.key\", \"/etc/mqlb/b.key\"]",
        );
        return None;
    }
    let pairs = certs.into_iter().zip(keys);
    pairs
        .map(
            |(cert, key)| match Certificate::read(files, &cert.value, &key.value) {
                Ok(certificate) => Some(certificate),
                Err((message, help)) => {
                    problems.report(&cert.span, message, help);
                    None
                }
            },
        )
        .collect()
}

/// Those of a directory in the order of its files' names, each file with certificate, chain and key.
fn of_directory(
    problems: &Problems,
    files: Files,
    directory: &At<PathBuf>,
) -> Option<Vec<Certificate>> {
    let At { span, value } = directory;
    let shown = value.display();
    let help = "write the path of a directory with PEM files, NAME.pem, each with certificate, chain and key";
    let mut found = match (files.list)(value) {
        Ok(found) => found,
        Err(error) => {
            problems.report(span, format!("cannot read {shown}: {error}"), help);
            return None;
        }
    };
    found.retain(|file| file.extension().is_some_and(|end| end == "pem"));
    found.sort();
    if found.is_empty() {
        problems.report(span, format!("{shown} holds no file NAME.pem"), help);
        return None;
    }
    let read = |file: &PathBuf| match Certificate::read(files, file, file) {
        Ok(certificate) => Some(certificate),
        Err((message, help)) => {
            problems.report(span, message, help);
            None
        }
    };
    found.iter().map(read).collect()
}

fn clients(problems: &Problems, files: Files, section: &Section) -> Option<Clients> {
    let required = section.choice(
        "client_auth",
        &[("required", Some(true)), ("optional", Some(false))],
    );
    let crl = paths(problems, section, "client_crl").into_iter().next();
    let Some(At { span, value }) = paths(problems, section, "client_ca").into_iter().next() else {
        if let Some(node) = section
            .get("client_crl")
            .filter(|_| section.get("client_ca").is_none())
        {
            problems.report(
                &node.span,
                "client_crl says which certificates of clients are revoked, but nothing says who signs them",
                "write client_ca = \"/etc/mqlb/clients.crt\", or remove client_crl",
            );
        }
        if let Some(at) = required
            && section.get("client_ca").is_none()
        {
            problems.report(
                &at.span,
                "client_auth says what is asked of clients, but nothing says who signs their certificates",
                "write client_ca = \"/etc/mqlb/clients.crt\", or remove client_auth",
            );
        }
        return None;
    };
    let complain = |span: &Range<usize>, (message, help): Complaint| {
        problems.report(span, message, help);
    };
    let authorities = Authorities::read(files, &value).map_err(|c| complain(&span, c));
    let revoked = crl.as_ref().map(|at| {
        let revoked = Revoked::read(files, &at.value);
        revoked.map_err(|c| complain(&at.span, c))
    });
    let clients = Clients {
        authorities: authorities.ok()?,
        required: required.is_none_or(|at| at.value),
        revoked: revoked.transpose().ok()?,
    };
    // The authorities alone have been found to be all right.
    if let (Err(error), Some(at)) = (clients.verifier(), &crl) {
        problems.report(
            &at.span,
            format!("{} can't be used: {error}", at.value.display()),
            "write the path of a PEM file with complete X.509 revocation lists, version 2",
        );
        return None;
    }
    Some(clients)
}

fn paths(problems: &Problems, section: &Section, key: &str) -> Vec<At<PathBuf>> {
    let absolute = |At { span, value }: At<&str>| {
        let path = Path::new(value);
        if !path.is_absolute() {
            // The agent's directory is seldom that of who writes the file.
            problems.report(
                &span,
                format!("{key} = {value:?} is not an absolute path"),
                format!("write {key} = {EXAMPLE}"),
            );
            return None;
        }
        Some(At {
            span,
            value: path.to_owned(),
        })
    };
    let written = section.texts(key, EXAMPLE).into_iter();
    written.filter_map(absolute).collect()
}

pub(super) fn proxy_protocol(problems: &Problems, section: &Section) -> ProxyProtocol {
    let all = [
        ProxyProtocol::Off,
        ProxyProtocol::V2,
        ProxyProtocol::V2Ssl,
        ProxyProtocol::V2SslCn,
    ];
    let words = all.map(|p| (p.as_str(), Some(p)));
    let Some(At { span, value }) = section.choice("proxy_protocol", &words) else {
        return ProxyProtocol::Off;
    };
    let of_tls = matches!(value, ProxyProtocol::V2Ssl | ProxyProtocol::V2SslCn);
    if of_tls && section.get("tls").is_none() {
        problems.report(
            &span,
            format!(
                "proxy_protocol = {:?} tells of a TLS handshake, and this listener has none",
                value.as_str()
            ),
            "write proxy_protocol = \"v2\", or give the listener tls = { cert = …, key = … }",
        );
    }
    value
}

pub(super) fn sticky(problems: &Problems, section: &Section, tls: Option<&Tls>) -> Sticky {
    let words = [Sticky::ClientId, Sticky::Cn].map(|s| (s.as_str(), Some(s)));
    let Some(At { span, value }) = section.choice("sticky", &words) else {
        return Sticky::ClientId;
    };
    // A tls that couldn't be read has been reported.
    let broken = tls.is_none() && section.get("tls").is_some();
    if value == Sticky::Cn && !broken && tls.is_none_or(|tls| tls.clients.is_none()) {
        problems.report(
            &span,
            "sticky = \"cn\" needs clients' certificates, and this listener asks for none",
            "write tls = { …, client_ca = \"/etc/mqlb/clients.crt\" }, or sticky = \"client-id\"",
        );
    }
    value
}
