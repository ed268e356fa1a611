//! The verdict on one connection.
//!
//! In Istio's order: mutual TLS required and missing, DENY, ALLOW. AUDIT and dry-run are recorded
//! and never change the decision. An allow allocates nothing unless there is something to record.

use crate::effective::{Bound, Effective};
use crate::peer_authentication::MtlsMode;
use crate::policy::{Clause, Entry, Fidelity, Rule, Test};
use crate::value::Outcome;
use crate::verdict::{
    Cause, Decision, DryRun, FieldFailure, FieldHit, Mismatch, Nearest, RuleRef, Verdict,
};
use crate::{Attempt, Attribute};

/// How many values of a list a denial shows.
const MAX_SHOWN_VALUES: usize = 4;

impl Effective {
    /// Decides whether the connection may reach the workload.
    pub fn decide(&self, attempt: &Attempt<'_>) -> Verdict {
        let cause = self.judge(attempt);
        let decision = match cause {
            Cause::NoPolicies | Cause::NoDenyMatched | Cause::AllowedBy(_) => Decision::Allow,
            Cause::DeniedBy { .. } | Cause::NoAllowMatched(_) | Cause::PlaintextToStrict { .. } => {
                Decision::Deny
            }
        };
        let audited = matches(&self.0.audit, attempt).collect();
        Verdict {
            decision,
            cause,
            audited,
            dry_run: self.dry_run(attempt),
        }
    }

    fn judge(&self, attempt: &Attempt<'_>) -> Cause {
        let port = attempt.destination_port;
        let mtls = self.mtls(port);
        if mtls.mode == MtlsMode::Strict && attempt.source.is_none() {
            return Cause::PlaintextToStrict {
                port,
                mtls: mtls.clone(),
            };
        }
        if let Some((bound, rule)) = first_match(&self.0.deny, attempt) {
            return denied_by(bound, rule, attempt);
        }
        if let Some((bound, rule)) = first_match(&self.0.allow, attempt) {
            return Cause::AllowedBy(rule_ref(bound, rule));
        }
        match nearest(&self.0.allow, attempt) {
            Some(nearest) => Cause::NoAllowMatched(Box::new(nearest)),
            None if self.0.deny.iter().any(|bound| bound.concerns(attempt)) => Cause::NoDenyMatched,
            None => Cause::NoPolicies,
        }
    }

    fn dry_run(&self, attempt: &Attempt<'_>) -> Vec<DryRun> {
        let parts = &*self.0;
        let mut outcomes: Vec<DryRun> = matches(&parts.dry_deny, attempt)
            .map(DryRun::WouldDeny)
            .collect();
        let before = outcomes.len();
        outcomes.extend(matches(&parts.dry_allow, attempt).map(DryRun::WouldAllow));
        let any_allow = parts.allow.iter().any(|bound| bound.concerns(attempt));
        if outcomes.len() == before && !any_allow {
            let mut candidates = parts
                .dry_allow
                .iter()
                .filter(|bound| bound.concerns(attempt));
            outcomes.extend(candidates.next().map(|bound| DryRun::WouldNotAllow {
                policy: bound.policy.name.clone(),
            }));
        }
        outcomes
    }
}

fn first_match<'a>(policies: &'a [Bound], attempt: &Attempt<'_>) -> Option<(&'a Bound, usize)> {
    policies
        .iter()
        .find_map(|bound| Some((bound, bound.first_match(attempt)?)))
}

/// The first matching rule of every policy that matches.
fn matches<'a>(
    policies: &'a [Bound],
    attempt: &'a Attempt<'_>,
) -> impl Iterator<Item = RuleRef> + 'a {
    policies
        .iter()
        .filter_map(|bound| Some(rule_ref(bound, bound.first_match(attempt)?)))
}

fn rule_ref(bound: &Bound, rule: usize) -> RuleRef {
    RuleRef {
        policy: bound.policy.name.clone(),
        rule,
    }
}

// === why it was denied ===

fn denied_by(bound: &Bound, index: usize, attempt: &Attempt<'_>) -> Cause {
    let rule = bound.policy.rules.get(index);
    let entries = rule
        .into_iter()
        .flat_map(|rule| &*rule.clauses)
        .filter_map(|clause| clause.entries.iter().find(|entry| entry.matches(attempt)));
    let hits = entries
        .flat_map(|entry| {
            entry
                .tests
                .iter()
                .map(move |test| hit(entry, test, attempt))
        })
        .collect();
    let widened = rule
        .map(|rule| rule.unsupported.to_vec())
        .unwrap_or_default();
    Cause::DeniedBy {
        rule: rule_ref(bound, index),
        hits,
        widened,
    }
}

