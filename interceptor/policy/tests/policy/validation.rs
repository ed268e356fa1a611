//! Mistakes: every one is found, with its path and what to do; surprises are warnings.

use interceptor_policy::{
    OnUnsupported, PeerAuthentication, PolicyMeta, Problem, Settings, Severity,
};
use rstest::rstest;
use serde_json::{Value, json};

use crate::fixture::{Call, Mesh, compile, named};

fn problems(spec: &Value) -> Vec<Problem> {
    match compile("demo/p", &PolicyMeta::default(), spec, &Settings::default()) {
        Ok(compiled) => compiled.warnings,
        Err(problems) => problems,
    }
}

/// The paths of the problems of one severity.
fn paths(problems: &[Problem], severity: Severity) -> Vec<String> {
    problems
        .iter()
        .filter(|p| p.severity == severity)
        .map(|p| p.path.to_string())
        .collect()
}

fn from(source: &Value) -> Value {
    json!({"rules": [{"from": [{"source": source}]}]})
}

fn to(operation: &Value) -> Value {
    json!({"rules": [{"to": [{"operation": operation}]}]})
}

fn when(condition: &Value) -> Value {
    json!({"rules": [{"when": [condition]}]})
}

#[rstest]
#[case::an_unknown_action(json!({"action": "Deny", "rules": [{}]}), "spec.action")]
#[case::custom(json!({"action": "CUSTOM", "provider": {"name": "x"}, "rules": [{}]}), "spec.action")]
#[case::a_provider_without_custom(json!({"provider": {"name": "x"}}), "spec.provider")]
#[case::a_deny_without_rules(json!({"action": "DENY"}), "spec.rules")]
#[case::an_audit_without_rules(json!({"action": "AUDIT", "rules": []}), "spec.rules")]
#[case::an_empty_from(json!({"rules": [{"from": []}]}), "spec.rules[0].from")]
#[case::an_empty_to(json!({"rules": [{"to": []}]}), "spec.rules[0].to")]
#[case::a_missing_source(json!({"rules": [{}, {"from": [{}]}]}), "spec.rules[1].from[0].source")]
#[case::an_empty_source(from(&json!({})), "spec.rules[0].from[0].source")]
#[case::a_source_of_empty_lists(from(&json!({"principals": []})), "spec.rules[0].from[0].source")]
#[case::a_missing_operation(json!({"rules": [{"to": [{}]}]}), "spec.rules[0].to[0].operation")]
#[case::an_empty_operation(to(&json!({})), "spec.rules[0].to[0].operation")]
#[case::an_empty_principal(from(&json!({"principals": ["a", ""]})), "spec.rules[0].from[0].source.principals[1]")]
#[case::an_empty_namespace(from(&json!({"namespaces": [""]})), "spec.rules[0].from[0].source.namespaces[0]")]
#[case::an_empty_method(to(&json!({"methods": [""]})), "spec.rules[0].to[0].operation.methods[0]")]
#[case::a_principal_with_its_scheme(
    from(&json!({"principals": ["spiffe://cluster.local/ns/a/sa/b"]})),
    "spec.rules[0].from[0].source.principals[0]")]
#[case::a_wildcard_in_the_middle(
    from(&json!({"notPrincipals": ["cluster.local/ns/*/sa/b"]})),
    "spec.rules[0].from[0].source.notPrincipals[0]")]
#[case::a_wildcard_at_both_ends(from(&json!({"namespaces": ["*a*"]})), "spec.rules[0].from[0].source.namespaces[0]")]
#[case::two_wildcards(from(&json!({"namespaces": ["**"]})), "spec.rules[0].from[0].source.namespaces[0]")]
#[case::a_trailing_space(from(&json!({"namespaces": ["demo "]})), "spec.rules[0].from[0].source.namespaces[0]")]
#[case::a_bad_address(from(&json!({"ipBlocks": ["10.0.0"]})), "spec.rules[0].from[0].source.ipBlocks[0]")]
#[case::a_bad_prefix(from(&json!({"notIpBlocks": ["10.0.0.0/33"]})), "spec.rules[0].from[0].source.notIpBlocks[0]")]
#[case::a_bad_remote_address(
    from(&json!({"remoteIpBlocks": ["x"]})), "spec.rules[0].from[0].source.remoteIpBlocks[0]")]
