//! The embedded certificate authority: for one node, or for several that share its folder.
//!
//! It signs SVIDs as the SPIFFE specification wants them, for its own trust domain only. When it
//! is opened it signs a probe and verifies it as a peer would, so a CA that could not work is
//! found at start and not by the first connection.
//!
//! Not here: the folder and its permissions (`files`), what stands in the certificates
//! (`template`), when SVIDs are renewed (`store`).

mod error;
mod files;
mod followed;
mod template;

use std::path::Path;
use std::time::{Duration, SystemTime};

use interceptor_policy::{SpiffeId, TrustDomain};
use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use zeroize::Zeroizing;

pub use self::error::CaError;
pub use self::followed::FollowedCa;
use super::bundle::TrustBundle;
use super::certificate::{Certificate, Serial, is_root};
use super::issuer::{IssueError, Issuer, Issuing, MAX_LIFETIME};
use super::peer::Verifier;
use super::svid::Svid;

/// A CA for one trust domain: certificate chain and signing key, in memory.
pub struct Ca {
    trust_domain: TrustDomain,
    /// The CA's certificate first; then, if it is an intermediate, those up to its root.
    chain: Vec<CertificateDer<'static>>,
    /// Further roots that are trusted: one that has signed until now, or is about to.
    others: Vec<CertificateDer<'static>>,
    /// Start of validity of the CA's certificate.
    pub not_before: SystemTime,
    /// End of validity of the CA's certificate.
    pub not_after: SystemTime,
    /// Serial number of the CA's certificate.
    pub serial: Serial,
    signer: rcgen::Issuer<'static, CaKey>,
    bundle: TrustBundle,
}

/// An SVID in the form that other programs read: what `interceptor ca issue` writes.
pub struct PemSvid {
    /// The chain, leaf first, without the root.
    pub certificates: String,
    /// The private key, PKCS #8.
    pub key: Zeroizing<String>,
}

/// The CA's key: wiped when dropped, signs only.
struct CaKey(Zeroizing<KeyPair>);

/// A fresh leaf before it becomes an [`Svid`].
struct Leaf {
    chain: Vec<CertificateDer<'static>>,
    key: Zeroizing<KeyPair>,
}

// === impl Ca ===

impl Ca {
    /// Opens the CA in `dir`, or creates it there on the first start. Safe when several agents
    /// start at once on one folder: one creates, the others wait and open.
    ///
    /// Blocks: it reads files, and waits a bounded time for a lock.
    ///
    /// # Errors
    ///
    /// If the files cannot be trusted, do not fit together, or cannot be written.
    pub fn open_or_create(
        dir: &Path,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        if !files::exists(dir)? {
            files::create(dir, files::IfPresent::Keep, || {
                Ok(Self::generate(trust_domain, now)?.to_files())
            })?;
        }
        Self::open(dir, trust_domain, now)
    }

    /// Opens the CA in `dir`.
    ///
    /// # Errors
    ///
    /// If there is none, or its files cannot be trusted or do not fit together.
    pub fn open(dir: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        let files::Files { certificates, key } = files::read(dir)?;
        Self::assemble(trust_domain, certificates, CaKey(key), now)
    }

    /// Creates a CA in `dir`, where there must be none.
    ///
    /// # Errors
    ///
    /// If there is one, or the folder cannot be written.
    pub fn create(
        dir: &Path,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        files::create(dir, files::IfPresent::Refuse, || {
            Ok(Self::generate(trust_domain, now)?.to_files())
        })?;
        Self::open(dir, trust_domain, now)
    }

