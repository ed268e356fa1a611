//! Who may talk to whom: Istio's L4 authorization, pure, explained and tested.
//!
//! ```text
//!  written form          compiled form            one destination            one connection
//!  AuthorizationPolicySpec ─compile─▶ Policy ─┐
//!                                             ├─▶ PolicySet ─effective─▶ Effective ─decide─▶ Verdict
//!  PeerAuthenticationSpec ─compile─▶ PeerAuth─┘                                    └explain─▶ Explanation
//! ```
//!
//! # Why it is pure
//!
//! The data plane, the kernel's verdict table and the offline tools all ask this crate, so what a
//! tool says is what the node does. It does no I/O, reads no clock, takes no lock and draws no
//! random number: a verdict depends on the compiled policies and the attempt, nothing else.
//!
//! # Invariants
//!
//! * Semantics are Istio's, where Istio's are safe. Where a peer silently ignores what was written
//!   (trust domains, attributes that L4 cannot see, values that do not parse), we refuse the policy
//!   or widen it towards denial, and say so in a [`Problem`].
//! * A [`Policy`], a [`SpiffeId`] and a [`PeerAuthentication`] exist only if they are correct.
//! * Every [`Verdict`] names what decided it: policy, rule, and the field that matched or failed.
//! * Input is untrusted: nothing here panics, and time and memory are linear in what was written.
//!
//! Not here: reading YAML (the directory source fills the [`spec`] types and turns a
//! [`FieldPath`] into file and line), fetching objects, cutting connections, egress rules.

#![forbid(unsafe_code)]

mod attempt;
mod compile;
mod decide;
mod effective;
mod explain;
mod field;
mod index;
mod peer_authentication;
mod policy;
mod problem;
mod scope;
mod set;
mod settings;
pub mod spec;
mod spiffe;
mod value;
mod verdict;

pub use attempt::Attempt;
pub use compile::PolicyMeta;
pub use effective::{Effective, UnknownPortName};
pub use explain::{
    ClauseTrace, Connection, EntryTrace, Explanation, FieldTrace, PolicyTrace, RuleTrace, Standing,
};
pub use field::{Attribute, FieldRef, Place};
pub use peer_authentication::{Mtls, MtlsMode, MtlsOrigin, PeerAuthentication};
pub use policy::{Action, Enforcement, Fidelity, Policy, PolicyName};
pub use problem::{Compiled, FieldPath, Problem, Segment, Severity};
pub use scope::{ServicePorts, Target};
pub use set::{Ignored, PolicySet};
pub use settings::{OnUnsupported, Settings};
pub use spiffe::{SpiffeId, SpiffeIdError, TrustDomain, TrustDomainError};
pub use verdict::{
    Cause, Decision, DryRun, FieldFailure, FieldHit, Mismatch, Nearest, RuleRef, Verdict,
};
