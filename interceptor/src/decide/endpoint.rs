//! Which endpoint of a Service takes a connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{RefusalCause, Share};
use crate::workload::{Endpoint, Locality, Service, Workload};

/// Chooses the workload and the address behind `service` for a connection to `original`, by
/// weight among the usable endpoints.
///
/// Two passes over the endpoints and no allocation: the first sums the weights, the second finds
/// the share that `choice` falls into.
pub(super) fn choose<'s>(
    service: &'s Service,
    source: &Workload,
    original: SocketAddr,
    choice: u64,
) -> Result<(&'s Arc<Workload>, SocketAddr), RefusalCause> {
    let port = original.port();
    if !service.ports.iter().any(|known| known.port == port) {
        return Err(RefusalCause::NoSuchPort {
            port,
            known: service.ports.iter().map(|known| known.port).collect(),
        });
    }
    let eligible = || eligible(service, source, original);
    let total: u64 = eligible().map(|candidate| candidate.weight).sum();
    let mut share = choice.checked_rem(total).unwrap_or_default();
    for candidate in eligible() {
        if share < candidate.weight {
            return Ok((candidate.workload, candidate.to));
        }
        share -= candidate.weight;
    }
    Err(why_none(service, source, original))
}

/// One share for each endpoint that could take the connection.
pub(super) fn shares(service: &Service, source: &Workload, original: SocketAddr) -> Vec<Share> {
    let eligible = eligible(service, source, original);
    Share::of(eligible.map(|candidate| candidate.weight))
}

/// Those endpoints, in the same order.
pub(super) fn each<'s>(
    service: &'s Service,
    source: &Workload,
    original: SocketAddr,
) -> impl Iterator<Item = (&'s Arc<Workload>, SocketAddr)> {
    eligible(service, source, original).map(|candidate| (candidate.workload, candidate.to))
}

/// The endpoints that could take the connection, as far away as the Service wants.
fn eligible<'s>(
    service: &'s Service,
    source: &Workload,
    original: SocketAddr,
) -> impl Iterator<Item = Candidate<'s>> {
    let candidates = move || {
        (service.endpoints.iter())
            .filter_map(move |endpoint| usable(service, endpoint, source, original))
    };
    let only_here = match service.locality {
        Locality::Any | Locality::OnlyNode => false,
        Locality::PreferNode => candidates().any(|candidate| candidate.same_node),
    };
    candidates().filter(move |candidate| candidate.same_node || !only_here)
}

/// An endpoint that could take the connection.
struct Candidate<'s> {
    workload: &'s Arc<Workload>,
    to: SocketAddr,
    weight: u64,
    same_node: bool,
}

fn usable<'s>(
    service: &Service,
    endpoint: &'s Endpoint,
    source: &Workload,
    original: SocketAddr,
) -> Option<Candidate<'s>> {
    let workload = &endpoint.workload;
    let port = *endpoint.target_ports.get(&original.port())?;
    let address = address(workload, original.ip())?;
    let same_node = on_node_of(workload, source);
    let healthy = workload.healthy || service.publish_not_ready;
    let allowed = same_node || service.locality != Locality::OnlyNode;
    (healthy && allowed).then(|| Candidate {
        workload,
        to: SocketAddr::new(address, port),
        weight: u64::from(endpoint.weight.max(1)),
        same_node,
    })
}

/// The workload's address, in the client's family if it has one there.
fn address(workload: &Workload, like: IpAddr) -> Option<IpAddr> {
    let of_family = |address: &&IpAddr| address.is_ipv4() == like.is_ipv4();
    let addresses = &workload.addresses;
    let found = addresses.iter().find(of_family).or(addresses.first());
    found.copied()
}

fn on_node_of(workload: &Workload, source: &Workload) -> bool {
    source.node.is_some() && workload.node == source.node
}

/// Every endpoint is counted under the first thing that rules it out.
fn why_none(service: &Service, source: &Workload, original: SocketAddr) -> RefusalCause {
    let (mut not_ready, mut without_port, mut without_address, mut elsewhere) = (0, 0, 0, 0);
    for endpoint in &service.endpoints {
        let workload = &endpoint.workload;
        if !endpoint.target_ports.contains_key(&original.port()) {
            without_port += 1;
        } else if workload.addresses.is_empty() {
            without_address += 1;
        } else if !workload.healthy && !service.publish_not_ready {
            not_ready += 1;
        } else if !on_node_of(workload, source) {
            elsewhere += 1;
        }
    }
    RefusalCause::NoEndpoint {
        selected: service.endpoints.len(),
        not_ready,
        without_port,
        without_address,
        elsewhere,
    }
}
