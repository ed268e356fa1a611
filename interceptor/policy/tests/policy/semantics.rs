//! Rules, clauses, entries, and the order in which policies are considered.

use interceptor_policy::{Cause, Decision, DryRun, RuleRef};
use rstest::rstest;
use serde_json::{Value, json};

use crate::fixture::{Call, Mesh, named};

fn decision(spec: &Value, call: &Call) -> Decision {
    Mesh::new().policy("demo/p", spec).decide(call).decision
}

fn rule(name: &str, rule: usize) -> RuleRef {
    RuleRef {
        policy: named(name),
        rule,
    }
}

#[rstest]
#[case::an_allow_without_rules_allows_nothing(json!({}), Decision::Deny)]
#[case::an_allow_with_an_empty_rule_allows_everything(json!({"rules": [{}]}), Decision::Allow)]
#[case::a_deny_with_an_empty_rule_denies_everything(
    json!({"action": "DENY", "rules": [{}]}), Decision::Deny)]
#[case::a_rule_with_an_empty_when_matches_everything(
    json!({"rules": [{"when": []}]}), Decision::Allow)]
#[case::rules_are_alternatives(
    json!({"rules": [
        {"to": [{"operation": {"ports": ["1"]}}]},
        {"to": [{"operation": {"ports": ["8080"]}}]},
    ]}), Decision::Allow)]
#[case::from_and_to_must_both_hold(
    json!({"rules": [{
        "from": [{"source": {"namespaces": ["demo"]}}],
        "to": [{"operation": {"ports": ["1"]}}],
    }]}), Decision::Deny)]
#[case::from_and_when_must_both_hold(
    json!({"rules": [{
        "from": [{"source": {"namespaces": ["demo"]}}],
        "when": [{"key": "destination.port", "values": ["1"]}],
    }]}), Decision::Deny)]
#[case::every_when_must_hold(
    json!({"rules": [{"when": [
        {"key": "destination.port", "values": ["8080"]},
        {"key": "source.namespace", "values": ["other"]},
    ]}]}), Decision::Deny)]
#[case::entries_of_from_are_alternatives(
    json!({"rules": [{"from": [
        {"source": {"namespaces": ["other"]}},
        {"source": {"namespaces": ["demo"]}},
    ]}]}), Decision::Allow)]
#[case::fields_of_one_entry_must_all_hold(
    json!({"rules": [{"from": [
        {"source": {"namespaces": ["demo"], "ipBlocks": ["192.168.0.0/16"]}},
    ]}]}), Decision::Deny)]
#[case::values_are_alternatives(
    json!({"rules": [{"from": [{"source": {"namespaces": ["other", "demo"]}}]}]}),
    Decision::Allow)]
#[case::values_and_not_values_must_both_hold(
    json!({"rules": [{"from": [{"source": {
        "namespaces": ["demo"],
        "notPrincipals": ["cluster.local/ns/demo/sa/caller"],
    }}]}]}), Decision::Deny)]
#[case::a_not_value_that_does_not_match_holds(
    json!({"rules": [{"to": [{"operation": {"ports": ["8000-9000"], "notPorts": ["8081"]}}]}]}),
    Decision::Allow)]
#[case::a_not_value_takes_out_of_the_values(
    json!({"rules": [{"to": [{"operation": {"ports": ["8000-9000"], "notPorts": ["8080"]}}]}]}),
    Decision::Deny)]
#[case::when_combines_values_and_not_values(
    json!({"rules": [{"when": [
        {"key": "source.ip", "values": ["10.0.0.0/8"], "notValues": ["10.1.0.0/16"]},
    ]}]}), Decision::Deny)]
fn a_call_by_demo_caller_to_port_8080(#[case] spec: Value, #[case] expected: Decision) {
    assert_eq!(decision(&spec, &Call::by("caller")), expected);
}

#[test]
fn without_policies_everything_is_allowed() {
    let verdict = Mesh::new().decide(&Call::plaintext());
    assert_eq!(verdict.cause, Cause::NoPolicies);
    assert!(verdict.is_allowed());
}

