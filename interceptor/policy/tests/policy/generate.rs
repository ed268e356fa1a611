//! Random policies and calls: from small pools, so that they meet; and from any text at all.

use std::collections::BTreeMap;

use interceptor_policy::spec::{
    AuthorizationPolicySpec, ConditionSpec, FromSpec, MtlsSpec, OperationSpec,
    PeerAuthenticationSpec, RuleSpec, SelectorSpec, SourceSpec, TargetRefSpec, ToSpec,
};
use interceptor_policy::{Policy, PolicyMeta, PolicyName, Settings, Severity};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::fixture::{Call, migrating};
use crate::naive::{Written, WrittenPeer};

// === what there is ===

fn texts(pool: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    // Mostly absent, so that rules have few enough conditions to match now and then.
    prop_oneof![
        3 => Just(Vec::new()),
        1 => vec(select(pool).prop_map(str::to_owned), 1..3),
    ]
}

const PRINCIPALS: &[&str] = &[
    "*",
    "cluster.local/ns/demo/sa/a",
    "new.org/ns/demo/sa/a",
    "old.org/ns/ops/sa/b",
    "third.org/ns/demo/sa/a",
    "*.org/ns/demo/sa/a",
    "*w.org/ns/demo/sa/b",
    "*/ns/ops/sa/b",
    "*/sa/a",
    "old.org/ns/demo/*",
    "old.org/ns/demo/sa/*",
    "new.org*",
];
const NAMESPACES: &[&str] = &["*", "demo", "ops", "de*", "*s"];
const ACCOUNTS: &[&str] = &["a", "b", "demo/a", "ops/b"];
const TRUST_DOMAINS: &[&str] = &[
    "*",
    "new.org",
    "old.org",
    "third.org",
    "*.org",
    "new*",
    "cluster.local",
];
const BLOCKS: &[&str] = &[
    "10.1.2.3",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "::/0",
    "2001:db8::/32",
    "::ffff:10.1.0.0/112",
    "2001:db8::1",
    "10.1.2.2/31",
];
const PORTS: &[&str] = &[
    "80",
    "8080",
    "9000",
    "http",
    "admin",
    "none",
    "1-8080",
    "8080-65535",
];
const KEYS: &[(&str, &[&str])] = &[
    ("source.principal", PRINCIPALS),
    ("source.namespace", NAMESPACES),
    ("source.serviceAccount", ACCOUNTS),
    ("source.trustDomain", TRUST_DOMAINS),
    ("source.ip", BLOCKS),
    ("destination.ip", BLOCKS),
    ("destination.port", PORTS),
    ("request.headers[x]", &["y"]),
];

prop_compose! {
    fn source()(
        by_account in any::<bool>(),
        principals in texts(PRINCIPALS), not_principals in texts(PRINCIPALS),
        namespaces in texts(NAMESPACES), not_namespaces in texts(NAMESPACES),
        accounts in texts(ACCOUNTS), not_accounts in texts(ACCOUNTS),
        trust_domains in texts(TRUST_DOMAINS), not_trust_domains in texts(TRUST_DOMAINS),
        (ip_blocks, not_ip_blocks) in (texts(BLOCKS), texts(BLOCKS)),
        http in prop::bool::weighted(0.05),
    ) -> SourceSpec {
        let mut source = SourceSpec {
            trust_domains, not_trust_domains, ip_blocks, not_ip_blocks, ..SourceSpec::default()
        };
        if by_account {
            (source.service_accounts, source.not_service_accounts) = (accounts, not_accounts);
        } else {
            (source.principals, source.not_principals) = (principals, not_principals);
            (source.namespaces, source.not_namespaces) = (namespaces, not_namespaces);
        }
        if http {
            source.request_principals = vec!["*".to_owned()];
        }
        if source == SourceSpec::default() {
            source.namespaces = vec!["demo".to_owned()];
        }
        source
    }
}

prop_compose! {
    fn operation()(
        ports in texts(PORTS), not_ports in texts(PORTS), http in prop::bool::weighted(0.1),
    ) -> OperationSpec {
        let mut operation = OperationSpec { ports, not_ports, ..OperationSpec::default() };
        if http {
            operation.methods = vec!["GET".to_owned()];
        }
        if operation == OperationSpec::default() {
            operation.ports = vec!["8080".to_owned()];
        }
        operation
    }
}

