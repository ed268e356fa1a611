//! The specification read literally, over the written text, one connection at a time.
//!
//! Written apart from the engine and without its types, so that an agreement means something:
//! addresses are compared as integers, patterns as text, aliases by looking at the caller.

use std::collections::BTreeMap;
use std::net::IpAddr;

use interceptor_policy::spec::{
    AuthorizationPolicySpec, ConditionSpec, OperationSpec, PeerAuthenticationSpec, RuleSpec,
    SelectorSpec, SourceSpec,
};
use interceptor_policy::{PolicyName, RuleRef, Settings, SpiffeId, TrustDomain};

use crate::fixture::Call;

/// A policy as written.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) dry_run: bool,
    pub(crate) spec: AuthorizationPolicySpec,
}

/// A `PeerAuthentication` as written.
#[derive(Clone, Debug)]
pub(crate) struct WrittenPeer {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) created: String,
    pub(crate) spec: PeerAuthenticationSpec,
}

/// The workload that is called.
pub(crate) struct Workload {
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) ports: BTreeMap<String, u16>,
    /// The Services that it backs, with its ports behind them.
    pub(crate) services: BTreeMap<String, Vec<u16>>,
}

/// What the specification says becomes of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) reason: &'static str,
    /// The rule that decided, if one did.
    pub(crate) by: Option<RuleRef>,
    pub(crate) audited: Vec<RuleRef>,
    pub(crate) would_deny: Vec<RuleRef>,
    pub(crate) would_allow: Vec<RuleRef>,
    pub(crate) would_not_allow: bool,
}

/// Everything that a condition may look at.
struct Reading<'a> {
    settings: &'a Settings,
    policy_namespace: &'a str,
    workload: &'a Workload,
    call: &'a Call,
}

pub(crate) fn answer(
    settings: &Settings,
    policies: &[Written],
    peers: &[WrittenPeer],
    workload: &Workload,
    call: &Call,
) -> Answer {
    let mut holding: Vec<_> = policies
        .iter()
        .filter(|p| holds_for(settings, p, workload, call))
        .collect();
    holding.sort_by_key(|p| {
        (
            p.namespace != settings.root_namespace,
            &p.namespace,
            &p.name,
        )
    });
    let of = |action: &str, dry_run: bool| -> Vec<&Written> {
        let has = |p: &&&Written| p.action() == action && p.dry_run == dry_run;
        holding.iter().filter(has).copied().collect()
    };
    // The first matching rule of every policy.
    let matching = |policies: &[&Written]| -> Vec<RuleRef> {
        let first = |p: &&Written| {
            let reading = Reading {
                settings,
                policy_namespace: &p.namespace,
                workload,
                call,
            };
            let matches = |rule: &RuleSpec| reading.rule(rule, p.action() == "ALLOW");
            let rule = p.spec.rules.iter().position(matches)?;
            Some(RuleRef {
                policy: PolicyName::new(&*p.namespace, &*p.name),
                rule,
            })
        };
        policies.iter().filter_map(first).collect()
    };
    let (deny, allow) = (of("DENY", false), of("ALLOW", false));
    let (denying, allowing) = (matching(&deny), matching(&allow));
    let strict = mode(settings, peers, workload, call) == "STRICT";
    let (reason, by) = match (denying.first(), allowing.first()) {
        _ if strict && call.source.is_none() => ("plaintext_to_strict", None),
        (Some(rule), _) => ("denied", Some(rule)),
        (None, Some(rule)) => ("allowed", Some(rule)),
        (None, None) if !allow.is_empty() => ("no_allow_matched", None),
        (None, None) if !deny.is_empty() => ("no_deny_matched", None),
        (None, None) => ("no_policies", None),
    };
    let dry_allow = of("ALLOW", true);
    let would_allow = matching(&dry_allow);
    Answer {
        reason,
        by: by.cloned(),
        audited: matching(&of("AUDIT", false)),
        would_deny: matching(&of("DENY", true)),
        would_not_allow: allow.is_empty() && !dry_allow.is_empty() && would_allow.is_empty(),
        would_allow,
    }
}

impl Written {
    fn action(&self) -> &str {
        self.spec.action.as_deref().unwrap_or("ALLOW")
    }
}

