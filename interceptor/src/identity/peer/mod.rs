//! Verifying a peer: from the certificates that it presented to its [`SpiffeId`], or to a reason
//! that a person can act on.
//!
//! The identity is read first, because it names the trust domain whose roots may vouch for it: a
//! CA of one domain never vouches for another. Nothing is believed before the chain holds.
//!
//! # Invariants
//!
//! * Bytes come from strangers: time and memory are bounded (chain length here, signature checks
//!   in webpki), and no input panics.
//! * Exactly one URI among the leaf's names, and it has the form that Istio issues. DNS names and
//!   addresses never grant anything.
//!
//! * A chain that was checked before (`vouched.rs`) is not checked differently.
//!
//! Not here: proof that the peer holds the key (rustls, through `transport`), policy.

mod vouched;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use interceptor_policy::{SpiffeId, SpiffeIdError, TrustDomain};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio_util::sync::CancellationToken;
use webpki::{EndEntityCert, KeyUsage};

use self::vouched::{Fingerprint, Known, Vouched};
use super::bundle::{Root, Trust, TrustBundle};
use super::certificate::{Certificate, Malformed, Purpose};
use crate::reason::Label;

/// Longer chains are refused before any signature is checked. Real ones have two or three.
const MAX_CHAIN: usize = 8;
/// Longest part of a foreign URI that is repeated in an error.
const MAX_SHOWN: usize = 256;

/// Verifies peers against the trust bundle that is current at that moment. Clones share it.
#[derive(Clone, Debug)]
pub struct Verifier {
    trust: Arc<ArcSwap<Trust>>,
    known: Arc<Known>,
}

/// Why a peer's certificates were not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// More certificates than any real chain has.
    #[error("the peer sent {0} certificates, more than {MAX_CHAIN}")]
    ChainTooLong(usize),
    /// The leaf cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// No URI among the names: a certificate for web servers, for example.
    #[error("the certificate names no SPIFFE id")]
    NoSpiffeId,
    /// More than one URI: it must not be a matter of choice who the peer is.
    #[error("the certificate has {0} URIs; an SVID has exactly one")]
    SeveralIdentities(usize),
    /// The URI is not a workload's identity.
    #[error("the certificate names {uri:?}, which is not a workload's identity")]
    NotAWorkload {
        /// As presented, shortened.
        uri: String,
        /// What is wrong with it.
        source: SpiffeIdError,
    },
    /// No root is known for the peer's trust domain.
    #[error("trust domain {domain} of {peer} is not trusted")]
    UntrustedDomain {
        /// Who the peer claims to be.
        peer: SpiffeId,
        /// The trust domain without roots.
        domain: TrustDomain,
    },
    /// Every root of the peer's trust domain is outside of its validity.
    #[error("no root of trust domain {domain} is valid now: renew the CA")]
    RootExpired {
        /// The trust domain.
        domain: TrustDomain,
    },
    /// No root of the peer's trust domain signed this chain.
    #[error("{peer} is not vouched for by a trusted CA of its trust domain")]
    UnknownIssuer {
        /// Who the peer claims to be.
        peer: SpiffeId,
    },
    /// Too late.
    #[error("the certificate of {peer} expired at {} (it is {})", at(*.not_after), at(*.now))]
    Expired {
        /// Who the peer claims to be.
        peer: SpiffeId,
        /// End of validity of the certificate in the chain that failed.
        not_after: SystemTime,
        /// Our clock.
        now: SystemTime,
    },
    /// Too early: one of the two clocks is wrong.
    #[error("the certificate of {peer} is valid from {} (it is {}): compare the nodes' clocks", at(*.not_before), at(*.now))]
    NotYetValid {
        /// Who the peer claims to be.
        peer: SpiffeId,
        /// Start of validity.
        not_before: SystemTime,
        /// Our clock.
        now: SystemTime,
    },
    /// A CA's certificate where a workload's belongs.
    #[error("{peer} presented a CA certificate as its own")]
    CaAsLeaf {
        /// Who the peer claims to be.
        peer: SpiffeId,
    },
    /// Key usages do not include this.
    #[error("the certificate of {peer} is not for {purpose}")]
    WrongPurpose {
        /// Who the peer claims to be.
        peer: SpiffeId,
        /// What it would have to be for.
        purpose: Purpose,
    },
    /// A valid certificate of somebody else.
    #[error("expected {expected}, got {got}")]
    WrongIdentity {
        /// Who should be there.
        expected: SpiffeId,
        /// Who is there, proven.
        got: SpiffeId,
    },
    /// Anything else that is wrong with the chain.
    #[error("the certificate chain of {peer} does not hold: {error}")]
    BrokenChain {
        /// Who the peer claims to be.
        peer: SpiffeId,
        /// As webpki names it.
        error: webpki::Error,
    },
}

