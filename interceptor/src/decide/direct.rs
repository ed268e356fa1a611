//! Which connections may go from socket to socket, past the agent: the verdicts that the kernel
//! may hold.
//!
//! A connection is decided here before it exists, once for all of its kind. So it must be one
//! between two enrolled workloads of this node, allowed by the functions that decide on the
//! agent's path, by a verdict that cannot come out differently for the next connection
//! ([`Unsettled`]). Whatever is not certain stays on the agent's path: a pair that is denied is
//! never direct, so that every refusal is the agent's, with its reason.
//!
//! `PeerAuthentication` STRICT asks for a caller that proves who it is and for bytes that nobody
//! else sees. The kernel knows whose socket it is, and the bytes never leave it: it is satisfied.
//!
//! Not here: telling the kernel (`capture`), when to (`connection`), certificates, which are no
//! part of a [`Mesh`].

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use interceptor_policy::{Attempt, Unsettled, Verdict};

use super::{Outbound, Share, endpoint, inbound, reach, shares};
use crate::workload::{
    Binding, Enrolment, Mesh, PortSelection, Route, SaidBy, SameNode, Workload, WorkloadId,
};

/// One of the ways that connections of a workload to an address may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// What leads there with [`outbound`](super::outbound).
    pub choice: u64,
    /// Its share of the connections, relative to the others'.
    pub weight: u64,
    /// Where it leads past the agent, or why not.
    pub direct: Result<Direct, NotDirect>,
}

/// Where a connection leads past the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direct {
    /// The workload.
    pub destination: Arc<Workload>,
    /// Its address and port.
    pub to: SocketAddr,
}

/// Why a connection that goes past the agent may not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// This workload is to be connected over mutual TLS, and who said so.
    Mtls(WorkloadId, SaidBy),
    /// It is refused now.
    Denied(Box<Verdict>),
}

/// Why a connection does not go past the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotDirect {
    /// The destination is not reached over mutual TLS, either: it is outside of the mesh, or
    /// nobody could take the connection.
    NotInMesh,
    /// It runs on another node.
    OtherNode,
    /// It is the caller itself.
    Itself,
    /// The destination's network is the host's, or not bound: nothing is let in there.
    NotBound(WorkloadId),
    /// The destination's owner has this port not captured.
    NotCaptured {
        /// The port.
        port: u16,
    },
    /// The endpoint has no address of the family that was dialled.
    OtherFamily,
    /// This workload is to be connected over mutual TLS, and who said so.
    Mtls(WorkloadId, SaidBy),
    /// The verdict may differ from one connection to the next.
    Unsettled(Unsettled),
    /// It is refused; the agent says so.
    Denied(Box<Verdict>),
}

/// So many slots the kernel has for the targets of an address.
const SLOTS: usize = 16;

/// Every way that connections of `source` to `original` may go.
pub fn ways(mesh: &Mesh, source: &Workload, original: SocketAddr) -> Vec<Way> {
    let original = SocketAddr::new(original.ip().to_canonical(), original.port());
    let shares = shares(mesh, source, original).into_iter();
    let way = |(share, direct): (Share, Result<Direct, NotDirect>)| Way {
        choice: share.choice,
        weight: share.weight,
        direct,
    };
    if let Some(service) = mesh.service_at(original.ip()) {
        // Each endpoint is looked at once: to ask `outbound` for each would look at all for each.
        let endpoints = endpoint::each(service, source, original);
        let direct = endpoints
            .map(|(workload, to)| direct(mesh, source, workload, (original, to)))
            .chain(std::iter::repeat(Err(NotDirect::NotInMesh)));
        return shares.zip(direct).map(way).collect();
    }
    let resolve = |share: Share| {
        let direct = match mesh.workload_at(original.ip()) {
            Some(workload) => direct(mesh, source, workload, (original, original)),
            // What a ServiceEntry leads to is not drawn by the kernel.
            None => Err(NotDirect::NotInMesh),
        };
        way((share, direct))
    };
    shares.map(resolve).collect()
}

/// Whether connections to `original` that lead to this workload at `to` may be direct.
fn direct(
    mesh: &Mesh,
    source: &Workload,
    workload: &Arc<Workload>,
    (original, to): (SocketAddr, SocketAddr),
) -> Result<Direct, NotDirect> {
    // First, because most endpoints of a large Service are elsewhere.
    if source.node.is_none() || workload.node != source.node {
        return Err(NotDirect::OtherNode);
    }
    let Outbound::Tunnel(Route { destination, .. }) = reach(mesh, source, workload, to, None)
    else {
        return Err(NotDirect::NotInMesh);
    };
    is_open_here(source, &destination, to)?;
    if to.is_ipv4() != original.is_ipv4() {
        return Err(NotDirect::OtherFamily);
    }
    let attempt = Attempt {
        source: Some(&source.identity),
        // Whatever it is: a verdict that depends on it is not settled.
        source_ip: source.addresses.first().copied().unwrap_or(to.ip()),
        destination_ip: to.ip(),
        destination_port: to.port(),
    };
    direct_holds(mesh, source, &destination, attempt)?;
    match mesh.policies(&destination).unsettled(&attempt) {
        Some(unsettled) => Err(NotDirect::Unsettled(unsettled)),
        None => Ok(Direct { destination, to }),
    }
}

