//! The engine agrees with the specification read literally, on random policies and calls.
#![expect(
    clippy::expect_used,
    reason = "a generated policy that is refused must fail loudly"
)]

use std::collections::BTreeMap;

use interceptor_policy::spec::{MtlsSpec, PeerAuthenticationSpec, RuleSpec};
use interceptor_policy::{
    Attempt, Cause, DryRun, Effective, PeerAuthentication, Policy, PolicyMeta, PolicyName,
    PolicySet, ServicePorts, Settings, SpiffeId, Standing, Target, TrustDomain, Verdict,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::generate::{any_spec, call, peer, policy, settings};
use crate::naive::{Answer, Workload, Written, WrittenPeer, answer};

// === how it is asked ===

pub(crate) fn server() -> Workload {
    let text = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    Workload {
        namespace: "demo".to_owned(),
        labels: [("app", "server"), ("version", "v1")].map(text).into(),
        ports: BTreeMap::from([("http".to_owned(), 8080), ("admin".to_owned(), 9000)]),
        services: BTreeMap::from([
            ("server".to_owned(), vec![8080]),
            ("both".to_owned(), vec![80, 8080]),
        ]),
    }
}

pub(crate) fn policy_set(
    settings: &Settings,
    policies: &[Written],
    peers: &[WrittenPeer],
) -> PolicySet {
    let compile = |written: &Written| {
        let meta = PolicyMeta {
            dry_run: written.dry_run.then(|| "true".to_owned()),
        };
        let name = PolicyName::new(&*written.namespace, &*written.name);
        Policy::compile(name, &meta, &written.spec, settings)
            .expect("correct by construction")
            .value
    };
    let compile_peer = |written: &WrittenPeer| {
        let name = PolicyName::new(&*written.namespace, &*written.name);
        let created = Some(&*written.created);
        PeerAuthentication::compile(name, created, &written.spec, settings)
            .expect("correct")
            .value
    };
    PolicySet::new(
        settings.clone(),
        policies.iter().map(compile).collect(),
        peers.iter().map(compile_peer).collect(),
    )
}

pub(crate) fn effective(
    settings: &Settings,
    policies: &[Written],
    peers: &[WrittenPeer],
) -> Effective {
    let set = policy_set(settings, policies, peers);
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

fn as_answer(verdict: &Verdict) -> Answer {
    let by = match &verdict.cause {
        Cause::AllowedBy(rule) | Cause::DeniedBy { rule, .. } => Some(rule.clone()),
        _ => None,
    };
    let mut answer = Answer {
        reason: verdict.reason(),
        by,
        audited: verdict.audited.clone(),
        would_deny: vec![],
        would_allow: vec![],
        would_not_allow: false,
    };
    for outcome in &verdict.dry_run {
        match outcome {
            DryRun::WouldDeny(rule) => answer.would_deny.push(rule.clone()),
            DryRun::WouldAllow(rule) => answer.would_allow.push(rule.clone()),
            DryRun::WouldNotAllow { .. } => answer.would_not_allow = true,
        }
    }
    answer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_engine_agrees_with_the_specification(
        settings in settings(),
        policies in vec(policy(), 0..8),
        peers in vec(peer(), 0..4),
        calls in vec(call(), 1..8),
    ) {
        let engine = effective(&settings, &policies, &peers);
        for call in &calls {
            let verdict = engine.decide(&call.attempt());
            let expected = answer(&settings, &policies, &peers, &server(), call);
            prop_assert_eq!(as_answer(&verdict), expected, "{}", verdict);
            prop_assert_eq!(verdict.is_allowed(), matches!(
                verdict.reason(), "allowed" | "no_policies" | "no_deny_matched"
            ));
        }
    }

    #[test]
    fn an_explanation_says_what_the_verdict_says(
        settings in settings(),
        policies in vec(policy(), 0..6),
        peers in vec(peer(), 0..3),
        call in call(),
    ) {
        let engine = effective(&settings, &policies, &peers);
        let explanation = engine.explain(&call.attempt());
        prop_assert_eq!(&explanation.verdict, &engine.decide(&call.attempt()));
        prop_assert_eq!(explanation.policies.len(), engine.policies().count());
        for policy in &explanation.policies {
            for rule in policy.rules.iter().filter(|rule| rule.matched) {
                prop_assert!(rule.clauses.iter().all(|clause| clause.matched));
            }
            let decided = policy.standing == Standing::Decided;
            prop_assert!(!decided || explanation.verdict.policy() == Some(&policy.policy));
        }
        prop_assert!(!explanation.to_string().is_empty());
        prop_assert!(serde_json::to_string(&explanation).is_ok());
    }

    #[test]
    fn a_policy_that_only_reports_changes_no_decision(
        policies in vec(policy(), 0..6),
        added in policy(),
        call in call(),
    ) {
        let settings = Settings::default();
        let reports = added.dry_run || added.spec.action.as_deref() == Some("AUDIT");
        let before = effective(&settings, &policies, &[]).decide(&call.attempt());
        let with = [&policies[..], &[added]].concat();
        let after = effective(&settings, &with, &[]).decide(&call.attempt());
        prop_assert!(!reports || before.cause == after.cause);
    }

    #[test]
    fn a_verdict_that_is_settled_is_the_same_from_everywhere_and_has_nothing_to_report(
        settings in settings(),
        policies in vec(policy(), 0..5),
        peers in vec(peer(), 0..3),
        call in call(),
        elsewhere in vec(call(), 1..8),
    ) {
        let engine = effective(&settings, &policies, &peers);
        let attempt = call.attempt();
        if engine.unsettled(&attempt).is_none() {
            let verdict = engine.decide(&attempt);
            prop_assert!(verdict.audited.is_empty() && verdict.dry_run.is_empty());
            for source_ip in elsewhere.iter().map(|call| call.source_ip) {
                let other = engine.decide(&Attempt { source_ip, ..attempt });
                prop_assert_eq!(verdict.decision, other.decision, "from {}", source_ip);
                prop_assert!(other.audited.is_empty() && other.dry_run.is_empty());
            }
        }
    }

    #[test]
    fn a_deny_never_lets_more_through(
        policies in vec(policy(), 0..6),
        mut added in policy(),
        call in call(),
    ) {
        let settings = Settings::default();
        added.spec.action = Some("DENY".to_owned());
        if added.spec.rules.is_empty() {
            added.spec.rules.push(RuleSpec::default());
        }
        let before = effective(&settings, &policies, &[]).decide(&call.attempt());
        let with = [&policies[..], &[added]].concat();
        let after = effective(&settings, &with, &[]).decide(&call.attempt());
        prop_assert!(before.is_allowed() || !after.is_allowed());
    }
}

proptest! {
    #[test]
    fn any_text_compiles_or_is_refused_with_a_reason(spec in any_spec(), call in call()) {
        let name = PolicyName::new("demo", "p");
        let settings = Settings::default();
        match Policy::compile(name, &PolicyMeta::default(), &spec, &settings) {
            Err(problems) => prop_assert!(problems.iter().all(|p| !p.message.is_empty())),
            Ok(compiled) => {
                let set = PolicySet::new(settings, vec![compiled.value], vec![]);
                let empty = BTreeMap::new();
                let (labels, ports) = (&empty, &BTreeMap::new());
                let target = Target { namespace: "demo", labels, ports, services: &[] };
                let explanation = set.effective(&target).explain(&call.attempt());
                prop_assert!(!explanation.to_string().is_empty());
            }
        }
    }

    #[test]
    fn any_peer_authentication_compiles_or_is_refused(
        port in any::<String>(), mode in any::<String>(),
    ) {
        let mtls = MtlsSpec { mode: Some(mode) };
        let spec = PeerAuthenticationSpec {
            mtls: Some(mtls.clone()),
            port_level_mtls: Some(BTreeMap::from([(port, mtls)])),
            ..PeerAuthenticationSpec::default()
        };
        let name = PolicyName::new("demo", "p");
        prop_assert!(PeerAuthentication::compile(name, None, &spec, &Settings::default()).is_err());
    }

    #[test]
    fn any_trust_domain_survives_or_is_refused(text in ".{0,40}") {
        if let Ok(domain) = text.parse::<TrustDomain>() {
            prop_assert_eq!(domain.as_str(), text);
        }
    }

    #[test]
    fn identities_compare_as_their_text(a in call(), b in call()) {
        if let (Some(a), Some(b)) = (a.source, b.source) {
            prop_assert_eq!(a.cmp(&b), a.as_str().cmp(b.as_str()));
            prop_assert_eq!(a == b, a.as_str() == b.as_str());
            let again: Option<SpiffeId> = a.as_str().parse().ok();
            prop_assert_eq!(again, Some(a));
        }
    }
}
