//! Istio's security objects: written form only. What they mean, and whether they are right, is
//! the policy engine's business.

use std::collections::BTreeMap;
use std::sync::Arc;

use interceptor_policy::spec::{
    AuthorizationPolicySpec, ConditionSpec, FromSpec, MtlsSpec, OperationSpec,
    PeerAuthenticationSpec, ProviderSpec, RuleSpec, SelectorSpec, SourceSpec, TargetRefSpec,
    ToSpec,
};

use super::meta::meta_if_only_to_judge;
use super::{AuthorizationPolicy, PeerAuthentication};
use crate::yaml::{Fields, Reader};

/// Reads an `AuthorizationPolicy` from the fields of its top level.
pub(super) fn authorization_policy(object: &Fields<'_>) -> Option<AuthorizationPolicy> {
    let mark = object.reader().report().mark();
    object.known(&["status"]);
    let meta = meta_if_only_to_judge(object);
    // Without a spec it is "allow nothing", as in Istio.
    let spec = object
        .optional("spec")
        .map(|spec| authorization_spec(&spec));
    object.no_others();
    Some(AuthorizationPolicy {
        meta,
        spec: match spec {
            Some(spec) => spec?,
            None => AuthorizationPolicySpec::default(),
        },
        written: Arc::new(object.reader().node().clone()),
        misread: object.reader().report().keys_since(mark),
    })
}

/// Reads a `PeerAuthentication` from the fields of its top level.
pub(super) fn peer_authentication(object: &Fields<'_>) -> Option<PeerAuthentication> {
    let mark = object.reader().report().mark();
    object.known(&["status"]);
    let meta = meta_if_only_to_judge(object);
    let spec = object.optional("spec").map(|spec| peer_spec(&spec));
    object.no_others();
    Some(PeerAuthentication {
        meta,
        spec: match spec {
            Some(spec) => spec?,
            None => PeerAuthenticationSpec::default(),
        },
        written: Arc::new(object.reader().node().clone()),
        misread: object.reader().report().keys_since(mark),
    })
}

fn authorization_spec(reader: &Reader<'_>) -> Option<AuthorizationPolicySpec> {
    let fields = reader.fields()?;
    let spec = AuthorizationPolicySpec {
        selector: selector(&fields),
        target_ref: fields.optional("targetRef").and_then(|r| target_ref(&r)),
        target_refs: list(&fields, "targetRefs", target_ref).unwrap_or_default(),
        rules: list(&fields, "rules", rule).unwrap_or_default(),
        action: text(&fields, "action"),
        provider: fields.optional("provider").and_then(|provider| {
            let fields = provider.fields()?;
            let name = text(&fields, "name").unwrap_or_default();
            fields.no_others();
            Some(ProviderSpec { name })
        }),
    };
    fields.no_others();
    Some(spec)
}

fn selector(fields: &Fields<'_>) -> Option<SelectorSpec> {
    let fields = fields.optional("selector")?.fields()?;
    let labels = fields.optional("matchLabels");
    fields.no_others();
    Some(SelectorSpec {
        match_labels: labels.map(|labels| labels.text_map()).unwrap_or_default(),
    })
}

fn target_ref(reader: &Reader<'_>) -> Option<TargetRefSpec> {
    let fields = reader.fields()?;
    let spec = TargetRefSpec {
        group: text(&fields, "group").unwrap_or_default(),
        kind: text(&fields, "kind").unwrap_or_default(),
        name: text(&fields, "name").unwrap_or_default(),
        namespace: text(&fields, "namespace"),
    };
    fields.no_others();
    Some(spec)
}

