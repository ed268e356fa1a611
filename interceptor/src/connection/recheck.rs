//! Taking the verdicts of open connections again whenever the mesh changes.
//!
//! A connection is only as legal as the configuration of this moment: if a policy, a label, a
//! service account or a peer's identity changes so that a new connection of the same kind would
//! be refused, the open one is cut and its record says why. The functions that judge are the ones
//! that judged at the start (`decide`), so the two cannot drift apart.
//!
//! What is *not* a reason to cut: an endpoint that a Service no longer lists, or a destination
//! that became enrolled after it was dialled in plaintext (its own agent judges that).

use interceptor_policy::Attempt;

use super::registry::{Basis, Live, Registry};
use crate::decide::{self, Outbound};
use crate::drain::Tasks;
use crate::telemetry::record::Reason;
use crate::workload::Mesh;
use crate::workload::source::Published;

/// Re-checks every open connection after each change of the mesh, until asked to stop.
pub async fn run(registry: Registry, mut published: Published, tasks: Tasks) {
    loop {
        tokio::select! {
            () = tasks.stopping() => return,
            () = published.changed() => {}
        }
        let now = published.snapshot();
        let mut cut = 0_u64;
        for live in registry.snapshot() {
            if !one(&live, &now) {
                cut = cut.saturating_add(1);
            }
        }
        if cut > 0 {
            tracing::info!(
                cut,
                mesh = now.version(),
                "cut connections whose verdict no longer holds"
            );
        }
    }
}

/// Cuts `live` if its verdict does not hold in `mesh`. Returns whether it holds.
pub fn one(live: &Live, mesh: &Mesh) -> bool {
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
                return Err(identity_changed(&source.identity));
            }
            if let Some((address, proven)) = peer {
                return match mesh.workload_at(*address) {
                    Some(workload) if workload.identity != *proven => {
                        Err(identity_changed(&workload.identity))
                    }
                    _ => Ok(()),
                };
            }
            match decide::outbound(mesh, source, *original, 0) {
                Outbound::Refuse(refusal) if refusal.cause.is_deliberate() => Err(Reason {
                    label: refusal.reason(),
                    policy: None,
                    rule: None,
                    detail: Some(refusal.to_string()),
                }),
                _ => Ok(()),
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
            let verdict = decide::inbound(
                mesh,
                destination,
                Attempt {
                    source: identity.as_ref(),
                    source_ip: *source_ip,
                    destination_ip: target.ip(),
                    destination_port: target.port(),
                },
            );
            if verdict.is_allowed() {
                Ok(())
            } else {
                Err(super::story::reason_of(&verdict))
            }
        }
    }
}

fn gone(what: &str) -> Reason {
    Reason {
        label: "workload_gone",
        policy: None,
        rule: None,
        detail: Some(what.to_owned()),
    }
}

fn identity_changed(now: &interceptor_policy::SpiffeId) -> Reason {
    Reason {
        label: "identity_changed",
        policy: None,
        rule: None,
        detail: Some(format!("the workload's identity is now {now}")),
    }
}
