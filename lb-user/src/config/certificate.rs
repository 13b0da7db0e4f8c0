//! Certificates and keys, read from the files that a configuration names.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate, X509Error};
use x509_parser::revocation_list::CertificateRevocationList as X509RevocationList;

/// Where certificates and keys are read from.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    /// Reads a file, as [`std::fs::read`] does.
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// The files in a directory.
    pub list: &'a dyn Fn(&Path) -> io::Result<Vec<PathBuf>>,
}

impl Files<'static> {
    /// Those of the system.
    pub const SYSTEM: Self = Self {
        read: &|file| std::fs::read(file),
        list: &list,
    };
}

/// The paths of what is in a directory.
pub(super) fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory)?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// What is wrong with a file, and what to do about it.
pub(super) type Complaint = (String, String);

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    pub file: PathBuf,
    pub key_file: PathBuf,
    /// The DNS names that it is for, in lower case; the first label may be `*`.
    pub names: Vec<String>,
    pub validity: Validity,
    /// Its own first, then those that signed it.
    chain: Vec<CertificateDer<'static>>,
    key: Key,
}

/// Seconds since 1970, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub from: i64,
    pub until: i64,
}

/// Nothing prints it.
#[derive(Clone, PartialEq)]
struct Key(Arc<PrivateKeyDer<'static>>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// Certificates of those who sign clients' certificates.
#[derive(Clone, Debug, PartialEq)]
pub struct Authorities {
    pub file: PathBuf,
    certificates: Vec<CertificateDer<'static>>,
}

/// Lists of certificates that their signers have revoked.
#[derive(Clone, Debug, PartialEq)]
pub struct Revoked {
    pub file: PathBuf,
    /// When the first of them should be replaced, in seconds since 1970.
    until: Option<i64>,
    lists: Vec<CertificateRevocationListDer<'static>>,
}

impl Certificate {
    /// Reads both files.
    pub(super) fn read(files: Files, file: &Path, key_file: &Path) -> Result<Self, Complaint> {
        let chain = certificates(files, file)?;
        let bytes = read(files, key_file)?;
        let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
            let what = match error {
                pem::Error::NoItemsFound => "holds no private key".to_owned(),
                error => format!("is no PEM file: {error}"),
            };
            (
                format!("{} {what}", key_file.display()),
                "write the path of a PEM file with the unencrypted key (`openssl pkey` removes a passphrase)".to_owned(),
            )
        })?;
        let parsed = X509Certificate::from_der(&chain[0]);
        let (_, parsed) = parsed.map_err(|error| {
            (
                format!(
                    "the first certificate in {} is damaged: {error}",
                    file.display()
                ),
                "write the path of an X.509 certificate in PEM".to_owned(),
            )
        })?;
        let (names, validity) = (names(&parsed), Validity::of(&parsed));
        let certificate = Self {
            file: file.to_owned(),
            key_file: key_file.to_owned(),
            names,
            validity,
            chain,
            key: Key(Arc::new(key)),
        };
        match certificate.certified() {
            Ok(_) => Ok(certificate),
            Err(rustls::Error::InconsistentKeys(_)) => Err((
                format!("the key in {} is not that of the certificate in {}", key_file.display(), file.display()),
                "write a certificate and its own key; the server's certificate comes first in its file".to_owned(),
            )),
            Err(error) => Err((
                format!("the key in {} can't be used: {error}", key_file.display()),
                "make an ECDSA key (P-256, P-384), an Ed25519 or an RSA key of 2048 to 8192 bits".to_owned(),
            )),
        }
    }

    /// As rustls wants it.
    ///
    /// # Errors
    /// The key is of a kind that rustls can't use, or belongs to another certificate.
    pub fn certified(&self) -> Result<CertifiedKey, rustls::Error> {
        let key = any_supported_type(&self.key.0)?;
        let certified = CertifiedKey::new(self.chain.clone(), key);
        certified.keys_match()?;
        Ok(certified)
    }
}

impl Validity {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        Self {
            from: validity.not_before.timestamp(),
            until: validity.not_after.timestamp(),
        }
    }

    /// What is wrong with it now, if anything.
    pub fn complaint(self, now: SystemTime) -> Option<&'static str> {
        let now = seconds(now);
        if now > self.until {
            Some("has expired")
        } else if now < self.from {
            Some("is not valid yet")
        } else {
            None
        }
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = show_time(self.validity.until);
        write!(f, "{} until {until}", self.file.display())
    }
}

