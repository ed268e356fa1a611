//! Identities: a trust domain, and a workload's SPIFFE id in it.
//!
//! Identity comes from a certificate, and a certificate comes from a peer, so both types are parsed
//! strictly: what does not have exactly the form that Istio issues is not an identity here, and a
//! caller without an identity matches no positive identity condition.
//!
//! Both are an `Arc` inside: cloning costs a reference count.
//!
//! Not here: verifying that a certificate is trusted (the agent's `identity` module).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest trust domain that the SPIFFE specification allows, in bytes.
const MAX_TRUST_DOMAIN_BYTES: usize = 255;
/// Longest SPIFFE id that the SPIFFE specification allows, in bytes.
const MAX_ID_BYTES: usize = 2048;
const SCHEME: &str = "spiffe://";

/// The name of a root of trust, such as `cluster.local`: lower-case letters, digits, `.`, `-`, `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// An identity that Istio issues: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Clone)]
pub struct SpiffeId(Arc<Parts>);

struct Parts {
    uri: Box<str>,
    trust_domain: TrustDomain,
    namespace: Box<str>,
    service_account: Box<str>,
}

/// Why a text is not a trust domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustDomainError {
    /// Nothing was written.
    #[error("a trust domain cannot be empty")]
    Empty,
    /// More than the specification's 255 bytes.
    #[error("a trust domain has at most 255 bytes, this one has {0}")]
    TooLong(usize),
    /// A character outside lower-case letters, digits, `.`, `-`, `_`.
    #[error("{0:?} cannot stand in a trust domain (lower-case letters, digits, '.', '-', '_')")]
    Character(char),
}

/// Why a text is not a workload's identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// More than the specification's 2048 bytes.
    #[error("a SPIFFE id has at most 2048 bytes, this one has {0}")]
    TooLong(usize),
    /// Another scheme, or none.
    #[error("a SPIFFE id starts with spiffe://")]
    Scheme,
    /// The part before the first slash is wrong.
    #[error("the trust domain is wrong")]
    TrustDomain(#[from] TrustDomainError),
    /// The path is not `/ns/<namespace>/sa/<service account>`.
    #[error("the path of an identity is /ns/<namespace>/sa/<service account>")]
    Path,
    /// A path segment that the SPIFFE specification forbids.
    #[error("{0:?} is not a path segment (letters, digits, '.', '-', '_', not '.' or '..')")]
    Segment(Box<str>),
}

// === impl TrustDomain ===

impl TrustDomain {
    /// Kubernetes' and Istio's default, `cluster.local`.
    pub fn cluster_local() -> Self {
        Self(Arc::from("cluster.local"))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(text: &str) -> Result<Self, TrustDomainError> {
        if text.is_empty() {
            return Err(TrustDomainError::Empty);
        }
        if text.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(TrustDomainError::TooLong(text.len()));
        }
        let legal = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
        match text.chars().find(|c| !legal(*c)) {
            Some(c) => Err(TrustDomainError::Character(c)),
            None => Ok(Self(Arc::from(text))),
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for TrustDomain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TrustDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_string(deserializer)
    }
}

// === impl SpiffeId ===

impl SpiffeId {
    /// The identity of a service account.
    ///
    /// # Errors
    ///
    /// If a part cannot stand in a SPIFFE id.
    pub fn new(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        for part in [namespace, service_account] {
            if !is_path_segment(part) {
                return Err(SpiffeIdError::Segment(part.into()));
            }
        }
        let uri = format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}");
        if uri.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong(uri.len()));
        }
        Ok(Self(Arc::new(Parts {
            uri: uri.into(),
            trust_domain: trust_domain.clone(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        })))
    }

    /// The root of trust that vouches for this identity.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// The namespace of the service account.
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// The name of the service account.
    pub fn service_account(&self) -> &str {
        &self.0.service_account
    }

    /// The whole URI, as it stands in a certificate.
    pub fn as_str(&self) -> &str {
        &self.0.uri
    }

    /// The identity as Istio's policies write it: the URI without `spiffe://`.
    pub fn principal(&self) -> &str {
        self.0.uri.strip_prefix(SCHEME).unwrap_or(&self.0.uri)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong(text.len()));
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(SpiffeIdError::Path)?;
        let trust_domain: TrustDomain = trust_domain.parse()?;
        let mut segments = path.split('/');
        let parts = (
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
        );
        match (parts, segments.next()) {
            ((Some("ns"), Some(namespace), Some("sa"), Some(account)), None) => {
                Self::new(&trust_domain, namespace, account)
            }
            _ => Err(SpiffeIdError::Path),
        }
    }
}

/// Whether the SPIFFE specification allows `text` between two slashes of a path.
fn is_path_segment(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(legal)
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.uri == other.0.uri
    }
}

impl Eq for SpiffeId {}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.uri.cmp(&other.0.uri)
    }
}

impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.uri.hash(state);
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.0.uri)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.uri)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_string(deserializer)
    }
}

fn parse_string<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(de::Error::custom)
}