#[case::accounts_beside_principals(
    from(&json!({"serviceAccounts": ["a"], "principals": ["*"]})),
    "spec.rules[0].from[0].source.serviceAccounts")]
#[case::accounts_beside_not_namespaces(
    from(&json!({"notServiceAccounts": ["a"], "notNamespaces": ["x"]})),
    "spec.rules[0].from[0].source.serviceAccounts")]
#[case::an_account_with_a_wildcard(
    from(&json!({"serviceAccounts": ["demo/*"]})), "spec.rules[0].from[0].source.serviceAccounts[0]")]
#[case::an_account_of_three_parts(
    from(&json!({"serviceAccounts": ["a/b/c"]})), "spec.rules[0].from[0].source.serviceAccounts[0]")]
#[case::an_account_without_a_name(
    from(&json!({"serviceAccounts": ["a/"]})), "spec.rules[0].from[0].source.serviceAccounts[0]")]
#[case::too_many_accounts(
    from(&json!({"serviceAccounts": (0..17).map(|n| format!("a{n}")).collect::<Vec<_>>()})),
    "spec.rules[0].from[0].source.serviceAccounts")]
#[case::a_port_out_of_range(to(&json!({"ports": ["65536"]})), "spec.rules[0].to[0].operation.ports[0]")]
#[case::a_signed_port(to(&json!({"ports": ["+80"]})), "spec.rules[0].to[0].operation.ports[0]")]
#[case::a_range_upside_down(to(&json!({"notPorts": ["9-8"]})), "spec.rules[0].to[0].operation.notPorts[0]")]
#[case::a_range_without_an_end(to(&json!({"ports": ["80-"]})), "spec.rules[0].to[0].operation.ports[0]")]
#[case::a_range_beyond_the_last_port(to(&json!({"ports": ["1-65536"]})), "spec.rules[0].to[0].operation.ports[0]")]
#[case::an_impossible_port_name(to(&json!({"ports": ["HTTP"]})), "spec.rules[0].to[0].operation.ports[0]")]
#[case::a_port_name_that_is_too_long(
    to(&json!({"ports": ["abcdefghijklmnop"]})), "spec.rules[0].to[0].operation.ports[0]")]
#[case::a_value_that_is_excluded_again(
    from(&json!({"namespaces": ["a", "b"], "notNamespaces": ["*"]})),
    "spec.rules[0].from[0].source.notNamespaces")]
#[case::a_block_that_is_excluded_again(
    from(&json!({"ipBlocks": ["10.1.2.3"], "notIpBlocks": ["10.0.0.0/8"]})),
    "spec.rules[0].from[0].source.notIpBlocks")]
#[case::a_port_that_is_excluded_again(
    to(&json!({"ports": ["http", "80"], "notPorts": ["1-100", "http"]})),
    "spec.rules[0].to[0].operation.notPorts")]
#[case::an_empty_key(when(&json!({"key": "", "values": ["x"]})), "spec.rules[0].when[0].key")]
#[case::an_unknown_key(when(&json!({"key": "source.port", "values": ["1"]})), "spec.rules[0].when[0].key")]
#[case::a_replaced_key(when(&json!({"key": "destination.labels[a]", "values": ["1"]})), "spec.rules[0].when[0].key")]
#[case::a_key_without_its_brackets(
    when(&json!({"key": "request.headers", "values": ["x"]})), "spec.rules[0].when[0].key")]
#[case::a_key_with_empty_brackets(
    when(&json!({"key": "request.headers[]", "values": ["x"]})), "spec.rules[0].when[0].key")]
