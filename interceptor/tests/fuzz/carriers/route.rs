//! The way to a workload that nobody else knows, for whatever drives the transport from outside.
//! Benchmarks include this file, too.

use std::net::SocketAddr;
use std::sync::Arc;

use interceptor::workload::{
    CaptureRules, Enrolment, Route, SameNode, TunnelProtocol, UnknownDestinations, Workload,
    WorkloadId,
};
use interceptor_policy::SpiffeId;

/// The way to `authority`, where `peer` is, behind `gateway`.
pub(crate) fn route(gateway: SocketAddr, authority: SocketAddr, peer: SpiffeId) -> Route {
    let workload = Workload {
        id: WorkloadId {
            namespace: "demo".into(),
            name: "server".into(),
        },
        identity: peer.clone(),
        addresses: Vec::new(),
        labels: Arc::default(),
        node: None,
        ports: Arc::default(),
        protocol: TunnelProtocol::Hbone,
        enrolment: Enrolment::Enrolled,
        healthy: true,
        capture: CaptureRules::default(),
        binding: None,
        unknown_destinations: UnknownDestinations::Passthrough,
        same_node: SameNode::Kernel,
        canonical: Arc::default(),
    };
    Route {
        gateway,
        authority,
        peer,
        destination: Arc::new(workload),
        service: None,
    }
}
