//! Who we are and whom we trust: X.509-SVIDs of local workloads, trust bundles, and where both
//! come from.
//!
//! ```text
//!  Issuer (embedded CA; later files, istiod, SPIRE) ──Svid──▶ Identities ──current(id)──▶ transport
//!         └──────────────TrustBundle──────────────────────────────▶ Verifier ──SpiffeId──▶ transport
//! ```
//!
//! # Invariants
//!
//! * One agent holds many identities and must never use one workload's key for another's traffic:
//!   a key is only ever looked up by the [`SpiffeId`] of the captured socket's workload.
//! * Workload keys live in memory only. They are wiped when dropped and never formatted.
//! * A trust domain's roots vouch for identities of that trust domain and for no other.
//! * An SVID that has expired is not handed out: a missing identity is a refusal, not a risk.
//! * Nothing in here reads a clock by itself in a decision; the time is an argument.
//!
//! Not here: TLS configurations (`transport`), what an identity is allowed to do
//! (`interceptor-policy`), the names of local workloads (`workload`).

mod bundle;
mod ca;
mod certificate;
mod issuer;
mod peer;
mod store;
mod svid;

pub use bundle::{BundleError, Root, TrustBundle};
pub use ca::{Ca, CaError, FollowedCa, PemSvid};
pub use certificate::{Malformed, Purpose, Serial, valid_until};
pub use interceptor_policy::{SpiffeId, TrustDomain};
pub use issuer::{DEFAULT_LIFETIME, IssueError, Issuer, Issuing, Look, MAX_LIFETIME};
pub use peer::{PeerError, Verifier};
pub use store::{AuthorityStatus, Clock, Identities, IdentityCounts, RootStatus, SvidStatus};
pub use svid::{Svid, SvidError};
