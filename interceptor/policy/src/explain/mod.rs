//! The whole decision, laid open: every policy that holds for the workload, each rule, each clause,
//! and for every field what it compared and whether it held.
//!
//! Made of the same tests as the verdict, so the two cannot disagree. For people and tools; the hot
//! path never comes here. What is shown of long lists is bounded as in a denial.
//!
//! Not here: capture, routing and resolution, which the agent's `explain` adds around this.

mod render;

use std::net::IpAddr;

use serde::Serialize;

use crate::decide::{failure, hit};
use crate::effective::{Bound, Effective, UnknownPortName};
use crate::field::Place;
use crate::peer_authentication::Mtls;
use crate::policy::{Action, Clause, Enforcement, Entry, Fidelity, PolicyName, Rule};
use crate::verdict::{Cause, FieldFailure, FieldHit, Verdict};
use crate::{Attempt, SpiffeId};

/// A verdict with everything that was considered for it. Its `Display` is for people, its
/// serialized form for tools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The answer.
    pub verdict: Verdict,
    /// The connection that was asked about.
    pub connection: Connection,
    /// What the port requires, and which object says so.
    pub mtls: Mtls,
    /// Every policy that holds for the workload, in the order in which they are considered.
    pub policies: Vec<PolicyTrace>,
    /// Port names that policies say and the workload does not have.
    pub unknown_port_names: Vec<UnknownPortName>,
}

/// The connection that an [`Explanation`] is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Connection {
    /// The identity of the caller; `None` for plaintext.
    pub source_identity: Option<SpiffeId>,
    /// The address of the caller.
    pub source_ip: IpAddr,
    /// The address of the workload.
    pub destination_ip: IpAddr,
    /// The port of the workload.
    pub destination_port: u16,
}

/// What one policy says to the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyTrace {
    /// The policy.
    pub policy: PolicyName,
    /// What its rules do when they match.
    pub action: Action,
    /// Whether it decides or only reports.
    pub enforcement: Enforcement,
    /// Why it holds for the workload.
    pub holds_for: String,
    /// What it contributed.
    pub standing: Standing,
    /// Its first rule that matches.
    pub matched_rule: Option<usize>,
    /// All of its rules; none if the policy says nothing about this port.
    pub rules: Vec<RuleTrace>,
}

/// What a policy contributed to a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It decided.
    Decided,
    /// It matched, but something before it had decided.
    Preceded,
    /// It matched, and only reports: AUDIT or dry-run.
    Reported,
    /// None of its rules matched.
    NotMatched,
    /// It is attached to a Service that does not use this port.
    OtherPort,
}

/// What one rule says to the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleTrace {
    /// Its index in the policy.
    pub rule: usize,
    /// Whether it matches.
    pub matched: bool,
    /// Whether it is what was written.
    pub fidelity: Fidelity,
    /// What it says but L4 cannot see.
    pub unsupported: Vec<String>,
    /// Its clauses, which must all hold.
    pub clauses: Vec<ClauseTrace>,
}

/// What one clause says to the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClauseTrace {
    /// Whether it holds.
    pub matched: bool,
    /// Its entries, of which one must hold.
    pub entries: Vec<EntryTrace>,
}

/// What one entry says to the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EntryTrace {
    /// Which entry.
    pub place: Place,
    /// Whether it holds.
    pub matched: bool,
    /// Its fields, which must all hold.
    pub fields: Vec<FieldTrace>,
}

/// What one field says to the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum FieldTrace {
    /// It holds.
    Matched(FieldHit),
    /// It does not.
    Failed(FieldFailure),
}

impl Effective {
    /// Decides as [`Effective::decide`] does, and shows all that was considered.
    pub fn explain(&self, attempt: &Attempt<'_>) -> Explanation {
        let verdict = self.decide(attempt);
        let policies = self
            .0
            .all()
            .map(|bound| trace_policy(bound, attempt, &verdict))
            .collect();
        Explanation {
            policies,
            connection: Connection {
                source_identity: attempt.source.cloned(),
                source_ip: attempt.source_ip.to_canonical(),
                destination_ip: attempt.destination_ip.to_canonical(),
                destination_port: attempt.destination_port,
            },
            mtls: self.mtls(attempt.destination_port).clone(),
            unknown_port_names: self.unknown_port_names().to_vec(),
            verdict,
        }
    }
}

fn trace_policy(bound: &Bound, attempt: &Attempt<'_>, verdict: &Verdict) -> PolicyTrace {
    let policy = &*bound.policy;
    let concerned = bound.concerns(attempt);
    let rules: Vec<RuleTrace> = (policy.rules.iter().enumerate())
        .filter(|_| concerned)
        .map(|(index, rule)| trace_rule(index, rule, attempt))
        .collect();
    let matched_rule = rules.iter().find(|rule| rule.matched).map(|rule| rule.rule);
    let standing = match matched_rule {
        _ if !concerned => Standing::OtherPort,
        None => Standing::NotMatched,
        Some(rule) if decided(&verdict.cause, bound, rule) => Standing::Decided,
        Some(_) if policy.only_reports() => Standing::Reported,
        Some(_) => Standing::Preceded,
    };
    PolicyTrace {
        policy: policy.name.clone(),
        action: policy.action,
        enforcement: policy.enforcement,
        holds_for: policy.scope.to_string(),
        standing,
        matched_rule,
        rules,
    }
}

/// Whether this policy is the one that the verdict names for having matched.
fn decided(cause: &Cause, bound: &Bound, rule: usize) -> bool {
    let policy = &*bound.policy;
    let (by, action) = match cause {
        Cause::AllowedBy(by) => (by, Action::Allow),
        Cause::DeniedBy { rule: by, .. } => (by, Action::Deny),
        _ => return false,
    };
    by.policy == policy.name
        && by.rule == rule
        && policy.action == action
        && policy.enforcement == Enforcement::Enforced
}

fn trace_rule(index: usize, rule: &Rule, attempt: &Attempt<'_>) -> RuleTrace {
    RuleTrace {
        rule: index,
        matched: rule.matches(attempt),
        fidelity: rule.fidelity,
        unsupported: rule.unsupported.to_vec(),
        clauses: rule
            .clauses
            .iter()
            .map(|clause| trace_clause(clause, attempt))
            .collect(),
    }
}

fn trace_clause(clause: &Clause, attempt: &Attempt<'_>) -> ClauseTrace {
    ClauseTrace {
        matched: clause.matches(attempt),
        entries: clause
            .entries
            .iter()
            .map(|entry| trace_entry(entry, attempt))
            .collect(),
    }
}

fn trace_entry(entry: &Entry, attempt: &Attempt<'_>) -> EntryTrace {
    let fields = entry
        .tests
        .iter()
        .map(|test| match failure(entry, test, attempt) {
            Some(failure) => FieldTrace::Failed(failure),
            None => FieldTrace::Matched(hit(entry, test, attempt)),
        });
    EntryTrace {
        place: entry.place,
        matched: entry.matches(attempt),
        fields: fields.collect(),
    }
}