    /// A new CA in memory only.
    ///
    /// # Errors
    ///
    /// If key or certificate cannot be made.
    pub fn generate(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, CaError> {
        let key = CaKey(Zeroizing::new(KeyPair::generate_for(
            &rcgen::PKCS_ECDSA_P256_SHA256,
        )?));
        let certificate = template::authority(trust_domain, now)?.self_signed(&key)?;
        Self::assemble(trust_domain, vec![certificate.into()], key, now)
    }

    /// Checks that everything fits together, and proves it with a probe. `chain` ends with the
    /// first certificate that signed itself; others after it are trusted, too.
    fn assemble(
        trust_domain: &TrustDomain,
        mut chain: Vec<CertificateDer<'static>>,
        key: CaKey,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let others = chain.split_off(end_of_chain(&chain)?);
        let (Some(own), Some(root)) = (chain.first(), chain.last()) else {
            return Err(CaError::NoCertificate);
        };
        let facts = Certificate::parse(own)?;
        check_certificate(&facts, trust_domain, now)?;
        check_key(own, &key)?;
        let mut bundle = TrustBundle::default();
        for trusted in std::iter::once(root).chain(&others) {
            bundle.add_root(trust_domain, trusted.clone())?;
        }
        let ca = Self {
            signer: rcgen::Issuer::from_ca_cert_der(own, key)?,
            trust_domain: trust_domain.clone(),
            not_before: facts.not_before,
            not_after: facts.not_after,
            serial: facts.serial,
            chain,
            others,
            bundle,
        };
        ca.probe(now)?;
        Ok(ca)
    }

    /// Issues an SVID to nobody and verifies it as a peer would.
    fn probe(&self, now: SystemTime) -> Result<(), CaError> {
        let id = SpiffeId::new(&self.trust_domain, "interceptor", "probe")?;
        let leaf = self.leaf(&id, Duration::from_mins(1), now)?;
        let Some((leaf, intermediates)) = leaf.chain.split_first() else {
            return Err(CaError::NoCertificate);
        };
        let now = UnixTime::since_unix_epoch(
            now.duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
        );
        Verifier::new(self.bundle.clone())
            .verify_server(leaf, intermediates, &id, now)
            .map_err(CaError::Probe)?;
        Ok(())
    }

    /// The trust domain for which it issues.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The certificates that peers need in order to trust it and those beside it, as PEM.
    pub fn certificates_pem(&self) -> String {
        pem(&self.chain) + &pem(&self.others)
    }

    /// Issues an SVID: a new P-256 key, `id` as the only name, valid from `now` for `lifetime` or
    /// until the CA itself ends.
    ///
    /// # Errors
    ///
    /// If `id` is of another trust domain, the lifetime is out of bounds, or the CA has expired.
    pub fn issue_now(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Svid, IssueError> {
        let leaf = self.leaf(id, lifetime, now)?;
        let key = PrivatePkcs8KeyDer::from(leaf.key.serialized_der());
        Ok(Svid::from_der(leaf.chain, &PrivateKeyDer::Pkcs8(key), now)?)
    }

    /// Issues an SVID for another program to use. The agent itself never lets a key out.
    ///
    /// # Errors
    ///
    /// As [`Ca::issue_now`].
    pub fn issue_pem(
        &self,
        id: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<PemSvid, IssueError> {
        let leaf = self.leaf(id, lifetime, now)?;
        Ok(PemSvid {
            certificates: pem(&leaf.chain),
            key: Zeroizing::new(leaf.key.serialize_pem()),
        })
    }

    fn leaf(&self, id: &SpiffeId, lifetime: Duration, now: SystemTime) -> Result<Leaf, IssueError> {
        if id.trust_domain() != &self.trust_domain {
            return Err(IssueError::OtherTrustDomain {
                ca: self.trust_domain.clone(),
                id: id.clone(),
            });
        }
        if lifetime < Duration::from_secs(1) || lifetime > MAX_LIFETIME {
            return Err(IssueError::Lifetime(lifetime));
        }
        if now < self.not_before || now >= self.not_after {
            return Err(IssueError::CaNotValid {
                not_before: self.not_before,
                not_after: self.not_after,
            });
        }
        let key = Zeroizing::new(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?);
        let until = (now + lifetime).min(self.not_after);
        let certificate = template::leaf(id, now, until)?.signed_by(&*key, &self.signer)?;
        // The root is what peers already have; sending it would only cost bytes.
        let above = self.chain.len().saturating_sub(1);
        let chain = std::iter::once(certificate.into())
            .chain(self.chain.iter().take(above).cloned())
            .collect();
        Ok(Leaf { chain, key })
    }

    fn to_files(&self) -> files::Pem {
        files::Pem {
            certificates: self.certificates_pem(),
            key: Zeroizing::new(self.signer.key().0.serialize_pem()),
        }
    }
}

impl Issuer for Ca {
    fn issue<'a>(&'a self, id: &'a SpiffeId, lifetime: Duration, now: SystemTime) -> Issuing<'a> {
        Box::pin(std::future::ready(self.issue_now(id, lifetime, now)))
    }

    fn bundle(&self) -> TrustBundle {
        self.bundle.clone()
    }

    fn name(&self) -> &'static str {
        "embedded CA"
    }
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca")
            .field("trust_domain", &self.trust_domain)
            .field("serial", &self.serial)
            .field("key", &"[redacted]")
            .finish_non_exhaustive()
    }
}

// === impl CaKey ===

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

fn check_certificate(
    facts: &Certificate,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<(), CaError> {
    if !facts.ca || !facts.signs_certificates {
        return Err(CaError::NotACa);
    }
    // A CA that was made elsewhere may name no trust domain; one that names another is refused.
    let expected = format!("spiffe://{trust_domain}");
    if let Some(other) = facts.uris.iter().find(|uri| **uri != expected) {
        return Err(CaError::OtherTrustDomain {
            expected: trust_domain.clone(),
            got: other.clone(),
        });
    }
    if now < facts.not_before || now >= facts.not_after {
        return Err(CaError::NotValid {
            not_before: facts.not_before,
            not_after: facts.not_after,
        });
    }
    Ok(())
}

fn check_key(own: &CertificateDer<'_>, key: &CaKey) -> Result<(), CaError> {
    let in_certificate = webpki::EndEntityCert::try_from(own)?.subject_public_key_info();
    if in_certificate.as_ref() == key.subject_public_key_info() {
        Ok(())
    } else {
        Err(CaError::KeyMismatch)
    }
}

/// How many certificates are the CA's own chain: up to the first that issued itself.
fn end_of_chain(certificates: &[CertificateDer<'_>]) -> Result<usize, CaError> {
    let mut length = 0;
    for certificate in certificates {
        length += 1;
        if is_root(certificate)? {
            break;
        }
    }
    Ok(length)
}

fn pem(certificates: &[CertificateDer<'static>]) -> String {
    certificates
        .iter()
        .map(|certificate| files::pem_block(certificate))
        .collect()
}

#[cfg(test)]
mod tests;
