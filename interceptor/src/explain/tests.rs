//! Every way that a connection can go, by name, in one line; and that the steps say the same.

use rstest::rstest;

use super::*;
use crate::workload::fixtures::mesh;

/// An enrolled caller and one that is not, one that goes past the agent, one that wants no
/// plaintext; Services with endpoints that differ.
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
  metadata: {name: caller, namespace: demo}
  spec: {nodeName: two, serviceAccountName: caller}
  status: {podIP: 10.0.0.1}
- apiVersion: v1
  kind: Pod
  metadata:
    name: past
    namespace: demo
    annotations:
      traffic.sidecar.istio.io/excludeOutboundPorts: '80'
      interceptor.dev/unknown-destinations: refuse
  spec: {nodeName: two, serviceAccountName: caller}
  status: {podIP: 10.0.0.2}
- apiVersion: v1
  kind: Pod
  metadata:
    name: shut
    namespace: demo
    annotations: {interceptor.dev/unknown-destinations: refuse}
  spec: {nodeName: two, serviceAccountName: shut}
  status: {podIP: 10.0.0.3}
- apiVersion: v1
  kind: Pod
  metadata: {name: plain, namespace: outside, labels: {app: plain}}
  spec: {nodeName: two, serviceAccountName: plain}
  status: {podIP: 10.0.2.1}
- apiVersion: v1
  kind: Pod
  metadata: {name: web-a, namespace: demo, labels: {app: web, door: open}}
  spec:
    nodeName: two
    serviceAccountName: web
    containers: [{name: web, ports: [{name: http, containerPort: 8080}]}]
  status: {podIP: 10.0.1.1}
- apiVersion: v1
  kind: Pod
  metadata:
    name: web-b
    namespace: demo
    labels: {app: web, door: closed}
    annotations: {traffic.sidecar.istio.io/excludeInboundPorts: '9999'}
  spec:
    nodeName: two
    serviceAccountName: web
    containers: [{name: web, ports: [{name: http, containerPort: 8080}]}]
  status: {podIP: 10.0.1.2}
- apiVersion: v1
  kind: Pod
  metadata: {name: near, namespace: demo, labels: {app: near}}
  spec:
    nodeName: two
    containers: [{name: near, ports: [{name: http, containerPort: 8080}]}]
  status: {podIP: 10.0.1.3}
- apiVersion: v1
  kind: Service
  metadata: {name: web, namespace: demo}
  spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
- apiVersion: v1
  kind: Service
  metadata: {name: headless, namespace: demo}
  spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
- apiVersion: v1
  kind: Service
  metadata: {name: empty, namespace: demo}
  spec: {clusterIP: 10.96.0.3, selector: {app: nobody}, ports: [{port: 80}]}
- apiVersion: security.istio.io/v1
  kind: AuthorizationPolicy
  metadata: {name: closed, namespace: demo}
  spec: {selector: {matchLabels: {door: closed}}}
- apiVersion: security.istio.io/v1
  kind: AuthorizationPolicy
  metadata: {name: near, namespace: demo}
  spec:
    selector: {matchLabels: {app: near}}
    rules: [{from: [{source: {ipBlocks: [10.0.0.0/24]}}]}]
- apiVersion: security.istio.io/v1
  kind: PeerAuthentication
  metadata: {name: closed, namespace: demo}
  spec: {selector: {matchLabels: {door: closed}}, mtls: {mode: STRICT}}
";

/// A namespace that reaches only what is registered.
const EGRESS: &str = "
---
apiVersion: v1
kind: Pod
metadata: {name: caller, namespace: closed, labels: {istio.io/dataplane-mode: ambient}}
spec: {nodeName: two, serviceAccountName: caller}
status: {podIP: 10.0.3.1}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: registry, namespace: closed}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: closed}
spec:
  hosts: [api.example.com, '*.cdn.example.com']
  addresses: [192.0.2.80]
  ports: [{number: 443, name: tls}]
  resolution: NONE
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: dns, namespace: closed}
spec: {hosts: [dns.example.com], ports: [{number: 443, name: tls}], resolution: DNS}
";

