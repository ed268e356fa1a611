//! The whole decision as an operator reads it, and as a tool reads it.

use interceptor_policy::{Explanation, Standing};
use serde_json::{Value, json};

use crate::fixture::{Call, Mesh};

fn explain(mesh: &Mesh, call: &Call) -> Explanation {
    mesh.server().explain(&call.attempt())
}

/// Every class of policy once.
fn busy() -> Mesh {
    Mesh::new()
        .mtls("demo/default", &json!({"mtls": {"mode": "STRICT"}}))
        .policy(
            "demo/allow-callers",
            &json!({
                "selector": {"matchLabels": {"app": "server"}},
                "rules": [
                    {
                        "from": [
                            {"source": {"principals": ["cluster.local/ns/demo/sa/caller"]}},
                            {"source": {"namespaces": ["ops"], "ipBlocks": ["10.0.0.0/8"]}},
                        ],
                        "to": [{"operation": {"ports": ["http", "htpp"]}}],
                    },
                    {"to": [{"operation": {"methods": ["GET"]}}]},
                ],
            }),
        )
        .policy(
            "istio-system/no-intruders",
            &json!({"action": "DENY", "rules": [{"when": [
                {"key": "source.principal", "values": ["*/sa/intruder"]},
            ]}]}),
        )
        .policy(
            "demo/admins",
            &json!({"targetRef": {"kind": "Service", "name": "server"}}),
        )
        .policy("demo/record", &json!({"action": "AUDIT", "rules": [{}]}))
        .dry_run(
            "demo/only-strictly",
            &json!({"action": "DENY", "rules": [{"from": [{"source": {"ipBlocks": ["10.1.2.3"]}}]}]}),
        )
}

