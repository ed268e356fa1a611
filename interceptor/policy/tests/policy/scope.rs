//! Which workloads a policy holds for.

use rstest::rstest;
use serde_json::{Value, json};

use crate::fixture::{Call, Mesh};

fn deny(extra: Value) -> Value {
    let mut spec = json!({"action": "DENY", "rules": [{}]});
    if let (Some(spec), Value::Object(extra)) = (spec.as_object_mut(), extra) {
        spec.extend(extra);
    }
    spec
}

#[rstest]
#[case::its_own_namespace("demo/p", json!({}), "demo", true)]
#[case::not_another_namespace("other/p", json!({}), "demo", false)]
#[case::the_root_namespace_is_the_mesh("istio-system/p", json!({}), "demo", true)]
#[case::the_root_namespace_includes_itself("istio-system/p", json!({}), "istio-system", true)]
#[case::labels_that_match("demo/p", json!({"selector": {"matchLabels": {"app": "server"}}}), "demo", true)]
#[case::all_labels_must_match(
    "demo/p", json!({"selector": {"matchLabels": {"app": "server", "version": "v2"}}}), "demo", false)]
#[case::several_labels(
    "demo/p", json!({"selector": {"matchLabels": {"app": "server", "version": "v1"}}}), "demo", true)]
#[case::labels_in_another_namespace(
    "other/p", json!({"selector": {"matchLabels": {"app": "server"}}}), "demo", false)]
#[case::labels_from_the_root_namespace_select_everywhere(
    "istio-system/p", json!({"selector": {"matchLabels": {"app": "server"}}}), "demo", true)]
#[case::labels_from_the_root_namespace_must_match(
    "istio-system/p", json!({"selector": {"matchLabels": {"app": "other"}}}), "demo", false)]
#[case::a_selector_without_labels_is_the_namespace("demo/p", json!({"selector": {}}), "demo", true)]
#[case::a_selector_without_labels_is_not_the_mesh("demo/p", json!({"selector": {}}), "other", false)]
#[case::a_gateway_is_another_proxys("demo/p", json!({"targetRefs": [
    {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "server"}]}), "demo", false)]
fn a_deny_everything(
    #[case] name: &str,
    #[case] scope: Value,
    #[case] namespace: &str,
    #[case] holds: bool,
) {
    let mesh = Mesh::new().policy(name, &deny(scope));
    let server = mesh.workload(namespace, &[("app", "server"), ("version", "v1")]);
    assert_eq!(
        server.decide(&Call::plaintext().attempt()).is_allowed(),
        !holds
    );
}

#[rstest]
#[case::behind_the_service("server", 8080, true)]
#[case::another_port_of_the_workload("server", 9000, false)]
#[case::another_service("other", 8080, false)]
fn a_policy_of_a_service(#[case] service: &str, #[case] port: u16, #[case] holds: bool) {
    let scope = json!({"targetRefs": [{"group": "", "kind": "Service", "name": service}]});
    let call = Call::by("caller").on_port(port);
    let verdict = Mesh::new()
        .policy("demo/p", &deny(scope.clone()))
        .decide(&call);
    assert_eq!(verdict.is_allowed(), !holds, "{verdict}");

    // An ALLOW without rules restricts the same ports and no others.
    let verdict = Mesh::new().policy("demo/p", &scope).decide(&call);
    assert_eq!(verdict.is_allowed(), !holds, "{verdict}");
}

#[test]
fn workloads_with_the_same_policies_compare_equal() {
    let mesh = Mesh::new()
        .policy(
            "demo/p",
            &json!({"rules": [{"to": [{"operation": {"ports": ["http"]}}]}]}),
        )
        .policy("other/p", &json!({}));
    assert_eq!(mesh.server(), mesh.server());
    assert_eq!(
        mesh.workload("demo", &[("app", "a")]),
        mesh.workload("demo", &[("app", "b")])
    );
    assert_ne!(mesh.workload("demo", &[]), mesh.workload("other", &[]));
}
