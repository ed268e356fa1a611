//! The verdict on one connection.
//!
//! In Istio's order: mutual TLS required and missing, DENY, ALLOW. AUDIT and dry-run are recorded
//! and never change the decision. An allow allocates nothing unless there is something to record.

use crate::effective::{Bound, Effective};
use crate::index::Class;
use crate::peer_authentication::MtlsMode;
use crate::policy::{Clause, Entry, Fidelity, Rule, Test};
use crate::value::Outcome;
use crate::verdict::{Cause, Decision, DryRun, FieldFailure, FieldHit, Mismatch, Nearest, Verdict};
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
        let audited = self.0.audit.matches(attempt);
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
        if let Some((bound, rule)) = self.0.deny.first_match(attempt) {
            return denied_by(bound, rule, attempt);
        }
        if let Some((bound, rule)) = self.0.allow.first_match(attempt) {
            return Cause::AllowedBy(bound.rule_ref(rule));
        }
        match nearest(&self.0.allow, attempt) {
            Some(nearest) => Cause::NoAllowMatched(Box::new(nearest)),
            None if self.0.deny.concerned(attempt).next().is_some() => Cause::NoDenyMatched,
            None => Cause::NoPolicies,
        }
    }

    fn dry_run(&self, attempt: &Attempt<'_>) -> Vec<DryRun> {
        let parts = &*self.0;
        let denying = parts.dry_deny.matches(attempt);
        let allowing = parts.dry_allow.matches(attempt);
        let enforced = parts.allow.concerned(attempt).next();
        let unmatched = match enforced {
            None if allowing.is_empty() => parts.dry_allow.concerned(attempt).next(),
            _ => None,
        };
        let unmatched = unmatched.map(|bound| bound.policy.name.clone());
        let denying = denying.into_iter().map(DryRun::WouldDeny);
        let allowing = allowing.into_iter().map(DryRun::WouldAllow);
        let none = unmatched.map(|policy| DryRun::WouldNotAllow { policy });
        denying.chain(allowing).chain(none).collect()
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
        rule: bound.rule_ref(index),
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
fn nearest(allow: &Class, attempt: &Attempt<'_>) -> Option<Nearest> {
    let Some((failing, bound, index)) = closest(allow, attempt) else {
        return allow.concerned(attempt).next().map(|bound| Nearest {
            policy: bound.policy.name.clone(),
            rule: None,
            failing: 0,
            failure: None,
            dropped: Vec::new(),
        });
    };
    let rule = bound.policy.rules.get(index)?;
    let clause = rule.clauses.iter().find(|clause| !clause.matches(attempt));
    Some(Nearest {
        policy: bound.policy.name.clone(),
        rule: Some(index),
        failing,
        failure: clause.and_then(|clause| first_failure(clause, attempt)),
        dropped: rule.unsupported.to_vec(),
    })
}

/// The rule with the smallest distance, with its policy. None is nearer than 1, so the search ends
/// there: a denial stays cheap however many policies there are.
fn closest<'a>(allow: &'a Class, attempt: &Attempt<'_>) -> Option<(usize, &'a Bound, usize)> {
    let mut closest: Option<(usize, &Bound, usize)> = None;
    for bound in allow.concerned(attempt) {
        for (index, rule) in bound.policy.rules.iter().enumerate() {
            let distance = distance(rule, attempt);
            if closest.is_none_or(|(least, ..)| distance < least) {
                closest = Some((distance, bound, index));
            }
            if distance <= 1 {
                return closest;
            }
        }
    }
    closest
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