/// Whether the kernel can let the connection in at `destination`, which is on the same node.
fn is_open_here(
    source: &Workload,
    destination: &Workload,
    to: SocketAddr,
) -> Result<(), NotDirect> {
    if destination.id == source.id {
        return Err(NotDirect::Itself);
    }
    let on_host = matches!(destination.binding, Some(Binding::Cgroup(_)));
    if on_host || destination.enrolment != Enrolment::Enrolled {
        return Err(NotDirect::NotBound(destination.id.clone()));
    }
    let port = to.port();
    let captured = match &destination.capture.inbound {
        PortSelection::AllExcept(ports) => !ports.contains(&port),
        PortSelection::Only(ports) => ports.contains(&port),
    };
    captured
        .then_some(())
        .ok_or(NotDirect::NotCaptured { port })
}

/// Whether a connection that went past the agent may go on, and by what verdict: neither end wants
/// mutual TLS, and the destination's policies allow it.
///
/// # Errors
///
/// What forbids it.
pub fn direct_holds(
    mesh: &Mesh,
    source: &Workload,
    destination: &Workload,
    attempt: Attempt<'_>,
) -> Result<Verdict, Revoked> {
    for workload in [source, destination] {
        if let SameNode::Mtls(said_by) = workload.same_node {
            return Err(Revoked::Mtls(workload.id.clone(), said_by));
        }
    }
    let verdict = inbound(mesh, destination, attempt);
    if verdict.is_allowed() {
        Ok(verdict)
    } else {
        Err(Revoked::Denied(Box::new(verdict)))
    }
}

/// The targets among which the kernel draws, each as often as its share of the connections; `None`
/// is the agent's path. Nothing if no way is direct.
///
/// With more shares than slots, `turn` decides who gets one: over many addresses, and over the
/// changes of the mesh, everybody gets the share that it should have.
pub fn slots(ways: &[Way], turn: u64) -> Vec<Option<SocketAddr>> {
    let total: u64 = ways.iter().map(|way| way.weight).sum();
    let unit = ways.iter().map(|way| way.weight).fold(0, divisor);
    let exact = total.checked_div(unit).unwrap_or_default();
    let most = u64::try_from(SLOTS).unwrap_or_default();
    let count = exact.min(most);
    let turn = if exact <= most {
        0
    } else {
        turn.checked_rem(total).unwrap_or_default()
    };
    let at = |slot: u64| {
        let place = u128::from(slot) * u128::from(total) + u128::from(turn);
        let place = place.checked_div(u128::from(count)).unwrap_or_default();
        let way = (ways.iter())
            .take_while(|way| u128::from(way.choice) <= place)
            .last()?;
        way.direct.as_ref().ok().map(|direct| direct.to)
    };
    let slots: Vec<_> = (0..count).map(at).collect();
    if slots.iter().any(Option::is_some) {
        slots
    } else {
        Vec::new()
    }
}

const fn divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The `choice` for a connection that drew the agent's path: one of the ways that are not direct,
/// by weight, or `choice` itself if there is none any more.
///
/// The kernel has given those that are direct their share already.
pub fn beside_the_kernel(ways: &[Way], choice: u64) -> u64 {
    let others = || ways.iter().filter(|way| way.direct.is_err());
    let total: u64 = others().map(|way| way.weight).sum();
    let mut share = choice.checked_rem(total).unwrap_or_default();
    for way in others() {
        if share < way.weight {
            return way.choice;
        }
        share -= way.weight;
    }
    choice
}

impl From<Revoked> for NotDirect {
    fn from(revoked: Revoked) -> Self {
        match revoked {
            Revoked::Mtls(id, said_by) => Self::Mtls(id, said_by),
            Revoked::Denied(verdict) => Self::Denied(verdict),
        }
    }
}

impl fmt::Display for NotDirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInMesh => f.write_str("no workload of the mesh is reached"),
            Self::OtherNode => f.write_str("it runs on another node"),
            Self::Itself => f.write_str("it is the caller itself"),
            Self::NotBound(id) => write!(f, "{id} has no network namespace of its own"),
            Self::NotCaptured { port } => write!(f, "its port {port} is not captured"),
            Self::OtherFamily => f.write_str("it has no address of the family that is dialled"),
            Self::Mtls(id, SaidBy::Workload) => {
                write!(f, "{id} wants mutual TLS on its node (same-node: mtls)")
            }
            Self::Mtls(id, SaidBy::Namespace) => write!(
                f,
                "the namespace {} wants mutual TLS inside of nodes (same-node: mtls), and {id} says \
                 nothing else",
                id.namespace
            ),
            Self::Mtls(id, SaidBy::Mesh) => write!(
                f,
                "the mesh wants mutual TLS inside of nodes (sameNode: mtls in the configuration), \
                 and neither {id} nor its namespace says anything else"
            ),
            Self::Unsettled(unsettled) => unsettled.fmt(f),
            Self::Denied(verdict) => verdict.fmt(f),
        }
    }
}
