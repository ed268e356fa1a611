//! Who may call a port at all, as told; and that no caller is forgotten.

use interceptor_policy::{Callers, Effective, Settings};
use proptest::collection::vec;
use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use crate::fixture::Mesh;
use crate::generate::{call, peer, policy};
use crate::properties::effective;

fn told(server: &Effective, port: u16) -> Vec<String> {
    let Callers { allowed, denied } = server.callers(port);
    let allowed = allowed.iter().map(|set| format!("+ {set}"));
    let denied = denied.iter().map(|set| format!("- {set}"));
    allowed.chain(denied).collect()
}

#[rstest]
#[case::nothing_said(json!(null), json!(null), &["+ anybody, also in plaintext"])]
#[case::strict(json!(null), json!({"mtls": {"mode": "STRICT"}}), &["+ anybody with mTLS"])]
#[case::allow_nothing(json!({}), json!(null), &[])]
#[case::allow_all(json!({"rules": [{}]}), json!(null), &["+ anybody, also in plaintext"])]
#[case::two_entries_are_two_sets(
    json!({"rules": [{"from": [
        {"source": {"principals": ["cluster.local/ns/demo/sa/a", "cluster.local/ns/demo/sa/b"]}},
        {"source": {"ipBlocks": ["10.0.0.0/8"], "notIpBlocks": ["10.1.0.0/16"]}},
    ]}]}),
    json!(null),
    &[
        "+ principal cluster.local/ns/demo/sa/a or cluster.local/ns/demo/sa/b",
        "+ address 10.0.0.0/8, and not address 10.1.0.0/16, also in plaintext",
    ]
)]
#[case::the_port_is_decided_here(
    json!({"rules": [
        {"from": [{"source": {"namespaces": ["a"]}}], "to": [{"operation": {"ports": ["8080"]}}]},
        {"from": [{"source": {"namespaces": ["b"]}}], "to": [{"operation": {"ports": ["9000"]}}]},
        {"from": [{"source": {"namespaces": ["c"]}}], "to": [{"operation": {"notPorts": ["admin"]}}]},
    ]}),
    json!(null),
    &["+ namespace a", "+ namespace c"]
)]
#[case::conditions_are_added(
    json!({"rules": [{
        "from": [{"source": {"notPrincipals": ["cluster.local/ns/demo/sa/a"]}}],
        "when": [{"key": "source.trustDomain", "values": ["cluster.local"]}],
    }]}),
    json!(null),
    &["+ not principal cluster.local/ns/demo/sa/a, and trust domain cluster.local"]
)]
#[case::http_attributes_admit_nobody(
    json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}), json!(null), &[]
)]
fn callers_are_told(#[case] spec: Value, #[case] mode: Value, #[case] expected: &[&str]) {
    let mut mesh = Mesh::new();
    if !spec.is_null() {
        mesh = mesh.policy("demo/p", &spec);
    }
    if !mode.is_null() {
        mesh = mesh.mtls("demo/default", &mode);
    }
    assert_eq!(told(&mesh.server(), 8080), expected);
}

#[test]
fn what_is_denied_is_told_apart() {
    let spec = json!({"action": "DENY", "rules": [{"from": [{"source": {"namespaces": ["x"]}}]}]});
    let server = Mesh::new().policy("demo/p", &spec).server();
    assert_eq!(
        told(&server, 8080),
        ["+ anybody, also in plaintext", "- namespace x"]
    );
}

#[test]
fn a_deny_of_everybody_keeps_plaintext_out() {
    let server = |rule: Value| {
        let spec = json!({"action": "DENY", "rules": [rule]});
        Mesh::new().policy("demo/p", &spec).server()
    };
    assert!(!server(json!({})).callers(8080).admit_plaintext());
    let ports = json!({"to": [{"operation": {"ports": ["9000"]}}]});
    assert!(server(ports).callers(8080).admit_plaintext());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nobody_gets_in_who_is_not_told_of(
        policies in vec(policy(), 0..6),
        peers in vec(peer(), 0..3),
        call in call(),
    ) {
        let server = effective(&Settings::default(), &policies, &peers);
        let callers = server.callers(call.port);
        let verdict = server.decide(&call.attempt());
        if verdict.is_allowed() {
            prop_assert!(!callers.is_nobody(), "{}", verdict);
            prop_assert!(call.source.is_some() || callers.admit_plaintext(), "{}", verdict);
        } else if callers.denied.is_empty() {
            // Whoever is kept out although nothing is denied is in no open set.
            let open = callers.allowed.iter().any(|set| {
                set.is_anybody() && (call.source.is_some() || set.plaintext)
            });
            prop_assert!(!open, "{}", verdict);
        }
    }
}
