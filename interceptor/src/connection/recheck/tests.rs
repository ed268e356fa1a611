//! What cuts an open connection, and what does not.

use std::time::Instant;

use rstest::rstest;

use super::*;
use crate::connection::Registry;
use crate::connection::registry::Cutting;
use crate::telemetry::record::fixtures;
use crate::workload::source::directory::load_mesh;
use crate::workload::{MeshSettings, WorkloadId};

const MANIFESTS: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: demo, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata:
  name: caller
  namespace: demo
  annotations:
    interceptor.dev/network-namespace: caller
    interceptor.dev/unknown-destinations: passthrough
spec: {nodeName: one, serviceAccountName: caller, containers: [{name: app}]}
status: {podIP: 10.1.0.2, phase: Running}
---
apiVersion: v1
kind: Pod
metadata:
  name: server
  namespace: demo
  labels: {app: server}
  annotations: {interceptor.dev/network-namespace: server}
spec: {nodeName: one, serviceAccountName: server, containers: [{name: app}]}
status: {podIP: 10.1.0.3, phase: Running}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-caller, namespace: demo}
spec:
  selector: {matchLabels: {app: server}}
  rules: [{from: [{source: {principals: [cluster.local/ns/demo/sa/caller]}}]}]
";

fn mesh(manifests: &str) -> Mesh {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), manifests).unwrap();
    load_mesh(folder.path(), &MeshSettings::for_node("one"))
        .unwrap_or_else(|mistakes| panic!("{mistakes:#?}"))
        .0
}

fn id(name: &str) -> WorkloadId {
    WorkloadId {
        namespace: "demo".into(),
        name: name.into(),
    }
}

fn identity(service_account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/demo/sa/{service_account}")
        .parse()
        .unwrap()
}

fn to_the_server() -> Basis {
    Basis::Inbound {
        destination: id("server"),
        identity: Some(identity("caller")),
        source_ip: "10.1.0.2".parse().unwrap(),
        target: "10.1.0.3:8080".parse().unwrap(),
    }
}

fn through_a_tunnel() -> Basis {
    Basis::Outbound {
        source: id("caller"),
        identity: identity("caller"),
        original: "10.1.0.3:8080".parse().unwrap(),
        peer: Some(("10.1.0.3".parse().unwrap(), identity("server"))),
    }
}

fn in_plaintext() -> Basis {
    Basis::Outbound {
        source: id("caller"),
        identity: identity("caller"),
        original: "192.0.2.1:80".parse().unwrap(),
        peer: None,
    }
}

#[rstest]
#[case::nothing_changed(to_the_server(), ("x", "x"), None)]
#[case::the_policy_forbids_it(
    to_the_server(), ("sa/caller]", "sa/other]"), Some("no_allow_matched"))]
#[case::the_policy_no_longer_selects_it(to_the_server(), ("{app: server}}", "{app: db}}"), None)]
#[case::the_server_is_gone(to_the_server(), ("name: server", "name: server-2"), Some("workload_gone"))]
#[case::a_tunnel_and_nothing_changed(through_a_tunnel(), ("x", "x"), None)]
#[case::the_caller_is_somebody_else(
    through_a_tunnel(), ("serviceAccountName: caller", "serviceAccountName: x"), Some("identity_changed"))]
#[case::the_peer_is_somebody_else(
    through_a_tunnel(), ("serviceAccountName: server", "serviceAccountName: x"), Some("identity_changed"))]
#[case::the_peers_address_is_unknown_now(through_a_tunnel(), ("10.1.0.3", "10.1.0.4"), None)]
#[case::the_caller_is_gone(through_a_tunnel(), ("name: caller\n  namespace", "name: b\n  namespace"), Some("workload_gone"))]
#[case::plaintext_and_nothing_changed(in_plaintext(), ("x", "x"), None)]
#[case::plaintext_is_not_wanted_any_more(
    in_plaintext(), (": passthrough", ": refuse"), Some("unknown_destination"))]
fn a_change_cuts_what_it_forbids(
    #[case] basis: Basis,
    #[case] (from, to): (&str, &str),
    #[case] cut: Option<&str>,
) {
    let now = mesh(&MANIFESTS.replace(from, to));
    let outcome = still_holds(&basis, &now);
    assert_eq!(outcome.err().map(|reason| reason.label.as_str()), cut);
}

#[tokio::test]
async fn the_first_reason_to_cut_stays_and_the_registry_forgets_what_ended() {
    let registry = Registry::new();
    let entry = registry.open(fixtures::allowed(), to_the_server(), Instant::now());
    let forbidden = mesh(&MANIFESTS.replace("sa/caller]", "sa/other]"));
    let live = registry.snapshot();
    assert!(one(&live[0], &mesh(MANIFESTS)));
    assert!(!one(&live[0], &forbidden));
    live[0].cut(because(Label::AgentStopped, ""));
    let mut cutting = Cutting::of(entry.live());
    let reason = std::future::poll_fn(|cx| cutting.poll(cx)).await;
    assert_eq!(reason.label, "no_allow_matched");
    drop(entry);
    assert!(registry.is_empty());
}
