//! An authorization policy as it is evaluated.
//!
//! ```text
//! policy → rules (any) → clauses (all) → entries (any) → tests (all) → values (any) minus not-values
//! ```
//!
//! `from`, `to` and each `when[]` are a clause; each `from[]`, `to[]` is an entry. A rule without
//! clauses matches everything. An entry without tests cannot be written; one arises only when its
//! conditions were widened away, and it matches everything for the same reason.
//!
//! Not here: how it is read (`compile`), which workloads it holds for (`scope`, `set`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::field::{Attribute, FieldRef, Place};
use crate::scope::Scope;
use crate::spec::AuthorizationPolicySpec;
use crate::value::{IpBlock, Outcome, Pattern, PortMatch, ServiceAccountRef, Values};
use crate::{Attempt, PolicyMeta};

/// Namespace and name of a policy object. Cheap to clone; shown as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName {
    /// The namespace that the object is in.
    pub namespace: Arc<str>,
    /// Its name there.
    pub name: Arc<str>,
}

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// Lets the connection through, and by existing refuses what no ALLOW matches.
    Allow,
    /// Refuses the connection.
    Deny,
    /// Records the connection and changes nothing.
    Audit,
}

/// Whether a policy has effect or only reports what its effect would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforcement {
    /// It decides.
    Enforced,
    /// It is recorded in the verdict and changes nothing (`istio.io/dry-run`).
    DryRun,
}

/// An authorization policy that is correct and ready to be evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub(crate) name: PolicyName,
    pub(crate) action: Action,
    pub(crate) enforcement: Enforcement,
    pub(crate) scope: Scope,
    pub(crate) rules: Box<[Rule]>,
    /// What it was compiled from, to try changes of it.
    pub(crate) source: Arc<PolicySource>,
}

/// An authorization policy as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicySource {
    pub(crate) meta: PolicyMeta,
    pub(crate) spec: AuthorizationPolicySpec,
}

/// One of a policy's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) clauses: Box<[Clause]>,
    /// What was written here but cannot be decided at L4, as seen from the rule.
    pub(crate) unsupported: Box<[String]>,
    pub(crate) fidelity: Fidelity,
}

/// How a rule relates to what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fidelity {
    /// It is what was written.
    Exact,
    /// Conditions were left out, so it matches more.
    Widened,
    /// It never matches, because leaving conditions out would have allowed more.
    Dropped,
}

/// Conditions of which one entry must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clause {
    pub(crate) entries: Box<[Entry]>,
}

/// Tests that must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    pub(crate) tests: Box<[Test]>,
}

/// One field with its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    Principal(Values<Pattern>),
    Namespace(Values<Pattern>),
    TrustDomain(Values<Pattern>),
    ServiceAccount(Values<ServiceAccountRef>),
    SourceIp(Values<IpBlock>),
    DestinationIp(Values<IpBlock>),
    DestinationPort(Values<PortMatch>),
}

// === impl PolicyName ===

impl PolicyName {
    /// The name of an object in a namespace.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for PolicyName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
        })
    }
}

// === impl Policy ===

impl Policy {
    /// Which object this is.
    pub const fn name(&self) -> &PolicyName {
        &self.name
    }

    /// What a matching rule does.
    pub const fn action(&self) -> Action {
        self.action
    }

    /// Whether it decides or only reports.
    pub const fn enforcement(&self) -> Enforcement {
        self.enforcement
    }

    /// Whether it is recorded in verdicts and never decides one.
    pub fn only_reports(&self) -> bool {
        self.action == Action::Audit || self.enforcement == Enforcement::DryRun
    }

    /// How many rules were written.
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }
}

impl Policy {
    /// Every test, with the index of its rule and its entry.
    pub(crate) fn tests(&self) -> impl Iterator<Item = (usize, &Entry, &Test)> {
        self.rules.iter().enumerate().flat_map(|(index, rule)| {
            let entries = rule.clauses.iter().flat_map(|clause| &*clause.entries);
            entries.flat_map(move |entry| entry.tests.iter().map(move |test| (index, entry, test)))
        })
    }

