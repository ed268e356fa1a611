//! Connections to addresses outside of the mesh: what `ServiceEntry` objects and the workload's
//! egress mode make of them.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Outbound, OutboundRefusal, PassthroughReason, RefusalCause, Share, reach};
use crate::workload::external::{External, ExternalEndpoint, Registered, Resolution};
use crate::workload::{Mesh, UnknownDestinations, Workload};

/// Decides what becomes of a connection to an address that is neither a Service's nor a
/// workload's.
pub(super) fn beyond(mesh: &Mesh, source: &Workload, to: SocketAddr, choice: u64) -> Outbound {
    match mesh.registered_at(&source.id.namespace, to) {
        Registered::Entry(entry) if entry.resolution == Resolution::Static => {
            one_of(mesh, source, entry, to, choice)
        }
        Registered::Entry(entry) | Registered::Endpoint(entry) => pass(source, entry, to),
        Registered::OtherPort(entry) => unknown(source, to, Some(entry)),
        Registered::Nothing => unknown(source, to, None),
    }
}

/// One share for each endpoint that could take the connection.
pub(super) fn shares(mesh: &Mesh, source: &Workload, to: SocketAddr) -> Vec<Share> {
    let Registered::Entry(entry) = mesh.registered_at(&source.id.namespace, to) else {
        return Vec::new();
    };
    Share::of(usable(entry, to.port()).map(|endpoint| u64::from(endpoint.weight.max(1))))
}

fn usable(entry: &External, port: u16) -> impl Iterator<Item = &ExternalEndpoint> {
    (entry.endpoints.iter()).filter(move |endpoint| {
        let healthy = endpoint
            .workload
            .as_ref()
            .is_none_or(|workload| workload.healthy);
        healthy && endpoint.target_ports.contains_key(&port)
    })
}

/// The endpoint that `choice` falls into, by weight.
fn one_of(
    mesh: &Mesh,
    source: &Workload,
    entry: &Arc<External>,
    original: SocketAddr,
    choice: u64,
) -> Outbound {
    let port = original.port();
    let weight = |endpoint: &ExternalEndpoint| u64::from(endpoint.weight.max(1));
    let total: u64 = usable(entry, port).map(weight).sum();
    let mut share = choice.checked_rem(total).unwrap_or_default();
    for endpoint in usable(entry, port) {
        if share >= weight(endpoint) {
            share -= weight(endpoint);
            continue;
        }
        let target = endpoint.target_ports.get(&port).copied().unwrap_or(port);
        let to = SocketAddr::new(endpoint.address, target);
        return match mesh.workload_at(endpoint.address) {
            Some(workload) => reach(mesh, source, workload, to, Some(&entry.name)),
            None => pass(source, entry, to),
        };
    }
    let not_ready = (entry.endpoints.iter())
        .filter(|endpoint| endpoint.workload.as_ref().is_some_and(|w| !w.healthy));
    Outbound::Refuse(OutboundRefusal {
        cause: RefusalCause::NoEndpoint {
            selected: entry.endpoints.len(),
            not_ready: not_ready.count(),
            without_port: 0,
            without_address: 0,
            elsewhere: 0,
        },
        destination: None,
        service: Some(entry.name.clone()),
    })
}

/// Out in plaintext, because an entry allows it. A workload whose owner wants no plaintext at all
/// does not send it there, either.
fn pass(source: &Workload, entry: &External, to: SocketAddr) -> Outbound {
    let service = Some(entry.name.clone());
    match source.unknown_destinations {
        UnknownDestinations::Passthrough | UnknownDestinations::RegistryOnly(_) => {
            Outbound::Passthrough {
                to,
                why: PassthroughReason::External,
                destination: None,
                service,
            }
        }
        UnknownDestinations::Refuse => Outbound::Refuse(OutboundRefusal {
            cause: RefusalCause::External { to },
            destination: None,
            service,
        }),
    }
}

/// Nobody has allowed it.
fn unknown(source: &Workload, to: SocketAddr, other_port: Option<&Arc<External>>) -> Outbound {
    let cause = match &source.unknown_destinations {
        UnknownDestinations::Passthrough => {
            return Outbound::Passthrough {
                to,
                why: PassthroughReason::Unknown,
                destination: None,
                service: None,
            };
        }
        UnknownDestinations::RegistryOnly(sidecar) => RefusalCause::NotRegistered {
            to,
            sidecar: sidecar.clone(),
            ports: other_port
                .map(|entry| entry.ports.iter().map(|port| port.port).collect())
                .unwrap_or_default(),
        },
        UnknownDestinations::Refuse => RefusalCause::Unknown { to },
    };
    Outbound::Refuse(OutboundRefusal {
        cause,
        destination: None,
        service: other_port.map(|entry| entry.name.clone()),
    })
}
