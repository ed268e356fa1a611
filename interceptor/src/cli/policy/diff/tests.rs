//! What `interceptor policy diff` finds between two meshes.

use super::*;
use crate::workload::fixtures::good_mesh;

const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: demo, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {name: caller, namespace: demo, labels: {app: caller}}
spec: {nodeName: two, serviceAccountName: caller}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: demo, labels: {app: server}}
spec:
  nodeName: two
  serviceAccountName: server
  containers: [{name: s, ports: [{name: http, containerPort: 8080}]}]
status: {podIP: 10.0.0.2, phase: Running, conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: demo}
spec:
  clusterIP: 10.96.0.1
  selector: {app: server}
  ports: [{port: 80, targetPort: http}]
";

fn policy(principal: &str) -> String {
    format!(
        "{MESH}---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: allow, namespace: demo}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  rules: [{{from: [{{source: {{principals: ['cluster.local/ns/demo/sa/{principal}']}}}}]}}]
"
    )
}

#[test]
fn the_same_mesh_differs_in_nothing() {
    let mesh = good_mesh(&policy("caller"));
    let same = Differences::between(&mesh, &mesh, &[]);
    assert_eq!(same.exit(), Exit::Yes);
    assert_eq!(
        same.text(Style::Plain),
        "no verdict changes: 3 pairs of caller and port compared\n"
    );
}

#[test]
fn changes_are_golden() {
    let (old, new) = (good_mesh(&policy("caller")), good_mesh(&policy("operator")));
    let operator = "spiffe://cluster.local/ns/demo/sa/operator"
        .parse()
        .unwrap();
    let changes = Differences::between(&old, &new, &[operator]);
    assert_eq!(changes.exit(), Exit::No);
    insta::assert_snapshot!(changes.text(Style::Plain));
}

#[test]
fn a_port_that_is_gone_is_absent() {
    let (old, new) = (
        good_mesh(MESH),
        good_mesh(&MESH.replace("port: 80,", "port: 81,")),
    );
    let changes = Differences::between(&old, &new, &[]);
    let absent = |change: &&Change| change.after == Answer::Absent;
    assert_eq!(changes.changes.iter().filter(absent).count(), 3);
    assert_eq!(changes.changes.len(), 6);
}
