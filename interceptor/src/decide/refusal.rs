//! Why an outbound connection is refused, as a label and as a sentence.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use interceptor_policy::PolicyName;

use crate::reason::Label;
use crate::workload::{ServiceName, Workload};

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
    /// The mesh does not know the address, and a `Sidecar` says that only what it knows is reached.
    NotRegistered {
        /// The address.
        to: SocketAddr,
        /// That `Sidecar`.
        sidecar: PolicyName,
        /// The ports of the `ServiceEntry` that has the address, if one has it.
        ports: Vec<u16>,
    },
    /// A `ServiceEntry` allows the address, and the workload's owner wants no plaintext.
    External {
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
            Self::AgentPort { .. }
            | Self::Unknown { .. }
            | Self::NotRegistered { .. }
            | Self::External { .. }
            | Self::NotEnrolled { .. } => true,
            Self::NoSuchPort { .. } | Self::NoEndpoint { .. } => false,
        }
    }
}

impl OutboundRefusal {
    /// The stable, low-cardinality label under which this refusal is counted.
    pub const fn reason(&self) -> Label {
        match self.cause {
            RefusalCause::AgentPort { .. } => Label::AgentPort,
            RefusalCause::NoSuchPort { .. } => Label::NoSuchServicePort,
            RefusalCause::NoEndpoint { .. } => Label::NoHealthyEndpoint,
            RefusalCause::Unknown { .. } => Label::UnknownDestination,
            RefusalCause::NotRegistered { .. } => Label::NotRegistered,
            RefusalCause::External { .. } => Label::ServiceEntry,
            RefusalCause::NotEnrolled { .. } => Label::NotEnrolled,
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
                write_ports(f, known)
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
            Self::NotRegistered { to, sidecar, ports } => {
                if !ports.is_empty() {
                    f.write_str("it has the address, but of its ports only ")?;
                    write_ports(f, ports)?;
                    f.write_str("; ")?;
                }
                write!(
                    f,
                    "no workload, Service or ServiceEntry has {to}, and \
                     outboundTrafficPolicy of Sidecar {sidecar} is REGISTRY_ONLY"
                )
            }
            Self::External { to } => write!(
                f,
                "{to} is outside of the mesh, so it cannot prove an identity, and \
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

fn write_ports(f: &mut fmt::Formatter<'_>, ports: &[u16]) -> fmt::Result {
    if ports.is_empty() {
        return f.write_str("none");
    }
    for (index, port) in ports.iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        write!(f, "{comma}{port}")?;
    }
    Ok(())
}
