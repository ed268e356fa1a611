//! What an operator reads of a verdict: one sentence that names policy, rule, field and values.

use interceptor_policy::{Mismatch, Verdict};
use serde_json::json;

use crate::fixture::{Call, Mesh, named};

fn caller_only() -> Mesh {
    Mesh::new().policy(
        "demo/allow-caller",
        &json!({"rules": [{
            "from": [{"source": {"principals": ["cluster.local/ns/demo/sa/caller"]}}],
            "to": [{"operation": {"ports": ["8080"]}}],
        }]}),
    )
}

fn sentence(verdict: &Verdict) -> String {
    format!("{} [{}] {verdict}", verdict.decision, verdict.reason())
}

#[test]
fn of_an_allow() {
    let verdict = caller_only().decide(&Call::by("caller"));
    insta::assert_snapshot!(sentence(&verdict), @"allow [allowed] allowed by policy demo/allow-caller rule 0");
}

#[test]
fn of_a_deny() {
    let deny = json!({"action": "DENY", "rules": [{
        "from": [{"source": {"principals": ["cluster.local/ns/demo/sa/intruder"]}}],
    }]});
    let verdict = Mesh::new()
        .policy("demo/deny-intruder", &deny)
        .decide(&Call::by("intruder"));
    insta::assert_snapshot!(sentence(&verdict), @r#"deny [denied] denied by policy demo/deny-intruder rule 0: from[0].source.principals matched "cluster.local/ns/demo/sa/intruder""#);
}

#[test]
fn of_a_deny_by_pattern_and_port_name() {
    let deny = json!({"action": "DENY", "rules": [{
        "from": [{"source": {"namespaces": ["de*"], "notIpBlocks": ["10.9.0.0/16"]}}],
        "to": [{"operation": {"ports": ["http"]}}],
    }]});
    let verdict = Mesh::new()
        .policy("demo/deny", &deny)
        .decide(&Call::by("intruder"));
    insta::assert_snapshot!(sentence(&verdict), @r#"deny [denied] denied by policy demo/deny rule 0: from[0].source.namespaces matched "demo" by "de*" and from[0].source.notIpBlocks does not exclude "10.1.2.3" and to[0].operation.ports matched "8080" by "http (8080)""#);
}

#[test]
fn of_a_deny_of_everybody_but() {
    let deny = json!({"action": "DENY", "rules": [{
        "from": [{"source": {"notPrincipals": ["*/sa/caller"]}}],
    }]});
    let mesh = Mesh::new().policy("demo/deny", &deny);
    insta::assert_snapshot!(sentence(&mesh.decide(&Call::by("intruder"))), @r#"deny [denied] denied by policy demo/deny rule 0: from[0].source.notPrincipals does not exclude "cluster.local/ns/demo/sa/intruder""#);
    insta::assert_snapshot!(sentence(&mesh.decide(&Call::plaintext())), @"deny [denied] denied by policy demo/deny rule 0: from[0].source.notPrincipals does not exclude a caller without mTLS identity");
}

#[test]
fn of_a_deny_of_everything() {
    let deny = json!({"action": "DENY", "rules": [{}]});
    let verdict = Mesh::new()
        .policy("demo/deny-all", &deny)
        .decide(&Call::plaintext());
    insta::assert_snapshot!(sentence(&verdict), @"deny [denied] denied by policy demo/deny-all rule 0: it matches every connection");
}

#[test]
fn of_a_widened_deny() {
    let deny = json!({"action": "DENY", "rules": [{
        "from": [{"source": {"namespaces": ["demo"]}}],
        "to": [{"operation": {"methods": ["DELETE"], "paths": ["/admin"]}}],
    }]});
    let verdict = Mesh::new()
        .policy("demo/no-delete", &deny)
        .decide(&Call::by("caller"));
    insta::assert_snapshot!(sentence(&verdict), @r#"deny [denied] denied by policy demo/no-delete rule 0: from[0].source.namespaces matched "demo"; widened, because L4 cannot see to[0].operation.methods, to[0].operation.paths"#);
}

#[test]
fn of_no_matching_allow() {
    let verdict = caller_only().decide(&Call::by("intruder"));
    assert_eq!(verdict.policy(), Some(&named("demo/allow-caller")));
    assert_eq!(verdict.rule(), Some(0));
    insta::assert_snapshot!(sentence(&verdict), @"deny [no_allow_matched] no ALLOW policy matched; nearest: demo/allow-caller rule 0 failed at from[0].source.principals: cluster.local/ns/demo/sa/intruder is not in [cluster.local/ns/demo/sa/caller]");
}

#[test]
fn of_plaintext_that_no_allow_admits() {
    insta::assert_snapshot!(sentence(&caller_only().decide(&Call::plaintext())), @"deny [no_allow_matched] no ALLOW policy matched; nearest: demo/allow-caller rule 0 failed at from[0].source.principals: the caller has no mTLS identity, which must match [cluster.local/ns/demo/sa/caller]");
}

#[test]
fn of_an_excluded_value() {
    let allow = json!({"rules": [{"when": [
        {"key": "source.namespace", "values": ["*"], "notValues": ["demo"]},
    ]}]});
    let verdict = Mesh::new()
        .policy("demo/others", &allow)
        .decide(&Call::by("caller"));
    insta::assert_snapshot!(sentence(&verdict), @"deny [no_allow_matched] no ALLOW policy matched; nearest: demo/others rule 0 failed at when[0].notValues (source.namespace): demo is excluded by demo");
}

#[test]
fn of_an_allow_nothing() {
    let verdict = Mesh::new()
        .policy("demo/nothing", &json!({}))
        .decide(&Call::by("caller"));
    insta::assert_snapshot!(sentence(&verdict), @"deny [no_allow_matched] no ALLOW policy matched; demo/nothing has no rules, so it allows nothing");
}

#[test]
fn of_an_allow_rule_that_l4_cannot_decide() {
    let allow = json!({"rules": [{
        "from": [{"source": {"namespaces": ["demo"]}}],
        "to": [{"operation": {"methods": ["GET"]}}],
    }]});
    let mesh = Mesh::new().policy("demo/get", &allow);
    insta::assert_snapshot!(sentence(&mesh.decide(&Call::by("caller"))), @"deny [no_allow_matched] no ALLOW policy matched; nearest: demo/get rule 0 never matches, because L4 cannot see to[0].operation.methods");
    insta::assert_snapshot!(sentence(&mesh.decide(&Call::plaintext())), @"deny [no_allow_matched] no ALLOW policy matched; nearest: demo/get rule 0 failed at from[0].source.namespaces: the caller has no mTLS identity, which must match [demo], and it never matches, because L4 cannot see to[0].operation.methods");
}

#[test]
fn the_nearest_rule_is_the_one_with_the_fewest_failing_clauses() {
    let mesh = Mesh::new()
        .policy("demo/a", &json!({"rules": [{
            "from": [{"source": {"namespaces": ["other"]}}],
            "to": [{"operation": {"ports": ["1"]}}],
        }]}))
        .policy("demo/b", &json!({"rules": [
            {"from": [{"source": {"namespaces": ["other"]}}], "to": [{"operation": {"ports": ["2"]}}]},
            {"from": [{"source": {"namespaces": ["demo"]}}], "to": [{"operation": {"ports": ["3"]}}]},
        ]}));
    let verdict = mesh.decide(&Call::by("caller"));
    insta::assert_snapshot!(sentence(&verdict), @"deny [no_allow_matched] no ALLOW policy matched; nearest: demo/b rule 1 failed at to[0].operation.ports: 8080 is not in [3]");
}

#[test]
fn a_long_list_is_shown_in_part() {
    let principals: Vec<_> = (0..1000)
        .map(|n| format!("cluster.local/ns/a/sa/s{n}"))
        .collect();
    let allow = json!({"rules": [{"from": [{"source": {"principals": principals}}]}]});
    let verdict = Mesh::new()
        .policy("demo/many", &allow)
        .decide(&Call::by("caller"));
    let failure = verdict.failure().expect("a field that failed");
    let Mismatch::NotListed { listed, total } = &failure.mismatch else {
        panic!("{failure:?}")
    };
    assert_eq!((listed.len(), *total), (4, 1000));
    insta::assert_snapshot!(sentence(&verdict), @"deny [no_allow_matched] no ALLOW policy matched; nearest: demo/many rule 0 failed at from[0].source.principals: cluster.local/ns/demo/sa/caller is not in [cluster.local/ns/a/sa/s0, cluster.local/ns/a/sa/s1, cluster.local/ns/a/sa/s2, cluster.local/ns/a/sa/s3, and 996 more]");
}

#[test]
fn in_json() {
    let verdict = caller_only().decide(&Call::by("intruder"));
    let json = serde_json::to_string_pretty(&verdict).expect("plain values");
    insta::assert_snapshot!(json, @r#"
    {
      "decision": "deny",
      "reason": "no_allow_matched",
      "policy": "demo/allow-caller",
      "rule": 0,
      "failure": {
        "field": "from[0].source.principals",
        "actual": "cluster.local/ns/demo/sa/intruder",
        "mismatch": "not_listed",
        "listed": [
          "cluster.local/ns/demo/sa/caller"
        ],
        "total": 1
      },
      "matched": [],
      "audited": [],
      "dry_run": [],
      "message": "no ALLOW policy matched; nearest: demo/allow-caller rule 0 failed at from[0].source.principals: cluster.local/ns/demo/sa/intruder is not in [cluster.local/ns/demo/sa/caller]"
    }
    "#);
}