#[test]
fn of_a_call_that_is_allowed() {
    insta::assert_snapshot!(explain(&busy(), &Call::by("caller")), @r#"
    ALLOW: allowed by policy demo/allow-callers rule 0
      from      spiffe://cluster.local/ns/demo/sa/caller at 10.1.2.3
      to        10.9.9.9:8080
      mTLS      STRICT (PeerAuthentication demo/default, namespace level)
      DENY      istio-system/no-intruders (every workload): no rule matched
                rule 0 did not match
                  FAIL  when[0].values (source.principal): cluster.local/ns/demo/sa/caller is not in [*/sa/intruder]
      ALLOW     demo/admins (Service server in namespace demo): no rule matched
                it has no rules
      ALLOW     demo/allow-callers (app=server in namespace demo): decided
                rule 0 matched
                  ok    from[0].source.principals matched "cluster.local/ns/demo/sa/caller"
                  ok    to[0].operation.ports matched "8080" by "http (8080)"
                rule 1 never matches: L4 cannot see to[0].operation.methods
      AUDIT     demo/record (namespace demo): matched, only reports
                rule 0 matched
      DENY      demo/only-strictly (namespace demo, dry run): matched, only reports
                rule 0 matched
                  ok    from[0].source.ipBlocks matched "10.1.2.3"
      dry run   would be denied by demo/only-strictly rule 0
      audit     recorded by demo/record rule 0
      warning   demo/allow-callers: spec.rules[0].to[0].operation.ports[1]: the workload has no port named "htpp", so it never matches (it has admin, http)
    "#);
}

#[test]
fn of_a_call_that_is_denied() {
    insta::assert_snapshot!(explain(&busy(), &Call::by("intruder")), @r#"
    DENY: denied by policy istio-system/no-intruders rule 0: when[0].values (source.principal) matched "cluster.local/ns/demo/sa/intruder" by "*/sa/intruder"
      from      spiffe://cluster.local/ns/demo/sa/intruder at 10.1.2.3
      to        10.9.9.9:8080
      mTLS      STRICT (PeerAuthentication demo/default, namespace level)
      DENY      istio-system/no-intruders (every workload): decided
                rule 0 matched
                  ok    when[0].values (source.principal) matched "cluster.local/ns/demo/sa/intruder" by "*/sa/intruder"
      ALLOW     demo/admins (Service server in namespace demo): no rule matched
                it has no rules
      ALLOW     demo/allow-callers (app=server in namespace demo): no rule matched
                rule 0 did not match
                  FAIL  from[0].source.principals: cluster.local/ns/demo/sa/intruder is not in [cluster.local/ns/demo/sa/caller]
                  FAIL  from[1].source.namespaces: demo is not in [ops]
                  ok    from[1].source.ipBlocks matched "10.1.2.3" by "10.0.0.0/8"
                  ok    to[0].operation.ports matched "8080" by "http (8080)"
                rule 1 never matches: L4 cannot see to[0].operation.methods
      AUDIT     demo/record (namespace demo): matched, only reports
                rule 0 matched
      DENY      demo/only-strictly (namespace demo, dry run): matched, only reports
                rule 0 matched
                  ok    from[0].source.ipBlocks matched "10.1.2.3"
      dry run   would be denied by demo/only-strictly rule 0
      audit     recorded by demo/record rule 0
      warning   demo/allow-callers: spec.rules[0].to[0].operation.ports[1]: the workload has no port named "htpp", so it never matches (it has admin, http)
    "#);
}

#[test]
fn of_a_call_that_nothing_allows() {
    insta::assert_snapshot!(explain(&busy(), &Call::by("stranger").on_port(9000)), @r#"
    DENY: no ALLOW policy matched; nearest: demo/allow-callers rule 1 never matches, because L4 cannot see to[0].operation.methods
      from      spiffe://cluster.local/ns/demo/sa/stranger at 10.1.2.3
      to        10.9.9.9:9000
      mTLS      STRICT (PeerAuthentication demo/default, namespace level)
      DENY      istio-system/no-intruders (every workload): no rule matched
                rule 0 did not match
                  FAIL  when[0].values (source.principal): cluster.local/ns/demo/sa/stranger is not in [*/sa/intruder]
      ALLOW     demo/admins (Service server in namespace demo): not for this port
      ALLOW     demo/allow-callers (app=server in namespace demo): no rule matched
                rule 0 did not match
                  FAIL  from[0].source.principals: cluster.local/ns/demo/sa/stranger is not in [cluster.local/ns/demo/sa/caller]
                  FAIL  from[1].source.namespaces: demo is not in [ops]
                  ok    from[1].source.ipBlocks matched "10.1.2.3" by "10.0.0.0/8"
                  FAIL  to[0].operation.ports: 9000 is not in [http (8080), htpp]
                rule 1 never matches: L4 cannot see to[0].operation.methods
      AUDIT     demo/record (namespace demo): matched, only reports
                rule 0 matched
      DENY      demo/only-strictly (namespace demo, dry run): matched, only reports
                rule 0 matched
                  ok    from[0].source.ipBlocks matched "10.1.2.3"
      dry run   would be denied by demo/only-strictly rule 0
      audit     recorded by demo/record rule 0
      warning   demo/allow-callers: spec.rules[0].to[0].operation.ports[1]: the workload has no port named "htpp", so it never matches (it has admin, http)
    "#);
}

#[test]
fn of_plaintext_to_strict() {
    insta::assert_snapshot!(explain(&busy(), &Call::plaintext()), @r#"
    DENY: plaintext refused: port 8080 requires mutual TLS (PeerAuthentication demo/default, namespace level)
      from      plaintext at 10.1.2.3
      to        10.9.9.9:8080
      mTLS      STRICT (PeerAuthentication demo/default, namespace level)
      DENY      istio-system/no-intruders (every workload): no rule matched
                rule 0 did not match
                  FAIL  when[0].values (source.principal): the caller has no mTLS identity, which must match [*/sa/intruder]
      ALLOW     demo/admins (Service server in namespace demo): no rule matched
                it has no rules
      ALLOW     demo/allow-callers (app=server in namespace demo): no rule matched
                rule 0 did not match
                  FAIL  from[0].source.principals: the caller has no mTLS identity, which must match [cluster.local/ns/demo/sa/caller]
                  FAIL  from[1].source.namespaces: the caller has no mTLS identity, which must match [ops]
                  ok    from[1].source.ipBlocks matched "10.1.2.3" by "10.0.0.0/8"
                  ok    to[0].operation.ports matched "8080" by "http (8080)"
                rule 1 never matches: L4 cannot see to[0].operation.methods
      AUDIT     demo/record (namespace demo): matched, only reports
                rule 0 matched
      DENY      demo/only-strictly (namespace demo, dry run): matched, only reports
                rule 0 matched
                  ok    from[0].source.ipBlocks matched "10.1.2.3"
      dry run   would be denied by demo/only-strictly rule 0
      audit     recorded by demo/record rule 0
      warning   demo/allow-callers: spec.rules[0].to[0].operation.ports[1]: the workload has no port named "htpp", so it never matches (it has admin, http)
    "#);
}

#[test]
fn without_policies() {
    insta::assert_snapshot!(explain(&Mesh::new(), &Call::plaintext()), @r"
    ALLOW: allowed: no policy holds for this workload
      from      plaintext at 10.1.2.3
      to        10.9.9.9:8080
      mTLS      PERMISSIVE (no PeerAuthentication, default)
      policies  none holds for this workload
    ");
}

#[test]
fn only_one_policy_decided() {
    let explanation = explain(&busy(), &Call::by("caller"));
    let decided = explanation
        .policies
        .iter()
        .filter(|p| p.standing == Standing::Decided);
    let names: Vec<_> = decided.map(|p| p.policy.to_string()).collect();
    assert_eq!(names, ["demo/allow-callers"]);
}

#[test]
fn in_json_a_tool_finds_the_field() {
    let explanation = explain(&busy(), &Call::by("stranger"));
    let json: Value = serde_json::to_value(&explanation).unwrap_or_default();
    let pointer = "/policies/2/rules/0/clauses/0/entries/0/fields/0";
    insta::assert_snapshot!(format!("{:#}", json.pointer(pointer).unwrap_or(&json)), @r#"
    {
      "actual": "cluster.local/ns/demo/sa/stranger",
      "field": "from[0].source.principals",
      "listed": [
        "cluster.local/ns/demo/sa/caller"
      ],
      "mismatch": "not_listed",
      "outcome": "failed",
      "total": 1
    }
    "#);
}