// === impl Verifier ===

impl Verifier {
    /// A verifier whose bundle stays as it is.
    pub fn new(bundle: TrustBundle) -> Self {
        Self::following(Arc::new(ArcSwap::from_pointee(Trust::new(bundle))))
    }

    /// A verifier that follows every change of `trust`.
    pub(super) fn following(trust: Arc<ArcSwap<Trust>>) -> Self {
        Self {
            trust,
            known: Arc::default(),
        }
    }

    /// Cancelled when a root that is trusted now is trusted no more. To be asked for before a peer is
    /// verified; nothing new shall rest on the answer after that.
    pub fn withdrawal(&self) -> CancellationToken {
        self.trust.load().withdrawn.clone()
    }

    /// Accepts the server only if it is `expected`. Returns the identity as the server wrote it,
    /// which differs from `expected` at most by an alias of the trust domain.
    ///
    /// # Errors
    ///
    /// Why it is not accepted.
    pub fn verify_server(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        expected: &SpiffeId,
        now: UnixTime,
    ) -> Result<SpiffeId, PeerError> {
        let trust = self.trust.load();
        let bundle = &trust.bundle;
        let got = self.verify(bundle, (leaf, intermediates), Purpose::Server, now)?;
        if bundle.same_workload(expected, &got) {
            Ok(got)
        } else {
            Err(PeerError::WrongIdentity {
                expected: expected.clone(),
                got,
            })
        }
    }

