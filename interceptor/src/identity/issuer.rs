//! Where SVIDs come from, as the store sees it.
//!
//! The embedded CA is one implementation; files, Istio's CA and SPIRE are others that fit behind
//! the same trait. Issuing is asynchronous because most of them are on the other side of a
//! network; the store bounds it in time and never lets one identity hold up another.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use interceptor_policy::{SpiffeId, TrustDomain};

use super::bundle::TrustBundle;
use super::certificate::Serial;
use super::svid::{Svid, SvidError};

/// An SVID never lives longer: nobody is asked whether it was stolen, so time must end it.
pub const MAX_LIFETIME: Duration = Duration::from_hours(24);
/// Lifetime unless configured: issuing is cheap with the CA on the node, so a stolen key is worth
/// an hour at most, and renewal at half-life leaves half an hour to notice a failing issuer.
pub const DEFAULT_LIFETIME: Duration = Duration::from_hours(1);

/// An answer of an [`Issuer`] that is still on its way.
pub type Issuing<'a> = Pin<Box<dyn Future<Output = Result<Svid, IssueError>> + Send + 'a>>;

/// A source of SVIDs and of the roots that vouch for them.
pub trait Issuer: Send + Sync + 'static {
    /// Obtains an SVID for `id` that is valid from `now` for at most `lifetime`.
    fn issue<'a>(&'a self, id: &'a SpiffeId, lifetime: Duration, now: SystemTime) -> Issuing<'a>;

    /// The roots that this issuer's SVIDs, and those of its peers, chain to.
    fn bundle(&self) -> TrustBundle;

    /// Its name in `status`, such as `embedded CA`.
    fn name(&self) -> &str;

    /// The serial number of the certificate with which it signs, if it knows.
    fn serial(&self) -> Option<Serial> {
        None
    }

    /// Looks whether the issuer or its roots have changed. May block for as long as files do.
    ///
    /// # Errors
    ///
    /// Why what is there now is of no use; the issuer goes on as before.
    fn look(&self, _now: SystemTime) -> Result<Look, Box<dyn Error + Send + Sync>> {
        Ok(Look::Same)
    }
}

/// What [`Issuer::look`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing that was not known.
    Same,
    /// What was in use before, in good order.
    Good,
    /// Another signer or other roots, in use from now on.
    Changed,
}

/// Why no SVID was issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// Lifetimes are more than nothing and at most [`MAX_LIFETIME`].
    #[error("an SVID cannot live {}: between 1 s and 24 h", humantime::format_duration(*.0))]
    Lifetime(Duration),
    /// The CA is not this identity's.
    #[error("the CA of trust domain {ca} does not issue for {id}")]
    OtherTrustDomain {
        /// The CA's.
        ca: TrustDomain,
        /// Whose SVID was asked for.
        id: SpiffeId,
    },
    /// The CA's own certificate is not valid.
    #[error("the CA's own certificate is valid from {} to {} only", humantime::format_rfc3339_seconds(*.not_before), humantime::format_rfc3339_seconds(*.not_after))]
    CaNotValid {
        /// Start of validity.
        not_before: SystemTime,
        /// End of validity.
        not_after: SystemTime,
    },
    /// Making the key or the signature failed.
    #[error("signing failed")]
    Sign(#[from] rcgen::Error),
    /// What came back is not an SVID.
    #[error("the issuer's answer is not an SVID")]
    Answer(#[from] SvidError),
    /// What came back is somebody else's.
    #[error("asked for {asked}, the issuer answered with {got}")]
    OtherIdentity {
        /// Whose SVID was asked for.
        asked: SpiffeId,
        /// Whose came.
        got: SpiffeId,
    },
    /// The issuer did not answer.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// The issuer could not be reached or refused, in its own words.
    #[error("{0}")]
    Refused(String),
    /// The identity is no longer wanted on this node.
    #[error("{0} is no longer an identity of this node")]
    NotWanted(SpiffeId),
}

impl IssueError {
    /// A stable label for logs and metrics.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Lifetime(_) => "lifetime",
            Self::OtherTrustDomain { .. } => "other_trust_domain",
            Self::CaNotValid { .. } => "ca_not_valid",
            Self::Sign(_) => "sign",
            Self::Answer(_) => "answer",
            Self::OtherIdentity { .. } => "other_identity",
            Self::TimedOut(_) => "timed_out",
            Self::Refused(_) => "refused",
            Self::NotWanted(_) => "not_wanted",
        }
    }
}
