//! Chains that were found to hold, so that the same peer's next connection costs no signature check.
//!
//! Checking a chain is a quarter of a handshake's CPU (65 µs of 250), and an agent sees the same few
//! chains again and again. Whether a chain holds depends on its bytes, the purpose, the trust
//! bundle and the time; so an answer is kept for exactly these bytes and this purpose, for as long
//! as the bundle is the same one, and within the validity of every certificate that took part.
//! That the peer holds the key is proven anew in every handshake, elsewhere.
//!
//! # Invariants
//!
//! * Only chains that hold are kept: a stranger cannot fill this.
//! * What is found here is what a check would have found; any doubt is a check.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use interceptor_policy::SpiffeId;
use parking_lot::Mutex;

use super::super::bundle::TrustBundle;
use super::super::certificate::Purpose;
use super::Chain;

/// Chains that are kept: about 200 bytes each. More peers than this are checked again sometimes.
const MOST: usize = 1024;

/// The exact bytes of a chain, and what it was to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; SHA256_OUTPUT_LEN]);

impl Fingerprint {
    pub(super) fn of((leaf, intermediates): Chain<'_>, purpose: Purpose) -> Option<Self> {
        let mut context = Context::new(&SHA256);
        context.update(match purpose {
            Purpose::Server => b"server",
            Purpose::Client => b"client",
        });
        for certificate in std::iter::once(leaf).chain(intermediates) {
            // With its length, so that no two chains are written alike.
            context.update(&certificate.len().to_be_bytes());
            context.update(certificate);
        }
        context.finish().as_ref().try_into().ok().map(Self)
    }
}

/// A peer that a chain vouches for, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vouched {
    pub(super) peer: SpiffeId,
    /// When the last certificate of the chain, its root included, becomes valid.
    pub(super) from: SystemTime,
    /// When the first one ends.
    pub(super) until: SystemTime,
}

impl Vouched {
    /// Takes another certificate's validity into account.
    pub(super) fn narrow(&mut self, from: SystemTime, until: SystemTime) {
        self.from = self.from.max(from);
        self.until = self.until.min(until);
    }
}

/// The chains that hold under one bundle.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The bundle that all entries rest on.
    bundle: Option<Arc<TrustBundle>>,
    entries: HashMap<Fingerprint, Vouched>,
}

impl Known {
    /// Who `fingerprint` vouches for at `now`, if that is known.
    pub(super) fn peer(
        &self,
        bundle: &Arc<TrustBundle>,
        fingerprint: Fingerprint,
        now: SystemTime,
    ) -> Option<SpiffeId> {
        let inner = self.0.lock();
        let current = inner.bundle.as_ref()?;
        if !Arc::ptr_eq(current, bundle) {
            return None;
        }
        let known = inner.entries.get(&fingerprint)?;
        (known.from <= now && now < known.until).then(|| known.peer.clone())
    }

    /// Keeps what was found out under `bundle` at `now`.
    pub(super) fn keep(
        &self,
        bundle: &Arc<TrustBundle>,
        fingerprint: Fingerprint,
        vouched: Vouched,
        now: SystemTime,
    ) {
        let mut inner = self.0.lock();
        let same = inner.bundle.as_ref();
        if !same.is_some_and(|current| Arc::ptr_eq(current, bundle)) {
            inner.entries.clear();
            inner.bundle = Some(Arc::clone(bundle));
        }
        if inner.entries.len() >= MOST {
            inner.entries.retain(|_, known| now < known.until);
        }
        if inner.entries.len() >= MOST {
            inner.entries.clear();
        }
        inner.entries.insert(fingerprint, vouched);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().entries.len()
    }
}