#[case::a_key_without_values(when(&json!({"key": "source.ip"})), "spec.rules[0].when[0]")]
#[case::a_bad_value(when(&json!({"key": "source.ip", "values": ["x"]})), "spec.rules[0].when[0].values[0]")]
#[case::a_bad_not_value(
    when(&json!({"key": "destination.port", "notValues": ["x!"]})), "spec.rules[0].when[0].notValues[0]")]
#[case::an_empty_http_value(
    when(&json!({"key": "request.headers[a]", "values": [""]})), "spec.rules[0].when[0].values[0]")]
#[case::a_wildcard_in_a_label(
    json!({"selector": {"matchLabels": {"app": "a*"}}}), "spec.selector.matchLabels.app")]
#[case::an_empty_label(json!({"selector": {"matchLabels": {"": "a"}}}), "spec.selector.matchLabels[\"\"]")]
#[case::a_selector_beside_a_target(
    json!({"selector": {"matchLabels": {"a": "b"}}, "targetRef": {"kind": "Service", "name": "a"}}),
    "spec.selector")]
#[case::both_forms_of_targets(
    json!({"targetRef": {"kind": "Service", "name": "a"}, "targetRefs": [{"kind": "Service", "name": "a"}]}),
    "spec.targetRef")]
#[case::too_many_targets(
    json!({"targetRefs": vec![json!({"kind": "Service", "name": "a"}); 17]}), "spec.targetRefs")]
#[case::a_target_without_a_name(json!({"targetRefs": [{"kind": "Service"}]}), "spec.targetRefs[0].name")]
#[case::a_target_of_another_kind(
    json!({"targetRefs": [{"kind": "Pod", "name": "a"}]}), "spec.targetRefs[0].kind")]
#[case::a_target_of_another_namespace(
    json!({"targetRefs": [{"kind": "Service", "name": "a", "namespace": "other"}]}),
    "spec.targetRefs[0].namespace")]
fn a_mistake_is_an_error_at_its_field(#[case] spec: Value, #[case] expected: &str) {
    assert_eq!(paths(&problems(&spec), Severity::Error), [expected]);
}

#[rstest]
#[case::a_selector_without_labels(json!({"selector": {}}), "spec.selector")]
#[case::an_address_with_host_bits(
    from(&json!({"ipBlocks": ["10.1.2.3/8"]})), "spec.rules[0].from[0].source.ipBlocks[0]")]
#[case::a_principal_that_is_no_identity(
    from(&json!({"principals": ["demo/caller"]})), "spec.rules[0].from[0].source.principals[0]")]
#[case::a_gateway(
    json!({"targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "a"}]}),
    "spec.targetRefs[0]")]
fn a_surprise_is_a_warning_at_its_field(#[case] spec: Value, #[case] expected: &str) {
    let problems = problems(&spec);
    assert_eq!(paths(&problems, Severity::Warning), [expected]);
    assert_eq!(paths(&problems, Severity::Error), [""; 0]);
}

#[rstest]
#[case::ports_as_istio_writes_them(to(&json!({"ports": ["0", "80", "65535"]})))]
#[case::addresses(from(&json!({"ipBlocks": ["10.0.0.1", "10.0.0.0/8", "::1", "2001:db8::/32"]})))]
#[case::principals(from(&json!({"principals": ["*", "a*", "*a", "cluster.local/ns/a/sa/b"]})))]
#[case::exactly_sixteen_accounts(
    from(&json!({"serviceAccounts": (0..16).map(|n| format!("a{n}")).collect::<Vec<_>>()})))]
#[case::more_accounts_in_a_condition(
    when(&json!({"key": "source.serviceAccount", "values": vec!["a"; 17]})))]
#[case::an_exclusion_that_leaves_something(
    to(&json!({"ports": ["http", "80-90"], "notPorts": ["80", "http"]})))]
#[case::null_is_absent(json!({"selector": null, "rules": [{"from": null, "when": null}]}))]
fn what_istio_accepts_is_accepted(#[case] spec: Value) {
    assert_eq!(problems(&spec), []);
}

