//! An X.509-SVID: one workload's certificate chain and the key that proves it.
//!
//! The private key exists once, inside the TLS library's signing key, whose memory is wiped when
//! it is freed. It cannot be read back from here and does not appear in any output.
//!
//! Not here: where SVIDs come from (`issuer`) and when they are replaced (`store`).

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use interceptor_policy::{SpiffeId, SpiffeIdError};
use rustls::crypto::aws_lc_rs::sign;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::certificate::{Certificate, Malformed, Serial};

/// One workload's certificate and key. Shared as `Arc<Svid>`; immutable.
pub struct Svid {
    /// Whose it is.
    pub id: SpiffeId,
    /// Start of validity, backdated by the issuer for clocks that differ.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// When we obtained it: half-life counts from here, since `not_before` is backdated.
    pub issued_at: SystemTime,
    /// The certificate's serial number.
    pub serial: Serial,
    certified: Arc<CertifiedKey>,
}

/// Why a certificate and a key do not make an SVID.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// There is no certificate in the chain.
    #[error("the chain has no certificate")]
    Empty,
    /// The first certificate cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// An SVID names its workload by exactly one URI.
    #[error("an SVID has exactly one URI among its names, this certificate has {0}")]
    Uris(usize),
    /// The URI is not a workload's identity.
    #[error("the certificate's URI is not a workload's identity")]
    Id(#[from] SpiffeIdError),
    /// The key cannot be used or belongs to another certificate.
    #[error("the key does not serve this certificate")]
    Key(#[source] rustls::Error),
}

// === impl Svid ===

impl Svid {
    /// Joins a chain (leaf first, without the root) and its key, obtained at `now`.
    ///
    /// # Errors
    ///
    /// If the leaf is not an SVID or the key is not the leaf's.
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'_>,
        now: SystemTime,
    ) -> Result<Self, SvidError> {
        let leaf = Certificate::parse(chain.first().ok_or(SvidError::Empty)?)?;
        let [uri] = leaf.uris.as_slice() else {
            return Err(SvidError::Uris(leaf.uris.len()));
        };
        let id = uri.parse()?;
        let signer = sign::any_supported_type(key).map_err(SvidError::Key)?;
        let certified = CertifiedKey::new(chain, signer);
        certified.keys_match().map_err(SvidError::Key)?;
        Ok(Self {
            id,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            issued_at: now,
            serial: leaf.serial,
            certified: Arc::new(certified),
        })
    }

    /// The chain and the signing key, as the TLS library takes them.
    pub fn signing(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// The chain as it is sent: leaf first, without the root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Half-life: when a successor is due.
    pub fn renew_at(&self) -> SystemTime {
        let life = self
            .not_after
            .duration_since(self.issued_at)
            .unwrap_or_default();
        self.issued_at + life / 2
    }

    /// Whether a peer whose clock shows `now` would accept it.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id.as_str())
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .field("key", &"[redacted]")
            .finish_non_exhaustive()
    }
}
