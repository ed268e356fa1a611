//! Taking the verdicts of open connections again whenever the mesh changes.
//!
//! A connection is only as legal as the configuration of this moment: if a policy, a label, a
//! service account or a peer's identity changes so that a new connection of the same kind would
//! be refused, the open one is cut and its record says why. The functions that judge are the ones
//! that judged at the start (`decide`), so the two cannot drift apart.
//!
//! What is *not* a reason to cut: an endpoint that a Service no longer lists, or a destination
//! that became enrolled after it was dialled in plaintext (its own agent judges that).

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use interceptor_policy::{Attempt, SpiffeId};

use super::Plane;
use super::registry::{Basis, Live};
use super::story::{because, reason_of};
use crate::decide::{self, Outbound};
use crate::drain::Tasks;
use crate::reason::Label;
use crate::telemetry::record::Reason;
use crate::workload::source::Published;
use crate::workload::{Mesh, Workload};

/// Re-checks every open connection after each change of the mesh, until asked to stop.
pub async fn run(plane: Arc<Plane>, mut published: Published, tasks: Tasks) {
    loop {
        tokio::select! {
            () = tasks.stopping() => return,
            () = published.changed() => {}
        }
        let mesh = published.snapshot();
        let live = plane.registry.snapshot();
        let cut = live.iter().filter(|live| !one(live, &mesh)).count();
        if cut > 0 {
            let version = mesh.version();
            tracing::info!(
                cut,
                version,
                "cut connections whose verdict no longer holds"
            );
        }
    }
}

/// Cuts `live` if its verdict does not hold in `mesh`. Returns whether it holds.
pub(super) fn one(live: &Live, mesh: &Mesh) -> bool {
    match still_holds(&live.basis, mesh) {
        Ok(()) => true,
        Err(reason) => {
            live.cut(reason);
            false
        }
    }
}

fn still_holds(basis: &Basis, mesh: &Mesh) -> Result<(), Reason> {
    match basis {
        Basis::Direct => Ok(()),
        Basis::Outbound {
            source,
            identity,
            original,
            peer,
        } => {
            let Some(source) = mesh.workload(source) else {
                return Err(gone(
                    "the workload that dialled is no longer part of the mesh",
                ));
            };
            if source.identity != *identity {
                return Err(identity_changed(identity, &source.identity));
            }
            match peer {
                Some((address, expected)) => peer_holds(mesh, *address, expected),
                None => plaintext_holds(mesh, source, *original),
            }
        }
        Basis::Inbound {
            destination,
            identity,
            source_ip,
            target,
        } => {
            let Some(destination) = mesh.workload(destination) else {
                return Err(gone(
                    "the workload that was reached is no longer part of the mesh",
                ));
            };
            let attempt = Attempt {
                source: identity.as_ref(),
                source_ip: *source_ip,
                destination_ip: target.ip(),
                destination_port: target.port(),
            };
            let verdict = decide::inbound(mesh, destination, attempt);
            verdict
                .is_allowed()
                .then_some(())
                .ok_or_else(|| reason_of(&verdict))
        }
    }
}

/// The workload at the peer's address must still be who it was, if the mesh knows it.
fn peer_holds(mesh: &Mesh, address: IpAddr, expected: &SpiffeId) -> Result<(), Reason> {
    match mesh.workload_at(address) {
        Some(peer) if peer.identity != *expected => Err(identity_changed(expected, &peer.identity)),
        _ => Ok(()),
    }
}

/// A plaintext connection must still be one that nobody wants refused.
fn plaintext_holds(mesh: &Mesh, source: &Workload, original: SocketAddr) -> Result<(), Reason> {
    match decide::outbound(mesh, source, original, 0) {
        Outbound::Refuse(refusal) if refusal.cause.is_deliberate() => {
            Err(because(refusal.reason(), refusal.to_string()))
        }
        _ => Ok(()),
    }
}

pub(super) fn gone(what: impl Into<Cow<'static, str>>) -> Reason {
    because(Label::WorkloadGone, what)
}

pub(super) fn identity_changed(was: &SpiffeId, now: &SpiffeId) -> Reason {
    because(
        Label::IdentityChanged,
        format!("the workload was {was} and is now {now}"),
    )
}

#[cfg(test)]
mod tests;