/// What a field that holds matched by.
pub(crate) fn hit(entry: &Entry, test: &Test, attempt: &Attempt<'_>) -> FieldHit {
    let listed = match test.check(attempt) {
        Outcome::Holds(listed) => listed,
        Outcome::NotListed | Outcome::Excluded(_) => None,
    };
    FieldHit {
        field: entry.field(test, listed.is_none()),
        value: listed.and_then(|index| test.value(false, index)),
        actual: attempt.value_of(test.attribute()),
    }
}

// === what came nearest to allowing ===

/// The ALLOW rule with the fewest failing clauses, the first of equals; `None` without policies.
fn nearest(policies: &[Bound], attempt: &Attempt<'_>) -> Option<Nearest> {
    let concerned = || policies.iter().filter(|bound| bound.concerns(attempt));
    let rules = concerned().flat_map(|bound| {
        bound
            .policy
            .rules
            .iter()
            .enumerate()
            .map(move |(index, rule)| (bound, index, rule))
    });
    let closest = rules
        .map(|(bound, index, rule)| (distance(rule, attempt), bound, index, rule))
        .min_by_key(|(distance, ..)| *distance);
    let Some((failing_clauses, bound, index, rule)) = closest else {
        return concerned().next().map(|bound| Nearest {
            policy: bound.policy.name.clone(),
            rule: None,
            failing_clauses: 0,
            failure: None,
            dropped: Vec::new(),
        });
    };
    let failing = rule.clauses.iter().find(|clause| !clause.matches(attempt));
    Some(Nearest {
        policy: bound.policy.name.clone(),
        rule: Some(index),
        failing_clauses,
        failure: failing.and_then(|clause| first_failure(clause, attempt)),
        dropped: rule.unsupported.to_vec(),
    })
}

/// How many conditions keep a rule from matching. What L4 cannot see counts as one.
fn distance(rule: &Rule, attempt: &Attempt<'_>) -> usize {
    let failing = rule
        .clauses
        .iter()
        .filter(|clause| !clause.matches(attempt))
        .count();
    failing.saturating_add(usize::from(rule.fidelity == Fidelity::Dropped))
}

/// The first failing field of the entry with the fewest failing fields.
fn first_failure(clause: &Clause, attempt: &Attempt<'_>) -> Option<FieldFailure> {
    let failing = |entry: &Entry| {
        entry
            .tests
            .iter()
            .filter(|t| !t.check(attempt).holds())
            .count()
    };
    let entry = clause.entries.iter().min_by_key(|entry| failing(entry))?;
    entry
        .tests
        .iter()
        .find_map(|test| failure(entry, test, attempt))
}

/// How a field fails, if it does.
pub(crate) fn failure(entry: &Entry, test: &Test, attempt: &Attempt<'_>) -> Option<FieldFailure> {
    let (negated, mismatch) = match test.check(attempt) {
        Outcome::Holds(_) => return None,
        Outcome::NotListed => {
            let listed = (0..MAX_SHOWN_VALUES)
                .map_while(|index| test.value(false, index))
                .collect();
            (
                false,
                Mismatch::NotListed {
                    listed,
                    total: test.value_count(false),
                },
            )
        }
        Outcome::Excluded(index) => (
            true,
            Mismatch::Excluded {
                value: test.value(true, index).unwrap_or_default(),
            },
        ),
    };
    Some(FieldFailure {
        field: entry.field(test, negated),
        actual: attempt.value_of(test.attribute()),
        mismatch,
    })
}

impl Attempt<'_> {
    /// What this connection has for an attribute, as text.
    pub(crate) fn value_of(&self, attribute: Attribute) -> Option<String> {
        let id = self.source;
        match attribute {
            Attribute::Principal => id.map(|id| id.principal().to_owned()),
            Attribute::Namespace => id.map(|id| id.namespace().to_owned()),
            Attribute::ServiceAccount => {
                id.map(|id| format!("{}/{}", id.namespace(), id.service_account()))
            }
            Attribute::TrustDomain => id.map(|id| id.trust_domain().to_string()),
            Attribute::SourceIp => Some(self.source_ip.to_canonical().to_string()),
            Attribute::DestinationIp => Some(self.destination_ip.to_canonical().to_string()),
            Attribute::DestinationPort => Some(self.destination_port.to_string()),
        }
    }
}