#[test]
fn a_deny_that_does_not_match_allows_what_no_allow_policy_restricts() {
    let deny = json!({"action": "DENY", "rules": [{"to": [{"operation": {"ports": ["1"]}}]}]});
    let verdict = Mesh::new()
        .policy("demo/deny", &deny)
        .decide(&Call::plaintext());
    assert_eq!(verdict.cause, Cause::NoDenyMatched);
    assert!(verdict.is_allowed());
}

#[test]
fn deny_comes_before_allow() {
    let mesh = Mesh::new()
        .policy("demo/a-allow", &json!({"rules": [{}]}))
        .policy("demo/z-deny", &json!({"action": "DENY", "rules": [{}]}));
    let verdict = mesh.decide(&Call::by("caller"));
    assert_eq!(verdict.reason(), "denied");
    assert_eq!(verdict.policy(), Some(&named("demo/z-deny")));
}

#[test]
fn one_matching_allow_is_enough() {
    let mesh = Mesh::new().policy("demo/nothing", &json!({})).policy(
        "demo/something",
        &json!({"rules": [{"to": [{"operation": {"ports": ["1"]}}]}, {}]}),
    );
    let verdict = mesh.decide(&Call::by("caller"));
    assert_eq!(verdict.cause, Cause::AllowedBy(rule("demo/something", 1)));
}

#[test]
fn the_policy_named_does_not_depend_on_the_order_of_loading() {
    let allow = json!({"rules": [{}]});
    let forwards = Mesh::new()
        .policy("demo/a", &allow)
        .policy("demo/b", &allow);
    let backwards = Mesh::new()
        .policy("demo/b", &allow)
        .policy("demo/a", &allow);
    assert_eq!(
        forwards.decide(&Call::plaintext()),
        backwards.decide(&Call::plaintext())
    );
}

#[test]
fn an_audit_policy_is_recorded_and_changes_nothing() {
    let audit =
        json!({"action": "AUDIT", "rules": [{"from": [{"source": {"principals": ["*"]}}]}]});
    let mesh = Mesh::new().policy("demo/audit", &audit);
    let verdict = mesh.decide(&Call::by("caller"));
    assert_eq!(
        (verdict.cause, verdict.audited),
        (Cause::NoPolicies, vec![rule("demo/audit", 0)])
    );
    let verdict = mesh.decide(&Call::plaintext());
    assert_eq!(
        (verdict.cause, verdict.audited),
        (Cause::NoPolicies, vec![])
    );
}

#[test]
fn an_audit_policy_records_refused_connections_too() {
    let mesh = Mesh::new()
        .policy("demo/audit", &json!({"action": "AUDIT", "rules": [{}]}))
        .policy("demo/deny", &json!({"action": "DENY", "rules": [{}]}));
    let verdict = mesh.decide(&Call::plaintext());
    assert_eq!(
        (verdict.reason(), verdict.audited),
        ("denied", vec![rule("demo/audit", 0)])
    );
}

#[test]
fn a_dry_run_deny_reports_and_changes_nothing() {
    let mesh = Mesh::new().dry_run("demo/deny", &json!({"action": "DENY", "rules": [{}]}));
    let verdict = mesh.decide(&Call::plaintext());
    assert_eq!(verdict.decision, Decision::Allow);
    assert_eq!(verdict.dry_run, [DryRun::WouldDeny(rule("demo/deny", 0))]);
}

#[rstest]
#[case::a_match_is_reported(
    Mesh::new().dry_run("demo/dry", &json!({"rules": [{}]})),
    vec![DryRun::WouldAllow(rule("demo/dry", 0))])]
#[case::no_match_would_deny(
    Mesh::new().dry_run("demo/dry", &json!({})),
    vec![DryRun::WouldNotAllow { policy: named("demo/dry") }])]
#[case::no_match_says_nothing_beside_an_enforced_allow(
    Mesh::new().dry_run("demo/dry", &json!({})).policy("demo/allow", &json!({"rules": [{}]})),
    vec![])]
fn a_dry_run_allow(#[case] mesh: Mesh, #[case] expected: Vec<DryRun>) {
    let verdict = mesh.decide(&Call::plaintext());
    assert_eq!(
        (verdict.decision, verdict.dry_run),
        (Decision::Allow, expected)
    );
}
