//! Who we are and whom we trust: X.509-SVIDs of local workloads, trust bundles, and where both
//! come from.
//!
//! One agent holds many identities and must never use one workload's key for another's traffic:
//! a key is only ever looked up by the [`SpiffeId`] of the captured socket's workload.

pub use interceptor_policy::{SpiffeId, TrustDomain};
