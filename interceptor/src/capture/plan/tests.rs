//! What a workload's entries are, case by case.

use std::sync::Arc;

use rstest::rstest;

use super::*;
use crate::workload::{
    CaptureRules, Enrolment, PortSelection, SameNode, TunnelProtocol, UnknownDestinations,
    WorkloadId,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn workload(addresses: &[&str]) -> Workload {
    Workload {
        id: WorkloadId {
            namespace: Arc::from("default"),
            name: Arc::from("web"),
        },
        identity: "spiffe://cluster.local/ns/default/sa/web".parse().unwrap(),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        labels: Arc::default(),
        node: None,
        ports: Arc::default(),
        protocol: TunnelProtocol::Hbone,
        enrolment: Enrolment::Enrolled,
        healthy: true,
        capture: CaptureRules::default(),
        binding: None,
        unknown_destinations: UnknownDestinations::default(),
        same_node: SameNode::default(),
        canonical: Arc::default(),
    }
}

fn place(local: &[&str]) -> Place {
    Place {
        key: 42,
        local: local.iter().map(|text| ip(text)).collect(),
        left: Vec::new(),
        steered: true,
    }
}

#[rstest]
#[case::the_known_address(&["10.0.0.2"], &["10.0.0.1", "10.0.0.2"], Some("10.0.0.2"))]
#[case::any_local_one_if_the_known_is_elsewhere(&["10.9.9.9"], &["10.0.0.1"], Some("10.0.0.1"))]
#[case::never_one_that_is_not_local(&["10.0.0.2"], &[], None)]
#[case::of_the_right_family(&["fd00::2"], &["fd00::2"], None)]
fn captured_connections_are_rewritten_to(
    #[case] known: &[&str],
    #[case] local: &[&str],
    #[case] expected: Option<&str>,
) {
    let entries = place(local).entries(&workload(known));
    let target = entries.workload.unwrap().address4;
    assert_eq!(
        target,
        expected.map_or(Address::NONE, |text| mapped(ip(text)))
    );
}

#[test]
fn an_address_that_the_mesh_does_not_know_is_steered_as_well() {
    let entries = place(&["10.0.0.2", "fd00::2"]).entries(&workload(&["10.0.0.2"]));
    assert_eq!(entries.inbound.len(), 2);
    assert!(entries.inbound.contains_key(&mapped(ip("fd00::2"))));
}

#[test]
fn a_host_network_workload_is_not_steered() {
    let place = Place {
        steered: false,
        ..place(&["10.0.0.2"])
    };
    let entries = place.entries(&workload(&["10.0.0.2"]));
    assert!(entries.inbound.is_empty());
    assert!(entries.workload.is_some());
}

#[test]
fn excluded_inbound_ports_are_written_for_every_address() {
    let mut workload = workload(&["10.0.0.2", "fd00::2"]);
    workload.capture.inbound = PortSelection::AllExcept(vec![9_090]);
    let entries = place(&["10.0.0.2", "fd00::2"]).entries(&workload);
    assert_eq!(entries.ports.len(), 2);
    assert!(
        entries
            .ports
            .values()
            .all(|action| *action == Action::Pass.code())
    );
}
