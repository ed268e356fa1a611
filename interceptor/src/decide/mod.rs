//! What becomes of one connection: pure functions over an immutable [`Mesh`].
//!
//! ```text
//!  original destination ──outbound──▶ Tunnel(Route) | Passthrough | Refuse
//!  authenticated attempt ──inbound──▶ Verdict (interceptor-policy)
//!  pair on one node ───────ways─────▶ Direct | NotDirect, for each endpoint
//! ```
//!
//! # Why it is pure
//!
//! Every security property of the agent rests on these functions, so they do no I/O, read no
//! clock, draw no random number and take no lock. A decision depends on its arguments only: a
//! table of cases is a complete test, and offline tools get the answer that the node would give.
//!
//! # Invariants
//!
//! * A Service without a usable endpoint is a refusal, never a passthrough to its address.
//! * A route names the identity that the peer must prove. Transport never chooses one.
//! * The agent is never made to call itself.
//!
//! Not here: recovering the original destination (`capture`), dialling (`transport`).

mod direct;
mod endpoint;
mod external;
mod refusal;

use std::net::SocketAddr;
use std::sync::Arc;

use interceptor_policy::{Attempt, Verdict};

use crate::reason::Label;
use crate::workload::{Mesh, Route, ServiceName, TunnelProtocol, UnknownDestinations, Workload};

pub use direct::{Direct, NotDirect, Revoked, Way, beside_the_kernel, direct_holds, slots, ways};
pub use refusal::{OutboundRefusal, RefusalCause};

/// What becomes of an outbound connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// Carried over mutual TLS.
    Tunnel(Route),
    /// Carried in plaintext, because the other end cannot prove an identity.
    Passthrough {
        /// Where to.
        to: SocketAddr,
        /// Why not over mutual TLS.
        why: PassthroughReason,
        /// The workload at that address, if one is known.
        destination: Option<Arc<Workload>>,
        /// The Service through which it was addressed.
        service: Option<ServiceName>,
    },
    /// Refused.
    Refuse(OutboundRefusal),
}

/// Why a connection is carried in plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PassthroughReason {
    /// No Service and no workload has that address.
    Unknown,
    /// The workload is known, but not part of the mesh.
    NotEnrolled,
    /// A `ServiceEntry` allows it.
    External,
}

impl PassthroughReason {
    /// The stable label under which this is counted.
    pub const fn reason(self) -> Label {
        match self {
            Self::Unknown => Label::UnknownDestination,
            Self::NotEnrolled => Label::NotEnrolled,
            Self::External => Label::ServiceEntry,
        }
    }
}

/// Decides what becomes of a connection that `source` opened to `original`.
///
/// `choice` is a random number from the caller; it selects among the endpoints of a Service.
pub fn outbound(mesh: &Mesh, source: &Workload, original: SocketAddr, choice: u64) -> Outbound {
    let original = SocketAddr::new(original.ip().to_canonical(), original.port());
    if let Some(service) = mesh.service_at(original.ip()) {
        return match endpoint::choose(service, source, original, choice) {
            Ok((workload, to)) => reach(mesh, source, workload, to, Some(&service.name)),
            Err(cause) => Outbound::Refuse(OutboundRefusal {
                cause,
                destination: None,
                service: Some(service.name.clone()),
            }),
        };
    }
    match mesh.workload_at(original.ip()) {
        Some(workload) => reach(mesh, source, workload, original, None),
        None => external::beyond(mesh, source, original, choice),
    }
}

/// One `choice` for each way that [`outbound`] may go: one per endpoint behind a Service, one for
/// any other destination. For tools that have to know all of them.
pub fn choices(mesh: &Mesh, source: &Workload, original: SocketAddr) -> Vec<u64> {
    let shares = shares(mesh, source, original);
    shares.into_iter().map(|share| share.choice).collect()
}

/// One of the ways that [`outbound`] may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    /// The first `choice` that leads there.
    choice: u64,
    /// How many do.
    weight: u64,
}

impl Share {
    /// The shares of ways with these weights.
    fn of(weights: impl Iterator<Item = u64>) -> Vec<Self> {
        let mut choice: u64 = 0;
        let share = |weight| {
            let share = Self { choice, weight };
            choice += weight;
            share
        };
        weights.map(share).collect()
    }
}

/// Every way that a connection may go; at least one.
fn shares(mesh: &Mesh, source: &Workload, original: SocketAddr) -> Vec<Share> {
    let original = SocketAddr::new(original.ip().to_canonical(), original.port());
    let mut shares = match mesh.service_at(original.ip()) {
        Some(service) => endpoint::shares(service, source, original),
        None => external::shares(mesh, source, original),
    };
    if shares.is_empty() {
        shares.extend(Share::of(std::iter::once(1)));
    }
    shares
}

/// How to reach `to`, which belongs to `workload`.
fn reach(
    mesh: &Mesh,
    source: &Workload,
    workload: &Arc<Workload>,
    to: SocketAddr,
    service: Option<&ServiceName>,
) -> Outbound {
    if workload.protocol == TunnelProtocol::None {
        return plaintext(source, to, workload, service);
    }
    let ports = mesh.settings().ports;
    if ports.contains(to.port()) {
        return Outbound::Refuse(OutboundRefusal {
            cause: RefusalCause::AgentPort { to },
            destination: Some(Arc::clone(workload)),
            service: service.cloned(),
        });
    }
    Outbound::Tunnel(Route {
        gateway: SocketAddr::new(to.ip(), ports.hbone),
        authority: to,
        peer: workload.identity.clone(),
        destination: Arc::clone(workload),
        service: service.cloned(),
    })
}

/// To a workload that cannot prove an identity. It is known, so only an owner who wants no
/// plaintext at all keeps it from being reached.
fn plaintext(
    source: &Workload,
    to: SocketAddr,
    workload: &Arc<Workload>,
    service: Option<&ServiceName>,
) -> Outbound {
    let destination = Some(Arc::clone(workload));
    let service = service.cloned();
    match source.unknown_destinations {
        UnknownDestinations::Passthrough | UnknownDestinations::RegistryOnly(_) => {
            Outbound::Passthrough {
                to,
                why: PassthroughReason::NotEnrolled,
                destination,
                service,
            }
        }
        UnknownDestinations::Refuse => Outbound::Refuse(OutboundRefusal {
            cause: RefusalCause::NotEnrolled { to },
            destination,
            service,
        }),
    }
}

/// Decides whether `attempt` may reach `destination`: the same evaluator for tunnels, for
/// plaintext and for the second look at connections that are already open.
pub fn inbound(mesh: &Mesh, destination: &Workload, attempt: Attempt<'_>) -> Verdict {
    mesh.policies(destination).decide(&attempt)
}

/// The verdict of [`inbound`] with everything that was considered for it.
pub fn explain_inbound(
    mesh: &Mesh,
    destination: &Workload,
    attempt: Attempt<'_>,
) -> interceptor_policy::Explanation {
    mesh.policies(destination).explain(&attempt)
}

#[cfg(test)]
mod direct_tests;
#[cfg(test)]
mod egress_tests;
#[cfg(test)]
mod tests;
