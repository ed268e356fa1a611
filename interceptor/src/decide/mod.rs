//! What becomes of one connection: pure functions over an immutable [`Mesh`].
//!
//! ```text
//!  original destination ──outbound──▶ Tunnel(Route) | Passthrough | Refuse
//!  authenticated attempt ──inbound──▶ Verdict (interceptor-policy)
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

mod endpoint;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use interceptor_policy::{Attempt, Verdict};

use crate::workload::{Mesh, Route, ServiceName, TunnelProtocol, UnknownDestinations, Workload};

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
}

impl PassthroughReason {
    /// The stable label under which this is counted.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Unknown => "unknown_destination",
            Self::NotEnrolled => "not_enrolled",
        }
    }
}

/// An outbound connection that is refused, and for whom it was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundRefusal {
    /// Why.
    pub cause: RefusalCause,
    /// The workload that it would have reached, as far as it was resolved.
    pub destination: Option<Arc<Workload>>,
    /// The Service through which it was addressed.
    pub service: Option<ServiceName>,
}

/// Why an outbound connection is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalCause {
    /// The port belongs to an agent, not to an application.
    AgentPort {
        /// Where it went.
        to: SocketAddr,
    },
    /// The Service has no such port.
    NoSuchPort {
        /// The port.
        port: u16,
        /// The ports that it has.
        known: Vec<u16>,
    },
    /// The Service has no endpoint that could take the connection.
    NoEndpoint {
        /// How many workloads it selects.
        selected: usize,
        /// Of those, how many are not ready.
        not_ready: usize,
        /// How many do not have the target port.
        without_port: usize,
        /// How many have no address yet.
        without_address: usize,
        /// How many run on other nodes although only this node's may be chosen.
        elsewhere: usize,
    },
    /// The mesh does not know the address, and the workload's owner wants no plaintext.
    Unknown {
        /// The address.
        to: SocketAddr,
    },
    /// The destination is not enrolled, and the workload's owner wants no plaintext.
    NotEnrolled {
        /// The address.
        to: SocketAddr,
    },
}

impl RefusalCause {
    /// Whether somebody wants it refused, rather than that nothing could take it now. Only then
    /// does a connection that is already open have to end: an endpoint that is no longer ready
    /// takes no new connections and keeps those that it has.
    pub const fn is_deliberate(&self) -> bool {
        match self {
            Self::AgentPort { .. } | Self::Unknown { .. } | Self::NotEnrolled { .. } => true,
            Self::NoSuchPort { .. } | Self::NoEndpoint { .. } => false,
        }
    }
}

impl OutboundRefusal {
    /// The stable, low-cardinality label under which this refusal is counted.
    pub const fn reason(&self) -> &'static str {
        match self.cause {
            RefusalCause::AgentPort { .. } => "agent_port",
            RefusalCause::NoSuchPort { .. } => "no_such_service_port",
            RefusalCause::NoEndpoint { .. } => "no_healthy_endpoint",
            RefusalCause::Unknown { .. } => "unknown_destination",
            RefusalCause::NotEnrolled { .. } => "not_enrolled",
        }
    }
}

impl fmt::Display for OutboundRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.service, &self.destination) {
            (Some(service), _) => write!(f, "service {service}: ")?,
            (None, Some(workload)) => write!(f, "workload {}: ", workload.id)?,
            (None, None) => {}
        }
        self.cause.fmt(f)
    }
}

impl fmt::Display for RefusalCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AgentPort { to } => write!(
                f,
                "{to} is a port of the node agent; connect to a port of the application"
            ),
            Self::NoSuchPort { port, known } => {
                write!(f, "it has no TCP port {port}; it has ")?;
                if known.is_empty() {
                    return f.write_str("none");
                }
                for (index, port) in known.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(f, "{comma}{port}")?;
                }
                Ok(())
            }
            Self::NoEndpoint { selected: 0, .. } => {
                f.write_str("it selects no workload; compare its selector with the Pods' labels")
            }
            Self::NoEndpoint {
                selected,
                not_ready,
                without_port,
                without_address,
                elsewhere,
            } => {
                write!(
                    f,
                    "none of its {selected} endpoints can take the connection"
                )?;
                let mut separator = ": ";
                for (count, what) in [
                    (not_ready, "not ready"),
                    (without_port, "without the target port"),
                    (without_address, "without an address"),
                    (elsewhere, "on other nodes (internalTrafficPolicy: Local)"),
                ] {
                    if *count > 0 {
                        write!(f, "{separator}{count} {what}")?;
                        separator = ", ";
                    }
                }
                Ok(())
            }
            Self::Unknown { to } => write!(
                f,
                "no workload or service of the mesh has the address {to}, and \
                 interceptor.dev/unknown-destinations is refuse"
            ),
            Self::NotEnrolled { to } => write!(
                f,
                "{to} is not enrolled, so it cannot prove an identity, and \
                 interceptor.dev/unknown-destinations is refuse"
            ),
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
        None => plaintext(source, original, None, None),
    }
}

/// One `choice` for each way that [`outbound`] may go: one per endpoint behind a Service, one for
/// any other destination. For tools that have to know all of them.
pub fn choices(mesh: &Mesh, source: &Workload, original: SocketAddr) -> Vec<u64> {
    let original = SocketAddr::new(original.ip().to_canonical(), original.port());
    let service = mesh.service_at(original.ip());
    let mut choices = service
        .map(|service| endpoint::choices(service, source, original))
        .unwrap_or_default();
    if choices.is_empty() {
        choices.push(0);
    }
    choices
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
        return plaintext(source, to, Some(workload), service);
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

fn plaintext(
    source: &Workload,
    to: SocketAddr,
    workload: Option<&Arc<Workload>>,
    service: Option<&ServiceName>,
) -> Outbound {
    let destination = workload.map(Arc::clone);
    let service = service.cloned();
    let known = destination.is_some();
    match source.unknown_destinations {
        UnknownDestinations::Passthrough => Outbound::Passthrough {
            to,
            why: if known {
                PassthroughReason::NotEnrolled
            } else {
                PassthroughReason::Unknown
            },
            destination,
            service,
        },
        UnknownDestinations::Refuse => Outbound::Refuse(OutboundRefusal {
            cause: if known {
                RefusalCause::NotEnrolled { to }
            } else {
                RefusalCause::Unknown { to }
            },
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
mod tests;
