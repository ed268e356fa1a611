//! What matters for connections to one workload: its policies by effect, and its ports' modes.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::index::Class;
use crate::peer_authentication::Mtls;
use crate::policy::{Action, Enforcement, Policy, PolicyName, Test};
use crate::problem::FieldPath;
use crate::scope::Target;
use crate::value::PortMatch;
use crate::verdict::RuleRef;
use crate::{Attempt, FieldRef};

/// The policies and modes that hold for one workload. Cheap to clone.
///
/// Two that compare equal decide equally, so open connections need no second look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective(pub(crate) Arc<Parts>);

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) deny: Class,
    pub(crate) allow: Class,
    pub(crate) audit: Class,
    pub(crate) dry_deny: Class,
    pub(crate) dry_allow: Class,
    modes: Modes,
    unknown_port_names: Vec<UnknownPortName>,
}

/// A policy as it holds for one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) policy: Arc<Policy>,
    /// Of a policy attached to a Service: the ports behind it.
    pub(crate) only_ports: Option<Box<[u16]>>,
}

/// The modes of a workload's ports.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Modes {
    /// Ports with a mode of their own, ascending.
    pub(crate) ports: Vec<(u16, Mtls)>,
    pub(crate) elsewhere: Mtls,
}

/// A policy names a port that the workload does not have, so that value never matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnknownPortName {
    /// The policy.
    pub policy: PolicyName,
    /// The value.
    pub path: FieldPath,
    /// The name that it says.
    pub port_name: String,
    /// The names that the workload has.
    pub known: Vec<String>,
}

impl Effective {
    pub(crate) fn new(policies: &[Bound], target: &Target<'_>, modes: Modes) -> Self {
        let unknown_port_names = policies
            .iter()
            .flat_map(|bound| unknown_port_names(&bound.policy, target))
            .collect();
        let class = |action: Action, enforcement: Enforcement| {
            let belongs = |bound: &&Bound| {
                bound.policy.action == action && bound.policy.enforcement == enforcement
            };
            Class::new(policies.iter().filter(belongs).cloned().collect())
        };
        let parts = Parts {
            deny: class(Action::Deny, Enforcement::Enforced),
            allow: class(Action::Allow, Enforcement::Enforced),
            audit: class(Action::Audit, Enforcement::Enforced),
            dry_deny: class(Action::Deny, Enforcement::DryRun),
            dry_allow: class(Action::Allow, Enforcement::DryRun),
            modes,
            unknown_port_names,
        };
        Self(Arc::new(parts))
    }

    /// The mode of a port of the workload, and which object sets it.
    pub fn mtls(&self, port: u16) -> &Mtls {
        let modes = &self.0.modes;
        let own = modes
            .ports
            .binary_search_by_key(&port, |(port, _)| *port)
            .ok();
        own.and_then(|at| modes.ports.get(at))
            .map_or(&modes.elsewhere, |(_, mtls)| mtls)
    }

    /// The policies that hold for the workload, in the order in which they are considered.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.0.all().map(|bound| &*bound.policy)
    }

    /// Port names in policies that this workload does not have.
    pub fn unknown_port_names(&self) -> &[UnknownPortName] {
        &self.0.unknown_port_names
    }
}

impl Parts {
    /// Every policy, in the order in which they are considered.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Bound> {
        let classes = [
            &self.deny,
            &self.allow,
            &self.audit,
            &self.dry_deny,
            &self.dry_allow,
        ];
        classes.into_iter().flat_map(Class::policies)
    }
}

impl Bound {
    /// Whether the policy says anything about the port of this connection.
    pub(crate) fn concerns(&self, attempt: &Attempt<'_>) -> bool {
        self.concerns_port(attempt.destination_port)
    }

    /// Whether the policy says anything about this port.
    pub(crate) fn concerns_port(&self, port: u16) -> bool {
        (self.only_ports.as_ref()).is_none_or(|ports| ports.contains(&port))
    }

    /// One of its rules.
    pub(crate) fn rule_ref(&self, rule: usize) -> RuleRef {
        RuleRef {
            policy: self.policy.name.clone(),
            rule,
        }
    }
}

fn unknown_port_names(policy: &Policy, target: &Target<'_>) -> Vec<UnknownPortName> {
    let mut unknown = Vec::new();
    for (rule, field, index, port) in port_values(policy) {
        if let PortMatch::Name { name, number: None } = port {
            unknown.push(UnknownPortName {
                policy: policy.name.clone(),
                path: field.path(rule).index(index),
                port_name: name.to_string(),
                known: target.ports.keys().cloned().collect(),
            });
        }
    }
    unknown
}

/// Every port that a policy mentions, with the rule, the list and the index in the list.
fn port_values(policy: &Policy) -> impl Iterator<Item = (usize, FieldRef, usize, &PortMatch)> {
    policy.tests().flat_map(|(rule, entry, test)| {
        let lists: [&[PortMatch]; 2] = match test {
            Test::DestinationPort(values) => [&values.any_of, &values.none_of],
            _ => [&[], &[]],
        };
        let fields = [entry.field(test, false), entry.field(test, true)];
        fields
            .into_iter()
            .zip(lists)
            .flat_map(move |(field, list)| {
                list.iter()
                    .enumerate()
                    .map(move |(index, port)| (rule, field, index, port))
            })
    })
}

impl fmt::Display for UnknownPortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            policy,
            path,
            port_name,
            known,
        } = self;
        write!(
            f,
            "{policy}: {path}: the workload has no port named {port_name:?}, so it never matches"
        )?;
        match known.as_slice() {
            [] => f.write_str(" (its ports have no names)"),
            known => write!(f, " (it has {})", known.join(", ")),
        }
    }
}
