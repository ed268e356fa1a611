//! The two records of a connection past the agent: what both ends' agents would have written.

use std::time::Duration;

use super::judge::Pair;
use super::{DirectPath, Plane};
use crate::capture::{DirectFlow, End as Ending, Totals};
use crate::connection::inbound::service_of;
use crate::connection::story::because;
use crate::reason::Label;
use crate::telemetry::record::{
    ConnectionId, End, Outcome, Reason, Record, Reporter, ResponseFlags, Security, TcpFacts,
};

/// A connection as it looks now.
pub(super) struct Told {
    /// What it rests on, if both ends are known.
    pub(super) pair: Option<Pair>,
    /// Whether it may be, and why.
    pub(super) verdict: Result<Reason, Reason>,
    /// The client's record.
    pub(super) near: Record,
    /// The server's.
    pub(super) far: Record,
}

/// How a connection ended, in a record's terms.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) flags: ResponseFlags,
    pub(super) reason: Reason,
}

/// Tells of `flow` what the mesh knows.
pub(super) fn told(plane: &Plane, path: &DirectPath, flow: &DirectFlow) -> Told {
    let mesh = plane.mesh.load_full();
    let workload = |key| {
        let id = path.names.of(key)?;
        mesh.workload(&id).cloned()
    };
    let (source, destination) = (workload(flow.source), workload(flow.destination));
    let pair = match (&source, &destination) {
        (Some(source), Some(destination)) => Some(Pair {
            source: (source.id.clone(), source.identity.clone()),
            destination: (destination.id.clone(), destination.identity.clone()),
            source_ip: flow.source_address.ip(),
            target: flow.destination_address,
        }),
        _ => None,
    };
    let verdict = match &pair {
        Some(pair) => pair.holds(&mesh, &plane.identities),
        None => Err(because(
            Label::WorkloadGone,
            "one of the two workloads is no longer part of the mesh",
        )),
    };
    let addressed = mesh
        .service_at(flow.original.ip())
        .map(|it| it.name.clone());
    let near = Record {
        id: ConnectionId::random(),
        reporter: Reporter::Source,
        source: End::local(flow.source_address, source.as_ref()),
        destination: End::local(flow.destination_address, destination.as_ref()),
        hbone_address: None,
        service: addressed.clone(),
        security: Security::Kernel,
        outcome: Outcome::Allowed,
        reason: allowed(&verdict),
        shadows: Vec::new(),
        flags: ResponseFlags::None,
        tls: None,
        tcp: None,
        bytes_sent: 0,
        bytes_received: 0,
        duration: Duration::ZERO,
    };
    let far = Record {
        reporter: Reporter::Destination,
        service: addressed.or_else(|| {
            let (id, port) = (&destination.as_ref()?.id, flow.destination_address.port());
            service_of(&mesh, id, port).cloned()
        }),
        ..near.clone()
    };
    Told {
        pair,
        verdict,
        near,
        far,
    }
}

/// What allowed a connection that the kernel let through. If it would not be now, that was a
/// verdict that has changed since.
fn allowed(verdict: &Result<Reason, Reason>) -> Reason {
    match verdict {
        Ok(reason) => reason.clone(),
        Err(_now) => because(Label::Allowed, "by what was in force when it was opened"),
    }
}

impl Ended {
    /// Of a connection that was established: by itself, or cut for a reason.
    pub(super) fn established(end: Ending, cut: Option<Reason>, allowed_by: Reason) -> Self {
        let (outcome, flags, reason) = match (end, cut) {
            (Ending::Cut, Some(reason)) => (Outcome::Cut, ResponseFlags::Deny, reason),
            (Ending::Cut, None) => {
                let detail = "its socket was destroyed, by an agent before this one or by somebody \
                              else who may";
                (
                    Outcome::Cut,
                    ResponseFlags::None,
                    because(Label::Cut, detail),
                )
            }
            (Ending::TimedOut, _) => {
                let reason = because(Label::TimedOut, "the other end did not answer any more");
                (Outcome::Failed, ResponseFlags::None, reason)
            }
            (Ending::Failed(errno), _) => {
                let reason = because(Label::Network, system(errno));
                (Outcome::Failed, ResponseFlags::None, reason)
            }
            _ => (Outcome::Allowed, ResponseFlags::None, allowed_by),
        };
        Self {
            outcome,
            flags,
            reason,
        }
    }

    /// Of one that never was.
    pub(super) fn refused(flow: &DirectFlow, end: Ending) -> Self {
        let to = flow.destination_address;
        let detail = match end {
            Ending::Refused | Ending::Reset => {
                format!("the application at {to} does not accept: connection refused")
            }
            Ending::TimedOut => format!("the application at {to} did not answer"),
            Ending::Failed(errno) => format!("cannot reach {to}: {}", system(errno)),
            Ending::Cut => format!("the connection to {to} was cut before it was established"),
            _ => format!("the caller gave up before {to} had answered"),
        };
        Self {
            outcome: Outcome::Failed,
            flags: ResponseFlags::Connect,
            reason: because(label(end), detail),
        }
    }
}

/// The label of a connection that was not established. For an application that is not there it is
/// the one of the agent's path.
const fn label(end: Ending) -> Label {
    match end {
        Ending::Refused | Ending::Reset | Ending::TimedOut => Label::AppUnreachable,
        Ending::Cut => Label::Cut,
        Ending::Failed(_) => Label::Network,
        Ending::Unknown => Label::Unknown,
        Ending::Abandoned | Ending::Aborted | Ending::Finished => Label::Abandoned,
    }
}

fn system(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

/// Completes a record with how it ended and what it carried.
pub(super) fn complete(record: &mut Record, ended: &Ended, totals: &Totals) {
    record.outcome = ended.outcome;
    record.flags = ended.flags;
    record.reason = ended.reason.clone();
    record.bytes_sent = totals.sent;
    record.bytes_received = totals.received;
    record.duration = totals.duration;
    record.tcp = measured(totals);
}

/// What the kernel measured, if it did.
pub(super) fn measured(totals: &Totals) -> Option<TcpFacts> {
    let round_trip = totals.round_trip?;
    Some(TcpFacts {
        round_trip,
        retransmits: u64::from(totals.retransmits),
    })
}
