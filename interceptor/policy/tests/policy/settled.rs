//! Which verdicts may be taken before the connection exists.

use rstest::rstest;
use serde_json::{Value, json};

use crate::fixture::{Call, Mesh};

fn from(source: &Value) -> Value {
    json!({"from": [{"source": source}]})
}

fn by_caller() -> Value {
    from(&json!({"namespaces": ["demo"]}))
}

fn by_address() -> Value {
    from(&json!({"ipBlocks": ["10.0.0.0/8"]}))
}

fn by_both() -> Value {
    from(&json!({"namespaces": ["other"], "ipBlocks": ["10.0.0.0/8"]}))
}

fn by_method(ports: &[&str]) -> Value {
    json!({"to": [{"operation": {"methods": ["GET"], "ports": ports}}]})
}

fn policy(action: &str, rules: &[Value]) -> Mesh {
    Mesh::new().policy("demo/p", &json!({"action": action, "rules": rules}))
}

#[rstest]
#[case::no_policy(Mesh::new(), None)]
#[case::a_caller_is_allowed(policy("ALLOW", &[by_caller()]), None)]
#[case::a_caller_is_denied(policy("DENY", &[by_caller()]), None)]
#[case::nothing_is_allowed(policy("ALLOW", &[]), None)]
#[case::an_address_is_allowed(
    policy("ALLOW", &[by_address()]), Some("demo/p rule 0 looks at the caller's address"))]
#[case::an_address_or_the_caller_is_allowed(policy("ALLOW", &[by_address(), by_caller()]), None)]
#[case::an_address_is_denied(
    policy("DENY", &[by_caller(), by_address()]),
    Some("demo/p rule 1 looks at the caller's address"))]
#[case::an_address_of_others_is_denied(policy("DENY", &[by_both()]), None)]
#[case::an_address_of_others_is_allowed(policy("ALLOW", &[by_both()]), None)]
#[case::requests_are_allowed(
    policy("ALLOW", &[by_caller(), by_method(&["8080"])]),
    Some("demo/p rule 1 looks at requests"))]
#[case::requests_to_another_port_are_allowed(
    policy("ALLOW", &[by_caller(), by_method(&["9000"])]), None)]
#[case::requests_are_denied(
    policy("DENY", &[by_method(&["8080"])]), Some("demo/p rule 0 looks at requests"))]
#[case::requests_to_another_port_are_denied(policy("DENY", &[by_method(&["9000"])]), None)]
#[case::it_is_audited(
    policy("AUDIT", &[by_caller()]), Some("demo/p reports each connection"))]
#[case::it_may_be_audited(
    policy("AUDIT", &[by_address()]), Some("demo/p reports each connection"))]
#[case::others_are_audited(policy("AUDIT", &[by_both()]), None)]
#[case::a_deny_in_dry_run(
    Mesh::new().dry_run("demo/p", &json!({"action": "DENY", "rules": [by_caller()]})),
    Some("demo/p reports each connection"))]
#[case::a_deny_of_others_in_dry_run(
    Mesh::new().dry_run("demo/p", &json!({"action": "DENY", "rules": [by_both()]})), None)]
#[case::an_allow_of_others_in_dry_run_reports_that_it_does_not_match(
    Mesh::new().dry_run("demo/p", &json!({"rules": [by_both()]})),
    Some("demo/p reports each connection"))]
#[case::an_allow_of_others_in_dry_run_beside_an_enforced_one(
    policy("ALLOW", &[by_caller()]).dry_run("demo/d", &json!({"rules": [by_both()]})), None)]
fn what_keeps_a_verdict_from_being_taken_beforehand(
    #[case] mesh: Mesh,
    #[case] expected: Option<&str>,
) {
    let unsettled = mesh.server().unsettled(&Call::by("caller").attempt());
    assert_eq!(unsettled.map(|it| it.to_string()).as_deref(), expected);
}
