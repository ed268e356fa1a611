//! What would become of one connection: the decisions of the agents on its way, taken by the
//! functions that the data plane uses.
//!
//! The question is who *may*, not what would answer now: an endpoint that is not ready is judged
//! like one that is, and a workload without an address has the unspecified one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use interceptor_policy::{Attempt, Explanation, SpiffeId, Verdict};

use crate::decide::{self, Outbound};
use crate::workload::{Enrolment, Mesh, Service, TunnelProtocol, Workload};

/// Stands for an address that nobody told.
pub(super) const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Who calls.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// What it can prove; `None` for plaintext.
    pub(super) identity: Option<SpiffeId>,
    /// Its address.
    pub(super) ip: IpAddr,
    /// The workload whose agent carries the connection; `None` if no agent of ours does.
    pub(super) captured: Option<Arc<Workload>>,
}

/// What is called.
#[derive(Clone, Debug)]
pub(super) enum Goal {
    /// A port of a Service.
    Service(Arc<Service>, u16),
    /// A port of a workload.
    Workload(Arc<Workload>, u16),
    /// An address that the mesh does not know.
    Elsewhere(SocketAddr),
}

/// One way that the connection can take, and what becomes of it there.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// Whether it goes through.
    pub(super) allowed: bool,
    /// Why, in a sentence.
    pub(super) said: String,
    /// What the policies at the destination say, if they are asked.
    pub(super) judged: Option<Judged>,
}

/// An arrival that the destination's policies judged.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    /// What they say.
    pub(super) verdict: Verdict,
    destination: Arc<Workload>,
    identity: Option<SpiffeId>,
    source_ip: IpAddr,
    target: SocketAddr,
}

impl Judged {
    /// Asks `destination` by the function with which its agent decides.
    pub(super) fn new(
        mesh: &Mesh,
        destination: &Arc<Workload>,
        identity: Option<SpiffeId>,
        source_ip: IpAddr,
        target: SocketAddr,
    ) -> Self {
        let attempt = attempt(identity.as_ref(), source_ip, target);
        Self {
            verdict: decide::inbound(mesh, destination, attempt),
            destination: Arc::clone(destination),
            identity,
            source_ip,
            target,
        }
    }

    /// Everything that was considered.
    pub(super) fn explain(&self, mesh: &Mesh) -> Explanation {
        let attempt = attempt(self.identity.as_ref(), self.source_ip, self.target);
        mesh.policies(&self.destination).explain(&attempt)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(judged) = &self.judged {
            write!(f, "{}: ", judged.destination.id)?;
        }
        f.write_str(&self.said)
    }
}

const fn attempt(source: Option<&SpiffeId>, source_ip: IpAddr, target: SocketAddr) -> Attempt<'_> {
    Attempt {
        source,
        source_ip,
        destination_ip: target.ip(),
        destination_port: target.port(),
    }
}

impl Caller {
    /// A workload as it calls: its agent proves its identity if it is enrolled.
    pub(super) fn workload(workload: &Arc<Workload>) -> Self {
        let enrolled = workload.enrolment == Enrolment::Enrolled;
        Self {
            identity: enrolled.then(|| workload.identity.clone()),
            ip: workload.addresses.first().copied().unwrap_or(NOWHERE),
            captured: enrolled.then(|| Arc::clone(workload)),
        }
    }

    /// Whoever it is at this address, if the mesh knows it.
    pub(super) fn at(mesh: &Mesh, ip: IpAddr) -> Self {
        match mesh.workload_at(ip) {
            Some(workload) => Self {
                ip,
                ..Self::workload(workload)
            },
            None => Self::plaintext(ip),
        }
    }

    /// Somebody who proves nothing.
    pub(super) const fn plaintext(ip: IpAddr) -> Self {
        Self {
            identity: None,
            ip,
            captured: None,
        }
    }

    /// Somebody who proves this identity, with whatever agent.
    pub(super) const fn proven(identity: SpiffeId, ip: IpAddr) -> Self {
        Self {
            identity: Some(identity),
            ip,
            captured: None,
        }
    }
}

/// Every way that the connection can take: one for each workload that may answer.
///
/// None if nothing could ever answer: a Service without that port or without workloads.
pub(super) fn ways(mesh: &Mesh, caller: &Caller, goal: &Goal) -> Vec<Way> {
    if let Some(refused) = refused_at_source(mesh, caller, goal) {
        return vec![refused];
    }
    match goal {
        Goal::Elsewhere(to) => vec![Way {
            allowed: true,
            said: format!("allowed: {to} is no part of the mesh, so nobody there is asked"),
            judged: None,
        }],
        Goal::Workload(workload, port) => vec![arrive(mesh, caller, workload, *port)],
        Goal::Service(service, port) => service
            .endpoints
            .iter()
            .filter_map(|endpoint| {
                let port = endpoint.target_ports.get(port)?;
                Some(arrive(mesh, caller, &endpoint.workload, *port))
            })
            .collect(),
    }
}

/// What the caller's own agent refuses, whoever would answer.
fn refused_at_source(mesh: &Mesh, caller: &Caller, goal: &Goal) -> Option<Way> {
    let source = caller.captured.as_ref()?;
    let to = match goal {
        Goal::Elsewhere(to) => *to,
        Goal::Service(service, port) => {
            SocketAddr::new(like(&service.addresses, caller.ip)?, *port)
        }
        Goal::Workload(workload, port) => {
            SocketAddr::new(like(&workload.addresses, caller.ip)?, *port)
        }
    };
    match decide::outbound(mesh, source, to, 0) {
        Outbound::Refuse(refusal) if refusal.cause.is_deliberate() => Some(Way {
            allowed: false,
            said: format!("refused by the caller's agent: {refusal}"),
            judged: None,
        }),
        Outbound::Refuse(_) | Outbound::Tunnel(_) | Outbound::Passthrough { .. } => None,
    }
}

/// What the destination's agent says.
fn arrive(mesh: &Mesh, caller: &Caller, destination: &Arc<Workload>, port: u16) -> Way {
    if destination.enrolment != Enrolment::Enrolled {
        return Way {
            allowed: true,
            said: format!(
                "allowed: no policy protects {}: {}",
                destination.id, destination.enrolment
            ),
            judged: None,
        };
    }
    // Without a tunnel there is nothing to prove an identity with.
    let tunnel = caller.captured.is_none() || destination.protocol == TunnelProtocol::Hbone;
    let identity = caller.identity.clone().filter(|_| tunnel);
    let ip = like(&destination.addresses, caller.ip).unwrap_or(NOWHERE);
    let target = SocketAddr::new(ip, port);
    let judged = Judged::new(mesh, destination, identity, caller.ip, target);
    Way {
        allowed: judged.verdict.is_allowed(),
        said: judged.verdict.to_string(),
        judged: Some(judged),
    }
}

/// The address of the same family, if there is one.
fn like(addresses: &[IpAddr], caller: IpAddr) -> Option<IpAddr> {
    let family = |address: &&IpAddr| address.is_ipv4() == caller.is_ipv4();
    let found = addresses.iter().find(family).or(addresses.first());
    found.copied()
}
