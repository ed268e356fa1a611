//! Who may call a port at all, read from the rules instead of asked caller by caller.
//!
//! Every ALLOW rule that may match the port becomes one or more sets of callers, every DENY rule
//! sets that are taken out again. A set is the conditions that a caller must meet; the port's own
//! conditions are decided here and not repeated.
//!
//! Not here: one caller's verdict (`decide`).

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::effective::{Bound, Effective};
use crate::field::Attribute;
use crate::peer_authentication::MtlsMode;
use crate::policy::{Clause, Entry, Fidelity, Rule, Test};
use crate::verdict::RuleRef;

/// So many values of a list are shown.
const MAX_SHOWN_VALUES: usize = 8;

/// A rule is taken apart into at most so many sets; what is more is one set that says so.
const MAX_SETS: usize = 64;

/// Who may call a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Callers {
    /// Whoever is in one of these sets may, unless denied.
    pub allowed: Vec<CallerSet>,
    /// Whoever is in one of these sets may not.
    pub denied: Vec<CallerSet>,
}

/// Callers that meet some conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerSet {
    /// The rule that says so; `None` where no ALLOW policy holds.
    pub rule: Option<RuleRef>,
    /// Conditions that must all be met; none means anybody.
    pub conditions: Vec<String>,
    /// Whether callers in plaintext can be in it.
    pub plaintext: bool,
}

impl Effective {
    /// Who may call a port of the workload.
    pub fn callers(&self, port: u16) -> Callers {
        let plaintext = self.mtls(port).mode != MtlsMode::Strict;
        let concerned = |class: &crate::index::Class| -> Vec<Bound> {
            let mut bounds = class.policies().to_vec();
            bounds.retain(|bound| bound.concerns_port(port));
            bounds
        };
        let sets = |bounds: &[Bound]| -> Vec<CallerSet> {
            (bounds.iter())
                .flat_map(|bound| of_policy(bound, port, plaintext))
                .collect()
        };
        let allow = concerned(&self.0.allow);
        let allowed = if allow.is_empty() {
            vec![CallerSet {
                rule: None,
                conditions: Vec::new(),
                plaintext,
            }]
        } else {
            sets(&allow)
        };
        let denied = sets(&concerned(&self.0.deny));
        Callers { allowed, denied }
    }
}

fn of_policy(bound: &Bound, port: u16, plaintext: bool) -> Vec<CallerSet> {
    let rules = bound.policy.rules.iter().enumerate();
    let live = rules.filter(|(_, rule)| rule.fidelity != Fidelity::Dropped);
    live.flat_map(|(index, rule)| {
        let of_rule = of_rule(rule, port, plaintext).into_iter();
        of_rule.map(move |(conditions, plaintext)| CallerSet {
            rule: Some(bound.rule_ref(index)),
            conditions,
            plaintext,
        })
    })
    .collect()
}

/// The combinations of entries that can hold on this port: their conditions, and whether plaintext
/// can meet them.
fn of_rule(rule: &Rule, port: u16, plaintext: bool) -> Vec<(Vec<String>, bool)> {
    let mut sets: Vec<(Vec<String>, bool)> = vec![(Vec::new(), plaintext)];
    for clause in &rule.clauses {
        let ways = ways(clause, port);
        let combined = sets.len().saturating_mul(ways.len());
        if combined > MAX_SETS {
            let told = format!("{combined} combinations of conditions");
            return vec![(vec![told], plaintext)];
        }
        sets = (sets.iter())
            .flat_map(|(conditions, plaintext)| {
                ways.iter().map(move |(more, more_plaintext)| {
                    let conditions = [conditions.as_slice(), more.as_slice()].concat();
                    (conditions, *plaintext && *more_plaintext)
                })
            })
            .collect();
    }
    sets
}

/// The entries of a clause that can hold on this port. One without conditions makes the others
/// superfluous.
fn ways(clause: &Clause, port: u16) -> Vec<(Vec<String>, bool)> {
    let possible: Vec<_> = clause
        .entries
        .iter()
        .filter_map(|entry| way(entry, port))
        .collect();
    match possible
        .iter()
        .find(|(conditions, _)| conditions.is_empty())
    {
        Some(open) => vec![open.clone()],
        None => possible,
    }
}

/// What an entry asks of the caller; `None` if it cannot hold on this port.
fn way(entry: &Entry, port: u16) -> Option<(Vec<String>, bool)> {
    let mut conditions = Vec::new();
    let mut plaintext = true;
    for test in &entry.tests {
        if let Test::DestinationPort(values) = test {
            if !values.check(|value| value.contains(port)).holds() {
                return None;
            }
            continue;
        }
        let listed = test.value_count(false) > 0;
        plaintext &= !(listed && test.attribute().needs_identity());
        for negated in [false, true] {
            conditions.extend(condition(test, negated));
        }
    }
    Some((conditions, plaintext))
}

/// One list as a condition: "principal a or b", "not namespace x".
fn condition(test: &Test, negated: bool) -> Option<String> {
    let count = test.value_count(negated);
    let values: Vec<String> = (0..count.min(MAX_SHOWN_VALUES))
        .filter_map(|index| test.value(negated, index))
        .collect();
    if values.is_empty() {
        return None;
    }
    let (not, or) = if negated {
        ("not ", " nor ")
    } else {
        ("", " or ")
    };
    let more = match count.saturating_sub(values.len()) {
        0 => String::new(),
        more => format!("{or}{more} more"),
    };
    let what = match test.attribute() {
        Attribute::Principal => "principal",
        Attribute::Namespace => "namespace",
        Attribute::ServiceAccount => "service account",
        Attribute::TrustDomain => "trust domain",
        Attribute::SourceIp => "address",
        Attribute::DestinationIp => "to address",
        Attribute::DestinationPort => "port",
    };
    Some(format!("{not}{what} {}{more}", values.join(or)))
}

impl CallerSet {
    /// Whether it is everybody that the port's mode lets in.
    pub const fn is_anybody(&self) -> bool {
        self.conditions.is_empty()
    }
}

impl Callers {
    /// Whether somebody in plaintext may call.
    pub fn admit_plaintext(&self) -> bool {
        let kept_out = |set: &CallerSet| set.is_anybody() && set.plaintext;
        self.allowed.iter().any(|set| set.plaintext) && !self.denied.iter().any(kept_out)
    }

    /// Whether nobody may call at all.
    pub const fn is_nobody(&self) -> bool {
        self.allowed.is_empty()
    }
}

impl fmt::Display for CallerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.conditions.as_slice(), self.plaintext) {
            ([], true) => f.write_str("anybody, also in plaintext"),
            ([], false) => f.write_str("anybody with mTLS"),
            (conditions, plaintext) => {
                f.write_str(&conditions.join(", and "))?;
                f.write_str(if plaintext { ", also in plaintext" } else { "" })
            }
        }
    }
}

impl Serialize for CallerSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("CallerSet", 4)?;
        out.serialize_field("rule", &self.rule)?;
        out.serialize_field("conditions", &self.conditions)?;
        out.serialize_field("plaintext", &self.plaintext)?;
        out.serialize_field("message", &self.to_string())?;
        out.end()
    }
}
