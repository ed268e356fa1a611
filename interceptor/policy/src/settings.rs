//! What the mesh as a whole says about policies.

use serde::{Deserialize, Serialize};

use crate::TrustDomain;

/// The mesh-wide facts that policies are compiled and scoped with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Policies of this namespace hold for every namespace. Istio's default is `istio-system`.
    pub root_namespace: String,
    /// The trust domain of this mesh.
    pub trust_domain: TrustDomain,
    /// Other names of the same trust domain, as during a migration.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// What becomes of a rule with attributes that cannot be decided at L4.
    pub on_unsupported: OnUnsupported,
}

/// What becomes of a rule with attributes that cannot be decided at L4 (HTTP, JWT, SNI).
///
/// Neither choice is ever silent, and neither lets more through than was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnsupported {
    /// DENY and AUDIT rules lose the condition and so match more; ALLOW rules never match. As an
    /// Istio sidecar does on a TCP port.
    #[default]
    Widen,
    /// The policy is refused.
    Reject,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            root_namespace: "istio-system".to_owned(),
            trust_domain: TrustDomain::cluster_local(),
            trust_domain_aliases: Vec::new(),
            on_unsupported: OnUnsupported::default(),
        }
    }
}
