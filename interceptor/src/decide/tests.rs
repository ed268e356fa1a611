//! Every way that a connection can go, by name.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use interceptor_policy::Attempt;
use rstest::rstest;

use super::{Outbound, PassthroughReason, inbound, outbound};
use crate::workload::Mesh;
use crate::workload::fixtures::{good_mesh, mesh, workload};

/// Two enrolled workloads behind a Service, one that is not ready, one outside of the mesh.
const DEMO: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: demo, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata:
    name: caller
    namespace: demo
    annotations: {interceptor.dev/network-namespace: caller}
  spec: {nodeName: one, serviceAccountName: caller}
  status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
- apiVersion: v1
  kind: Pod
  metadata:
    name: strict
    namespace: demo
    annotations:
      interceptor.dev/network-namespace: strict
      interceptor.dev/unknown-destinations: refuse
  spec: {nodeName: one}
  status: {podIP: 10.0.0.2}
- apiVersion: v1
  kind: Pod
  metadata: {name: web-a, namespace: demo, labels: {app: web}}
  spec:
    nodeName: two
    serviceAccountName: web
    containers: [{name: web, ports: [{name: http, containerPort: 8080}]}]
  status: {podIP: 10.0.1.1, podIPs: [{ip: 10.0.1.1}, {ip: 'fd00::2'}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: web-b, namespace: demo, labels: {app: web}}
  spec:
    nodeName: two
    serviceAccountName: web
    containers: [{name: web, ports: [{name: http, containerPort: 9090}]}]
  status: {podIP: 10.0.1.2}
- apiVersion: v1
  kind: Pod
  metadata: {name: web-c, namespace: demo, labels: {app: web}}
  spec:
    nodeName: two
    serviceAccountName: web
    containers: [{name: web, ports: [{name: http, containerPort: 8080}]}]
  status: {podIP: 10.0.1.3, conditions: [{type: Ready, status: 'False'}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: plain, namespace: outside, labels: {app: plain}}
  spec: {nodeName: two}
  status: {podIP: 10.0.2.1}
- apiVersion: v1
  kind: Pod
  metadata: {name: host, namespace: outside, labels: {app: host}}
  spec: {nodeName: two, hostNetwork: true}
  status: {podIP: 192.168.0.2}
- apiVersion: v1
  kind: Service
  metadata: {name: web, namespace: demo}
  spec:
    clusterIP: 10.96.0.1
    clusterIPs: [10.96.0.1, 'fd96::1']
    selector: {app: web}
    ports: [{name: http, port: 80, targetPort: http}, {name: agent, port: 81, targetPort: 15008}]
- apiVersion: v1
  kind: Service
  metadata: {name: plain, namespace: outside}
  spec: {clusterIP: 10.96.0.2, selector: {app: plain}, ports: [{port: 80, targetPort: 8080}]}
- apiVersion: v1
  kind: Service
  metadata: {name: host, namespace: outside}
  spec: {clusterIP: 10.96.0.3, selector: {app: host}, ports: [{port: 80}]}
";

/// One line that says what becomes of a connection.
fn told(mesh: &Mesh, from: &str, to: &str, choice: u64) -> String {
    let to: SocketAddr = to.parse().unwrap();
    match outbound(mesh, workload(mesh, from), to, choice) {
        Outbound::Tunnel(route) => {
            let service = route.service.map(|service| format!(" via {service}"));
            format!(
                "tunnel {} by {} as {}{}",
                route.authority,
                route.gateway,
                route.peer.principal(),
                service.unwrap_or_default()
            )
        }
        Outbound::Passthrough {
            to,
            why,
            destination,
            service,
        } => {
            assert_eq!(destination.is_some(), why == PassthroughReason::NotEnrolled);
            let service = service.map(|service| format!(" via {service}"));
            format!(
                "plaintext {to} {}{}",
                why.reason(),
                service.unwrap_or_default()
            )
        }
        Outbound::Refuse(refusal) => format!("refused {}: {refusal}", refusal.reason()),
    }
}

#[rstest]
#[case::a_service_leads_to_a_healthy_endpoint_and_its_own_port(
    "demo/caller",
    "10.96.0.1:80",
    0,
    "tunnel 10.0.1.1:8080 by 10.0.1.1:15008 as cluster.local/ns/demo/sa/web via demo/web"
)]
#[case::another_choice_is_another_endpoint(
    "demo/caller",
    "10.96.0.1:80",
    1,
    "tunnel 10.0.1.2:9090 by 10.0.1.2:15008 as cluster.local/ns/demo/sa/web via demo/web"
)]
#[case::the_endpoint_that_is_not_ready_is_never_chosen(
    "demo/caller",
    "10.96.0.1:80",
    2,
    "tunnel 10.0.1.1:8080 by 10.0.1.1:15008 as cluster.local/ns/demo/sa/web via demo/web"
)]
#[case::the_endpoint_has_the_clients_family(
    "demo/caller",
    "[fd96::1]:80",
    0,
    "tunnel [fd00::2]:8080 by [fd00::2]:15008 as cluster.local/ns/demo/sa/web via demo/web"
)]
#[case::mapped_addresses_are_ipv4(
    "demo/caller",
    "[::ffff:10.96.0.1]:80",
    0,
    "tunnel 10.0.1.1:8080 by 10.0.1.1:15008 as cluster.local/ns/demo/sa/web via demo/web"
)]
#[case::an_enrolled_workload_is_reached_directly_also_if_not_ready(
    "demo/caller",
    "10.0.1.3:1234",
    0,
    "tunnel 10.0.1.3:1234 by 10.0.1.3:15008 as cluster.local/ns/demo/sa/web"
)]
#[case::its_own_address_is_a_workload_like_others(
    "demo/caller",
    "10.0.0.1:80",
    0,
    "tunnel 10.0.0.1:80 by 10.0.0.1:15008 as cluster.local/ns/demo/sa/caller"
)]
#[case::a_workload_outside_of_the_mesh_gets_plaintext(
    "demo/caller",
    "10.0.2.1:80",
    0,
    "plaintext 10.0.2.1:80 not_enrolled"
)]
#[case::also_through_its_service(
    "demo/caller",
    "10.96.0.2:80",
    0,
    "plaintext 10.0.2.1:8080 not_enrolled via outside/plain"
)]
#[case::a_workload_on_the_hosts_network_is_reached_through_its_service(
    "demo/caller",
    "10.96.0.3:80",
    0,
    "plaintext 192.168.0.2:80 not_enrolled via outside/host"
)]
#[case::but_is_not_known_by_the_hosts_address(
    "demo/caller",
    "192.168.0.2:80",
    0,
    "plaintext 192.168.0.2:80 unknown_destination"
)]
#[case::an_unknown_address_gets_plaintext(
    "demo/caller",
    "1.1.1.1:443",
    0,
    "plaintext 1.1.1.1:443 unknown_destination"
)]
#[case::unless_the_owner_wants_none(
    "demo/strict",
    "1.1.1.1:443",
    0,
    "refused unknown_destination: no workload or service of the mesh has the address \
     1.1.1.1:443, and interceptor.dev/unknown-destinations is refuse"
)]
#[case::nor_to_workloads_outside_of_the_mesh(
    "demo/strict",
    "10.96.0.2:80",
    0,
    "refused not_enrolled: service outside/plain: 10.0.2.1:8080 is not enrolled, so it cannot \
     prove an identity, and interceptor.dev/unknown-destinations is refuse"
)]
#[case::a_port_that_the_service_does_not_have_is_refused(
    "demo/caller",
    "10.96.0.1:82",
    0,
    "refused no_such_service_port: service demo/web: it has no TCP port 82; it has 80, 81"
)]
#[case::the_agents_ports_are_refused(
    "demo/caller",
    "10.0.1.1:15008",
    0,
    "refused agent_port: workload demo/web-a: 10.0.1.1:15008 is a port of the node agent; \
     connect to a port of the application"
)]
#[case::also_as_a_target_port(
    "demo/caller",
    "10.96.0.1:81",
    0,
    "refused agent_port: service demo/web: 10.0.1.1:15008 is a port of the node agent; connect \
     to a port of the application"
)]
#[case::but_a_workload_outside_of_the_mesh_may_listen_there(
    "demo/caller",
    "10.0.2.1:15001",
    0,
    "plaintext 10.0.2.1:15001 not_enrolled"
)]
fn outbound_connections(
    #[case] from: &str,
    #[case] to: &str,
    #[case] choice: u64,
    #[case] expected: &str,
) {
    assert_eq!(told(&good_mesh(DEMO), from, to, choice), expected);
}