    /// The same policy for a workload with these named ports; the same object if it names none.
    pub(crate) fn bound(self: &Arc<Self>, ports: &BTreeMap<String, u16>) -> Arc<Self> {
        let named = |port: &PortMatch| matches!(port, PortMatch::Name { .. });
        let names_ports = self.tests().any(|(_, _, test)| match test {
            Test::DestinationPort(values) => values.iter().any(named),
            _ => false,
        });
        if !names_ports {
            return Arc::clone(self);
        }
        let mut policy = Self::clone(self);
        let clauses = policy.rules.iter_mut().flat_map(|rule| &mut *rule.clauses);
        for entry in clauses.flat_map(|clause| &mut *clause.entries) {
            entry.tests = entry.tests.iter().map(|test| test.bound(ports)).collect();
        }
        Arc::new(policy)
    }
}

// === impl Rule, Clause, Entry ===

impl Rule {
    pub(crate) fn matches(&self, attempt: &Attempt<'_>) -> bool {
        self.fidelity != Fidelity::Dropped
            && self.clauses.iter().all(|clause| clause.matches(attempt))
    }
}

impl Clause {
    pub(crate) fn matches(&self, attempt: &Attempt<'_>) -> bool {
        self.entries.iter().any(|entry| entry.matches(attempt))
    }
}

impl Entry {
    pub(crate) fn matches(&self, attempt: &Attempt<'_>) -> bool {
        self.tests.iter().all(|test| test.check(attempt).holds())
    }

    /// The name of one of this entry's lists.
    pub(crate) const fn field(&self, test: &Test, negated: bool) -> FieldRef {
        FieldRef {
            place: self.place,
            attribute: test.attribute(),
            negated,
        }
    }
}

// === impl Test ===

impl Test {
    pub(crate) const fn attribute(&self) -> Attribute {
        match self {
            Self::Principal(_) => Attribute::Principal,
            Self::Namespace(_) => Attribute::Namespace,
            Self::TrustDomain(_) => Attribute::TrustDomain,
            Self::ServiceAccount(_) => Attribute::ServiceAccount,
            Self::SourceIp(_) => Attribute::SourceIp,
            Self::DestinationIp(_) => Attribute::DestinationIp,
            Self::DestinationPort(_) => Attribute::DestinationPort,
        }
    }

    /// Compares this field. Without an identity no identity value matches: positive conditions
    /// fail, negative ones hold.
    pub(crate) fn check(&self, attempt: &Attempt<'_>) -> Outcome {
        let id = attempt.source;
        match self {
            Self::Principal(v) => v.check(|p| id.is_some_and(|id| p.matches(id.principal()))),
            Self::Namespace(v) => v.check(|p| id.is_some_and(|id| p.matches(id.namespace()))),
            Self::TrustDomain(v) => {
                v.check(|p| id.is_some_and(|id| p.matches(id.trust_domain().as_str())))
            }
            Self::ServiceAccount(v) => v.check(|sa| id.is_some_and(|id| sa.matches(id))),
            Self::SourceIp(v) => v.check(|block| block.contains(attempt.source_ip)),
            Self::DestinationIp(v) => v.check(|block| block.contains(attempt.destination_ip)),
            Self::DestinationPort(v) => v.check(|port| port.contains(attempt.destination_port)),
        }
    }

    /// One value of one list, as text.
    pub(crate) fn value(&self, negated: bool, index: usize) -> Option<String> {
        match self {
            Self::Principal(v) | Self::Namespace(v) | Self::TrustDomain(v) => {
                v.text(negated, index)
            }
            Self::ServiceAccount(v) => v.text(negated, index),
            Self::SourceIp(v) | Self::DestinationIp(v) => v.text(negated, index),
            Self::DestinationPort(v) => v.text(negated, index),
        }
    }

    /// How many values one list has.
    pub(crate) const fn value_count(&self, negated: bool) -> usize {
        match self {
            Self::Principal(v) | Self::Namespace(v) | Self::TrustDomain(v) => v.list(negated).len(),
            Self::ServiceAccount(v) => v.list(negated).len(),
            Self::SourceIp(v) | Self::DestinationIp(v) => v.list(negated).len(),
            Self::DestinationPort(v) => v.list(negated).len(),
        }
    }

    /// The same test for a workload with these named ports.
    pub(crate) fn bound(&self, ports: &BTreeMap<String, u16>) -> Self {
        match self {
            Self::DestinationPort(values) => {
                Self::DestinationPort(values.map(|port| port.bound(ports)))
            }
            other => other.clone(),
        }
    }
}
