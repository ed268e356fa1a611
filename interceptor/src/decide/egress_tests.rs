//! What leaves the mesh: `ServiceEntry` as an allow-list, `Sidecar` as the rule, by name.

use rstest::rstest;

use super::{Outbound, choices, outbound};
use crate::workload::fixtures::{mesh, workload};

/// A namespace that may reach only what is registered, one that may reach anything, one workload
/// that may not send plaintext at all.
const DEMO: &str = "
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Namespace
  metadata: {name: closed, labels: {istio.io/dataplane-mode: ambient}}
- apiVersion: v1
  kind: Pod
  metadata: {name: caller, namespace: closed}
  spec: {nodeName: two}
  status: {podIP: 10.0.0.1}
- apiVersion: v1
  kind: Pod
  metadata: {name: free, namespace: closed, labels: {egress: free}}
  spec: {nodeName: two}
  status: {podIP: 10.0.0.2}
- apiVersion: v1
  kind: Pod
  metadata:
    name: shut
    namespace: closed
    annotations: {interceptor.dev/unknown-destinations: refuse}
  spec: {nodeName: two}
  status: {podIP: 10.0.0.3}
- apiVersion: v1
  kind: Pod
  metadata: {name: caller, namespace: open}
  spec: {nodeName: two}
  status: {podIP: 10.0.1.1}
- apiVersion: v1
  kind: Pod
  metadata: {name: legacy, namespace: open, labels: {app: legacy}}
  spec: {nodeName: two, containers: [{name: a, ports: [{name: tcp-db, containerPort: 15432}]}]}
  status: {podIP: 10.0.1.2}
- apiVersion: v1
  kind: Pod
  metadata: {name: caller, namespace: inheriting}
  spec: {nodeName: two}
  status: {podIP: 10.0.2.1}
- apiVersion: networking.istio.io/v1
  kind: Sidecar
  metadata: {name: registry, namespace: closed}
  spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
- apiVersion: networking.istio.io/v1
  kind: Sidecar
  metadata: {name: free, namespace: closed}
  spec: {workloadSelector: {labels: {egress: free}}, outboundTrafficPolicy: {mode: ALLOW_ANY}}
- apiVersion: networking.istio.io/v1
  kind: Sidecar
  metadata: {name: any, namespace: open}
  spec: {outboundTrafficPolicy: {mode: ALLOW_ANY}}
- apiVersion: networking.istio.io/v1
  kind: Sidecar
  metadata: {name: default, namespace: istio-system}
  spec: {outboundTrafficPolicy: {}}
- apiVersion: networking.istio.io/v1
  kind: ServiceEntry
  metadata: {name: range, namespace: closed}
  spec:
    hosts: [range.example.com]
    addresses: [192.0.2.0/24, '2001:db8::/64']
    ports: [{number: 443, name: tls, protocol: TLS}, {number: 53, name: dns, protocol: UDP}]
    resolution: NONE
- apiVersion: networking.istio.io/v1
  kind: ServiceEntry
  metadata: {name: vip, namespace: open}
  spec:
    hosts: [vip.example.com]
    addresses: [240.0.0.1]
    ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
    resolution: STATIC
    endpoints: [{address: 198.51.100.1}, {address: 198.51.100.2, ports: {http: 9090}, weight: 3}]
- apiVersion: networking.istio.io/v1
  kind: ServiceEntry
  metadata: {name: database, namespace: open}
  spec:
    hosts: [db.internal]
    addresses: [240.0.0.2]
    location: MESH_INTERNAL
    ports: [{number: 5432, name: tcp-db, protocol: TCP}]
    resolution: STATIC
    workloadSelector: {labels: {app: legacy}}
- apiVersion: networking.istio.io/v1
  kind: ServiceEntry
  metadata: {name: private, namespace: open}
  spec:
    hosts: [private.example.com]
    addresses: [203.0.113.1]
    ports: [{number: 443, name: tls, protocol: TLS}]
    resolution: NONE
    exportTo: ['.']
- apiVersion: networking.istio.io/v1
  kind: ServiceEntry
  metadata: {name: resolved, namespace: open}
  spec:
    hosts: [api.example.com]
    addresses: [203.0.113.2]
    ports: [{number: 443, name: tls, protocol: TLS}]
    resolution: DNS
- apiVersion: networking.istio.io/v1
  kind: ServiceEntry
  metadata: {name: narrow, namespace: open}
  spec:
    hosts: [narrow.example.com]
    addresses: [192.0.2.7]
    ports: [{number: 8443, name: tls, protocol: TLS}]
    resolution: NONE
";

fn told(from: &str, to: &str, choice: u64) -> String {
    let (mesh, _) = mesh(DEMO);
    match outbound(&mesh, workload(&mesh, from), to.parse().unwrap(), choice) {
        Outbound::Tunnel(route) => format!("tunnel {}", route.authority),
        Outbound::Passthrough {
            to, why, service, ..
        } => {
            let service = service
                .map(|name| format!(" via {name}"))
                .unwrap_or_default();
            format!("plaintext {to} {}{service}", why.reason())
        }
        Outbound::Refuse(refusal) => format!("refused {}: {refusal}", refusal.reason()),
    }
}

const CLOSED: &str = "outboundTrafficPolicy of Sidecar closed/registry is REGISTRY_ONLY";