#[rstest]
#[case::nothing_selected(
    "{app: nobody}",
    "",
    "it selects no workload; compare its selector with the Pods' labels"
)]
#[case::all_not_ready(
    "{app: web, late: 'yes'}",
    "",
    "none of its 1 endpoints can take the connection: 1 not ready"
)]
#[case::no_target_port(
    "{app: web, tier: back}",
    "",
    "none of its 1 endpoints can take the connection: 1 without the target port"
)]
#[case::no_address(
    "{app: web, tier: new}",
    "",
    "none of its 1 endpoints can take the connection: 1 without an address"
)]
#[case::all_elsewhere(
    "{app: web, tier: front}",
    "internalTrafficPolicy: Local",
    "none of its 1 endpoints can take the connection: 1 on other nodes \
     (internalTrafficPolicy: Local)"
)]
fn a_service_without_a_usable_endpoint_is_a_refusal_and_never_passed_through(
    #[case] selector: &str,
    #[case] policy: &str,
    #[case] why: &str,
) {
    let manifests = format!(
        "{DEMO}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: x, namespace: demo, labels: {{app: web, late: 'yes'}}}},
  spec: {{containers: [{{name: a, ports: [{{name: http, containerPort: 1}}]}}]}},
  status: {{podIP: 10.0.3.1, phase: Pending}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: y, namespace: demo, labels: {{app: web, tier: back}}}},
  spec: {{}}, status: {{podIP: 10.0.3.2}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: z, namespace: demo, labels: {{app: web, tier: new}}}},
  spec: {{containers: [{{name: a, ports: [{{name: http, containerPort: 1}}]}}]}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: f, namespace: demo, labels: {{app: web, tier: front}}}},
  spec: {{nodeName: two, containers: [{{name: a, ports: [{{name: http, containerPort: 1}}]}}]}},
  status: {{podIP: 10.0.3.4}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: other, namespace: demo}}
