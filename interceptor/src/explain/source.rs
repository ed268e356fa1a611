//! Who calls, and whether the caller's agent takes its connection.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use interceptor_policy::{SpiffeId, SpiffeIdError};

use super::resolve::Caller;
use super::{Sense, Step, StepName};
use crate::capture::outbound_captured;
use crate::workload::{
    Binding, CaptureRules, Enrolment, Mesh, SameNode, TunnelProtocol, UnknownDestinations,
    Workload, WorkloadId,
};

/// The caller as the rest of the way needs to know it.
#[derive(Clone)]
pub(super) struct Source {
    /// A workload of the mesh, or one made up for somebody who has none.
    pub(super) workload: Arc<Workload>,
    /// What it proves; `None` if it comes in plaintext.
    pub(super) identity: Option<SpiffeId>,
    /// Its address; unspecified if nobody said.
    pub(super) address: IpAddr,
    /// Whether its agent takes the connection.
    pub(super) captured: bool,
    /// Why it comes in plaintext, if it does.
    pub(super) plaintext: String,
    /// What it would prove if it came through the mesh, and what would make it come so.
    pub(super) would_prove: Option<(SpiffeId, String)>,
}

pub(super) fn of(
    mesh: &Mesh,
    caller: Caller,
    source_ip: Option<IpAddr>,
    steps: &mut Vec<Step>,
) -> Result<Source, String> {
    match caller {
        Caller::Workload { workload, note } => Ok(known(workload, note, source_ip, steps)),
        Caller::Identity(id) => Ok(proven(id, source_ip, steps)),
        Caller::Stranger(address) => {
            let nobody = nobody(mesh).map_err(|error| error.to_string())?;
            Ok(stranger(nobody, source_ip.or(address), steps))
        }
    }
}

fn known(
    workload: Arc<Workload>,
    note: Option<String>,
    source_ip: Option<IpAddr>,
    steps: &mut Vec<Step>,
) -> Source {
    let address = source_ip.or_else(|| workload.addresses.first().copied());
    let node = (workload.node.as_ref()).map_or_else(String::new, |n| format!(" on node {n}"));
    let at = address.map_or_else(String::new, |address| format!(" at {address}"));
    let told = format!("{}{at}{node}, {}", workload.id, workload.identity);
    let mut step = Step::new(StepName::Caller, Sense::Good, told);
    step.notes.extend(note);
    steps.push(step);
    let enrolled = workload.enrolment == Enrolment::Enrolled;
    let (sense, told) = if enrolled {
        (Sense::Good, format!("yes{}", bound(&workload)))
    } else {
        (Sense::Warning, workload.enrolment.to_string())
    };
    steps.push(Step::new(StepName::Enrolled, sense, told));
    let identity = workload.identity.clone();
    Source {
        would_prove: (!enrolled).then(|| {
            let told = format!(
                "enrol {}, so that it comes as {identity} over mutual TLS",
                workload.id
            );
            (identity.clone(), told)
        }),
        identity: enrolled.then_some(identity),
        address: address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        captured: enrolled,
        plaintext: format!("the caller is {}", workload.enrolment),
        workload,
    }
}

fn bound(workload: &Workload) -> String {
    match &workload.binding {
        Some(Binding::NetworkNamespace(path)) => format!(", network namespace {}", path.display()),
        Some(Binding::Cgroup(path)) => format!(", cgroup {}", path.display()),
        None => String::new(),
    }
}

/// Somebody whose certificate is all that is known.
fn proven(id: SpiffeId, source_ip: Option<IpAddr>, steps: &mut Vec<Step>) -> Source {
    let told = format!("{id}; no workload has this identity");
    steps.push(Step::new(StepName::Caller, Sense::Warning, told));
    let told = "taken to be: its certificate says who it is";
    steps.push(Step::new(StepName::Enrolled, Sense::Good, told));
    Source {
        workload: Arc::new(made_up(id.clone(), Enrolment::Enrolled)),
        identity: Some(id),
        address: source_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        captured: true,
        plaintext: String::new(),
        would_prove: None,
    }
}

/// Somebody outside of the mesh.
fn stranger(nobody: SpiffeId, address: Option<IpAddr>, steps: &mut Vec<Step>) -> Source {
    let told = match address {
        Some(address) => format!("somebody at {address}, which no workload has"),
        None => "somebody outside of the mesh".to_owned(),
    };
    steps.push(Step::new(StepName::Caller, Sense::Warning, told));
    let told = "no: it comes in plaintext and proves no identity";
    steps.push(Step::new(StepName::Enrolled, Sense::Warning, told));
    Source {
        workload: Arc::new(made_up(nobody, Enrolment::NotLabelled)),
        identity: None,
        address: address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        captured: false,
        plaintext: "the caller is not part of the mesh".to_owned(),
        would_prove: None,
    }
}

impl Source {
    /// The caller as it comes with a connection to `to`, and whether its agent takes that; nothing
    /// is asked of a caller that has no agent.
    pub(super) fn on_the_way_to(&self, to: SocketAddr) -> (Self, Option<Step>) {
        if self.workload.enrolment != Enrolment::Enrolled {
            return (self.past_the_agent(), None);
        }
        let captured = outbound_captured(&self.workload.capture, to);
        let why = &captured.why;
        if captured.captured {
            let step = Step::new(StepName::Captured, Sense::Good, format!("yes: {why}"));
            return (self.clone(), Some(step));
        }
        let step = Step::new(StepName::Captured, Sense::Warning, format!("no: {why}"));
        let would_prove = self.identity.clone().map(|identity| {
            let told = format!(
                "let it be captured ({why}), so that it comes as {identity} over mutual TLS"
            );
            (identity, told)
        });
        let source = Self {
            captured: false,
            identity: None,
            plaintext: format!("it is not captured ({why})"),
            would_prove,
            ..self.past_the_agent()
        };
        (source, Some(step))
    }

    /// What its owner said about unknown destinations binds only the agent, which does not see it.
    fn past_the_agent(&self) -> Self {
        let workload = Workload {
            unknown_destinations: UnknownDestinations::Passthrough,
            ..(*self.workload).clone()
        };
        Self {
            workload: Arc::new(workload),
            ..self.clone()
        }
    }
}

fn nobody(mesh: &Mesh) -> Result<SpiffeId, SpiffeIdError> {
    SpiffeId::new(&mesh.settings().trust_domain, "outside", "unknown")
}

/// A caller that is no workload of the mesh, for functions that ask about one.
fn made_up(identity: SpiffeId, enrolment: Enrolment) -> Workload {
    Workload {
        id: WorkloadId {
            namespace: Arc::from(identity.namespace()),
            name: Arc::from(identity.service_account()),
        },
        identity,
        addresses: Vec::new(),
        labels: Arc::default(),
        node: None,
        ports: Arc::default(),
        protocol: TunnelProtocol::None,
        enrolment,
        healthy: true,
        capture: CaptureRules::default(),
        binding: None,
        unknown_destinations: UnknownDestinations::default(),
        same_node: SameNode::default(),
        canonical: Arc::default(),
    }
}