#[rstest]
#[case::a_range_is_allowed_by_port(
    "192.0.2.9:443",
    "plaintext 192.0.2.9:443 service_entry via closed/range"
)]
#[case::also_of_ipv6(
    "[2001:db8::9]:443",
    "plaintext [2001:db8::9]:443 service_entry via closed/range"
)]
#[case::also_as_a_mapped_address(
    "[::ffff:192.0.2.9]:443",
    "plaintext 192.0.2.9:443 service_entry via closed/range"
)]
#[case::on_that_port_only(
    "192.0.2.9:80",
    "refused not_registered: service closed/range: it has the address, but of its ports only 443; no workload, Service or ServiceEntry has 192.0.2.9:80, and CLOSED"
)]
#[case::a_udp_port_allows_no_tcp(
    "192.0.2.9:53",
    "refused not_registered: service closed/range: it has the address, but of its ports only 443; no workload, Service or ServiceEntry has 192.0.2.9:53, and CLOSED"
)]
#[case::an_unknown_address_is_refused(
    "8.8.8.8:53",
    "refused not_registered: no workload, Service or ServiceEntry has 8.8.8.8:53, and CLOSED"
)]
#[case::the_longer_prefix_first(
    "192.0.2.7:8443",
    "plaintext 192.0.2.7:8443 service_entry via open/narrow"
)]
#[case::the_shorter_where_the_longer_lacks_the_port(
    "192.0.2.7:443",
    "plaintext 192.0.2.7:443 service_entry via closed/range"
)]
#[case::an_entry_for_another_namespace(
    "203.0.113.1:443",
    "refused not_registered: no workload, Service or ServiceEntry has 203.0.113.1:443, and CLOSED"
)]
#[case::what_dns_would_resolve_goes_where_it_was_dialled(
    "203.0.113.2:443",
    "plaintext 203.0.113.2:443 service_entry via open/resolved"
)]
#[case::an_endpoint_by_its_own_address(
    "198.51.100.1:8080",
    "plaintext 198.51.100.1:8080 service_entry via open/vip"
)]
#[case::an_endpoint_on_its_target_port_only(
    "198.51.100.1:80",
    "refused not_registered: service open/vip: it has the address, but of its ports only 80; no workload, Service or ServiceEntry has 198.51.100.1:80, and CLOSED"
)]
#[case::a_workload_that_is_not_enrolled_is_known(
    "10.0.1.2:80",
    "plaintext 10.0.1.2:80 not_enrolled"
)]
fn registry_only_lets_out_what_is_registered(#[case] to: &str, #[case] expected: &str) {
    assert_eq!(
        told("closed/caller", to, 0),
        expected.replace("CLOSED", CLOSED)
    );
}

#[rstest]
#[case::own_selector_beats_the_namespace(
    "closed/free",
    "8.8.8.8:53",
    "plaintext 8.8.8.8:53 unknown_destination"
)]
#[case::the_namespace_beats_the_mesh(
    "open/caller",
    "8.8.8.8:53",
    "plaintext 8.8.8.8:53 unknown_destination"
)]
#[case::a_policy_without_a_mode_is_registry_only(
    "inheriting/caller",
    "8.8.8.8:53",
    "refused not_registered: no workload, Service or ServiceEntry has 8.8.8.8:53, and outboundTrafficPolicy of Sidecar istio-system/default is REGISTRY_ONLY"
)]
#[case::the_annotation_beats_all(
    "closed/shut",
    "8.8.8.8:53",
    "refused unknown_destination: no workload or service of the mesh has the address 8.8.8.8:53, and interceptor.dev/unknown-destinations is refuse"
)]
#[case::and_means_no_plaintext_at_all(
    "closed/shut",
    "192.0.2.9:443",
    "refused service_entry: service closed/range: 192.0.2.9:443 is outside of the mesh, so it cannot prove an identity, and interceptor.dev/unknown-destinations is refuse"
)]
fn the_nearest_rule_counts(#[case] from: &str, #[case] to: &str, #[case] expected: &str) {
    assert_eq!(told(from, to, 0), expected);
}

#[rstest]
#[case::the_first(0, "plaintext 198.51.100.1:8080 service_entry via open/vip")]
#[case::the_heavier(1, "plaintext 198.51.100.2:9090 service_entry via open/vip")]
#[case::three_times_of_four(3, "plaintext 198.51.100.2:9090 service_entry via open/vip")]
#[case::and_again(4, "plaintext 198.51.100.1:8080 service_entry via open/vip")]
fn a_static_entry_leads_to_its_endpoints_by_weight(#[case] choice: u64, #[case] expected: &str) {
    assert_eq!(told("closed/caller", "240.0.0.1:80", choice), expected);
}

#[test]
fn a_static_entry_selects_workloads_and_their_ports_by_name() {
    let told = told("closed/caller", "240.0.0.2:5432", 0);
    assert_eq!(
        told,
        "plaintext 10.0.1.2:15432 not_enrolled via open/database"
    );
}

#[test]
fn every_endpoint_has_a_choice() {
    let (mesh, _) = mesh(DEMO);
    let caller = workload(&mesh, "closed/caller");
    assert_eq!(
        choices(&mesh, caller, "240.0.0.1:80".parse().unwrap()),
        [0, 1]
    );
    assert_eq!(choices(&mesh, caller, "8.8.8.8:53".parse().unwrap()), [0]);
}
