//! Whether a connection past the agent may be, and go on.

use std::net::{IpAddr, SocketAddr};

use humantime::format_rfc3339_seconds;
use interceptor_policy::{Attempt, SpiffeId};

use crate::connection::recheck::{gone, identity_changed};
use crate::connection::story::{because, reason_of};
use crate::decide::{self, NotDirect, Revoked};
use crate::identity::Identities;
use crate::reason::Label;
use crate::telemetry::record::Reason;
use crate::workload::{Mesh, Workload, WorkloadId};

/// What a connection past the agent rests on.
#[derive(Clone, Debug)]
pub(in crate::connection) struct Pair {
    /// Who dialled, and the identity that it had.
    pub(super) source: (WorkloadId, SpiffeId),
    /// Who accepted, and the identity that it had.
    pub(super) destination: (WorkloadId, SpiffeId),
    /// The address that was dialled from.
    pub(super) source_ip: IpAddr,
    /// The address that was reached.
    pub(super) target: SocketAddr,
}

impl Pair {
    /// Whether the connection may go on, and what allows it.
    pub(super) fn holds(&self, mesh: &Mesh, identities: &Identities) -> Result<Reason, Reason> {
        let source = still(mesh, &self.source, "dialled")?;
        let destination = still(mesh, &self.destination, "was reached")?;
        for workload in [source, destination] {
            if !is_certified(identities, workload) {
                return Err(because(
                    Label::NoIdentity,
                    uncertified(identities, workload),
                ));
            }
        }
        let attempt = Attempt {
            source: Some(&source.identity),
            source_ip: self.source_ip,
            destination_ip: self.target.ip(),
            destination_port: self.target.port(),
        };
        match decide::direct_holds(mesh, source, destination, attempt) {
            Ok(verdict) => Ok(reason_of(&verdict)),
            Err(Revoked::Denied(verdict)) => Err(reason_of(&verdict)),
            Err(Revoked::Mtls(id, said_by)) => {
                let detail = NotDirect::Mtls(id, said_by).to_string();
                Err(because(Label::SameNodeMtls, detail))
            }
        }
    }
}

/// Whether the workload could prove who it is. Past the agent nobody asks it to; it may not do
/// more there than it could through the agent.
pub(super) fn is_certified(identities: &Identities, workload: &Workload) -> bool {
    identities.current(&workload.identity).is_some()
}

/// What to say of one that could not: since when, if that is known.
fn uncertified(identities: &Identities, workload: &Workload) -> String {
    let identity = &workload.identity;
    match identities.ended(identity).map(format_rfc3339_seconds) {
        Some(end) => format!("{identity} has no valid certificate: its last one ended at {end}"),
        None => format!("{identity} has no valid certificate"),
    }
}

/// The workload, if it is still who it was.
fn still<'m>(
    mesh: &'m Mesh,
    (id, identity): &(WorkloadId, SpiffeId),
    what: &str,
) -> Result<&'m Workload, Reason> {
    let Some(workload) = mesh.workload(id) else {
        let detail = format!("the workload that {what} is no longer part of the mesh");
        return Err(gone(detail));
    };
    if workload.identity == *identity {
        Ok(workload)
    } else {
        Err(identity_changed(identity, &workload.identity))
    }
}
