//! Policies that compiled, and connections: every verdict is explained, and what only reports never
//! decides.

use std::collections::BTreeMap;
use std::net::IpAddr;

use interceptor_policy::spec::{AuthorizationPolicySpec, RuleSpec};
use interceptor_policy::{
    Attempt, Cause, Effective, MtlsMode, PeerAuthentication, Policy, PolicyMeta, PolicyName,
    PolicySet, ServicePorts, Settings, SpiffeId, Target as Workload, Verdict,
};

use crate::bytes::Choices;
use crate::engine::{Features, Target, feature};

pub(crate) const TARGET: Target = Target {
    name: "evaluation",
    run,
    words: &[],
};

fn run(input: &[u8]) -> Features {
    let mut choices = Choices::new(input);
    let settings = choices.settings();
    let attempt = Call::read(&mut choices);
    let mut policies = Vec::new();
    for index in 0..=choices.below(4) {
        let (meta, spec) = choices.policy();
        let namespace = choices.one(&["demo", "demo", "istio-system"]);
        let name = PolicyName::new(namespace, index.to_string());
        policies.extend(Policy::compile(name, &meta, &spec, &settings).map(|c| c.value));
    }
    let mut modes = Vec::new();
    for index in 0..choices.below(3) {
        let name = PolicyName::new("demo", index.to_string());
        let spec = choices.peer_authentication();
        let compiled = PeerAuthentication::compile(name, None, &spec, &settings);
        modes.extend(compiled.map(|c| c.value));
    }
    invariants(&settings, &policies, &modes, &attempt)
}

fn invariants(
    settings: &Settings,
    policies: &[Policy],
    modes: &[PeerAuthentication],
    call: &Call,
) -> Features {
    let attempt = call.attempt();
    let effective = |policies: Vec<Policy>| {
        effective(&PolicySet::new(settings.clone(), policies, modes.to_vec()))
    };
    let all = effective(policies.to_vec());
    let verdict = all.decide(&attempt);
    let explanation = all.explain(&attempt);
    assert_eq!(verdict, explanation.verdict);
    assert!(!explanation.to_string().is_empty());
    if all.mtls(call.port).mode == MtlsMode::Strict && call.identity.is_none() {
        assert!(
            matches!(verdict.cause, Cause::PlaintextToStrict { .. }),
            "{verdict}"
        );
    }

    let mut deciding = policies.to_vec();
    deciding.retain(|policy| !policy.only_reports());
    let without = effective(deciding.clone()).decide(&attempt);
    assert_eq!(
        (without.decision, &without.cause),
        (verdict.decision, &verdict.cause)
    );

    deciding.push(deny_all(settings));
    assert!(
        !effective(deciding).decide(&attempt).is_allowed(),
        "DENY of everything allows"
    );
    features(&verdict, policies.len())
}

fn deny_all(settings: &Settings) -> Policy {
    let spec = AuthorizationPolicySpec {
        action: Some("DENY".to_owned()),
        rules: vec![RuleSpec::default()],
        ..AuthorizationPolicySpec::default()
    };
    let name = PolicyName::new("demo", "nobody");
    Policy::compile(name, &PolicyMeta::default(), &spec, settings)
        .unwrap()
        .value
}

fn effective(set: &PolicySet) -> Effective {
    let labels = BTreeMap::from([("app".to_owned(), "a".to_owned())]);
    let ports = BTreeMap::from([("http".to_owned(), 8080)]);
    let target_ports = [8080];
    let services = [ServicePorts {
        service: "web",
        target_ports: &target_ports,
    }];
    set.effective(&Workload {
        namespace: "demo",
        labels: &labels,
        ports: &ports,
        services: &services,
    })
}

/// What distinguishes verdicts, without what differs from policy to policy.
fn features(verdict: &Verdict, policies: usize) -> Features {
    let failure = verdict.failure().map(|failure| failure.field.to_string());
    let hits = match &verdict.cause {
        Cause::DeniedBy { hits, widened, .. } => {
            let fields: Vec<String> = hits.iter().map(|hit| hit.field.to_string()).collect();
            (fields, widened.len().min(3))
        }
        _ => (Vec::new(), 0),
    };
    let reported = (verdict.audited.len().min(2), verdict.dry_run.len().min(2));
    let reason = verdict.reason();
    [
        feature((reason, policies)),
        feature((reason, failure)),
        feature((reason, hits)),
        feature((reason, reported)),
    ]
    .into()
}

/// A connection with values of its own.
struct Call {
    identity: Option<SpiffeId>,
    source: IpAddr,
    destination: IpAddr,
    port: u16,
}

impl Call {
    fn read(choices: &mut Choices<'_>) -> Self {
        let identities = [
            None,
            Some("spiffe://cluster.local/ns/demo/sa/a"),
            Some("spiffe://old.org/ns/demo/sa/a"),
            Some("spiffe://cluster.local/ns/ops/sa/b"),
            Some("spiffe://third.org/ns/demo/sa/a"),
        ];
        let addresses = ["10.0.0.1", "192.0.2.1", "2001:db8::1", "::ffff:10.0.0.1"];
        let identity = choices.one(&identities);
        let (source, destination) = (choices.one(&addresses), choices.one(&addresses));
        Self {
            identity: identity.map(|identity| identity.parse().unwrap()),
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            port: choices.one(&[8080, 80, 443, 0, 65535]),
        }
    }

    const fn attempt(&self) -> Attempt<'_> {
        Attempt {
            source: self.identity.as_ref(),
            source_ip: self.source,
            destination_ip: self.destination,
            destination_port: self.port,
        }
    }
}
