//! What `interceptor ports` prints.

use super::*;
use crate::telemetry::Calls;
use crate::telemetry::Record;
use crate::telemetry::record::fixtures as records;
use crate::telemetry::view::State;
use crate::workload::fixtures::mesh;

/// A Service whose port is strict and one whose port is not, a typo in a name, a target port that
/// only some have, a workload outside of the mesh.
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
  metadata: {name: server-a, namespace: demo, labels: {app: server}}
  spec: {nodeName: two, containers: [{name: a, ports: [{name: web, containerPort: 8080}]}]}
  status: {podIP: 10.2.0.2}
- apiVersion: v1
  kind: Pod
  metadata: {name: server-b, namespace: demo, labels: {app: server}}
  spec: {nodeName: two, containers: [{name: a, ports: [{name: web, containerPort: 8080}]}]}
  status: {podIP: 10.2.0.3}
- apiVersion: v1
  kind: Pod
  metadata: {name: server-c, namespace: demo, labels: {app: server}}
  spec: {nodeName: two}
  status: {podIP: 10.2.0.4}
- apiVersion: v1
  kind: Pod
  metadata: {name: legacy, namespace: outside, labels: {app: legacy}}
  spec: {nodeName: two}
  status: {podIP: 10.2.0.5}
- apiVersion: v1
  kind: Service
  metadata: {name: server, namespace: demo}
  spec:
    clusterIP: 10.96.0.1
    selector: {app: server}
    ports: [{name: http-web, port: 80, targetPort: web}, {name: htpp-admin, port: 81, targetPort: 9000}]
- apiVersion: v1
  kind: Service
  metadata: {name: legacy, namespace: outside}
  spec: {clusterIP: 10.96.0.2, selector: {app: legacy}, ports: [{port: 3306}]}
- apiVersion: v1
  kind: Service
  metadata: {name: empty, namespace: outside}
  spec: {clusterIP: 10.96.0.3, selector: {app: nobody}, ports: [{port: 80, appProtocol: http}]}
- apiVersion: security.istio.io/v1
  kind: AuthorizationPolicy
  metadata: {name: callers, namespace: demo}
  spec:
    selector: {matchLabels: {app: server}}
    rules:
    - from:
      - source: {principals: [cluster.local/ns/demo/sa/caller]}
      - source: {namespaces: [ops], ipBlocks: [10.9.0.0/16]}
    - from: [{source: {ipBlocks: [10.0.0.0/8]}}]
      to: [{operation: {ports: ['9000']}}]
- apiVersion: security.istio.io/v1
  kind: AuthorizationPolicy
  metadata: {name: not-mallory, namespace: demo}
  spec: {action: DENY, rules: [{from: [{source: {principals: ['*/sa/mallory']}}]}]}
- apiVersion: security.istio.io/v1
  kind: PeerAuthentication
  metadata: {name: server, namespace: demo}
  spec:
    selector: {matchLabels: {app: server}}
    mtls: {mode: STRICT}
    portLevelMtls: {'9000': {mode: PERMISSIVE}}
";

fn found(service: Option<&str>) -> Result<Vec<PortView>, String> {
    ports::ports(&mesh(DEMO).0, service)
}

#[test]
fn all_ports_are_golden() {
    let ports = Ports::of(found(None).unwrap(), None);
    insta::assert_snapshot!(ports.text(Style::Plain));
}

#[test]
fn one_port_with_its_callers_is_golden() {
    let view = |record: &Record| ConnectionView::new(record, State::Open);
    let mut allowed = view(&records::allowed());
    allowed.destination.workload = Some("demo/server-a".to_owned());
    allowed.source.identity = Some("spiffe://cluster.local/ns/demo/sa/caller".to_owned());
    let mut denied = view(&records::denied());
    denied.destination.workload = Some("demo/server-b".to_owned());
    denied.hbone_address = Some("10.2.0.3:8080".parse().unwrap());
    denied.source.identity = Some("spiffe://cluster.local/ns/demo/sa/intruder".to_owned());
    let mut elsewhere = view(&records::allowed());
    elsewhere.destination.workload = Some("demo/other".to_owned());
    elsewhere.service = Some("demo/other".to_owned());
    let connections = [allowed.clone(), allowed, denied, elsewhere];
    let over = Calls::default();
    for mut record in [
        records::allowed(),
        records::allowed_inbound(),
        records::denied(),
    ] {
        record.destination.workload = Some(records::workload("server-a", "10.2.0.2"));
        over.note(&record);
    }
    let ports = Ports::of(
        found(Some("demo/server:http-web")).unwrap(),
        Some(Known {
            connections: &connections,
            over: &over.report().calls,
        }),
    );
    insta::assert_snapshot!(ports.text(Style::Plain));
}

#[test]
fn a_port_is_found_by_host_number_and_name() {
    for name in [
        "demo/server:80",
        "server.demo:http-web",
        "server.demo.svc.cluster.local:80",
    ] {
        let found = found(Some(name)).unwrap();
        assert_eq!(found.len(), 1, "{name}");
        assert_eq!(found.first().map(|port| port.port), Some(80), "{name}");
    }
    assert_eq!(found(Some("demo/server")).unwrap().len(), 2);
}

#[test]
fn what_is_not_there_is_said_with_what_is() {
    let told = |name| found(Some(name)).unwrap_err();
    assert_eq!(
        told("demo/servr"),
        "there is no Service demo/servr; did you mean demo/server?"
    );
    assert_eq!(
        told("demo/server:82"),
        "Service demo/server has no TCP port 82; it has 80, 81"
    );
    assert_eq!(
        told("demo/server:http-wbe"),
        "there is no port of Service demo/server named http-wbe; did you mean http-web?"
    );
}