#[test]
fn all_mistakes_come_back_together() {
    let spec = json!({
        "action": "deny",
        "selector": {"matchLabels": {"app": "*"}},
        "rules": [
            {"from": [{"source": {"ipBlocks": ["10.0.0.1", "nonsense"]}}], "to": [{}]},
            {"when": [{"key": "source.ip"}, {"key": "nonsense", "values": ["x"]}]},
        ],
    });
    let expected = [
        "spec.action",
        "spec.selector.matchLabels.app",
        "spec.rules[0].from[0].source.ipBlocks[1]",
        "spec.rules[0].to[0].operation",
        "spec.rules[1].when[0]",
        "spec.rules[1].when[1].key",
    ];
    assert_eq!(paths(&problems(&spec), Severity::Error), expected);
}

#[rstest]
#[case::on("true", "ALLOW", true)]
#[case::off("F", "ALLOW", true)]
#[case::one("1", "DENY", true)]
#[case::not_a_boolean("yes", "ALLOW", false)]
#[case::empty("", "ALLOW", false)]
#[case::on_an_audit("true", "AUDIT", false)]
#[case::off_on_an_audit("false", "AUDIT", true)]
fn the_dry_run_annotation(#[case] written: &str, #[case] action: &str, #[case] correct: bool) {
    let meta = PolicyMeta {
        dry_run: Some(written.to_owned()),
    };
    let spec = json!({"action": action, "rules": [{}]});
    let compiled = compile("demo/p", &meta, &spec, &Settings::default());
    let problems = compiled.map_or_else(|problems| problems, |compiled| compiled.warnings);
    let path = "metadata.annotations[\"istio.io/dry-run\"]";
    let expected = if correct { &[][..] } else { &[path][..] };
    assert_eq!(paths(&problems, Severity::Error), expected);
}

#[rstest]
#[case::a_deny_of_a_method_and_a_port(
    json!({"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["GET"], "ports": ["8080"]}}]}]}),
    8080, false)]
#[case::a_deny_of_a_method_and_another_port(
    json!({"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["GET"], "ports": ["1"]}}]}]}),
    8080, true)]
#[case::a_deny_of_methods_only_denies_everything(
    json!({"action": "DENY", "rules": [{"to": [{"operation": {"notMethods": ["GET"]}}]}]}), 8080, false)]
#[case::a_deny_by_caller_and_path_denies_the_caller(
    json!({"action": "DENY", "rules": [{
        "from": [{"source": {"namespaces": ["demo"]}}],
        "to": [{"operation": {"paths": ["/admin"]}}],
    }]}), 8080, false)]
#[case::a_deny_by_another_caller_and_path_does_not(
    json!({"action": "DENY", "rules": [{
        "from": [{"source": {"namespaces": ["other"]}}],
        "to": [{"operation": {"paths": ["/admin"]}}],
    }]}), 8080, true)]
#[case::a_deny_by_caller_and_header_denies_the_caller(
    json!({"action": "DENY", "rules": [{
        "from": [{"source": {"namespaces": ["demo"]}}],
        "when": [{"key": "request.headers[x]", "values": ["y"]}],
    }]}), 8080, false)]
#[case::a_deny_of_a_method_or_a_port_is_a_deny_of_any_port(
    json!({"action": "DENY", "rules": [{"to": [
        {"operation": {"methods": ["GET"]}}, {"operation": {"ports": ["1"]}},
    ]}]}), 8080, false)]
#[case::an_allow_of_a_method_allows_nothing(
    json!({"rules": [{"to": [{"operation": {"methods": ["GET"], "ports": ["8080"]}}]}]}), 8080, false)]
#[case::an_allow_loses_only_that_rule(
    json!({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}, {}]}), 8080, true)]
#[case::an_allow_by_sni_allows_nothing(
    json!({"rules": [{"when": [{"key": "connection.sni", "values": ["a"]}]}]}), 8080, false)]