fn condition() -> impl Strategy<Value = ConditionSpec> {
    select(KEYS).prop_flat_map(|(key, pool)| {
        (vec(select(pool), 0..3), vec(select(pool), 0..2)).prop_map(move |(values, not_values)| {
            let owned = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<Vec<_>>();
            let mut values = owned(values);
            if values.is_empty() && not_values.is_empty() {
                values.extend(pool.first().map(|&value| value.to_owned()));
            }
            ConditionSpec {
                key: key.to_owned(),
                values,
                not_values: owned(not_values),
            }
        })
    })
}

prop_compose! {
    fn rule()(
        from in option::of(vec(source().prop_map(|s| FromSpec { source: Some(s) }), 1..3)),
        to in option::of(vec(operation().prop_map(|o| ToSpec { operation: Some(o) }), 1..3)),
        when in prop_oneof![2 => Just(vec![]), 1 => vec(condition(), 1..3)],
    ) -> RuleSpec {
        RuleSpec { from, to, when }
    }
}

fn selector() -> impl Strategy<Value = Option<SelectorSpec>> {
    let labels = |labels: &[(&str, &str)]| {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Some(SelectorSpec {
            match_labels: labels.iter().map(own).collect(),
        })
    };
    prop_oneof![
        5 => Just(None),
        1 => Just(labels(&[])),
        2 => Just(labels(&[("app", "server")])),
        1 => Just(labels(&[("app", "other")])),
    ]
}

fn target_refs() -> impl Strategy<Value = Vec<TargetRefSpec>> {
    let target = |group: &str, kind: &str, name: &str| TargetRefSpec {
        group: group.to_owned(),
        kind: kind.to_owned(),
        name: name.to_owned(),
        namespace: None,
    };
    let gateway = target("gateway.networking.k8s.io", "Gateway", "server");
    prop_oneof![
        12 => Just(vec![]),
        2 => Just(vec![target("", "Service", "server")]),
        1 => Just(vec![gateway, target("core", "Service", "other")]),
    ]
}

/// A policy that is correct.
pub(crate) fn policy() -> impl Strategy<Value = Written> {
    any_policy().prop_filter("it contradicts itself", |written| {
        [Settings::default(), migrating()]
            .iter()
            .all(|settings| is_accepted(written, settings))
    })
}

/// Whether the engine takes a policy; the only thing that may be wrong is a contradiction.
fn is_accepted(written: &Written, settings: &Settings) -> bool {
    let name = PolicyName::new(&*written.namespace, &*written.name);
    let Err(problems) = Policy::compile(name, &PolicyMeta::default(), &written.spec, settings)
    else {
        return true;
    };
    for error in problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
    {
        assert!(
            error
                .message
                .starts_with("never matches, because it excludes"),
            "{error}"
        );
    }
    false
}

prop_compose! {
    fn any_policy()(
        namespace in select(&["demo", "demo", "ops", "istio-system"][..]),
        name in "[a-f]{3}",
        action in select(&[None, Some("ALLOW"), Some("DENY"), Some("AUDIT")][..]),
        dry_run in prop::bool::weighted(0.2),
        selector in selector(),
        target_refs in target_refs(),
        mut rules in vec(rule(), 0..4),
    ) -> Written {
        let may_be_empty = matches!(action, None | Some("ALLOW"));
        if rules.is_empty() && !may_be_empty {
            rules.push(RuleSpec::default());
        }
        let spec = AuthorizationPolicySpec {
            selector: if target_refs.is_empty() { selector } else { None },
            target_refs,
            rules,
            action: action.map(str::to_owned),
            ..AuthorizationPolicySpec::default()
        };
        Written {
            namespace: namespace.to_owned(),
            name,
            dry_run: dry_run && action != Some("AUDIT"),
            spec,
        }
    }
}

fn mode() -> impl Strategy<Value = Option<MtlsSpec>> {
    let modes = [
        None,
        Some("UNSET"),
        Some("PERMISSIVE"),
        Some("STRICT"),
        Some("DISABLE"),
    ];
    let mtls = |mode: Option<&str>| MtlsSpec {
        mode: mode.map(str::to_owned),
    };
    option::of(select(modes.to_vec()).prop_map(mtls))
}

