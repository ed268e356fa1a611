//! The changes that would turn a verdict: which are named, and that they really do.
#![expect(
    clippy::expect_used,
    reason = "a case that cannot be set up must fail loudly"
)]

use std::collections::{BTreeMap, BTreeSet};

use interceptor_policy::spec::{AuthorizationPolicySpec, PeerAuthenticationSpec};
use interceptor_policy::{Change, Flip, PolicyName, ServicePorts, Settings, SpiffeId, Target};
use proptest::collection::vec;
use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use crate::fixture::{Call, Mesh};
use crate::generate::{call, peer, policy, settings};
use crate::naive::{Workload, Written, WrittenPeer, answer};
use crate::properties::{policy_set, server};

// === tables ===

/// What would turn the verdict on a call to `demo/server`, as told.
fn told(mesh: &Mesh, call: &Call, identity: Option<&SpiffeId>) -> Vec<String> {
    let labels = BTreeMap::from([("app".to_owned(), "server".to_owned())]);
    let ports = BTreeMap::from([("http".to_owned(), 8080)]);
    let target = Target {
        namespace: "demo",
        labels: &labels,
        ports: &ports,
        services: &[ServicePorts {
            service: "server",
            target_ports: &[8080],
        }],
    };
    let flips = mesh.set().flips(&target, &call.attempt(), identity);
    flips.iter().map(Flip::to_string).collect()
}

fn first(mesh: &Mesh, call: &Call) -> String {
    let told = told(mesh, call, None);
    told.into_iter().next().unwrap_or_default()
}

fn from(source: &Value) -> Value {
    json!({"rules": [{"from": [{"source": source}]}]})
}

fn deny(source: &Value) -> Value {
    json!({"action": "DENY", "rules": [{"from": [{"source": source}]}]})
}

#[rstest]
#[case::a_principal_is_added(
    from(&json!({"principals": ["cluster.local/ns/demo/sa/a"]})),
    r#"add "cluster.local/ns/demo/sa/b" to from[0].source.principals of demo/p rule 0"#
)]
#[case::the_caller_alone_comes_before_its_namespace(
    from(&json!({"namespaces": ["ops"]})),
    r#"add "cluster.local/ns/demo/sa/b" to from[1].source.principals of demo/p rule 0"#
)]
#[case::a_service_account(
    from(&json!({"serviceAccounts": ["a"]})),
    r#"add "demo/b" to from[0].source.serviceAccounts of demo/p rule 0"#
)]
#[case::an_exception_is_taken_back(
    from(&json!({"principals": ["*"], "notPrincipals": ["cluster.local/ns/demo/sa/b"]})),
    r#"remove "cluster.local/ns/demo/sa/b" from from[0].source.notPrincipals of demo/p rule 0"#
)]
#[case::an_address_block(
    from(&json!({"ipBlocks": ["10.9.0.0/16"]})),
    r#"add "10.1.2.3" to from[0].source.ipBlocks of demo/p rule 0"#
)]
#[case::a_port(
    json!({"rules": [{"to": [{"operation": {"ports": ["80"]}}]}]}),
    r#"add "8080" to to[0].operation.ports of demo/p rule 0"#
)]
#[case::a_condition(
    json!({"rules": [{"when": [{"key": "source.namespace", "values": ["ops"]}]}]}),
    r#"add "demo" to when[0].values (source.namespace) of demo/p rule 0"#
)]
#[case::two_clauses_need_two_values(
    json!({"rules": [{
        "from": [{"source": {"principals": ["cluster.local/ns/demo/sa/a"]}}],
        "to": [{"operation": {"ports": ["80"]}}],
    }]}),
    "add a rule to demo/p: from principal cluster.local/ns/demo/sa/b to port 8080"
)]
#[case::allow_nothing(
    json!({}),
    "add a rule to demo/p: from principal cluster.local/ns/demo/sa/b to port 8080"
)]
#[case::a_deny_gets_an_exception(
    deny(&json!({"namespaces": ["demo"]})),
    r#"add "cluster.local/ns/demo/sa/b" to from[0].source.notPrincipals of demo/p rule 0"#
)]
#[case::a_deny_of_this_caller_among_others(
    deny(&json!({"principals": ["cluster.local/ns/demo/sa/a", "cluster.local/ns/demo/sa/b"]})),
    r#"remove "cluster.local/ns/demo/sa/b" from from[0].source.principals of demo/p rule 0"#
)]
#[case::a_deny_of_this_caller_alone(
    deny(&json!({"principals": ["cluster.local/ns/demo/sa/b"]})),
    r#"add "8080" to to[0].operation.notPorts of demo/p rule 0"#
)]
#[case::a_deny_of_everybody(
    json!({"action": "DENY", "rules": [{}]}),
    r#"add "cluster.local/ns/demo/sa/b" to from[0].source.notPrincipals of demo/p rule 0"#
)]
#[case::a_deny_that_two_entries_make(
    json!({"action": "DENY", "rules": [{"from": [
        {"source": {"namespaces": ["demo"]}}, {"source": {"namespaces": ["d*"]}},
    ]}]}),
    r#"add "cluster.local/ns/demo/sa/b" to from[0].source.notPrincipals of demo/p rule 0; and add "cluster.local/ns/demo/sa/b" to from[1].source.notPrincipals of demo/p rule 0"#
)]
fn the_smallest_change_that_would_allow(#[case] spec: Value, #[case] expected: &str) {
    let mesh = Mesh::new().policy("demo/p", &spec);
    assert!(!mesh.decide(&Call::by("b")).is_allowed());
    assert_eq!(first(&mesh, &Call::by("b")), expected);
}