#[rstest]
#[case::a_host_of_an_entry(
    "api.example.com",
    "allowed service_entry: carried in plaintext to 192.0.2.80:443: a ServiceEntry has it"
)]
#[case::a_host_below_one(
    "img.cdn.example.com:tls",
    "allowed service_entry: carried in plaintext to 192.0.2.80:443: a ServiceEntry has it"
)]
#[case::a_host_that_dns_knows(
    "dns.example.com",
    "unclear not_found: dns.example.com cannot be decided by address: only DNS knows the addresses of ServiceEntry closed/dns; ask with the address that it resolves to"
)]
#[case::what_nobody_registered(
    "192.0.2.81:443",
    "denied not_registered: no workload, Service or ServiceEntry has 192.0.2.81:443, and outboundTrafficPolicy of Sidecar closed/registry is REGISTRY_ONLY"
)]
fn what_leaves_the_mesh_has_an_answer(#[case] to: &str, #[case] expected: &str) {
    let manifests = format!("{DEMO}{EGRESS}");
    assert_eq!(told(&asked_of(&manifests, "closed/caller", to)), expected);
}

#[test]
fn the_entry_that_is_named_lets_it_out() {
    let to = "192.0.2.81:443";
    let manifests = format!("{DEMO}{EGRESS}");
    let denied = asked_of(&manifests, "closed/caller", to);
    let messages: Vec<_> = denied
        .changes
        .iter()
        .map(|change| change.message.as_str())
        .collect();
    assert_eq!(
        messages,
        [
            "add a ServiceEntry with address 192.0.2.81 and port 443 that namespace closed may use",
            "set outboundTrafficPolicy.mode of Sidecar closed/registry to ALLOW_ANY",
        ]
    );
    let entry = "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: more, namespace: closed}
spec: {hosts: [more.example.com], addresses: [192.0.2.81], ports: [{number: 443, name: tls}]}
";
    let allowed = asked_of(&format!("{manifests}{entry}"), "closed/caller", to);
    assert_eq!(allowed.outcome, Outcome::Allowed);
    let opened = manifests.replace("REGISTRY_ONLY", "ALLOW_ANY");
    assert_eq!(
        asked_of(&opened, "closed/caller", to).outcome,
        Outcome::Allowed
    );
}

fn told(answer: &Answer) -> String {
    let label = answer.outcome.label().to_lowercase();
    format!("{label} {}: {}", answer.reason, answer.summary)
}

fn asked(from: &str, to: &str) -> Answer {
    asked_of(DEMO, from, to)
}

fn asked_of(manifests: &str, from: &str, to: &str) -> Answer {
    let (mesh, _) = mesh(manifests);
    let question = Question {
        from: from.to_owned(),
        to: to.to_owned(),
        source_ip: None,
    };
    explain(&mesh, &question)
}

