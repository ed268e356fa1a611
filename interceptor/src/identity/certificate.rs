//! What we read from an X.509 certificate: the few fields that identity rests on, taken strictly.
//!
//! A field that cannot be understood makes the certificate malformed; nothing is skipped. The
//! bytes come from peers, so whatever they are, this returns and never panics.
//!
//! Not here: signatures and chains (`peer`, by webpki).

use std::fmt;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use serde::{Serialize, Serializer};
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// What a certificate may be used for in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The accepting end of a connection.
    Server,
    /// The connecting end of a connection.
    Client,
}

/// Serial number of a certificate, shown in hexadecimal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Serial(Box<[u8]>);

/// The bytes are not a certificate that we can rely on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a usable X.509 certificate: {detail}")]
pub struct Malformed {
    /// What is wrong, for a person.
    detail: String,
}

/// The fields of one certificate.
#[derive(Debug)]
pub(super) struct Certificate {
    /// Every URI among the subject alternative names, in order.
    pub(super) uris: Vec<String>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) serial: Serial,
    /// Basic constraints say that this is a CA.
    pub(super) ca: bool,
    /// Key usage lets it sign certificates or revocation lists.
    pub(super) signs_certificates: bool,
    /// Key usage lets it sign handshakes (or says nothing).
    pub(super) signs_handshakes: bool,
    /// Purposes named by the extended key usage; empty without that extension.
    pub(super) purposes: Vec<Purpose>,
}

// === impl Certificate ===

impl Certificate {
    /// Reads exactly one certificate.
    pub(super) fn parse(der: &CertificateDer<'_>) -> Result<Self, Malformed> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|error| Malformed::new(&error))?;
        if !rest.is_empty() {
            return Err(Malformed::new(&"bytes after its end"));
        }
        let usage = certificate.key_usage()?;
        let validity = certificate.validity();
        Ok(Self {
            uris: uris(&certificate)?,
            not_before: system_time(validity.not_before.timestamp()),
            not_after: system_time(validity.not_after.timestamp()),
            serial: Serial(certificate.raw_serial().into()),
            ca: certificate
                .basic_constraints()?
                .is_some_and(|constraints| constraints.value.ca),
            signs_certificates: usage
                .as_ref()
                .is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign()),
            signs_handshakes: usage
                .as_ref()
                .is_none_or(|usage| usage.value.digital_signature()),
            purposes: purposes(&certificate)?,
        })
    }
}

/// Whether its issuer is its subject: a root.
pub(super) fn is_root(der: &CertificateDer<'_>) -> Result<bool, Malformed> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| Malformed::new(&error))?;
    Ok(certificate.subject().as_raw() == certificate.issuer().as_raw())
}

/// When a certificate stops being valid: a session that it opened proves nothing from then on.
///
/// # Errors
///
/// If it cannot be read.
pub fn valid_until(der: &CertificateDer<'_>) -> Result<SystemTime, Malformed> {
    Certificate::parse(der).map(|certificate| certificate.not_after)
}

fn uris(certificate: &X509Certificate<'_>) -> Result<Vec<String>, Malformed> {
    let Some(names) = certificate.subject_alternative_name()? else {
        return Ok(Vec::new());
    };
    let mut uris = Vec::new();
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            GeneralName::Invalid(..) => {
                return Err(Malformed::new(&"an unreadable subject alternative name"));
            }
            _ => {}
        }
    }
    Ok(uris)
}

fn purposes(certificate: &X509Certificate<'_>) -> Result<Vec<Purpose>, Malformed> {
    let Some(extension) = certificate.extended_key_usage()? else {
        return Ok(Vec::new());
    };
    let mut purposes = Vec::new();
    if extension.value.server_auth {
        purposes.push(Purpose::Server);
    }
    if extension.value.client_auth {
        purposes.push(Purpose::Client);
    }
    Ok(purposes)
}

/// Seconds since 1970; what is earlier becomes 1970, which is long past either way.
fn system_time(timestamp: i64) -> SystemTime {
    let since_epoch = Duration::from_secs(u64::try_from(timestamp).unwrap_or(0));
    SystemTime::UNIX_EPOCH + since_epoch
}

// === impl Malformed ===

impl Malformed {
    fn new(detail: &dyn fmt::Display) -> Self {
        Self {
            detail: detail.to_string(),
        }
    }
}

impl From<X509Error> for Malformed {
    fn from(error: X509Error) -> Self {
        Self::new(&error)
    }
}

// === impl Purpose ===

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server authentication",
            Self::Client => "client authentication",
        })
    }
}

// === impl Serial ===

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

impl Serialize for Serial {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