spec:
  clusterIP: 10.96.0.9
  selector: {selector}
  ports: [{{port: 80, targetPort: http}}]
  {policy}
"
    );
    let (mesh, _) = mesh(&manifests);
    assert_eq!(
        told(&mesh, "demo/caller", "10.96.0.9:80", 0),
        format!("refused no_healthy_endpoint: service demo/other: {why}")
    );
}

#[test]
fn weights_are_shares() {
    let mesh = good_mesh(&format!(
        "{DEMO}
---
{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: a, namespace: demo}},
  spec: {{address: 10.9.0.1, weight: 3, labels: {{app: vm}}}}}}
---
{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: b, namespace: demo}},
  spec: {{address: 10.9.0.2, labels: {{app: vm}}}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: vm, namespace: demo}},
  spec: {{clusterIP: 10.96.0.8, selector: {{app: vm}}, ports: [{{port: 80}}]}}}}
"
    ));
    let mut chosen: BTreeMap<String, u32> = BTreeMap::new();
    for choice in 0..4000 {
        let told = told(&mesh, "demo/caller", "10.96.0.8:80", choice);
        *chosen
            .entry(told.split(' ').nth(1).unwrap().to_owned())
            .or_default() += 1;
    }
    assert_eq!(chosen["10.9.0.1:80"], 3000);
    assert_eq!(chosen["10.9.0.2:80"], 1000);
}

#[test]
fn endpoints_of_the_same_node_are_preferred_if_the_service_says_so() {
    let service = |distribution: &str| {
        format!(
            "{DEMO}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: here, namespace: demo, labels: {{app: web}},
  annotations: {{interceptor.dev/network-namespace: here}}}},
  spec: {{nodeName: one, containers: [{{name: a, ports: [{{name: http, containerPort: 7}}]}}]}},
  status: {{podIP: 10.0.0.9}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: near, namespace: demo}}, spec: {{
  clusterIP: 10.96.0.8, selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}],
  {distribution}}}}}
"
        )
    };
    for distribution in [
        "trafficDistribution: PreferSameNode",
        "internalTrafficPolicy: Local",
    ] {
        let mesh = good_mesh(&service(distribution));
        for choice in 0..10 {
            let told = told(&mesh, "demo/caller", "10.96.0.8:80", choice);
            assert!(
                told.starts_with("tunnel 10.0.0.9:7 "),
                "{distribution}: {told}"
            );
        }
    }
}

#[test]
fn inbound_is_decided_by_the_destinations_policies() {
    let mesh = good_mesh(&format!(
        "{DEMO}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: strict, namespace: demo}}
spec: {{mtls: {{mode: STRICT}}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: allow-caller, namespace: demo}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  rules:
  - from: [{{source: {{principals: [cluster.local/ns/demo/sa/caller]}}}}]
    to: [{{operation: {{ports: [http]}}}}]
"
    ));
    let web = workload(&mesh, "demo/web-a");
    let caller = workload(&mesh, "demo/caller").identity.clone();
    let stranger = workload(&mesh, "outside/plain").identity.clone();
    let verdict = |source, destination_port| {
        let attempt = Attempt {
            source,
            source_ip: IpAddr::from([10, 0, 0, 1]),
            destination_ip: IpAddr::from([10, 0, 1, 1]),
            destination_port,
        };
        inbound(&mesh, web, attempt).is_allowed()
    };
    assert!(
        verdict(Some(&caller), 8080),
        "the port that is named http here"
    );
    assert!(!verdict(Some(&caller), 9090), "another port");
    assert!(!verdict(Some(&stranger), 8080), "another identity");
    assert!(!verdict(None, 8080), "no identity");
}