fn holds_for(settings: &Settings, policy: &Written, workload: &Workload, call: &Call) -> bool {
    let targets: Vec<_> = policy
        .spec
        .target_ref
        .iter()
        .chain(&policy.spec.target_refs)
        .collect();
    if !targets.is_empty() {
        return policy.namespace == workload.namespace
            && targets.iter().any(|target| {
                let behind = workload.services.get(&target.name);
                target.kind == "Service" && behind.is_some_and(|ports| ports.contains(&call.port))
            });
    }
    let everywhere = policy.namespace == settings.root_namespace;
    (everywhere || policy.namespace == workload.namespace)
        && selects(policy.spec.selector.as_ref(), workload)
}

fn selects(selector: Option<&SelectorSpec>, workload: &Workload) -> bool {
    let labels = selector
        .map(|selector| selector.match_labels.clone())
        .unwrap_or_default();
    labels
        .iter()
        .all(|(key, value)| workload.labels.get(key) == Some(value))
}

fn mode(settings: &Settings, peers: &[WrittenPeer], workload: &Workload, call: &Call) -> String {
    let oldest = |candidate: &dyn Fn(&WrittenPeer) -> bool| -> Option<&WrittenPeer> {
        peers
            .iter()
            .filter(|p| candidate(p))
            .min_by_key(|p| (&p.created, &p.namespace, &p.name))
    };
    let labelled = |p: &WrittenPeer| {
        p.spec
            .selector
            .as_ref()
            .is_some_and(|s| !s.match_labels.is_empty())
    };
    let own = |p: &WrittenPeer| p.namespace == workload.namespace;
    let root = |p: &WrittenPeer| p.namespace == settings.root_namespace;
    let by_workload = oldest(&|p| {
        labelled(p) && own(p) && !root(p) && selects(p.spec.selector.as_ref(), workload)
    });
    let by_namespace = oldest(&|p| !labelled(p) && own(p) && !root(p));
    let by_mesh = oldest(&|p| !labelled(p) && root(p));
    let by_port = by_workload.and_then(|p| {
        p.spec
            .port_level_mtls
            .as_ref()?
            .get(&call.port.to_string())?
            .mode
            .clone()
    });
    let whole = |p: Option<&WrittenPeer>| p.and_then(|p| p.spec.mtls.as_ref()?.mode.clone());
    [
        by_port,
        whole(by_workload),
        whole(by_namespace),
        whole(by_mesh),
    ]
    .into_iter()
    .flatten()
    .find(|mode| mode != "UNSET")
    .unwrap_or_else(|| "PERMISSIVE".to_owned())
}

