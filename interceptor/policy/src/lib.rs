//! Who may talk to whom: Istio's L4 authorization, pure, explained and tested.
//!
//! ```text
//!  written form          compiled form            one destination            one connection
//!  AuthorizationPolicySpec ─compile─▶ Policy ─┐
//!                                             ├─▶ PolicySet ─effective─▶ Effective ─decide─▶ Verdict
//!  PeerAuthenticationSpec ─compile─▶ PeerAuth─┘        └────flips────▶ Flip        └explain─▶ Explanation
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
//! # Example
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use interceptor_policy::spec::{AuthorizationPolicySpec, FromSpec, RuleSpec, SourceSpec};
//! use interceptor_policy::{
//!     Attempt, Policy, PolicyMeta, PolicyName, PolicySet, Settings, SpiffeId, Target,
//! };
//!
//! let source = SourceSpec {
//!     principals: vec!["cluster.local/ns/demo/sa/caller".to_owned()],
//!     ..SourceSpec::default()
//! };
//! let rule = RuleSpec { from: Some(vec![FromSpec { source: Some(source) }]), ..RuleSpec::default() };
//! let spec = AuthorizationPolicySpec { rules: vec![rule], ..AuthorizationPolicySpec::default() };
//!
//! let settings = Settings::default();
//! let name = PolicyName::new("demo", "allow-caller");
//! let policy = Policy::compile(name, &PolicyMeta::default(), &spec, &settings)
//!     .expect("without mistakes")
//!     .value;
//! let policies = PolicySet::new(settings, vec![policy], vec![]);
//!
//! let (labels, ports) = (BTreeMap::new(), BTreeMap::new());
//! let target = Target { namespace: "demo", labels: &labels, ports: &ports, services: &[] };
//! let server = policies.effective(&target);
//!
//! let intruder: SpiffeId = "spiffe://cluster.local/ns/demo/sa/intruder".parse()?;
//! let verdict = server.decide(&Attempt {
//!     source: Some(&intruder),
//!     source_ip: [10, 0, 0, 1].into(),
//!     destination_ip: [10, 0, 0, 2].into(),
//!     destination_port: 8080,
//! });
//! assert_eq!(
//!     verdict.to_string(),
//!     "no ALLOW policy matched; nearest: demo/allow-caller rule 0 failed at \
//!      from[0].source.principals: cluster.local/ns/demo/sa/intruder is not in \
//!      [cluster.local/ns/demo/sa/caller]"
//! );
//! # Ok::<(), interceptor_policy::SpiffeIdError>(())
//! ```
//!
//! Not here: reading YAML (the directory source fills the [`spec`] types and turns a
//! [`FieldPath`] into file and line), fetching objects, cutting connections, egress rules.

#![forbid(unsafe_code)]

mod analysis;
mod attempt;
mod callers;
mod compile;
mod decide;
mod effective;
mod explain;
mod field;
mod flip;
mod index;
mod peer_authentication;
mod policy;
mod problem;
mod scope;
mod set;
mod settings;
mod settled;
pub mod spec;
mod spiffe;
mod value;
mod verdict;

pub use analysis::{
    Conflict, Dead, Liveness, Plaintext, PlaintextAt, Shadow, ShadowEffect, Shadows, Witness,
    shadows,
};
pub use attempt::Attempt;
pub use callers::{CallerSet, Callers};
pub use compile::PolicyMeta;
pub use effective::{Effective, UnknownPortName};
pub use explain::{
    ClauseTrace, Connection, EntryTrace, Explanation, FieldTrace, PolicyTrace, RuleTrace, Standing,
};
pub use field::{Attribute, FieldRef, Place};
pub use flip::{Change, Edit, Flip, ModeChange};
pub use peer_authentication::{Mtls, MtlsMode, MtlsOrigin, PeerAuthentication};
pub use policy::{Action, Enforcement, Fidelity, Policy, PolicyName};
pub use problem::{Compiled, FieldPath, Problem, Segment, Severity};
pub use scope::{ServicePorts, Target};
pub use set::{Ignored, PolicySet};
pub use settings::{OnUnsupported, Settings};
pub use settled::Unsettled;
pub use spiffe::{SpiffeId, SpiffeIdError, TrustDomain, TrustDomainError};
pub use verdict::{
    Cause, Decision, DryRun, FieldFailure, FieldHit, Mismatch, Nearest, RuleRef, Verdict,
};
