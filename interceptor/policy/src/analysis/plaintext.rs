//! Which rules and workloads a caller without mutual TLS can pass.

use serde::Serialize;

use super::region::{self, Conjunction, Region, Side};
use crate::effective::Effective;
use crate::field::{FieldRef, Place};
use crate::peer_authentication::MtlsMode;
use crate::policy::{Fidelity, Policy, PolicyName};

/// How a rule comes to match callers without mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plaintext {
    /// The entry of `from` that such a caller matches; `None` if the rule has no `from`.
    pub entry: Option<Place>,
    /// Fields about identity that it passes because it has none: they only exclude.
    pub only_excluding: Vec<FieldRef>,
}

/// What becomes of callers without mutual TLS at one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaintextAt {
    /// STRICT refuses all of them.
    RefusedByMode,
    /// ALLOW policies exist (these), and all of their rules need an identity.
    RefusedByPolicy(Vec<PolicyName>),
    /// Some of them may come through.
    Possible,
}

impl Policy {
    /// How a rule matches callers without mutual TLS; `None` if it does not. A rule that says who
    /// may not call rather than who may is the usual case.
    pub fn plaintext(&self, rule: usize) -> Option<Plaintext> {
        let rule = self.rules.get(rule)?;
        if rule.fidelity == Fidelity::Dropped || Region::of(rule).is_empty() {
            return None;
        }
        let alternatives = region::alternatives(rule, Side::Caller);
        let mut matching = alternatives.into_iter().filter(|fields| {
            let all = Conjunction::of(fields.iter().copied());
            all.callers.plaintext && !all.is_empty()
        });
        // Of several entries, one that was not meant to is worth naming.
        let describe = |fields: Vec<region::Written<'_>>| Plaintext {
            entry: fields
                .iter()
                .map(|(entry, _)| entry.place)
                .find(|place| matches!(place, Place::From(_))),
            only_excluding: fields
                .iter()
                .filter(|(_, test)| test.attribute().needs_identity())
                .map(|(entry, test)| entry.field(test, true))
                .collect(),
        };
        let first = matching.next().map(describe)?;
        if !first.only_excluding.is_empty() {
            return Some(first);
        }
        let other = matching
            .map(describe)
            .find(|one| !one.only_excluding.is_empty());
        Some(other.unwrap_or(first))
    }
}

impl Effective {
    /// What becomes of callers without mutual TLS at a port of the workload.
    pub fn plaintext_at(&self, port: u16) -> PlaintextAt {
        if self.mtls(port).mode == MtlsMode::Strict {
            return PlaintextAt::RefusedByMode;
        }
        let concerned = self.0.allow.policies().iter().filter(|bound| {
            let only = bound.only_ports.as_deref();
            only.is_none_or(|ports| ports.contains(&port))
        });
        let mut names = Vec::new();
        for bound in concerned {
            let admits = |rule| {
                let region = Region::of(rule);
                region.callers.iter().any(|c| c.callers.plaintext)
                    && region.workloads.iter().any(|w| w.ports.contains(port))
            };
            if bound.policy.rules.iter().any(admits) {
                return PlaintextAt::Possible;
            }
            names.push(bound.policy.name.clone());
        }
        if names.is_empty() {
            PlaintextAt::Possible
        } else {
            PlaintextAt::RefusedByPolicy(names)
        }
    }
}