    /// Accepts any client of a trusted domain and returns who it is.
    ///
    /// # Errors
    ///
    /// Why it is not accepted.
    pub fn verify_client(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<SpiffeId, PeerError> {
        let trust = self.trust.load();
        self.verify(&trust.bundle, (leaf, intermediates), Purpose::Client, now)
    }

    /// What [`verify`] finds, from memory if it is known.
    fn verify(
        &self,
        bundle: &Arc<TrustBundle>,
        chain: Chain<'_>,
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<SpiffeId, PeerError> {
        within_bounds(chain)?;
        let at = system_time(now);
        let fingerprint = Fingerprint::of(chain, purpose);
        let known = fingerprint.and_then(|print| self.known.peer(bundle, print, at));
        if let Some(peer) = known {
            return Ok(peer);
        }
        let vouched = verify(bundle, chain, purpose, now)?;
        let peer = vouched.peer.clone();
        if let Some(fingerprint) = fingerprint {
            self.known.keep(bundle, fingerprint, vouched, at);
        }
        Ok(peer)
    }
}

/// Leaf and intermediates, as rustls hands them over.
type Chain<'a> = (&'a CertificateDer<'a>, &'a [CertificateDer<'a>]);

const fn within_bounds((_, intermediates): Chain<'_>) -> Result<(), PeerError> {
    let presented = intermediates.len().saturating_add(1);
    if presented > MAX_CHAIN {
        return Err(PeerError::ChainTooLong(presented));
    }
    Ok(())
}

/// Checks a chain that is not too long.
fn verify(
    bundle: &TrustBundle,
    (leaf, intermediates): Chain<'_>,
    purpose: Purpose,
    now: UnixTime,
) -> Result<Vouched, PeerError> {
    let facts = Certificate::parse(leaf)?;
    let peer = identity_of(&facts)?;
    if facts.ca || facts.signs_certificates {
        return Err(PeerError::CaAsLeaf { peer });
    }
    if !facts.signs_handshakes || !facts.purposes.contains(&purpose) {
        return Err(PeerError::WrongPurpose { peer, purpose });
    }
    let roots = roots(bundle, &peer, now)?;
    let anchors: Vec<_> = roots.iter().map(|root| root.anchor().clone()).collect();
    let usage = match purpose {
        Purpose::Server => KeyUsage::server_auth(),
        Purpose::Client => KeyUsage::client_auth(),
    };
    EndEntityCert::try_from(leaf)
        .and_then(|certificate| {
            certificate
                .verify_for_usage(
                    webpki::ALL_VERIFICATION_ALGS,
                    &anchors,
                    intermediates,
                    now,
                    usage,
                    None,
                    None,
                )
                .map(drop)
        })
        .map_err(|error| PeerError::from_webpki(error, &peer, purpose))?;
    let mut vouched = Vouched {
        peer,
        from: facts.not_before,
        until: facts.not_after,
    };
    // Which of them were needed is not known: the answer is good while all of them are.
    for certificate in intermediates {
        match Certificate::parse(certificate) {
            Ok(facts) => vouched.narrow(facts.not_before, facts.not_after),
            // Not needed, and not known: never good again.
            Err(_) => vouched.narrow(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH),
        }
    }
    for root in roots {
        vouched.narrow(root.not_before, root.not_after);
    }
    Ok(vouched)
}

/// The one URI, if it is a workload's.
fn identity_of(facts: &Certificate) -> Result<SpiffeId, PeerError> {
    match facts.uris.as_slice() {
        [] => Err(PeerError::NoSpiffeId),
        [uri] => uri.parse().map_err(|source| PeerError::NotAWorkload {
            uri: uri.chars().take(MAX_SHOWN).collect(),
            source,
        }),
        several => Err(PeerError::SeveralIdentities(several.len())),
    }
}

/// The roots of the peer's own trust domain that are valid now.
fn roots<'a>(
    bundle: &'a TrustBundle,
    peer: &SpiffeId,
    now: UnixTime,
) -> Result<Vec<&'a Root>, PeerError> {
    let domain = peer.trust_domain();
    let roots = bundle.roots(domain);
    if roots.is_empty() {
        return Err(PeerError::UntrustedDomain {
            peer: peer.clone(),
            domain: domain.clone(),
        });
    }
    let now = system_time(now);
    let valid: Vec<_> = roots.iter().filter(|root| root.is_valid_at(now)).collect();
    if valid.is_empty() {
        return Err(PeerError::RootExpired {
            domain: domain.clone(),
        });
    }
    Ok(valid)
}

fn system_time(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

fn at(time: SystemTime) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(time)
}

// === impl PeerError ===

impl PeerError {
    /// The label under which it is told and counted.
    pub const fn reason(&self) -> Label {
        match self {
            Self::ChainTooLong(_) => Label::ChainTooLong,
            Self::Malformed(_) => Label::MalformedCertificate,
            Self::NoSpiffeId => Label::NoSpiffeId,
            Self::SeveralIdentities(_) => Label::SeveralIdentities,
            Self::NotAWorkload { .. } => Label::NotAWorkload,
            Self::UntrustedDomain { .. } => Label::UntrustedDomain,
            Self::RootExpired { .. } => Label::RootExpired,
            Self::UnknownIssuer { .. } => Label::UnknownIssuer,
            Self::Expired { .. } => Label::Expired,
            Self::NotYetValid { .. } => Label::NotYetValid,
            Self::CaAsLeaf { .. } => Label::CaAsLeaf,
            Self::WrongPurpose { .. } => Label::WrongPurpose,
            Self::WrongIdentity { .. } => Label::WrongIdentity,
            Self::BrokenChain { .. } => Label::BrokenChain,
        }
    }

    fn from_webpki(error: webpki::Error, peer: &SpiffeId, purpose: Purpose) -> Self {
        let peer = peer.clone();
        match error {
            webpki::Error::CertExpired { time, not_after } => Self::Expired {
                peer,
                not_after: system_time(not_after),
                now: system_time(time),
            },
            webpki::Error::CertNotValidYet { time, not_before } => Self::NotYetValid {
                peer,
                not_before: system_time(not_before),
                now: system_time(time),
            },
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                Self::UnknownIssuer { peer }
            }
            webpki::Error::CaUsedAsEndEntity => Self::CaAsLeaf { peer },
            webpki::Error::RequiredEkuNotFoundContext(_) => Self::WrongPurpose { peer, purpose },
            error => Self::BrokenChain { peer, error },
        }
    }
}

#[cfg(test)]
mod tests;
