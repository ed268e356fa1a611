//! The last steps: who receives the connection at the destination, and what is judged there.

use std::net::SocketAddr;

use interceptor_policy::{
    Attempt, Attribute, EntryTrace, Explanation, FieldTrace, Flip, MtlsMode, PolicyTrace,
};

use super::journey::Journey;
use super::source::Source;
use super::{Change, Outcome, Sense, Step, StepName, json};
use crate::capture::inbound_captured;
use crate::decide;
use crate::workload::{Enrolment, Mesh, TunnelProtocol, Workload};

/// A connection at the destination's door.
pub(super) struct Arrival<'a> {
    pub(super) source: &'a Source,
    pub(super) destination: &'a Workload,
    pub(super) to: SocketAddr,
    /// Whether the kernel lets it in, past the agent.
    pub(super) past_the_agent: bool,
}

/// Judges an arrival as the destination's agent does.
pub(super) fn arrive(mesh: &Mesh, arrival: &Arrival<'_>, path: Step) -> Journey {
    match arrival.received() {
        Ok(received) => arrival.judged(mesh, vec![path, received]),
        Err((outcome, reason, told)) => {
            let sense = match outcome {
                Outcome::Denied => Sense::Bad,
                Outcome::Allowed | Outcome::Unclear => Sense::Warning,
            };
            let received = Step::new(StepName::Arrives, sense, told.clone());
            Journey {
                captured: None,
                outcome,
                reason: reason.to_owned(),
                summary: told,
                steps: vec![path, received],
                decision: None,
                changes: Vec::new(),
            }
        }
    }
}

impl Arrival<'_> {
    const fn attempt(&self) -> Attempt<'_> {
        Attempt {
            source: self.source.identity.as_ref(),
            source_ip: self.source.address,
            destination_ip: self.to.ip(),
            destination_port: self.to.port(),
        }
    }

    /// Who receives it; or what becomes of it where nobody judges.
    fn received(&self) -> Result<Step, (Outcome, &'static str, String)> {
        let destination = self.destination;
        let good = |told: String| Ok(Step::new(StepName::Arrives, Sense::Good, told));
        let id = &destination.id;
        if self.past_the_agent {
            return good(format!(
                "the application of {id} itself; the verdict was taken before"
            ));
        }
        if self.source.identity.is_some() {
            return match destination.enrolment {
                Enrolment::Unbound => {
                    let told = format!("nobody answers there: {id} is {}", destination.enrolment);
                    Err((Outcome::Denied, "unreachable", told))
                }
                _ => good(format!("the agent of {id}, through its tunnel port")),
            };
        }
        if destination.protocol == TunnelProtocol::None
            || destination.enrolment == Enrolment::Unbound
        {
            let told = format!("reaches {id} unjudged: it is {}", destination.enrolment);
            return Err((Outcome::Allowed, "not_enrolled", told));
        }
        let captured = inbound_captured(&destination.capture, self.to.port());
        if !captured.captured {
            let told = format!("reaches {id} unjudged: {}", captured.why);
            return Err((Outcome::Allowed, "not_captured", told));
        }
        good(format!("the agent of {id}, captured: {}", captured.why))
    }

    fn judged(&self, mesh: &Mesh, mut steps: Vec<Step>) -> Journey {
        let attempt = self.attempt();
        let explanation = decide::explain_inbound(mesh, self.destination, attempt);
        let verdict = &explanation.verdict;
        steps.push(self.mtls(&explanation));
        steps.push(policies(&explanation));
        let unknown_address = self.source.address.is_unspecified() && looks_at_source(&explanation);
        let (outcome, summary) = if unknown_address {
            let told = "policies look at the caller's address, which is not known: say it with --source-ip";
            (Outcome::Unclear, told.to_owned())
        } else if verdict.is_allowed() {
            (Outcome::Allowed, verdict.to_string())
        } else {
            (Outcome::Denied, verdict.to_string())
        };
        let would_prove = self.source.would_prove.as_ref();
        let flips = if unknown_address {
            Vec::new()
        } else {
            mesh.flips(self.destination, &attempt, would_prove.map(|(id, _)| id))
        };
        Journey {
            captured: None,
            outcome,
            reason: if unknown_address {
                "source_address_unknown".to_owned()
            } else {
                verdict.reason().to_owned()
            },
            summary,
            steps,
            changes: flips.iter().map(|flip| self.change(flip)).collect(),
            decision: Some(json(&explanation)),
        }
    }

    fn mtls(&self, explanation: &Explanation) -> Step {
        let mtls = &explanation.mtls;
        let told = format!("{} ({})", mtls.mode, mtls.origin);
        let sense = match (mtls.mode, &self.source.identity) {
            (_, Some(_)) => Sense::Good,
            (MtlsMode::Strict, None) => Sense::Bad,
            (MtlsMode::Permissive | MtlsMode::Disable, None) => Sense::Warning,
        };
        Step::new(StepName::Mtls, sense, told)
    }

    /// A change as an instruction. How this caller comes to prove its identity is known better
    /// here than in the policy engine.
    fn change(&self, flip: &Flip) -> Change {
        let instruction =
            |change: &interceptor_policy::Change| match (change, &self.source.would_prove) {
                (interceptor_policy::Change::UseMtls { .. }, Some((_, told))) => told.clone(),
                _ => change.to_string(),
            };
        let messages: Vec<String> = flip.changes.iter().map(instruction).collect();
        Change {
            message: messages.join("; and "),
            changes: json(&flip.changes),
        }
    }
}

/// What each policy said.
fn policies(explanation: &Explanation) -> Step {
    let verdict = &explanation.verdict;
    let told = match explanation.policies.len() {
        0 => "none holds for the workload".to_owned(),
        1 => "1 holds for the workload".to_owned(),
        n => format!("{n} hold for the workload"),
    };
    let sense = match (verdict.is_allowed(), &verdict.cause) {
        (true, _) => Sense::Good,
        (false, interceptor_policy::Cause::PlaintextToStrict { .. }) => Sense::Warning,
        (false, _) => Sense::Bad,
    };
    let mut step = Step::new(StepName::Policies, sense, told);
    for policy in &explanation.policies {
        let text = policy.to_string();
        // The engine indents for its own heading.
        let lines = text
            .lines()
            .map(|line| line.strip_prefix("  ").unwrap_or(line));
        step.notes.extend(lines.map(str::to_owned));
    }
    for outcome in &verdict.dry_run {
        step = step.note(format!("dry run   {outcome}"));
    }
    for rule in &verdict.audited {
        step = step.note(format!("audit     recorded by {rule}"));
    }
    for unknown in &explanation.unknown_port_names {
        step = step.note(format!("warning   {unknown}"));
    }
    step
}

/// Whether any policy compares the caller's address.
fn looks_at_source(explanation: &Explanation) -> bool {
    let rules = explanation
        .policies
        .iter()
        .flat_map(|policy: &PolicyTrace| &policy.rules);
    let entries = rules
        .flat_map(|rule| &rule.clauses)
        .flat_map(|clause| &clause.entries);
    entries
        .flat_map(|entry: &EntryTrace| &entry.fields)
        .any(|field| {
            let field = match field {
                FieldTrace::Matched(hit) => hit.field,
                FieldTrace::Failed(failure) => failure.field,
            };
            field.attribute == Attribute::SourceIp
        })
}
