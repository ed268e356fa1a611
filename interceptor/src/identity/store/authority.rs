//! Following the issuer: other roots, another signer, and what is wrong with what it has become.
//!
//! # Invariants
//!
//! * Roots change before a certificate does that rests on them.
//! * After a change every SVID is obtained anew, so that none of the signer before is in use for
//!   longer than it takes to make them.
//!
//! Not here: reading files (`ca`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use interceptor_policy::TrustDomain;
use tokio::time::{MissedTickBehavior, interval};

use super::Identities;
use crate::drain::Tasks;
use crate::error::chain;
use crate::identity::certificate::Serial;
use crate::identity::issuer::Look;

/// How often it is looked: a change is in force everywhere within seconds, for two calls of stat(2).
const LOOK: Duration = Duration::from_secs(1);

/// Who signs and whom we trust, as `status` shows it.
#[derive(Clone, Debug, Default)]
pub struct AuthorityStatus {
    /// Who issues.
    pub issuer: String,
    /// Serial number of the certificate that signs.
    pub serial: Option<Serial>,
    /// All that are trusted, by trust domain.
    pub roots: Vec<RootStatus>,
    /// What is wrong with what would be in force otherwise.
    pub last_error: Option<String>,
}

/// One root as `status` shows it.
#[derive(Clone, Debug)]
pub struct RootStatus {
    /// Of whose identities.
    pub trust_domain: TrustDomain,
    /// Its serial number.
    pub serial: Serial,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
}

impl Identities {
    /// Follows the issuer until `tasks` is asked to stop.
    pub async fn follow(self: Arc<Self>, tasks: Tasks) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = tasks.stopping() => return,
                _ = looks.tick() => {}
            }
            let this = Arc::clone(&self);
            let look = tokio::task::spawn_blocking(move || this.look());
            tokio::select! {
                () = tasks.stopping() => return,
                // It has been logged if it panicked; the next look is another try.
                _ = look => {}
            }
        }
    }

    /// Looks at the issuer once.
    pub(super) fn look(&self) {
        let problem = match self.issuer.look((self.clock)()) {
            Ok(Look::Same) => return,
            Ok(Look::Good) => None,
            Ok(Look::Changed) => {
                self.renew_all();
                None
            }
            Err(error) => Some(chain(&*error)),
        };
        let mut known = self.problem.lock();
        if *known == problem {
            return;
        }
        if let Some(error) = &problem {
            tracing::error!(%error, "the authority cannot be read again: the one before stays in force");
        } else {
            tracing::info!("the authority can be read again");
        }
        *known = problem;
        drop(known);
        self.changed();
    }

    /// Takes over the issuer's roots, and obtains every SVID anew.
    pub(super) fn renew_all(&self) {
        let bundle = self.bundle().with_roots_of(self.issuer.bundle());
        let roots: usize = bundle.domains().map(|(_, roots)| roots.len()).sum();
        // The clock before the lock: whoever moves it must not wait for us.
        let now = (self.clock)();
        self.trust(bundle);
        for entry in self.entries.lock().values_mut() {
            entry.again(now);
        }
        let serial = self.issuer.serial().map(|serial| serial.to_string());
        tracing::info!(serial, roots, "the authority has changed");
        self.changed();
    }

    /// Who signs and whom we trust.
    pub fn authority(&self) -> AuthorityStatus {
        let bundle = self.bundle();
        let roots = bundle.domains().flat_map(|(domain, roots)| {
            roots.iter().map(|root| RootStatus {
                trust_domain: domain.clone(),
                serial: root.serial.clone(),
                not_before: root.not_before,
                not_after: root.not_after,
            })
        });
        AuthorityStatus {
            issuer: self.issuer.name().to_owned(),
            serial: self.issuer.serial(),
            roots: roots.collect(),
            last_error: self.problem.lock().clone(),
        }
    }
}
