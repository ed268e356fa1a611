//! What is proved about rules: dead, live, shadowed, open to plaintext.
//!
//! A million cases by hand: `PROPTEST_CASES=1000000 PROPTEST_MAX_LOCAL_REJECTS=100000000 cargo test
//! --release -p interceptor-policy --test policy analysis::a_dead_rule`.

#![expect(
    clippy::unwrap_used,
    reason = "a case that cannot be set up must fail loudly"
)]

use interceptor_policy::{
    Effective, Liveness, PlaintextAt, Policy, PolicyMeta, PolicyName, PolicySet, RuleRef,
    ServicePorts, Settings, Target, shadows,
};
use proptest::collection::vec;
use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use crate::fixture::{Call, Mesh, compile};
use crate::generate::{call, peer, policy, settings};
use crate::naive::Written;
use crate::properties::{policy_set, server};

fn compiled(name: &str, spec: &Value) -> Policy {
    compile(name, &PolicyMeta::default(), spec, &Settings::default())
        .unwrap()
        .value
}

fn rule(rule: &Value) -> Policy {
    compiled("demo/p", &json!({ "rules": [rule] }))
}

fn liveness(of: &Value) -> String {
    match rule(of).liveness(0) {
        Some(Liveness::Live(witness)) => format!("live: {witness}"),
        Some(Liveness::Dead(why)) => format!("dead: {why}"),
        other => format!("{other:?}"),
    }
}

#[rstest]
#[case::other_namespaces(
    json!({"from": [{"source": {"namespaces": ["a"]}}],
           "when": [{"key": "source.namespace", "values": ["b", "c"]}]}),
    "dead: from[0].source.namespaces [a] and when[0].values (source.namespace) [b, c] exclude each other"
)]
#[case::the_namespace_of_a_principal(
    json!({"from": [{"source": {"principals": ["cluster.local/ns/a/*"], "namespaces": ["b"]}}]}),
    "dead: from[0].source.principals [cluster.local/ns/a/*] and from[0].source.namespaces [b] exclude each other"
)]
#[case::the_end_of_a_principal(
    json!({"from": [{"source": {"principals": ["*/sa/a"]}}],
           "when": [{"key": "source.serviceAccount", "values": ["demo/b"]}]}),
    "dead: from[0].source.principals [*/sa/a] and when[0].values (source.serviceAccount) [demo/b] exclude each other"
)]
#[case::no_identity_has_this_form(
    json!({"from": [{"source": {"principals": ["cluster.local/sa/*"]}}]}),
    "dead: from[0].source.principals [cluster.local/sa/*] matches nothing"
)]
#[case::everybody_with_an_identity_is_excluded(
    json!({"from": [{"source": {"namespaces": ["a"], "notPrincipals": ["*"]}}]}),
    "dead: from[0].source.notPrincipals [*] and from[0].source.namespaces [a] exclude each other"
)]
#[case::ports_and_not_ports(
    json!({"to": [{"operation": {"ports": ["8000-8010"]}}],
           "when": [{"key": "destination.port", "notValues": ["8000-8005", "8006-9000"]}]}),
    "dead: to[0].operation.ports [8000-8010] and when[0].notValues (destination.port) [8000-8005, 8006-9000] exclude each other"
)]
#[case::addresses(
    json!({"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}],
           "when": [{"key": "source.ip", "notValues": ["10.0.0.0/9", "10.128.0.0/9"]}]}),
    "dead: from[0].source.ipBlocks [10.0.0.0/8] and when[0].notValues (source.ip) [10.0.0.0/9, 10.128.0.0/9] exclude each other"
)]
#[case::what_l4_cannot_see(
    json!({"to": [{"operation": {"methods": ["GET"]}}]}),
    "dead: to[0].operation.methods cannot be decided at L4, and allowing without it would allow more"
)]
#[case::everything(json!({}), "live: xx/ns/xx/sa/xx from 0.0.0.0 to 0.0.0.0:0")]
#[case::plaintext_only(
    json!({"from": [{"source": {"notPrincipals": ["*"]}}]}),
    "live: plaintext from 0.0.0.0 to 0.0.0.0:0"
)]
#[case::a_port_by_name(
    json!({"to": [{"operation": {"ports": ["http"]}}]}),
    "live: xx/ns/xx/sa/xx from 0.0.0.0 to 0.0.0.0:40404"
)]
#[case::one_entry_is_enough(
    json!({"from": [{"source": {"namespaces": ["a"]}}, {"source": {"namespaces": ["b"]}}],
           "when": [{"key": "source.namespace", "values": ["b"]}]}),
    "live: xx/ns/b/sa/xx from 0.0.0.0 to 0.0.0.0:0"
)]
fn a_rule_is_dead_for_a_reason_or_live_with_an_example(#[case] of: Value, #[case] expected: &str) {
    assert_eq!(liveness(&of), expected);
}

