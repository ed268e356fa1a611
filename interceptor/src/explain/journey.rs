//! The steps of one connection at its source, in order.

use std::net::SocketAddr;

use super::arrival::{Arrival, arrive};
use super::resolve::{self, Called, Caller};
use super::source::{self, Source};
use super::{Answer, Change, Outcome, Question, Sense, Step, StepName};
use crate::decide::{
    self, NotDirect, Outbound, OutboundRefusal, PassthroughReason, RefusalCause, Way,
};
use crate::workload::{Mesh, Route, UnknownDestinations, Workload};

/// So many endpoints are followed. Which one is chosen is chance, so one more hardly matters.
const MAX_ENDPOINTS: usize = 64;

/// One way to one endpoint.
pub(super) struct Journey {
    /// Whether the caller's agent takes it, if the caller has one.
    pub(super) captured: Option<Step>,
    pub(super) outcome: Outcome,
    pub(super) reason: String,
    pub(super) summary: String,
    pub(super) steps: Vec<Step>,
    pub(super) decision: Option<serde_json::Value>,
    pub(super) changes: Vec<Change>,
}

/// Explains what would become of a connection.
pub fn explain(mesh: &Mesh, question: &Question) -> Answer {
    match follow(mesh, question) {
        Ok(answer) => answer,
        Err(why) => Answer::unclear(question, why),
    }
}

fn follow(mesh: &Mesh, question: &Question) -> Result<Answer, String> {
    let caller = resolve::caller(mesh, &question.from)?;
    let own_namespace = match &caller {
        Caller::Workload { workload, .. } => workload.id.namespace.to_string(),
        Caller::Identity(id) => id.namespace().to_owned(),
        Caller::Stranger(_) => String::new(),
    };
    let called = resolve::called(mesh, &own_namespace, &question.to)?;
    let Called { addresses, told } = called;
    let mut steps = Vec::new();
    let source = source::of(mesh, caller, question.source_ip, &mut steps)?;
    let mut journeys: Vec<(String, Journey)> = Vec::new();
    for original in addresses {
        let (source, captured) = source.on_the_way_to(original);
        for way in decide::ways(mesh, &source.workload, original) {
            if journeys.len() < MAX_ENDPOINTS {
                let (name, journey) = journey(mesh, &source, original, &way);
                let captured = captured.clone();
                journeys.push((
                    name,
                    Journey {
                        captured,
                        ..journey
                    },
                ));
            }
        }
    }
    Ok(answer(question, steps, &told, journeys))
}

/// The worst of the journeys is the answer.
fn answer(
    question: &Question,
    mut steps: Vec<Step>,
    told: &str,
    journeys: Vec<(String, Journey)>,
) -> Answer {
    let worst = journeys.iter().map(|(_, journey)| journey.outcome).max();
    let outcomes: Vec<(String, Outcome)> = (journeys.iter())
        .map(|(name, journey)| (name.clone(), journey.outcome))
        .collect();
    let shown = journeys
        .into_iter()
        .find(|(_, journey)| Some(journey.outcome) == worst);
    let Some((name, journey)) = shown else {
        return Answer::unclear(question, format!("{told} leads nowhere"));
    };
    let mut resolves = Step::new(StepName::Resolves, Sense::Good, format!("{told} -> {name}"));
    if outcomes.len() > 1 {
        let same = outcomes
            .iter()
            .filter(|(_, o)| *o == journey.outcome)
            .count();
        let label = journey.outcome.label().to_lowercase();
        resolves = resolves.note(format!(
            "one of {} endpoints; {same} of them {label}",
            outcomes.len()
        ));
        for (name, outcome) in outcomes.iter().filter(|(_, o)| *o != journey.outcome) {
            let label = outcome.label().to_lowercase();
            resolves = resolves.note(format!("{name} is {label}"));
        }
    }
    steps.extend(journey.captured);
    steps.push(resolves);
    steps.extend(journey.steps);
    Answer {
        question: question.clone(),
        outcome: journey.outcome,
        reason: journey.reason,
        summary: journey.summary,
        steps,
        decision: journey.decision,
        changes: journey.changes,
    }
}

// === which way ===

/// The other end, as it is named in a line.
fn name(outbound: &Outbound) -> String {
    let named = |workload: Option<&Workload>, to: SocketAddr| match workload {
        Some(workload) => format!("{} {to}", workload.id),
        None => to.to_string(),
    };
    match outbound {
        Outbound::Tunnel(route) => named(Some(&route.destination), route.authority),
        Outbound::Passthrough {
            to, destination, ..
        } => named(destination.as_deref(), *to),
        Outbound::Refuse(_) => "nowhere".to_owned(),
    }
}

