//! Callers that policies name and that are not there, or cannot prove who they are.

use std::collections::{BTreeMap, BTreeSet};

use interceptor_policy::spec::SourceSpec;
use interceptor_policy::{Action, SpiffeId};

use super::super::catalogue::{CALLER_MISSPELT, CALLER_NOT_ENROLLED, CALLER_UNKNOWN};
use super::super::finding::{Findings, Place};
use super::super::model::{Known, Membership, Model, several};
use super::in_policy;
use crate::workload::MeshSettings;

/// Namespaces that are rarely among people's own manifests.
const SYSTEM: [&str; 4] = ["istio-system", "kube-system", "istio-ingress", "monitoring"];

/// Who is in the manifests.
struct Callers<'m> {
    namespaces: BTreeSet<&'m str>,
    /// Service accounts by namespace, with the workloads that run as them.
    accounts: BTreeMap<(&'m str, &'m str), Vec<&'m Known<'m>>>,
}

/// A value that names a caller: a namespace, and maybe a service account in it.
struct Named<'s> {
    path: String,
    namespace: &'s str,
    account: Option<String>,
}

pub(super) fn check(model: &Model<'_>, settings: &MeshSettings, findings: &mut Findings) {
    if model.workloads.is_empty() {
        return;
    }
    let callers = Callers::of(model);
    for (object, policy) in &model.policies {
        for (index, rule) in object.spec.rules.iter().enumerate() {
            let from = rule.from.iter().flatten().enumerate();
            let sources = from.filter_map(|(at, from)| Some((at, from.source.as_ref()?)));
            for (at, source) in sources {
                let base = format!("spec.rules[{index}].from[{at}].source");
                for named in named(source, &base, &object.meta.namespace, settings) {
                    let place = in_policy(object, &named.path);
                    callers.report_unknown(model, &named, &place, findings);
                    if policy.action() == Action::Allow {
                        callers.report_not_enrolled(model, &named, &place, findings);
                    }
                }
            }
        }
    }
}

/// The exact values of a source that speak of this mesh.
fn named<'s>(
    source: &'s SourceSpec,
    base: &str,
    own: &'s str,
    settings: &MeshSettings,
) -> Vec<Named<'s>> {
    let ours = |id: &SpiffeId| {
        let domain = id.trust_domain();
        *domain == settings.trust_domain
            || settings.trust_domain_aliases.contains(domain)
            || domain.as_str() == "cluster.local"
    };
    let mut all = Vec::new();
    for (index, text) in source.principals.iter().enumerate() {
        let id: Option<SpiffeId> = format!("spiffe://{text}").parse().ok();
        // The namespace is the third of the five parts that an identity has.
        if let (Some(id), Some(namespace)) = (id.filter(ours), text.split('/').nth(2)) {
            all.push(Named {
                path: format!("{base}.principals[{index}]"),
                namespace,
                account: Some(id.service_account().to_owned()),
            });
        }
    }
    for (index, text) in source.namespaces.iter().enumerate() {
        if !text.contains('*') {
            all.push(Named {
                path: format!("{base}.namespaces[{index}]"),
                namespace: text,
                account: None,
            });
        }
    }
    for (index, text) in source.service_accounts.iter().enumerate() {
        let (namespace, account) = text.split_once('/').unwrap_or((own, text));
        all.push(Named {
            path: format!("{base}.serviceAccounts[{index}]"),
            namespace,
            account: Some(account.to_owned()),
        });
    }
    all
}

impl<'m> Callers<'m> {
    fn of(model: &'m Model<'_>) -> Self {
        let mut callers = Self {
            namespaces: model.namespaces.keys().copied().collect(),
            accounts: BTreeMap::new(),
        };
        for (namespace, account) in &model.extra.accounts {
            callers.namespaces.insert(namespace);
            callers.accounts.insert((namespace, account), Vec::new());
        }
        for known in &model.workloads {
            let id = &known.workload.identity;
            callers.namespaces.insert(id.namespace());
            let account = (id.namespace(), id.service_account());
            callers.accounts.entry(account).or_default().push(known);
        }
        callers
    }

    /// The service accounts of a namespace, with their workloads.
    fn of_namespace<'s>(
        &'s self,
        namespace: &'s str,
    ) -> impl Iterator<Item = (&'s str, &'s Vec<&'m Known<'m>>)> {
        let from = self.accounts.range((namespace, "")..);
        let own = from.take_while(move |((of, _), _)| *of == namespace);
        own.map(|((_, account), workloads)| (*account, workloads))
    }

    fn report_unknown(
        &self,
        model: &Model<'_>,
        named: &Named<'_>,
        place: &Place,
        findings: &mut Findings,
    ) {
        let Named {
            namespace, account, ..
        } = named;
        if SYSTEM.contains(namespace) {
            return;
        }
        let (what, meant) = if !self.namespaces.contains(namespace) {
            let meant = model.meant(namespace, self.namespaces.iter().copied());
            (format!("no namespace {namespace}"), meant)
        } else if let Some(account) = account
            && !self.accounts.contains_key(&(*namespace, account.as_str()))
        {
            let there = self.of_namespace(namespace).map(|(account, _)| account);
            let meant = model.meant(account, there);
            (
                format!("no service account {account} in namespace {namespace}"),
                meant,
            )
        } else {
            return;
        };
        match meant {
            Some(meant) => findings.add(
                &CALLER_MISSPELT,
                place,
                format!("matches nobody: there is {what}"),
                format!("did you mean {meant}?"),
            ),
            None => findings.add(
                &CALLER_UNKNOWN,
                place,
                format!("matches nobody of these manifests: they have {what}"),
                "fine if it lives elsewhere; otherwise correct or delete it",
            ),
        }
    }

    fn report_not_enrolled(
        &self,
        model: &Model<'_>,
        named: &Named<'_>,
        place: &Place,
        findings: &mut Findings,
    ) {
        let workloads: Vec<_> = match named.account.as_deref() {
            Some(account) => {
                let exact = self.accounts.get(&(named.namespace, account));
                exact.into_iter().flatten().collect()
            }
            None => self
                .of_namespace(named.namespace)
                .flat_map(|(_, known)| known)
                .collect(),
        };
        let outside = |known: &&Known<'_>| model.membership(known) == Membership::Outside;
        if workloads.is_empty() || !workloads.iter().all(|known| outside(known)) {
            return;
        }
        let ids: Vec<_> = workloads.iter().map(|known| &known.workload.id).collect();
        findings.add(
            &CALLER_NOT_ENROLLED,
            place,
            format!(
                "is allowed on paper only: {} calls without mutual TLS ({})",
                several(&ids),
                workloads
                    .first()
                    .map(|known| known.workload.enrolment.to_string())
                    .unwrap_or_default()
            ),
            "enrol the caller: label its namespace istio.io/dataplane-mode=ambient",
        );
    }
}