#[test]
fn an_entry_of_a_live_rule_may_be_dead() {
    let policy = rule(&json!({
        "from": [{"source": {"namespaces": ["a"]}}, {"source": {"namespaces": ["b"]}}],
        "when": [{"key": "source.namespace", "values": ["b"]}]
    }));
    let dead = policy.dead_entries(0);
    assert_eq!(dead.len(), 1);
    assert_eq!(
        dead[0].to_string(),
        "from[0].source.namespaces [a] and when[0].values (source.namespace) [b] exclude each other"
    );
}

fn from(source: &Value) -> Value {
    json!({"from": [{"source": source}]})
}

fn allow(rules: &[Value]) -> Value {
    json!({ "rules": rules })
}

fn shadowed(policies: &[Policy]) -> Vec<String> {
    let found = shadows(policies);
    assert_eq!(found.skipped, 0);
    let show = |of: &RuleRef| format!("{}#{}", of.policy, of.rule);
    let lines = found.list.iter();
    lines
        .map(|one| format!("{} {:?} by {}", show(&one.rule), one.effect, show(&one.by)))
        .collect()
}

#[test]
fn a_wider_rule_shadows_a_narrower_one_and_the_first_of_equals_stays() {
    let rules = [
        from(&json!({"namespaces": ["a"]})),
        from(&json!({"principals": ["cluster.local/ns/a/sa/x"]})),
        from(&json!({"namespaces": ["a"]})),
        from(&json!({"namespaces": ["b"]})),
    ];
    assert_eq!(
        shadowed(&[compiled("demo/p", &allow(&rules))]),
        [
            "demo/p#1 Redundant by demo/p#0",
            "demo/p#2 Redundant by demo/p#0"
        ]
    );
}

#[test]
fn a_deny_that_covers_an_allow_overrules_it() {
    let deny = json!({"action": "DENY", "rules": [from(&json!({"namespaces": ["a"]}))]});
    let narrow = allow(&[from(&json!({"principals": ["cluster.local/ns/a/sa/x"]}))]);
    let found = shadowed(&[
        compiled("demo/allow", &narrow),
        compiled("istio-system/deny", &deny),
    ]);
    assert_eq!(found, ["demo/allow#0 Overruled by istio-system/deny#0"]);
}

#[rstest]
#[case::another_namespace("ops/wide", json!({"rules": [{}]}))]
#[case::fewer_workloads("demo/wide", json!({"rules": [{}], "selector": {"matchLabels": {"a": "b"}}}))]
#[case::an_exception("demo/wide", json!({"rules": [
    {"from": [{"source": {"namespaces": ["a"], "notPrincipals": ["cluster.local/ns/a/sa/x"]}}]}]}))]
#[case::an_audit("demo/wide", json!({"action": "AUDIT", "rules": [{}]}))]
#[case::other_ports("demo/wide", json!({"rules": [{"to": [{"operation": {"ports": ["1-79"]}}]}]}))]
fn what_does_not_cover_everything_shadows_nothing(#[case] name: &str, #[case] wide: Value) {
    let narrow = allow(&[from(&json!({"principals": ["cluster.local/ns/a/sa/x"]}))]);
    let found = shadowed(&[compiled("demo/narrow", &narrow), compiled(name, &wide)]);
    assert_eq!(found, Vec::<String>::new());
}

#[rstest]
#[case::who_may(json!({"principals": ["*"]}), None)]
#[case::who_may_not(json!({"notNamespaces": ["a"]}), Some("from[0].source.notNamespaces"))]
#[case::from_where(json!({"ipBlocks": ["10.0.0.0/8"]}), Some(""))]
fn a_rule_that_only_excludes_admits_plaintext(
    #[case] source: Value,
    #[case] expected: Option<&str>,
) {
    let plaintext = rule(&from(&source)).plaintext(0);
    let fields = plaintext.map(|plaintext| {
        let fields: Vec<_> = plaintext
            .only_excluding
            .iter()
            .map(ToString::to_string)
            .collect();
        fields.join(" ")
    });
    assert_eq!(fields.as_deref(), expected);
}

