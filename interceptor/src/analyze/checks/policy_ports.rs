//! Ports in policies that their workloads do not have.

use std::collections::BTreeSet;

use interceptor_policy::spec::RuleSpec;

use super::super::catalogue::{POLICY_PORT_NAME, POLICY_PORT_UNDECLARED, SERVICE_PORT_IN_POLICY};
use super::super::finding::{Findings, Place};
use super::super::model::{Known, Model, several};
use super::{in_modes, in_policy};
use crate::workload::objects::PeerAuthentication;
use crate::yaml::nearest;

pub(super) fn check(model: &Model<'_>, findings: &mut Findings) {
    for (object, policy) in &model.policies {
        let held: Vec<&Known<'_>> = model.held_by(policy.name()).collect();
        for (index, rule) in object.spec.rules.iter().enumerate() {
            for (path, port) in ports(rule, index) {
                report(model, &held, (port, &in_policy(object, &path)), findings);
            }
        }
    }
    for object in &model.objects.peer_authentications {
        let held = held_by_modes(model, object);
        for port in object
            .spec
            .port_level_mtls
            .iter()
            .flatten()
            .map(|(port, _)| port)
        {
            let place = in_modes(object, &format!("spec.portLevelMtls[\"{port}\"]"));
            report(model, &held, (port, &place), findings);
        }
    }
}

/// The ports that a rule names, with their paths.
fn ports<'r>(rule: &'r RuleSpec, index: usize) -> Vec<(String, &'r str)> {
    let mut found = Vec::new();
    let mut list = |path: &str, ports: &'r [String]| {
        let numbered = ports.iter().enumerate();
        found.extend(numbered.map(|(at, port)| (format!("{path}[{at}]"), port.as_str())));
    };
    for (at, to) in rule.to.iter().flatten().enumerate() {
        let Some(operation) = &to.operation else {
            continue;
        };
        let base = format!("spec.rules[{index}].to[{at}].operation");
        for (key, values) in [
            ("ports", &operation.ports),
            ("notPorts", &operation.not_ports),
        ] {
            list(&format!("{base}.{key}"), values);
        }
    }
    for (at, when) in rule
        .when
        .iter()
        .enumerate()
        .filter(|(_, w)| w.key == "destination.port")
    {
        let base = format!("spec.rules[{index}].when[{at}]");
        for (key, values) in [("values", &when.values), ("notValues", &when.not_values)] {
            list(&format!("{base}.{key}"), values);
        }
    }
    found
}

/// The workloads whose mode a `PeerAuthentication` with a selector sets.
fn held_by_modes<'m, 'a>(model: &'m Model<'a>, object: &PeerAuthentication) -> Vec<&'m Known<'a>> {
    let labels = object
        .spec
        .selector
        .iter()
        .flat_map(|selector| &selector.match_labels);
    let labels: Vec<_> = labels.collect();
    let selected = |known: &&Known<'a>| {
        let workload = &known.workload;
        let has = |(key, value): &(&String, &String)| workload.labels.get(*key) == Some(*value);
        *workload.id.namespace == *object.meta.namespace && labels.iter().all(has)
    };
    model.workloads.iter().filter(selected).collect()
}

fn report(
    model: &Model<'_>,
    held: &[&Known<'_>],
    (port, place): (&str, &Place),
    findings: &mut Findings,
) {
    if held.is_empty() {
        return;
    }
    if let Ok(number) = port.parse::<u16>() {
        number_of(model, held, (number, place), findings);
        return;
    }
    let is_name = port.contains(|c: char| c.is_ascii_alphabetic());
    let has = |known: &&Known<'_>| known.workload.ports.contains_key(port);
    if !is_name || held.iter().any(has) {
        return;
    }
    let there: BTreeSet<&str> = held
        .iter()
        .flat_map(|known| known.workload.ports.keys().map(String::as_str))
        .collect();
    let fix = match nearest(port, there.iter().copied()) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("name the container port {port}, or write its number"),
    };
    let ids: Vec<_> = held.iter().map(|known| &known.workload.id).collect();
    findings.add(
        &POLICY_PORT_NAME,
        place,
        format!(
            "matches nothing: {} has no port named {port:?}",
            several(&ids)
        ),
        fix,
    );
}

fn number_of(
    model: &Model<'_>,
    held: &[&Known<'_>],
    (number, place): (u16, &Place),
    findings: &mut Findings,
) {
    if held
        .iter()
        .any(|known| known.ports.contains(&number) || known.declares(number))
    {
        return;
    }
    for known in held {
        for service in model.mesh.services_of(&known.workload.id) {
            let Some(service) = model.mesh.service(&service.namespace, &service.name) else {
                continue;
            };
            let own = service
                .endpoints
                .iter()
                .find(|e| e.workload.id == known.workload.id);
            if let Some(target) = own.and_then(|own| own.target_ports.get(&number)) {
                findings.add(
                    &SERVICE_PORT_IN_POLICY,
                    place,
                    format!(
                        "matches nothing: {number} is the port of Service {}, which leads to port {target} of {}",
                        service.name, known.workload.id
                    ),
                    format!("write {target}, or its name"),
                );
                return;
            }
        }
    }
    if held.iter().all(|known| known.declares_ports()) {
        let ids: Vec<_> = held.iter().map(|known| &known.workload.id).collect();
        findings.add(
            &POLICY_PORT_UNDECLARED,
            place,
            format!(
                "matches nothing that is declared: {} has no port {number}",
                several(&ids)
            ),
            "correct the number; fine if the application listens there all the same",
        );
    }
}
