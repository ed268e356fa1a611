//! The CA as its folder has it: read again when its files change, as certificates and manifests are.
//!
//! That makes it possible to replace a root while everything runs: first the new one is trusted
//! beside the old one, then it signs, then the old one goes (docs/authority.md).
//!
//! # Invariants
//!
//! * What cannot be used changes nothing: the CA that was read before goes on.
//! * Certificate and key are two files, and who replaces them does one after the other. So a pair
//!   that does not fit is a mistake only when it is still the same one look later.
//!
//! Not here: when it is looked, and what follows (`store`).

use std::error::Error;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use interceptor_policy::{SpiffeId, TrustDomain};
use parking_lot::Mutex;

use super::{Ca, CaError, files};
use crate::identity::bundle::TrustBundle;
use crate::identity::certificate::Serial;
use crate::identity::issuer::{Issuer, Issuing, Look};

/// The CA in a folder, whatever becomes of its files.
#[derive(Debug)]
pub struct FollowedCa {
    dir: PathBuf,
    trust_domain: TrustDomain,
    current: ArcSwap<Ca>,
    seen: Mutex<Seen>,
}

/// What the folder was like at the last look.
#[derive(Debug)]
struct Seen {
    /// The files that were last found to be good.
    good: Stamp,
    /// Others, which were not.
    bad: Option<Stamp>,
}

/// What tells one version of the files from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp([Option<Version>; 2]);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

// === impl FollowedCa ===

impl FollowedCa {
    /// Opens the CA in `dir`, or creates it, as [`Ca::open_or_create`] does.
    ///
    /// # Errors
    ///
    /// As [`Ca::open_or_create`].
    pub fn open_or_create(
        dir: &Path,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let ca = Ca::open_or_create(dir, trust_domain, now)?;
        let followed = Self {
            dir: dir.to_owned(),
            trust_domain: trust_domain.clone(),
            current: ArcSwap::from_pointee(ca),
            seen: Mutex::new(Seen {
                // Of no files: they may have changed since they were read.
                good: Stamp([None, None]),
                bad: None,
            }),
        };
        Ok(followed)
    }

    fn look_again(&self, now: SystemTime) -> Result<Look, CaError> {
        let mut seen = self.seen.lock();
        let stamp = Stamp::of(&self.dir);
        if seen.bad.is_none() && seen.good == stamp {
            return Ok(Look::Same);
        }
        match Ca::open(&self.dir, &self.trust_domain, now) {
            // While it was read somebody has written.
            Ok(_) if Stamp::of(&self.dir) != stamp => Ok(Look::Same),
            Ok(ca) => {
                let before = self.current.load();
                let look = if before.certificates_pem() == ca.certificates_pem() {
                    Look::Good
                } else {
                    Look::Changed
                };
                *seen = Seen {
                    good: stamp,
                    bad: None,
                };
                self.current.store(Arc::new(ca));
                Ok(look)
            }
            Err(error) => {
                let known = seen.bad.replace(stamp.clone());
                if known == Some(stamp) {
                    Err(error)
                } else {
                    Ok(Look::Same)
                }
            }
        }
    }
}

impl Issuer for FollowedCa {
    fn issue<'a>(&'a self, id: &'a SpiffeId, lifetime: Duration, now: SystemTime) -> Issuing<'a> {
        let issued = self.current.load().issue_now(id, lifetime, now);
        Box::pin(std::future::ready(issued))
    }

    fn bundle(&self) -> TrustBundle {
        self.current.load().bundle()
    }

    fn name(&self) -> &'static str {
        "embedded CA"
    }

    fn serial(&self) -> Option<Serial> {
        Some(self.current.load().serial.clone())
    }

    fn look(&self, now: SystemTime) -> Result<Look, Box<dyn Error + Send + Sync>> {
        Ok(self.look_again(now)?)
    }
}

// === impl Stamp ===

impl Stamp {
    fn of(dir: &Path) -> Self {
        let version = |path: PathBuf| path.metadata().ok().as_ref().map(Version::from);
        Self(files::paths(dir).map(version))
    }
}

impl From<&Metadata> for Version {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
