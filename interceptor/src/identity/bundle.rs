//! Trust bundles: which CA certificates vouch for which trust domain.
//!
//! A domain may have several roots, so that a successor can be trusted before it signs anything.
//! An alias is another name of a trust domain (a mesh that was renamed): the same roots vouch for
//! it, and an identity keeps its meaning under either name.
//!
//! What rests on a bundle rests on all of it: a session does not know which root vouched for its peer.
//! When one is taken out, everybody is told ([`Trust`]).
//!
//! Not here: verifying chains (`peer`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use interceptor_policy::{SpiffeId, TrustDomain};
use rustls_pki_types::{CertificateDer, TrustAnchor};
use tokio_util::sync::CancellationToken;

use super::certificate::{Certificate, Malformed, Serial};

/// CA certificates by trust domain.
#[derive(Clone, Debug, Default)]
pub struct TrustBundle {
    domains: BTreeMap<TrustDomain, Vec<Root>>,
    aliases: BTreeMap<TrustDomain, TrustDomain>,
}

/// The bundle that is in force, and a word for whoever relies on it.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) bundle: Arc<TrustBundle>,
    /// Cancelled when something in a bundle since this was made is trusted no more.
    pub(super) withdrawn: CancellationToken,
}

/// One CA certificate that is trusted.
#[derive(Clone, Debug)]
pub struct Root {
    /// The certificate itself.
    pub certificate: CertificateDer<'static>,
    /// Its serial number.
    pub serial: Serial,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity; webpki does not look at a root's, we do.
    pub not_after: SystemTime,
    anchor: TrustAnchor<'static>,
}

/// Why a certificate cannot be trusted as a root.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// It cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It is not a CA's.
    #[error("the certificate is not a CA certificate")]
    NotACa,
    /// The verifier cannot use it.
    #[error("the certificate cannot serve as a root of trust")]
    Anchor(#[from] webpki::Error),
}

// === impl TrustBundle ===

impl TrustBundle {
    /// Trusts `certificate` to vouch for identities of `domain`. Trusting it twice changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// If it is not a CA certificate.
    pub fn add_root(
        &mut self,
        domain: &TrustDomain,
        certificate: CertificateDer<'static>,
    ) -> Result<(), BundleError> {
        let root = Root::new(certificate)?;
        let roots = self.domains.entry(domain.clone()).or_default();
        if roots
            .iter()
            .all(|known| known.certificate != root.certificate)
        {
            roots.push(root);
        }
        Ok(())
    }

    /// Makes `alias` another name of `domain`.
    pub fn add_alias(&mut self, alias: TrustDomain, domain: TrustDomain) {
        if alias != domain {
            self.aliases.insert(alias, domain);
        }
    }

    /// The same aliases with the roots of `other`.
    #[must_use]
    pub fn with_roots_of(&self, other: Self) -> Self {
        Self {
            domains: other.domains,
            aliases: self.aliases.clone(),
        }
    }

    /// The roots that vouch for `domain`, an alias included; empty if it is not trusted.
    pub fn roots(&self, domain: &TrustDomain) -> &[Root] {
        let domain = self.canonical(domain);
        self.domains.get(domain).map_or(&[], Vec::as_slice)
    }

    /// Every trusted domain with its roots, aliases left out.
    pub fn domains(&self) -> impl Iterator<Item = (&TrustDomain, &[Root])> {
        self.domains
            .iter()
            .map(|(domain, roots)| (domain, roots.as_slice()))
    }

    /// Whether both name the same workload, one of them perhaps by an alias of its trust domain.
    pub fn same_workload(&self, one: &SpiffeId, other: &SpiffeId) -> bool {
        one == other
            || (one.namespace() == other.namespace()
                && one.service_account() == other.service_account()
                && self.canonical(one.trust_domain()) == self.canonical(other.trust_domain()))
    }

    /// Whether everybody is trusted that is by `other`. A root that was made anew for the same key and
    /// name is the same one.
    fn trusts_all_of(&self, other: &Self) -> bool {
        let has = |domain, root: &Root| {
            let mut ours = self.roots(domain).iter();
            ours.any(|ours| ours.anchor == root.anchor)
        };
        let mut roots = other.domains.iter();
        let mut aliases = other.aliases.iter();
        roots.all(|(domain, roots)| roots.iter().all(|root| has(domain, root)))
            && aliases.all(|(alias, domain)| self.aliases.get(alias) == Some(domain))
    }

    fn canonical<'a>(&'a self, domain: &'a TrustDomain) -> &'a TrustDomain {
        self.aliases.get(domain).unwrap_or(domain)
    }
}

// === impl Trust ===

impl Trust {
    pub(super) fn new(bundle: TrustBundle) -> Self {
        Self {
            bundle: Arc::new(bundle),
            withdrawn: CancellationToken::new(),
        }
    }

    /// Puts `bundle` into force, and tells those who rely on what was there before if it was more.
    pub(super) fn replace(trust: &ArcSwap<Self>, bundle: TrustBundle) {
        let bundle = Arc::new(bundle);
        let before = trust.rcu(|before| before.followed_by(&bundle));
        // When nobody can get it any more.
        if !bundle.trusts_all_of(&before.bundle) {
            before.withdrawn.cancel();
        }
    }

    fn followed_by(&self, bundle: &Arc<TrustBundle>) -> Self {
        let withdrawn = if bundle.trusts_all_of(&self.bundle) {
            self.withdrawn.clone()
        } else {
            CancellationToken::new()
        };
        Self {
            bundle: Arc::clone(bundle),
            withdrawn,
        }
    }
}

// === impl Root ===

impl Root {
    fn new(certificate: CertificateDer<'static>) -> Result<Self, BundleError> {
        let facts = Certificate::parse(&certificate)?;
        if !facts.ca {
            return Err(BundleError::NotACa);
        }
        let anchor = webpki::anchor_from_trusted_cert(&certificate)?.to_owned();
        Ok(Self {
            serial: facts.serial,
            not_before: facts.not_before,
            not_after: facts.not_after,
            anchor,
            certificate,
        })
    }

    /// Whether it vouches for anybody at `now`.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }

    pub(super) const fn anchor(&self) -> &TrustAnchor<'static> {
        &self.anchor
    }
}
