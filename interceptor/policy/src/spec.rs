//! What a manifest says: Istio's objects as written, unchecked.
//!
//! The Kubernetes and xDS sources deserialize these; the directory source fills them field by field
//! so that it can report lines. Everything is text, because what does not parse must be reported
//! with its place, not lost. `null` counts as absent, as in Kubernetes.
//!
//! Not here: what it means ([`crate::Policy::compile`], [`crate::PeerAuthentication::compile`]).
#![expect(
    missing_docs,
    reason = "the fields are Istio's, with Istio's meaning; repeating its API reference here would only age"
)]

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// `AuthorizationPolicy.spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthorizationPolicySpec {
    pub selector: Option<SelectorSpec>,
    pub target_ref: Option<TargetRefSpec>,
    #[serde(deserialize_with = "null_is_empty")]
    pub target_refs: Vec<TargetRefSpec>,
    #[serde(deserialize_with = "null_is_empty")]
    pub rules: Vec<RuleSpec>,
    /// `ALLOW` if absent.
    pub action: Option<String>,
    pub provider: Option<ProviderSpec>,
}

/// Which workloads an object means. Without labels it means all of the namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SelectorSpec {
    #[serde(deserialize_with = "null_is_empty")]
    pub match_labels: BTreeMap<String, String>,
}

/// The object that a policy is attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TargetRefSpec {
    #[serde(deserialize_with = "null_is_empty")]
    pub group: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub kind: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub name: String,
    pub namespace: Option<String>,
}

/// The external authorizer of a CUSTOM policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProviderSpec {
    #[serde(deserialize_with = "null_is_empty")]
    pub name: String,
}

/// One of the `rules`. An absent clause constrains nothing; an empty list is a mistake.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RuleSpec {
    pub from: Option<Vec<FromSpec>>,
    pub to: Option<Vec<ToSpec>>,
    #[serde(deserialize_with = "null_is_empty")]
    pub when: Vec<ConditionSpec>,
}

/// One entry of `from`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FromSpec {
    pub source: Option<SourceSpec>,
}

/// One entry of `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ToSpec {
    pub operation: Option<OperationSpec>,
}

/// Who calls. An empty list constrains nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SourceSpec {
    #[serde(deserialize_with = "null_is_empty")]
    pub principals: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub not_principals: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub namespaces: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub not_namespaces: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub service_accounts: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub not_service_accounts: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub trust_domains: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub not_trust_domains: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub ip_blocks: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub not_ip_blocks: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub remote_ip_blocks: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub not_remote_ip_blocks: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub request_principals: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub not_request_principals: Vec<String>,
}

/// What is called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OperationSpec {
    #[serde(deserialize_with = "null_is_empty")]
    pub ports: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub not_ports: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub hosts: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub not_hosts: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub methods: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub not_methods: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub paths: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub not_paths: Vec<String>,
}

/// One entry of `when`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConditionSpec {
    #[serde(deserialize_with = "null_is_empty")]
    pub key: String,
    #[serde(deserialize_with = "null_is_empty")]
    pub values: Vec<String>,
    #[serde(deserialize_with = "null_is_empty")]
    pub not_values: Vec<String>,
}

/// `PeerAuthentication.spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PeerAuthenticationSpec {
    pub selector: Option<SelectorSpec>,
    pub mtls: Option<MtlsSpec>,
    /// By target port, as written.
    pub port_level_mtls: Option<BTreeMap<String, MtlsSpec>>,
}

/// `mtls` of a `PeerAuthentication`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MtlsSpec {
    /// `UNSET` if absent.
    pub mode: Option<String>,
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
