//! `NetworkPolicy` that lets application ports through and keeps the tunnel out.
//!
//! Read for analysis only: enforcing them is the network's business. They add up, so a workload is
//! cut off from the mesh only if none of those that select it lets the tunnel's port through.

use std::collections::HashMap;

use super::super::catalogue::TUNNEL_BLOCKED;
use super::super::extra::{AllowedPort, NetworkPolicy};
use super::super::finding::Findings;
use super::super::model::{Known, Membership, Model};
use crate::workload::{Enrolment, MeshSettings};

/// More policies of one namespace than this are not looked at.
const MAX_POLICIES: usize = 1000;

pub(super) fn check(model: &Model<'_>, settings: &MeshSettings, findings: &mut Findings) {
    let tunnel = settings.ports.hbone;
    let mut by_namespace: HashMap<&str, Vec<&NetworkPolicy>> = HashMap::new();
    for policy in &model.extra.network_policies {
        let own = by_namespace.entry(&policy.namespace).or_default();
        if own.len() < MAX_POLICIES {
            own.push(policy);
        }
    }
    for known in &model.workloads {
        // Sidecars take mutual TLS at the application's own port.
        let enrolled = matches!(
            known.workload.enrolment,
            Enrolment::Enrolled | Enrolment::Unbound
        );
        if !enrolled || model.membership(known) != Membership::Member {
            continue;
        }
        let own = by_namespace.get(&*known.workload.id.namespace);
        let selecting: Vec<&NetworkPolicy> = own
            .into_iter()
            .flatten()
            .copied()
            .filter(|policy| policy.selects(known))
            .collect();
        for (direction, rules_of) in DIRECTIONS {
            let limiting: Vec<(&NetworkPolicy, &[Rule])> = selecting
                .iter()
                .filter_map(|policy| Some((*policy, rules_of(policy)?)))
                .collect();
            report(known, tunnel, direction, &limiting, findings);
        }
    }
}

type Rule = Option<Vec<AllowedPort>>;
type RulesOf = fn(&NetworkPolicy) -> Option<&[Rule]>;

const DIRECTIONS: [(&str, RulesOf); 2] = [
    ("to", |policy| policy.ingress.as_deref()),
    ("from", |policy| policy.egress.as_deref()),
];

fn report(
    known: &Known<'_>,
    tunnel: u16,
    direction: &str,
    limiting: &[(&NetworkPolicy, &[Rule])],
    findings: &mut Findings,
) {
    let rules = || limiting.iter().flat_map(|(_, rules)| rules.iter());
    let lets_through = |rule: &Rule| match rule {
        None => true,
        Some(ports) => ports.iter().any(|port| port.admits(tunnel, known)),
    };
    // Who lets nothing through means it.
    let admits_tcp = |rule: &Rule| {
        let mut ports = rule.iter().flatten();
        ports.any(|port| !matches!(port, AllowedPort::Other))
    };
    if rules().any(lets_through) {
        return;
    }
    let Some((policy, _)) = limiting
        .iter()
        .find(|(_, rules)| rules.iter().any(admits_tcp))
    else {
        return;
    };
    // DNS and an API server are no destinations of the mesh.
    let only_known_exceptions = direction == "from" && rules().all(|rule| !names_application(rule));
    if only_known_exceptions {
        return;
    }
    findings.add(
        &TUNNEL_BLOCKED,
        &policy.place,
        format!(
            "calls {direction} {} time out inside of the mesh: its ports are let through, but not {tunnel}, where \
             mutual TLS arrives",
            known.workload.id
        ),
        format!("allow TCP {tunnel} wherever the application's port is allowed"),
    );
}

/// Whether a rule names a port other than those of DNS and the API server.
fn names_application(rule: &Rule) -> bool {
    let mut ports = rule.iter().flatten();
    ports.any(|port| match port {
        AllowedPort::Tcp(first, last) => {
            !matches!((first, last), (53, 53) | (443, 443) | (6443, 6443))
        }
        AllowedPort::Named(_) => true,
        AllowedPort::AnyTcp | AllowedPort::Other => false,
    })
}

impl NetworkPolicy {
    /// Whether it selects a workload; not if its expressions leave that open.
    fn selects(&self, known: &Known<'_>) -> bool {
        let workload = &known.workload;
        let has = |(key, value): (&String, &String)| workload.labels.get(key) == Some(value);
        *workload.id.namespace == *self.namespace
            && self
                .labels
                .as_ref()
                .is_some_and(|labels| labels.iter().all(has))
    }
}

impl AllowedPort {
    fn admits(&self, number: u16, known: &Known<'_>) -> bool {
        match self {
            Self::Tcp(first, last) => (*first..=*last).contains(&number),
            Self::Named(name) => known.workload.ports.get(name) == Some(&number),
            Self::AnyTcp => true,
            Self::Other => false,
        }
    }
}
