//! Rules that another rule makes pointless.

use serde::Serialize;

use super::region::Region;
use crate::policy::{Action, Enforcement, Fidelity, Policy};
use crate::scope::Scope;
use crate::verdict::RuleRef;

/// More pairs of rules than this are not compared: a second of work.
const MAX_PAIRS: usize = 5_000_000;

/// A rule that another rule makes pointless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shadow {
    /// The rule without effect.
    pub rule: RuleRef,
    /// The rule that matches everything that it matches.
    pub by: RuleRef,
    /// What that means.
    pub effect: ShadowEffect,
}

/// What it means that one rule covers another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ShadowEffect {
    /// Both do the same; one of them could be deleted.
    Redundant,
    /// The rule allows what a DENY always refuses, so it never allows anything.
    Overruled,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shadows {
    /// Each rule at most once.
    pub list: Vec<Shadow>,
    /// How many pairs of rules were not compared, because there are too many.
    pub skipped: usize,
}

struct Candidate<'p> {
    policy: &'p Policy,
    rule: usize,
    region: Region,
}

/// Finds the rules that another rule makes pointless wherever they hold.
///
/// A rule found here changes no verdict: removing it leaves every decision as it is (apart from
/// the name of what decided). Rules that never match are left out, they are dead for another
/// reason ([`Policy::liveness`]).
pub fn shadows<'p>(policies: impl IntoIterator<Item = &'p Policy>) -> Shadows {
    let mut sorted: Vec<&Policy> = policies.into_iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let candidates: Vec<Candidate<'p>> = sorted
        .into_iter()
        .filter(|policy| policy.scope != Scope::Elsewhere)
        .flat_map(|policy| {
            let rules = policy.rules.iter().enumerate();
            rules.map(move |(rule, of)| Candidate {
                policy,
                rule,
                region: Region::of(of),
            })
        })
        .filter(|candidate| !candidate.region.is_empty())
        .collect();
    let mut found = Shadows::default();
    let mut compared = 0_usize;
    for (index, candidate) in candidates.iter().enumerate() {
        let by = candidates
            .iter()
            .enumerate()
            .find_map(|(other_index, other)| {
                let effect = candidate.effect_of(other)?;
                compared = compared.saturating_add(1);
                if compared > MAX_PAIRS {
                    found.skipped = found.skipped.saturating_add(1);
                    return None;
                }
                if !other.region.cover(&candidate.region) {
                    return None;
                }
                // Of several that cover each other, the first stays.
                let stays = effect == ShadowEffect::Redundant
                    && other_index > index
                    && candidate.covers(other);
                (!stays).then(|| (other.rule_ref(), effect))
            });
        found.list.extend(by.map(|(by, effect)| Shadow {
            rule: candidate.rule_ref(),
            by,
            effect,
        }));
    }
    found
}

impl Candidate<'_> {
    fn rule_ref(&self) -> RuleRef {
        RuleRef {
            policy: self.policy.name.clone(),
            rule: self.rule,
        }
    }

    /// What it would mean if `other` matched all that this rule matches; `None` if nothing.
    fn effect_of(&self, other: &Self) -> Option<ShadowEffect> {
        let (own, by) = (self.policy, other.policy);
        if std::ptr::eq(own, by) {
            return (self.rule != other.rule).then_some(ShadowEffect::Redundant);
        }
        let enforced = |policy: &Policy| policy.enforcement == Enforcement::Enforced;
        if !enforced(own) || !enforced(by) || !by.scope.covers(&own.scope) {
            return None;
        }
        match (own.action, by.action) {
            (Action::Allow, Action::Deny) => Some(ShadowEffect::Overruled),
            (Action::Allow, Action::Allow) | (Action::Deny, Action::Deny) => {
                Some(ShadowEffect::Redundant)
            }
            _ => None,
        }
    }

    /// Whether this rule matches all that `other` matches, wherever that holds.
    fn covers(&self, other: &Self) -> bool {
        self.policy.scope.covers(&other.policy.scope) && self.region.cover(&other.region)
    }
}

impl Scope {
    /// Whether every workload of `other` is one of these.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Elsewhere, _) | (_, Self::Elsewhere) => false,
            (Self::Mesh, _) => true,
            (
                Self::Namespace(own),
                Self::Namespace(theirs)
                | Self::NamespaceLabels(theirs, _)
                | Self::Services(theirs, _),
            ) => own == theirs,
            (
                Self::MeshLabels(own),
                Self::MeshLabels(theirs) | Self::NamespaceLabels(_, theirs),
            ) => theirs.includes(own),
            (Self::NamespaceLabels(own, few), Self::NamespaceLabels(theirs, many)) => {
                own == theirs && many.includes(few)
            }
            (Self::Services(own, all), Self::Services(theirs, some)) => {
                own == theirs && some.iter().all(|service| all.contains(service))
            }
            _ => false,
        }
    }
}

impl Policy {
    /// What of a rule L4 cannot decide, and what became of the rule for it.
    pub fn unsupported(&self, rule: usize) -> Option<(Fidelity, &[String])> {
        let rule = self.rules.get(rule)?;
        Some((rule.fidelity, &rule.unsupported))
    }
}