#[test]
fn plaintext_is_refused_by_mode_by_policy_or_not_at_all() {
    let strict = Mesh::new().mtls("demo/s", &json!({"mtls": {"mode": "STRICT"}}));
    assert_eq!(
        strict.server().plaintext_at(8080),
        PlaintextAt::RefusedByMode
    );
    let by_identity = Mesh::new().policy("demo/p", &allow(&[from(&json!({"namespaces": ["a"]}))]));
    assert_eq!(
        by_identity.server().plaintext_at(8080),
        PlaintextAt::RefusedByPolicy(vec![PolicyName::new("demo", "p")])
    );
    let by_port = json!({"rules": [{"to": [{"operation": {"ports": ["http"]}}]}]});
    let open = Mesh::new().policy("demo/p", &by_port).server();
    assert_eq!(open.plaintext_at(8080), PlaintextAt::Possible);
    assert_ne!(open.plaintext_at(9000), PlaintextAt::Possible);
    assert!(Mesh::new().decide(&Call::plaintext()).is_allowed());
}

fn each(policies: &[Written], settings: &Settings) -> Vec<Policy> {
    let compile = |written: &Written| {
        let meta = PolicyMeta {
            dry_run: written.dry_run.then(|| "true".to_owned()),
        };
        let name = PolicyName::new(&*written.namespace, &*written.name);
        Policy::compile(name, &meta, &written.spec, settings)
            .unwrap()
            .value
    };
    policies.iter().map(compile).collect()
}

/// What holds for the server.
fn effective(set: &PolicySet) -> Effective {
    let workload = server();
    let services: Vec<_> = (workload.services.iter())
        .map(|(service, target_ports)| ServicePorts {
            service,
            target_ports,
        })
        .collect();
    set.effective(&Target {
        namespace: &workload.namespace,
        labels: &workload.labels,
        ports: &workload.ports,
        services: &services,
    })
}

/// The rules that match a call to the server, as the engine explains it.
fn matching(set: &PolicySet, call: &Call) -> Vec<RuleRef> {
    let explanation = effective(set).explain(&call.attempt());
    let rules = explanation.policies.iter().flat_map(|policy| {
        let matched = policy.rules.iter().filter(|rule| rule.matched);
        matched.map(|rule| RuleRef {
            policy: policy.policy.clone(),
            rule: rule.rule,
        })
    });
    rules.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn a_dead_rule_never_fires(
        settings in settings(), written in policy(), calls in vec(call(), 1..16),
    ) {
        let policies = each(std::slice::from_ref(&written), &settings);
        let dead = |rule: &usize| matches!(policies[0].liveness(*rule), Some(Liveness::Dead(_)));
        let dead: Vec<usize> = (0..policies[0].rule_count()).filter(dead).collect();
        if !dead.is_empty() {
            let set = policy_set(&settings, std::slice::from_ref(&written), &[]);
            for call in &calls {
                let matched = matching(&set, call);
                prop_assert!(!matched.iter().any(|rule| dead.contains(&rule.rule)), "{call:?}");
            }
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_shadowed_rule_matches_only_what_the_other_matches(
        settings in settings(), written in vec(policy(), 1..5), calls in vec(call(), 1..8),
    ) {
        let policies = each(&written, &settings);
        let names: std::collections::BTreeSet<_> = policies.iter().map(Policy::name).collect();
        prop_assume!(names.len() == policies.len());
        let set = policy_set(&settings, &written, &[]);
        for shadow in shadows(&policies).list {
            for call in &calls {
                let matched = matching(&set, call);
                prop_assert!(
                    !matched.contains(&shadow.rule) || matched.contains(&shadow.by),
                    "{shadow:?} {call:?}"
                );
            }
        }
    }

    #[test]
    fn refused_plaintext_is_refused(
        settings in settings(), written in vec(policy(), 0..4), peers in vec(peer(), 0..3),
        call in call(),
    ) {
        let set = policy_set(&settings, &written, &peers);
        let effective = effective(&set);
        let call = Call { source: None, ..call };
        let refused = effective.plaintext_at(call.port) != PlaintextAt::Possible;
        prop_assert!(!refused || !effective.decide(&call.attempt()).is_allowed());
    }

    #[test]
    fn a_rule_without_plaintext_matches_none(written in policy(), call in call()) {
        let settings = Settings::default();
        let policies = each(std::slice::from_ref(&written), &settings);
        let set = policy_set(&settings, std::slice::from_ref(&written), &[]);
        let call = Call { source: None, ..call };
        for matched in matching(&set, &call) {
            prop_assert!(policies[0].plaintext(matched.rule).is_some());
        }
    }
}

#[test]
fn proofs_are_bounded_whatever_was_written() {
    let many: Vec<String> = (0..3000)
        .map(|n| format!("cluster.local/ns/n{n}/sa/a"))
        .collect();
    let conditions: Vec<Value> = (0..200)
        .map(|_| json!({"key": "source.principal", "values": many, "notValues": ["x/ns/y/sa/z"]}))
        .collect();
    let policy = rule(&json!({
        "from": [{"source": {"principals": many}}],
        "when": conditions
    }));
    assert!(policy.liveness(0).is_some());
    assert!(policy.dead_entries(0).is_empty());
}