#[rstest]
#[case::without_policies(
    None,
    "add a policy demo/deny-b-8080 that says DENY from principal cluster.local/ns/demo/sa/b to port 8080"
)]
#[case::one_of_several_callers(
    Some(from(&json!({"principals": ["cluster.local/ns/demo/sa/a", "cluster.local/ns/demo/sa/b"]}))),
    r#"remove "cluster.local/ns/demo/sa/b" from from[0].source.principals of demo/p rule 0"#
)]
#[case::a_whole_namespace(
    Some(from(&json!({"namespaces": ["demo"]}))),
    r#"add "cluster.local/ns/demo/sa/b" to from[0].source.notPrincipals of demo/p rule 0"#
)]
fn the_smallest_change_that_would_deny(#[case] spec: Option<Value>, #[case] expected: &str) {
    let mesh = match &spec {
        Some(spec) => Mesh::new().policy("demo/p", spec),
        None => Mesh::new(),
    };
    assert!(mesh.decide(&Call::by("b")).is_allowed());
    assert_eq!(first(&mesh, &Call::by("b")), expected);
}

#[test]
fn plaintext_to_a_strict_port_is_told_to_come_through_the_mesh_first() {
    let strict = json!({"mtls": {"mode": "STRICT"}});
    let mesh = Mesh::new().mtls("demo/default", &strict);
    let identity = "spiffe://cluster.local/ns/demo/sa/b"
        .parse()
        .expect("an identity");
    assert_eq!(
        told(&mesh, &Call::plaintext(), Some(&identity)),
        [
            "enrol the caller, so that it comes as spiffe://cluster.local/ns/demo/sa/b over mutual TLS",
            "add a PeerAuthentication demo/mtls-plaintext-8080 that selects the workload and sets \
             port 8080 to PERMISSIVE",
            "set the mode of PeerAuthentication demo/default to PERMISSIVE",
        ]
    );
}

#[test]
fn several_denials_are_taken_away_one_after_another_and_nothing_superfluous() {
    let account = |name: &str| json!({"principals": [format!("cluster.local/ns/demo/sa/{name}")]});
    let mesh = Mesh::new()
        .policy("demo/one", &deny(&account("b")))
        .policy("demo/two", &deny(&json!({"namespaces": ["demo"]})))
        .policy("istio-system/all", &from(&account("a")));
    assert_eq!(
        told(&mesh, &Call::by("b"), None),
        [
            "add \"8080\" to to[0].operation.notPorts of demo/one rule 0; \
             and add \"cluster.local/ns/demo/sa/b\" to from[0].source.notPrincipals of demo/two rule 0; \
             and add \"cluster.local/ns/demo/sa/b\" to from[0].source.principals of istio-system/all rule 0"
        ]
    );
}