fn attributes_that_l4_cannot_see(#[case] spec: Value, #[case] port: u16, #[case] allowed: bool) {
    let verdict = Mesh::new()
        .policy("demo/p", &spec)
        .decide(&Call::by("caller").on_port(port));
    assert_eq!(verdict.is_allowed(), allowed, "{verdict}");

    let warnings = problems(&spec);
    assert!(
        !paths(&warnings, Severity::Warning).is_empty(),
        "never silent"
    );

    let reject = Settings {
        on_unsupported: OnUnsupported::Reject,
        ..Settings::default()
    };
    let refused = compile("demo/p", &PolicyMeta::default(), &spec, &reject).map(|c| c.value);
    let errors = refused.map_or_else(|problems| paths(&problems, Severity::Error), |_| vec![]);
    assert_eq!(errors, paths(&warnings, Severity::Warning));
}

#[test]
fn a_widened_audit_records_more() {
    let spec = json!({"action": "AUDIT", "rules": [{"to": [{"operation": {"hosts": ["a"]}}]}]});
    let verdict = Mesh::new()
        .policy("demo/p", &spec)
        .decide(&Call::plaintext());
    assert_eq!(verdict.audited.len(), 1);
}

#[test]
fn messages_say_what_to_do() {
    let spec = json!({
        "action": "DENY",
        "rules": [{
            "from": [{"source": {"principals": ["spiffe://cluster.local/ns/a/sa/b"]}}],
            "to": [{"operation": {"ports": ["http!"], "methods": ["GET"]}}],
        }, {
            "to": [{"operation": {"methods": ["GET"]}}, {"operation": {"ports": ["80"]}}],
        }],
    });
    let messages: Vec<_> = problems(&spec).iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(messages.join("\n"), @r#"
    error: spec.rules[0].from[0].source.principals[0]: written without spiffe://, or it never matches: write "cluster.local/ns/a/sa/b"
    error: spec.rules[0].to[0].operation.ports[0]: "http!" is not a port: write a number from 0 to 65535, a range such as 8000-8080, or the name of a container port
    warning: spec.rules[0].to[0].operation.methods: cannot be decided at L4, so the rule denies every connection that the rest of the rule matches: enforce it at a waypoint, or remove it
    warning: spec.rules[1].to[0].operation.methods: cannot be decided at L4, so the rule denies every connection: enforce it at a waypoint, or remove it
    "#);
}

#[rstest]
#[case::an_unknown_mode(json!({"mtls": {"mode": "strict"}}), "spec.mtls.mode")]
#[case::ports_without_a_selector(
    json!({"portLevelMtls": {"80": {"mode": "STRICT"}}}), "spec.portLevelMtls")]
#[case::no_ports(
    json!({"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {}}), "spec.portLevelMtls")]
#[case::port_zero(
    json!({"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"0": {"mode": "STRICT"}}}),
    "spec.portLevelMtls[\"0\"]")]
#[case::a_port_name(
    json!({"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"http": {"mode": "STRICT"}}}),
    "spec.portLevelMtls.http")]
#[case::an_unknown_port_mode(
    json!({"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"80": {"mode": "ON"}}}),
    "spec.portLevelMtls[\"80\"].mode")]
#[case::a_wildcard_label(json!({"selector": {"matchLabels": {"a": "*"}}}), "spec.selector.matchLabels.a")]
fn a_mistake_in_a_peer_authentication(#[case] spec: Value, #[case] expected: &str) {
    assert_eq!(peer_errors("demo/p", spec), [expected]);
}

#[test]
fn a_selector_in_the_root_namespace_is_refused_because_it_applies_to_nothing() {
    let spec = json!({"selector": {"matchLabels": {"a": "b"}}, "mtls": {"mode": "STRICT"}});
    assert_eq!(peer_errors("istio-system/p", spec), ["spec.selector"]);
}

fn peer_errors(name: &str, spec: Value) -> Vec<String> {
    let spec = serde_json::from_value(spec).unwrap_or_default();
    let compiled = PeerAuthentication::compile(named(name), None, &spec, &Settings::default());
    compiled.map_or_else(|problems| paths(&problems, Severity::Error), |_| vec![])
}