fn rule(reader: &Reader<'_>) -> Option<RuleSpec> {
    let fields = reader.fields()?;
    let spec = RuleSpec {
        from: list(&fields, "from", |entry| {
            let fields = entry.fields()?;
            let source = fields
                .optional("source")
                .and_then(|source| self::source(&source));
            fields.no_others();
            Some(FromSpec { source })
        }),
        to: list(&fields, "to", |entry| {
            let fields = entry.fields()?;
            let operation = fields.optional("operation").and_then(|o| operation(&o));
            fields.no_others();
            Some(ToSpec { operation })
        }),
        when: list(&fields, "when", condition).unwrap_or_default(),
    };
    fields.no_others();
    Some(spec)
}

fn source(reader: &Reader<'_>) -> Option<SourceSpec> {
    let fields = reader.fields()?;
    let spec = SourceSpec {
        principals: texts(&fields, "principals"),
        not_principals: texts(&fields, "notPrincipals"),
        namespaces: texts(&fields, "namespaces"),
        not_namespaces: texts(&fields, "notNamespaces"),
        service_accounts: texts(&fields, "serviceAccounts"),
        not_service_accounts: texts(&fields, "notServiceAccounts"),
        trust_domains: texts(&fields, "trustDomains"),
        not_trust_domains: texts(&fields, "notTrustDomains"),
        ip_blocks: texts(&fields, "ipBlocks"),
        not_ip_blocks: texts(&fields, "notIpBlocks"),
        remote_ip_blocks: texts(&fields, "remoteIpBlocks"),
        not_remote_ip_blocks: texts(&fields, "notRemoteIpBlocks"),
        request_principals: texts(&fields, "requestPrincipals"),
        not_request_principals: texts(&fields, "notRequestPrincipals"),
    };
    fields.no_others();
    Some(spec)
}

fn operation(reader: &Reader<'_>) -> Option<OperationSpec> {
    let fields = reader.fields()?;
    let spec = OperationSpec {
        ports: texts(&fields, "ports"),
        not_ports: texts(&fields, "notPorts"),
        hosts: texts(&fields, "hosts"),
        not_hosts: texts(&fields, "notHosts"),
        methods: texts(&fields, "methods"),
        not_methods: texts(&fields, "notMethods"),
        paths: texts(&fields, "paths"),
        not_paths: texts(&fields, "notPaths"),
    };
    fields.no_others();
    Some(spec)
}

fn condition(reader: &Reader<'_>) -> Option<ConditionSpec> {
    let fields = reader.fields()?;
    let spec = ConditionSpec {
        key: text(&fields, "key").unwrap_or_default(),
        values: texts(&fields, "values"),
        not_values: texts(&fields, "notValues"),
    };
    fields.no_others();
    Some(spec)
}

fn peer_spec(reader: &Reader<'_>) -> Option<PeerAuthenticationSpec> {
    let fields = reader.fields()?;
    let spec = PeerAuthenticationSpec {
        selector: selector(&fields),
        mtls: fields.optional("mtls").and_then(|value| mtls(&value)),
        port_level_mtls: fields.optional("portLevelMtls").map(|ports| {
            let entries = ports.entries().into_iter().flatten();
            let by_port =
                entries.filter_map(|(port, value)| Some((port.to_owned(), mtls(&value)?)));
            by_port.collect::<BTreeMap<_, _>>()
        }),
    };
    fields.no_others();
    Some(spec)
}

fn mtls(reader: &Reader<'_>) -> Option<MtlsSpec> {
    let fields = reader.fields()?;
    let mode = text(&fields, "mode");
    fields.no_others();
    Some(MtlsSpec { mode })
}

fn text(fields: &Fields<'_>, key: &'static str) -> Option<String> {
    fields.optional(key)?.text().map(str::to_owned)
}

/// The texts of a list. One with a mistake is reported and left out: the whole load is refused
/// for it, so the shortened list is never used.
fn texts(fields: &Fields<'_>, key: &'static str) -> Vec<String> {
    fields
        .optional(key)
        .map(|list| list.texts())
        .unwrap_or_default()
}

fn list<T>(
    fields: &Fields<'_>,
    key: &'static str,
    read: impl FnMut(&Reader<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    Some(fields.optional(key)?.list(read))
}