#[rstest]
#[case::carried_and_judged(
    "demo/caller",
    "demo/near:http",
    "allowed allowed: allowed by policy demo/near rule 0"
)]
#[case::the_worst_endpoint_counts(
    "demo/caller",
    "web",
    "denied no_allow_matched: no ALLOW policy matched; demo/closed has no rules, so it allows nothing"
)]
#[case::a_headless_service_is_its_endpoints(
    "demo/caller",
    "headless.demo.svc",
    "denied no_allow_matched: no ALLOW policy matched; demo/closed has no rules, so it allows nothing"
)]
#[case::a_service_without_endpoints(
    "demo/caller",
    "demo/empty",
    "denied no_healthy_endpoint: service demo/empty: it selects no workload; compare its selector with the Pods' labels"
)]
#[case::no_such_port(
    "demo/caller",
    "demo/web:81",
    "denied no_such_service_port: service demo/web: it has no TCP port 81; it has 80"
)]
#[case::unknown_destinations_pass(
    "demo/caller",
    "192.0.2.1:443",
    "allowed unknown_destination: carried in plaintext to 192.0.2.1:443: the mesh does not know the address"
)]
#[case::or_are_refused(
    "demo/shut",
    "192.0.2.1:443",
    "denied unknown_destination: no workload or service of the mesh has the address 192.0.2.1:443, and interceptor.dev/unknown-destinations is refuse"
)]
#[case::what_goes_past_the_agent_is_not_refused_by_it(
    "demo/past",
    "192.0.2.1:80",
    "allowed unknown_destination: goes to 192.0.2.1:80 past the agent: it is not captured (traffic.sidecar.istio.io/excludeOutboundPorts has 80)"
)]
#[case::nobody_judges_outside(
    "demo/caller",
    "outside/plain:80",
    "allowed not_enrolled: carried in plaintext to 10.0.2.1:80: not enrolled: neither it nor its namespace has the label istio.io/dataplane-mode=ambient"
)]
#[case::a_caller_outside_comes_in_plaintext(
    "outside/plain",
    "10.0.1.2:8080",
    "denied plaintext_to_strict: plaintext refused: port 8080 requires mutual TLS (PeerAuthentication demo/closed, workload level)"
)]
#[case::an_excluded_port_goes_past_the_agent(
    "demo/past",
    "10.0.1.2:80",
    "denied plaintext_to_strict: plaintext refused: port 80 requires mutual TLS (PeerAuthentication demo/closed, workload level)"
)]
#[case::an_excluded_inbound_port_is_unjudged(
    "outside/plain",
    "10.0.1.2:9999",
    "allowed not_captured: reaches demo/web-b unjudged: traffic.sidecar.istio.io/excludeInboundPorts has 9999"
)]
#[case::but_a_tunnel_is_judged_on_every_port(
    "demo/caller",
    "10.0.1.2:9999",
    "denied no_allow_matched: no ALLOW policy matched; demo/closed has no rules, so it allows nothing"
)]
#[case::an_identity_of_a_workload(
    "cluster.local/ns/demo/sa/shut",
    "demo/near:http",
    "allowed allowed: allowed by policy demo/near rule 0"
)]
#[case::an_address_nobody_gave_is_unclear(
    "spiffe://other.org/ns/x/sa/y",
    "demo/near:http",
    "unclear source_address_unknown: policies look at the caller's address, which is not known: say it with --source-ip"
)]
#[case::a_typo(
    "demo/caller",
    "demo/wbe",
    "unclear not_found: there is no Service or workload demo/wbe; did you mean demo/web?"
)]
#[case::a_port_beyond_the_last(
    "demo/caller",
    "demo/web:99999",
    "unclear not_found: 99999 is not a port: they end at 65535"
)]
#[case::a_port_by_an_unknown_name(
    "demo/caller",
    "demo/web:grpc",
    "unclear not_found: there is no port of Service demo/web named grpc; there is http"
)]
#[case::a_caller_without_its_namespace(
    "caller",
    "demo/web:80",
    "unclear not_found: \"caller\" has no namespace; did you mean demo/caller?"
)]
#[case::no_port(
    "demo/caller",
    "192.0.2.1",
    "unclear not_found: which port of 192.0.2.1? write 192.0.2.1:PORT"
)]
fn every_connection_has_an_answer(#[case] from: &str, #[case] to: &str, #[case] expected: &str) {
    assert_eq!(told(&asked(from, to)), expected);
}

#[test]
fn the_endpoints_that_differ_are_named() {
    let answer = asked("demo/caller", "web");
    let resolves = answer
        .steps
        .iter()
        .find(|step| step.step == StepName::Resolves)
        .unwrap();
    assert_eq!(
        resolves.answer,
        "Service demo/web port 80 -> demo/web-b 10.0.1.2:8080"
    );
    assert_eq!(
        resolves.notes,
        [
            "one of 2 endpoints; 1 of them denied",
            "demo/web-a 10.0.1.1:8080 is allowed"
        ]
    );
}

#[rstest]
#[case::an_address_is_let_in(
    "outside/plain",
    "10.0.1.3:8080",
    "add \"10.0.2.1\" to from[0].source.ipBlocks of demo/near rule 0"
)]
#[case::a_connection_has_to_be_captured(
    "demo/past",
    "10.0.1.2:80",
    "let it be captured (traffic.sidecar.istio.io/excludeOutboundPorts has 80), so that it comes as \
     spiffe://cluster.local/ns/demo/sa/caller over mutual TLS; and add a rule to demo/closed: from \
     principal cluster.local/ns/demo/sa/caller to port 80"
)]
#[case::an_annotation_keeps_it_in(
    "demo/shut",
    "192.0.2.1:443",
    "set the annotation interceptor.dev/unknown-destinations of demo/shut to passthrough"
)]
fn what_would_turn_it_knows_the_source(
    #[case] from: &str,
    #[case] to: &str,
    #[case] expected: &str,
) {
    let answer = asked(from, to);
    let first = answer.changes.first().map(|change| change.message.as_str());
    assert_eq!(first, Some(expected));
}