#[test]
fn a_change_names_its_object_and_field_for_programs() {
    let mesh = Mesh::new().policy("demo/p", &from(&json!({"serviceAccounts": ["a"]})));
    let (labels, ports) = (BTreeMap::new(), BTreeMap::new());
    let target = Target {
        namespace: "demo",
        labels: &labels,
        ports: &ports,
        services: &[],
    };
    let flips = mesh.set().flips(&target, &Call::by("b").attempt(), None);
    let flip = serde_json::to_value(flips.first()).expect("JSON");
    assert_eq!(
        flip["changes"],
        json!([{
            "change": "add_value",
            "object": "demo/p",
            "path": "spec.rules[0].from[0].source.serviceAccounts",
            "value": "demo/b",
            "message": "add \"demo/b\" to from[0].source.serviceAccounts of demo/p rule 0",
        }])
    );
    assert_eq!(flip["verdict"]["decision"], "allow");
}

// === it really flips ===

/// Everything as somebody would have written it after the changes.
struct Rewritten {
    policies: Vec<Written>,
    peers: Vec<WrittenPeer>,
    workload: Workload,
    call: Call,
}

impl Rewritten {
    fn make(&mut self, change: &Change) {
        let named = |namespace: &str, name: &str, object: &PolicyName| {
            *namespace == *object.namespace && *name == *object.name
        };
        match change {
            Change::UseMtls { identity } => self.call.source = Some(identity.clone()),
            Change::Policy { policy, edit } => {
                let mut found = self.policies.iter_mut();
                let written = found.find(|p| named(&p.namespace, &p.name, policy));
                let written = written.expect("the policy that is named");
                edit.apply(&mut written.spec)
                    .expect("the place that is named");
            }
            Change::AddPolicy { policy, spec } => self.policies.push(Written {
                namespace: policy.namespace.to_string(),
                name: policy.name.to_string(),
                dry_run: false,
                spec: AuthorizationPolicySpec::clone(spec),
            }),
            Change::DeletePolicy { policy } => {
                self.policies
                    .retain(|p| !named(&p.namespace, &p.name, policy));
            }
            Change::Mode(change) => {
                let object = &change.object;
                if change.new.is_some()
                    || !self
                        .peers
                        .iter()
                        .any(|p| named(&p.namespace, &p.name, object))
                {
                    self.peers.push(WrittenPeer {
                        namespace: object.namespace.to_string(),
                        name: object.name.to_string(),
                        created: "2025-01-01T00:00:00Z".to_owned(),
                        spec: PeerAuthenticationSpec::default(),
                    });
                }
                let mut found = self.peers.iter_mut();
                let written = found.find(|p| named(&p.namespace, &p.name, object));
                change.apply(&mut written.expect("just added").spec);
            }
            Change::RemoveLabel { key, .. } => {
                self.workload.labels.remove(key);
            }
        }
    }
}

/// One object per name, as in a cluster.
fn distinct<T>(objects: &mut Vec<T>, name: impl Fn(&T) -> String) {
    let mut seen = BTreeSet::new();
    objects.retain(|object| seen.insert(name(object)));
}

fn allowed(settings: &Settings, rewritten: &Rewritten) -> bool {
    let Rewritten {
        policies,
        peers,
        workload,
        call,
    } = rewritten;
    let reason = answer(settings, policies, peers, workload, call).reason;
    matches!(reason, "allowed" | "no_policies" | "no_deny_matched")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_flip_that_is_named_really_flips_the_verdict(
        settings in settings(),
        mut policies in vec(policy(), 0..8),
        mut peers in vec(peer(), 0..4),
        call in call(),
    ) {
        distinct(&mut policies, |p| format!("{}/{}", p.namespace, p.name));
        distinct(&mut peers, |p| format!("{}/{}", p.namespace, p.name));
        let workload = server();
        let set = policy_set(&settings, &policies, &peers);
        let services: Vec<_> = (workload.services.iter())
            .map(|(service, target_ports)| ServicePorts { service, target_ports })
            .collect();
        let target = Target {
            namespace: &workload.namespace,
            labels: &workload.labels,
            ports: &workload.ports,
            services: &services,
        };
        let identity = "spiffe://cluster.local/ns/ops/sa/b".parse().expect("an identity");
        let before = set.effective(&target).decide(&call.attempt());
        let flips = set.flips(&target, &call.attempt(), Some(&identity));
        prop_assert!(!flips.is_empty(), "nothing would flip: {}", before);
        for flip in flips {
            let mut rewritten = Rewritten {
                policies: policies.clone(),
                peers: peers.clone(),
                workload: server(),
                call: call.clone(),
            };
            for change in &flip.changes {
                rewritten.make(change);
            }
            prop_assert_ne!(
                allowed(&settings, &rewritten), before.is_allowed(), "{} does not: {}", before, flip
            );
        }
    }
}
