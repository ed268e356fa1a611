//! Whether the kernel hands a connection to the agent, and which annotation says so: for people.
//!
//! Whether is looked up in the compiled rules, as the kernel does; which annotation is found by
//! reading them in their order. A property test holds the two together.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use interceptor_common::Action;
use ipnet::IpNet;
use serde::Serialize;

use super::{Compiled, canonical};
use crate::workload::{CaptureRules, OutboundPort, PortSelection};

/// Whether a connection is handed to the agent, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Captured {
    /// Whether.
    pub captured: bool,
    /// What says so.
    pub why: Why,
}

/// What says whether a connection is captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Connections inside of the workload are none of the mesh's business.
    Loopback,
    /// `excludeOutboundPorts` has it.
    ExcludedPort(u16),
    /// `excludeOutboundIPRanges` has it.
    ExcludedRange(IpNet),
    /// `includeOutboundPorts` has it.
    IncludedPort(u16),
    /// `includeOutboundIPRanges` has it.
    IncludedRange(IpNet),
    /// There is an `includeOutboundIPRanges`, and nothing in it has it.
    NotIncluded,
    /// `excludeInboundPorts` has it, or it is one of Istio's own ports.
    ExcludedInbound(u16),
    /// `includeInboundPorts` has it.
    IncludedInbound(u16),
    /// There is an `includeInboundPorts`, and it has it not.
    NotIncludedInbound(u16),
    /// No annotation says otherwise.
    Default,
}

/// Whether a connection that a workload opens to `to` is captured.
pub fn outbound_captured(rules: &CaptureRules, to: SocketAddr) -> Captured {
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    if is_left_alone(to.ip()) {
        return Captured {
            captured: false,
            why: Why::Loopback,
        };
    }
    Captured {
        captured: Compiled::new(rules).outbound_action(to) == Action::Capture,
        why: outbound_reason(rules, to),
    }
}

/// Whether a connection that arrives at this port of a workload, other than through a tunnel, is
/// captured.
pub fn inbound_captured(rules: &CaptureRules, port: u16) -> Captured {
    let why = match &rules.inbound {
        PortSelection::AllExcept(ports) if ports.contains(&port) => Why::ExcludedInbound(port),
        PortSelection::AllExcept(_) => Why::Default,
        PortSelection::Only(ports) if ports.contains(&port) => Why::IncludedInbound(port),
        PortSelection::Only(_) => Why::NotIncludedInbound(port),
    };
    Captured {
        captured: Compiled::new(rules).inbound_action(port) == Action::Capture,
        why,
    }
}

/// What the connect hook does not look at: the workload talking to itself.
const fn is_left_alone(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified()
}

/// The first annotation, in their order, that has the destination.
fn outbound_reason(rules: &CaptureRules, to: SocketAddr) -> Why {
    let bears = |port: &OutboundPort| match port {
        OutboundPort::Number(number) => *number == to.port(),
        OutboundPort::Named { endpoints, .. } => endpoints.contains(&to),
    };
    let containing = |ranges: &[IpNet]| {
        let canonical = ranges.iter().map(canonical);
        let mut found = canonical.filter(|range| range.contains(&to.ip()));
        found.next()
    };
    if rules.excluded_outbound_ports.iter().any(bears) {
        return Why::ExcludedPort(to.port());
    }
    if let Some(range) = containing(&rules.excluded_outbound_ranges) {
        return Why::ExcludedRange(range);
    }
    if rules.included_outbound_ports.iter().any(bears) {
        return Why::IncludedPort(to.port());
    }
    let Some(ranges) = &rules.included_outbound_ranges else {
        return Why::Default;
    };
    containing(ranges).map_or(Why::NotIncluded, Why::IncludedRange)
}

impl Why {
    /// Whether it says that the connection is captured.
    pub const fn captures(&self) -> bool {
        matches!(
            self,
            Self::IncludedPort(_)
                | Self::IncludedRange(_)
                | Self::IncludedInbound(_)
                | Self::Default
        )
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const PREFIX: &str = "traffic.sidecar.istio.io/";
        match self {
            Self::Loopback => f.write_str("connections inside of a workload stay there"),
            Self::ExcludedPort(port) => write!(f, "{PREFIX}excludeOutboundPorts has {port}"),
            Self::ExcludedRange(range) => write!(f, "{PREFIX}excludeOutboundIPRanges has {range}"),
            Self::IncludedPort(port) => write!(f, "{PREFIX}includeOutboundPorts has {port}"),
            Self::IncludedRange(range) => write!(f, "{PREFIX}includeOutboundIPRanges has {range}"),
            Self::NotIncluded => {
                write!(
                    f,
                    "no range of {PREFIX}includeOutboundIPRanges has the address"
                )
            }
            Self::ExcludedInbound(port @ (15020 | 15021 | 15090)) => {
                write!(
                    f,
                    "{port} is a port of Istio's own, which is never captured"
                )
            }
            Self::ExcludedInbound(port) => write!(f, "{PREFIX}excludeInboundPorts has {port}"),
            Self::IncludedInbound(port) => write!(f, "{PREFIX}includeInboundPorts has {port}"),
            Self::NotIncludedInbound(port) => {
                write!(f, "{PREFIX}includeInboundPorts does not have {port}")
            }
            Self::Default => f.write_str("no annotation says otherwise"),
        }
    }
}