prop_compose! {
    pub(crate) fn peer()(
        namespace in select(&["demo", "ops", "istio-system"][..]),
        name in "[a-f]{3}",
        created in select(&["2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"][..]),
        selector in selector(),
        mtls in mode(),
        port in mode(),
    ) -> WrittenPeer {
        let selector = selector.filter(|_| namespace != "istio-system");
        let labelled = selector.as_ref().is_some_and(|s| !s.match_labels.is_empty());
        let ports = port.filter(|_| labelled).map(|mode| BTreeMap::from([("8080".to_owned(), mode)]));
        WrittenPeer {
            namespace: namespace.to_owned(),
            name,
            created: created.to_owned(),
            spec: PeerAuthenticationSpec { selector, mtls, port_level_mtls: ports },
        }
    }
}

prop_compose! {
    pub(crate) fn call()(
        domain in select(&["cluster.local", "new.org", "old.org", "third.org"][..]),
        namespace in select(&["demo", "ops", "x"][..]),
        account in select(&["a", "b"][..]),
        plaintext in prop::bool::weighted(0.2),
        source_ip in select(&["10.1.2.3", "10.200.0.1", "::ffff:10.1.2.3", "2001:db8::1", "192.168.0.1"][..]),
        destination_ip in select(&["10.9.9.9", "2001:db8::2"][..]),
        port in select(&[80, 8080, 9000][..]),
    ) -> Call {
        let id = format!("spiffe://{domain}/ns/{namespace}/sa/{account}");
        let call = if plaintext { Call::plaintext() } else { Call::with_id(&id) };
        call.calling_from(source_ip).calling_at(destination_ip).on_port(port)
    }
}

pub(crate) fn settings() -> impl Strategy<Value = Settings> {
    prop_oneof![Just(Settings::default()), Just(migrating())]
}

// === arbitrary text ===

fn any_texts() -> impl Strategy<Value = Vec<String>> {
    let text = prop_oneof![
        any::<String>(),
        "[*a-z./:0-9-]{0,24}",
        "(spiffe://)?[*a-z.]{0,8}/ns/[*a-z]{0,4}/sa/[*a-z]{0,4}",
        "[0-9]{0,6}(-[0-9]{0,6})?",
        "[0-9a-f:.]{1,20}/?[0-9]{0,4}",
    ];
    prop_oneof![Just(Vec::new()), vec(text, 1..3)]
}

prop_compose! {
    fn any_rule()(
        lists in vec(any_texts(), 16),
        key in prop_oneof![any::<String>(), select(KEYS).prop_map(|(key, _)| key.to_owned())],
        from_entries in 0..3_usize,
    ) -> RuleSpec {
        let list = |index: usize| lists.get(index).cloned().unwrap_or_default();
        let source = SourceSpec {
            principals: list(0), not_principals: list(1), namespaces: list(2),
            not_namespaces: list(3), service_accounts: list(4), not_service_accounts: list(5),
            trust_domains: list(6), not_trust_domains: list(7), ip_blocks: list(8),
            not_ip_blocks: list(9), remote_ip_blocks: list(10), ..SourceSpec::default()
        };
        let operation = OperationSpec {
            ports: list(11), not_ports: list(12), methods: list(13), ..OperationSpec::default()
        };
        RuleSpec {
            from: Some(vec![FromSpec { source: Some(source) }; from_entries]),
            to: Some(vec![ToSpec { operation: Some(operation) }]),
            when: vec![ConditionSpec { key, values: list(14), not_values: list(15) }],
        }
    }
}

prop_compose! {
    pub(crate) fn any_spec()(
        rules in vec(any_rule(), 0..3),
        action in option::of(prop_oneof![any::<String>(), Just("DENY".to_owned())]),
        labels in option::of(prop::collection::btree_map(any::<String>(), any::<String>(), 0..3)),
        targets in vec((any::<String>(), any::<String>(), any::<String>()), 0..2),
    ) -> AuthorizationPolicySpec {
        let target = |(group, kind, name)| TargetRefSpec { group, kind, name, namespace: None };
        AuthorizationPolicySpec {
            selector: labels.map(|match_labels| SelectorSpec { match_labels }),
            target_refs: targets.into_iter().map(target).collect(),
            rules,
            action,
            ..AuthorizationPolicySpec::default()
        }
    }
}