/// A time in seconds since 1970, as people read it.
pub fn show_time(seconds: i64) -> String {
    let time = x509_parser::time::ASN1Time::from_timestamp(seconds);
    time.map_or_else(|_| "ever".to_owned(), |time| time.to_string())
}

impl Authorities {
    pub(super) fn read(files: Files, file: &Path) -> Result<Self, Complaint> {
        let authorities = Self {
            file: file.to_owned(),
            certificates: certificates(files, file)?,
        };
        match authorities.roots() {
            Ok(_) => Ok(authorities),
            Err(error) => Err((
                format!("{} holds a certificate that can't be used: {error}", file.display()),
                "write the path of a PEM file with the certificates of those who sign clients' certificates".to_owned(),
            )),
        }
    }

    /// As rustls wants them.
    ///
    /// # Errors
    /// One can't be used.
    pub fn roots(&self) -> Result<RootCertStore, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for certificate in &self.certificates {
            roots.add(certificate.clone())?;
        }
        Ok(roots)
    }
}

impl Revoked {
    pub(super) fn read(files: Files, file: &Path) -> Result<Self, Complaint> {
        let bytes = read(files, file)?;
        let found: Result<Vec<_>, _> =
            CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
        let what = match found {
            Ok(lists) if lists.is_empty() => "holds no revocation list".to_owned(),
            Ok(lists) => {
                let parsed = lists.iter().map(|list| {
                    let (_, list) = X509RevocationList::from_der(list)?;
                    Ok(list.next_update().map(|time| time.timestamp()))
                });
                match parsed.collect::<Result<Vec<_>, x509_parser::nom::Err<X509Error>>>() {
                    Ok(until) => {
                        return Ok(Self {
                            file: file.to_owned(),
                            until: until.into_iter().flatten().min(),
                            lists,
                        });
                    }
                    Err(error) => format!("holds a damaged revocation list: {error}"),
                }
            }
            Err(error) => format!("is no PEM file: {error}"),
        };
        Err((
            format!("{} {what}", file.display()),
            "write the path of a PEM file: -----BEGIN X509 CRL-----".to_owned(),
        ))
    }

    /// Whether newer ones should be out.
    pub fn is_old(&self, now: SystemTime) -> bool {
        self.until.is_some_and(|until| seconds(now) > until)
    }

    pub(super) fn lists(&self) -> impl Iterator<Item = CertificateRevocationListDer<'static>> {
        self.lists.iter().cloned()
    }
}

/// Since 1970.
fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}

fn read(files: Files, file: &Path) -> Result<Vec<u8>, Complaint> {
    (files.read)(file).map_err(|error| {
        (
            format!("cannot read {}: {error}", file.display()),
            "write the path of a file that the agent's user may read".to_owned(),
        )
    })
}

/// At least one.
fn certificates(files: Files, file: &Path) -> Result<Vec<CertificateDer<'static>>, Complaint> {
    let bytes = read(files, file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let what = match found {
        Ok(found) if found.is_empty() => "holds no certificate".to_owned(),
        Ok(found) => return Ok(found),
        Err(error) => format!("is no PEM file: {error}"),
    };
    Err((
        format!("{} {what}", file.display()),
        "write the path of a PEM file: -----BEGIN CERTIFICATE-----".to_owned(),
    ))
}

/// The names that a certificate is for; without any (RFC 6125 forbids it, devices do it) its common name.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.map(|names| &names.value.general_names[..]);
    let dns = names
        .unwrap_or_default()
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
    let names: Vec<_> = dns.collect();
    if names.is_empty() {
        common_name(certificate)
            .into_iter()
            .map(|cn| cn.to_ascii_lowercase())
            .collect()
    } else {
        names
    }
}

/// The common name of a certificate's subject.
pub fn common_name(certificate: &X509Certificate<'_>) -> Option<String> {
    // HAProxy takes the first, too.
    let name = certificate
        .subject()
        .iter_common_name()
        .next()?
        .as_str()
        .ok()?;
    Some(name.to_owned())
}
