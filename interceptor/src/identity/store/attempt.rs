//! One request to the issuer: asked once, bounded in time, and given back if it is abandoned.

use std::sync::Arc;
use std::time::Duration;

use interceptor_policy::SpiffeId;

use super::Identities;
use super::entry::Phase;
use crate::identity::issuer::IssueError;
use crate::identity::svid::Svid;

/// An issuer that has not answered by then is asked again later.
pub(super) const ISSUE_TIMEOUT: Duration = Duration::from_secs(30);

/// The right to ask the issuer for one identity. Dropping it without an answer gives it back.
pub(super) struct Attempt<'a> {
    identities: &'a Identities,
    id: SpiffeId,
    answered: bool,
}

// === impl Attempt ===

impl<'a> Attempt<'a> {
    pub(super) const fn of(identities: &'a Identities, id: SpiffeId) -> Self {
        Self {
            identities,
            id,
            answered: false,
        }
    }

    /// Asks the issuer, once, and publishes the answer.
    pub(super) async fn ask(mut self) -> Result<Arc<Svid>, IssueError> {
        let Identities {
            issuer,
            lifetime,
            clock,
            ..
        } = self.identities;
        let answer =
            tokio::time::timeout(ISSUE_TIMEOUT, issuer.issue(&self.id, *lifetime, clock()));
        let answer = answer
            .await
            .unwrap_or(Err(IssueError::TimedOut(ISSUE_TIMEOUT)));
        self.answered = true;
        let result = answer.and_then(|svid| self.accept(svid));
        if let Err(error) = &result {
            self.identities.record_failure(&self.id, error);
        }
        self.identities.changed();
        result
    }

    /// A key is only ever found under the identity for which it was asked.
    fn accept(&self, svid: Svid) -> Result<Arc<Svid>, IssueError> {
        if svid.id != self.id {
            return Err(IssueError::OtherIdentity {
                asked: self.id.clone(),
                got: svid.id,
            });
        }
        let svid = Arc::new(svid);
        self.identities.publish(&svid)?;
        tracing::debug!(id = %svid.id, serial = %svid.serial, "SVID issued");
        Ok(svid)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        if let Some(entry) = self.identities.entries.lock().get_mut(&self.id) {
            entry.phase = Phase::Idle;
        }
        self.identities.changed();
    }
}