impl Reading<'_> {
    fn rule(&self, rule: &RuleSpec, allow: bool) -> bool {
        if allow && sees_http(rule) {
            return false;
        }
        let from = rule.from.as_ref().is_none_or(|from| {
            from.iter().any(|from| {
                from.source
                    .as_ref()
                    .is_some_and(|source| self.source(source))
            })
        });
        let to = rule.to.as_ref().is_none_or(|to| {
            to.iter()
                .any(|to| to.operation.as_ref().is_some_and(|op| self.operation(op)))
        });
        from && to && rule.when.iter().all(|condition| self.condition(condition))
    }

    fn source(&self, source: &SourceSpec) -> bool {
        let id = self.call.source.as_ref();
        both(&source.principals, &source.not_principals, |p| {
            id.is_some_and(|id| self.principal(p, id))
        }) && both(&source.namespaces, &source.not_namespaces, |n| {
            id.is_some_and(|id| text(n, id.namespace()))
        }) && both(
            &source.service_accounts,
            &source.not_service_accounts,
            |a| id.is_some_and(|id| self.account(a, id)),
        ) && both(&source.trust_domains, &source.not_trust_domains, |t| {
            id.is_some_and(|id| self.trust_domain(t, id))
        }) && both(&source.ip_blocks, &source.not_ip_blocks, |b| {
            block(b, self.call.source_ip)
        })
    }

    fn operation(&self, operation: &OperationSpec) -> bool {
        both(&operation.ports, &operation.not_ports, |p| self.port(p))
    }

    fn condition(&self, condition: &ConditionSpec) -> bool {
        let ConditionSpec {
            key,
            values,
            not_values,
        } = condition;
        let id = self.call.source.as_ref();
        match key.as_str() {
            "source.principal" => both(values, not_values, |p| {
                id.is_some_and(|id| self.principal(p, id))
            }),
            "source.namespace" => both(values, not_values, |n| {
                id.is_some_and(|id| text(n, id.namespace()))
            }),
            "source.serviceAccount" => both(values, not_values, |a| {
                id.is_some_and(|id| self.account(a, id))
            }),
            "source.trustDomain" => both(values, not_values, |t| {
                id.is_some_and(|id| self.trust_domain(t, id))
            }),
            "source.ip" => both(values, not_values, |b| block(b, self.call.source_ip)),
            "destination.ip" => both(values, not_values, |b| block(b, self.call.destination_ip)),
            "destination.port" => both(values, not_values, |p| self.port(p)),
            _ => true,
        }
    }

    fn port(&self, written: &str) -> bool {
        let port = self.call.port;
        if let Ok(number) = written.parse::<u16>() {
            return number == port;
        }
        if let Some(&named) = self.workload.ports.get(written) {
            return named == port;
        }
        let bounds: Vec<u16> = written
            .split('-')
            .filter_map(|bound| bound.parse().ok())
            .collect();
        matches!(bounds[..], [first, last] if first <= port && port <= last)
    }

    fn account(&self, written: &str, id: &SpiffeId) -> bool {
        let (namespace, name) = written
            .split_once('/')
            .unwrap_or((self.policy_namespace, written));
        namespace == id.namespace() && name == id.service_account()
    }

    fn ours(&self) -> Vec<&str> {
        let aliases = self.settings.trust_domain_aliases.iter();
        std::iter::once(&self.settings.trust_domain)
            .chain(aliases)
            .map(TrustDomain::as_str)
            .collect()
    }

    fn trust_domain(&self, written: &str, id: &SpiffeId) -> bool {
        let ours = self.ours();
        let theirs = id.trust_domain().as_str();
        if ours.contains(&written) {
            ours.contains(&theirs)
        } else {
            text(written, theirs)
        }
    }

    fn principal(&self, written: &str, id: &SpiffeId) -> bool {
        let parts: Vec<&str> = written.split('/').collect();
        let [domain, rest @ ..] = &parts[..] else {
            return false;
        };
        let ours = self.ours();
        let covers = |own: &str| *domain == own || (domain.starts_with('*') && text(domain, own));
        let local = *domain == "cluster.local" || ours.iter().any(|own| covers(own));
        if parts.len() != 5 || *domain == "*" || !local {
            return text(written, id.principal());
        }
        // As written for the domains that it covers by a wildcard, by name for the others.
        let wildcard = |own: &str| domain.starts_with('*') && text(domain, own);
        let as_written = ours.iter().any(|own| wildcard(own)) && text(written, id.principal());
        let by_name = ours
            .iter()
            .filter(|own| !wildcard(own))
            .any(|own| text(&format!("{own}/{}", rest.join("/")), id.principal()));
        as_written || by_name
    }
}

fn sees_http(rule: &RuleSpec) -> bool {
    let sources = rule
        .from
        .iter()
        .flatten()
        .filter_map(|from| from.source.as_ref());
    let operations = rule
        .to
        .iter()
        .flatten()
        .filter_map(|to| to.operation.as_ref());
    let http_source =
        |s: &SourceSpec| !s.request_principals.is_empty() || !s.not_remote_ip_blocks.is_empty();
    let http_operation = |o: &OperationSpec| !o.methods.is_empty() || !o.not_paths.is_empty();
    sources.into_iter().any(http_source)
        || operations.into_iter().any(http_operation)
        || rule
            .when
            .iter()
            .any(|condition| condition.key.starts_with("request."))
}

fn both(values: &[String], not_values: &[String], matches: impl Fn(&str) -> bool) -> bool {
    let hit = |list: &[String]| list.iter().any(|value| matches(value));
    (values.is_empty() || hit(values)) && (not_values.is_empty() || !hit(not_values))
}

fn text(pattern: &str, value: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(""), _) => !value.is_empty(),
        (Some(suffix), _) => value.ends_with(suffix),
        (None, Some(prefix)) => value.starts_with(prefix),
        (None, None) => pattern == value,
    }
}

/// Compares as 128-bit integers, IPv4 in its mapped form, never one family with the other.
fn block(written: &str, address: IpAddr) -> bool {
    let (network, length) = match written.split_once('/') {
        Some((network, length)) => (network, length.parse::<u32>().ok()),
        None => (written, None),
    };
    let Ok(network) = network.parse::<IpAddr>() else {
        return false;
    };
    let offset = if network.is_ipv4() { 96 } else { 0 };
    let length = length.map_or(128, |length| length.saturating_add(offset));
    let (network, address) = (bits(network), bits(address));
    let is_v4 = |bits: u128| bits >> 32 == 0xffff;
    let shift = 128_u32.saturating_sub(length);
    let same =
        |a: u128, b: u128| a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0);
    let families = length >= 96 && is_v4(network);
    families == is_v4(address) && same(network, address)
}

const fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}
