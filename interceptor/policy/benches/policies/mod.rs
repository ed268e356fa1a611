//! Policies as people write them, as many as one wants. The benchmark of whole agents includes this
//! file, too.

use interceptor_policy::spec::{
    AuthorizationPolicySpec, ConditionSpec, FromSpec, OperationSpec, RuleSpec, SourceSpec, ToSpec,
};

/// A policy with one rule of each kind that people write. Every tenth denies.
pub(crate) fn spec(policy: usize) -> AuthorizationPolicySpec {
    let text = |text: String| vec![text];
    let from = |source: SourceSpec| {
        Some(vec![FromSpec {
            source: Some(source),
        }])
    };
    let to = |operation: OperationSpec| {
        Some(vec![ToSpec {
            operation: Some(operation),
        }])
    };
    let ports = |port: usize| OperationSpec {
        ports: text(port.to_string()),
        ..OperationSpec::default()
    };
    let by_principal = SourceSpec {
        principals: (0..4)
            .map(|caller| format!("cluster.local/ns/ns-{policy}/sa/caller-{caller}"))
            .collect(),
        ..SourceSpec::default()
    };
    let by_namespace = SourceSpec {
        namespaces: text(format!("team-{policy}")),
        not_principals: text(format!("cluster.local/ns/team-{policy}/sa/job")),
        ..SourceSpec::default()
    };
    let by_address = SourceSpec {
        ip_blocks: text(format!("10.{}.{}.0/24", 100 + policy / 250, policy % 250)),
        ..SourceSpec::default()
    };
    let by_pattern = SourceSpec {
        principals: text(format!("*/sa/operator-{policy}")),
        ..SourceSpec::default()
    };
    let by_account = SourceSpec {
        service_accounts: text(format!("ns-{policy}/batch")),
        ..SourceSpec::default()
    };
    let not_admin = OperationSpec {
        not_ports: text("9000".to_owned()),
        ..OperationSpec::default()
    };
    let condition = ConditionSpec {
        key: "source.trustDomain".to_owned(),
        values: text("cluster.local".to_owned()),
        not_values: Vec::new(),
    };
    let rule = |source, operation| RuleSpec {
        from: from(source),
        to: to(operation),
        when: Vec::new(),
    };
    AuthorizationPolicySpec {
        action: policy.is_multiple_of(10).then(|| "DENY".to_owned()),
        rules: vec![
            rule(by_principal, ports(8080)),
            rule(by_namespace, ports(8000 + policy % 100)),
            rule(by_address, ports(9000)),
            RuleSpec {
                when: vec![condition],
                ..rule(by_pattern, ports(8080))
            },
            rule(by_account, not_admin),
        ],
        ..AuthorizationPolicySpec::default()
    }
}