fn journey(mesh: &Mesh, source: &Source, original: SocketAddr, way: &Way) -> (String, Journey) {
    let choice = way.choice;
    let outbound = decide::outbound(mesh, &source.workload, original, choice);
    let name = name(&outbound);
    let journey = match outbound {
        Outbound::Tunnel(route) if source.identity.is_some() => {
            let (step, past_the_agent) = path(&route, way);
            let arrival = Arrival {
                to: route.authority,
                destination: &route.destination,
                source,
                past_the_agent,
            };
            arrive(mesh, &arrival, step)
        }
        Outbound::Tunnel(route) => {
            let arrival = Arrival {
                to: route.authority,
                destination: &route.destination,
                source,
                past_the_agent: false,
            };
            let told = format!("plaintext to {}: {}", route.authority, source.plaintext);
            arrive(
                mesh,
                &arrival,
                Step::new(StepName::Path, Sense::Warning, told),
            )
        }
        Outbound::Passthrough {
            to,
            why,
            destination,
            ..
        } => passed(source, to, why, destination.as_deref()),
        Outbound::Refuse(refusal) if source.captured => {
            refused(mesh, source, original, choice, &refusal)
        }
        Outbound::Refuse(refusal) => beyond_us(source, original, &refusal),
    };
    (name, journey)
}

/// How a connection to a workload of the mesh is carried, and whether that is past the agent.
fn path(route: &Route, way: &Way) -> (Step, bool) {
    let why_not = match &way.direct {
        Ok(_) => {
            let told = "kernel: from socket to socket inside of the node, where the kernel holds \
                        this verdict";
            let step = Step::new(StepName::Path, Sense::Good, told)
                .note("the first connection takes the agent's path, encrypted");
            return (step, true);
        }
        // That it is another node, or that it is refused, is said elsewhere.
        Err(NotDirect::OtherNode | NotDirect::NotInMesh | NotDirect::Denied(_)) => None,
        Err(why_not) => Some(why_not),
    };
    let told = format!(
        "HBONE: mutual TLS to {}, where the peer must prove to be {}",
        route.gateway, route.peer
    );
    let mut step = Step::new(StepName::Path, Sense::Good, told);
    if let Some(why_not) = why_not {
        step = step.note(format!(
            "on the same node, and not from socket to socket: {why_not}"
        ));
    }
    (step, false)
}

/// Nobody judges at the other end.
fn passed(
    source: &Source,
    to: SocketAddr,
    why: PassthroughReason,
    destination: Option<&Workload>,
) -> Journey {
    let reason = match why {
        PassthroughReason::External => "a ServiceEntry has it".to_owned(),
        PassthroughReason::Unknown => "the mesh does not know the address".to_owned(),
        PassthroughReason::NotEnrolled => destination.map_or_else(
            || "not enrolled".to_owned(),
            |workload| workload.enrolment.to_string(),
        ),
    };
    let summary = if source.captured {
        format!("carried in plaintext to {to}: {reason}")
    } else {
        format!("goes to {to} past the agent: {}", source.plaintext)
    };
    let path = Step::new(
        StepName::Path,
        Sense::Warning,
        format!("plaintext to {to}: {reason}"),
    );
    let nobody = "no agent judges it at the other end: whatever listens there gets it";
    Journey {
        captured: None,
        outcome: Outcome::Allowed,
        reason: why.reason().to_string(),
        summary,
        steps: vec![path, Step::new(StepName::Arrives, Sense::Warning, nobody)],
        decision: None,
        changes: Vec::new(),
    }
}

/// The source's agent refuses it.
fn refused(
    mesh: &Mesh,
    source: &Source,
    original: SocketAddr,
    choice: u64,
    refusal: &OutboundRefusal,
) -> Journey {
    let told = format!("refused by the caller's own agent: {refusal}");
    Journey {
        captured: None,
        outcome: Outcome::Denied,
        reason: refusal.reason().to_string(),
        summary: refusal.to_string(),
        steps: vec![Step::new(StepName::Path, Sense::Bad, told)],
        decision: None,
        changes: relaxed(mesh, source, original, choice, refusal),
    }
}

/// What could be said to let it out, if it is not allowed rather than not possible.
fn relaxed(
    mesh: &Mesh,
    source: &Source,
    original: SocketAddr,
    choice: u64,
    refusal: &OutboundRefusal,
) -> Vec<Change> {
    let workload = Workload {
        unknown_destinations: UnknownDestinations::Passthrough,
        ..(*source.workload).clone()
    };
    if let Outbound::Refuse(_) = decide::outbound(mesh, &workload, original, choice) {
        return Vec::new();
    }
    let id = &workload.id;
    let messages = match &refusal.cause {
        RefusalCause::NotRegistered { to, sidecar, .. } => vec![
            format!(
                "add a ServiceEntry with address {} and port {} that namespace {} may use",
                to.ip(),
                to.port(),
                id.namespace
            ),
            format!("set outboundTrafficPolicy.mode of Sidecar {sidecar} to ALLOW_ANY"),
        ],
        _ => vec![format!(
            "set the annotation interceptor.dev/unknown-destinations of {id} to passthrough"
        )],
    };
    let change = |message| Change {
        message,
        changes: serde_json::Value::Null,
    };
    messages.into_iter().map(change).collect()
}

/// A caller that no agent captures reaches whatever the network leads to.
fn beyond_us(source: &Source, original: SocketAddr, refusal: &OutboundRefusal) -> Journey {
    let told = format!("to {original} past the agent: {}", source.plaintext);
    Journey {
        captured: None,
        outcome: Outcome::Unclear,
        reason: refusal.reason().to_string(),
        summary: format!("goes {told}; where it ends, the mesh cannot tell: {refusal}"),
        steps: vec![Step::new(StepName::Path, Sense::Warning, told)],
        decision: None,
        changes: Vec::new(),
    }
}
