//! `NetworkPolicy` that lets application ports through and keeps the tunnel out.
//!
//! Read for analysis only: enforcing them is the network's business. They add up, so a workload is
//! cut off from the mesh only if none of those that select it lets the tunnel's port through.

use std::collections::HashMap;

use super::super::catalogue::{NOT_COMPARED, SCHEMA_WARNING, TUNNEL_BLOCKED};
use super::super::finding::Findings;
use super::super::model::{Known, Membership, Model};
use super::super::network_policy::{AllowedPort, NetworkPolicy, Rule};
use crate::workload::{Enrolment, MeshSettings, WorkloadId};

/// So many labels and ports are compared; the rest is told as not looked at.
const MAX_COMPARED: usize = 5_000_000;

/// The policies of one namespace.
#[derive(Default)]
struct Own<'m> {
    policies: Vec<&'m NetworkPolicy>,
    /// What it costs to look at them for one workload.
    cost: usize,
}

pub(super) fn check(model: &Model<'_>, settings: &MeshSettings, findings: &mut Findings) {
    for (place, why) in &model.extra.unreadable {
        let effect = format!("is left out here, and the API server refuses it: {why}");
        findings.add(&SCHEMA_WARNING, place, effect, "correct it");
    }
    let mut by_namespace: HashMap<&str, Own<'_>> = HashMap::new();
    for policy in &model.extra.network_policies {
        let own = by_namespace.entry(&policy.namespace).or_default();
        own.policies.push(policy);
        own.cost = own.cost.saturating_add(policy.cost());
    }
    let mut left = MAX_COMPARED;
    let mut not_looked_at: Vec<(&Own<'_>, &WorkloadId)> = Vec::new();
    for known in model
        .workloads
        .iter()
        .filter(|known| is_tunnelled(model, known))
    {
        let Some(own) = by_namespace.get(&*known.workload.id.namespace) else {
            continue;
        };
        if let Some(rest) = left.checked_sub(own.cost) {
            left = rest;
            workload(known, own, settings.ports.hbone, findings);
        } else {
            not_looked_at.push((own, &known.workload.id));
        }
    }
    if let Some((Own { policies, .. }, id)) = not_looked_at.first()
        && let Some(policy) = policies.first()
    {
        findings.add(
            &NOT_COMPARED,
            &policy.place,
            format!(
                "NetworkPolicies were not looked at for {} workloads ({id} first): there are too many",
                not_looked_at.len()
            ),
            "analyze one namespace at a time",
        );
    }
}

/// Whether mutual TLS arrives at the tunnel's port. Sidecars take it at the application's own.
fn is_tunnelled(model: &Model<'_>, known: &Known<'_>) -> bool {
    let enrolment = &known.workload.enrolment;
    matches!(enrolment, Enrolment::Enrolled | Enrolment::Unbound)
        && model.membership(known) == Membership::Member
}

fn workload(known: &Known<'_>, own: &Own<'_>, tunnel: u16, findings: &mut Findings) {
    let policies = own.policies.iter().copied();
    let selecting: Vec<&NetworkPolicy> = policies
        .filter(|policy| policy.selects(&known.workload))
        .collect();
    for (direction, rules_of) in DIRECTIONS {
        let limiting: Vec<(&NetworkPolicy, &[Rule])> = selecting
            .iter()
            .filter_map(|policy| Some((*policy, rules_of(policy)?)))
            .collect();
        report(known, tunnel, direction, &limiting, findings);
    }
}

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
    let lets_through = |rule: &Rule| rule.admits(tunnel, &known.workload);
    // Who lets nothing through means it.
    let admits_tcp = |rule: &Rule| {
        let mut ports = rule.ports();
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
    let mut ports = rule.ports();
    ports.any(|port| match port {
        AllowedPort::Tcp(first, last) => {
            !matches!((first, last), (53, 53) | (443, 443) | (6443, 6443))
        }
        AllowedPort::Named(_) => true,
        AllowedPort::AnyTcp | AllowedPort::Other => false,
    })
}
