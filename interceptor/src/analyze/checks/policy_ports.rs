//! Ports in policies that their workloads do not have.

use std::collections::{BTreeMap, BTreeSet};

use interceptor_policy::spec::RuleSpec;

use super::super::catalogue::{POLICY_PORT_NAME, POLICY_PORT_UNDECLARED, SERVICE_PORT_IN_POLICY};
use super::super::finding::{Findings, Place};
use super::super::model::{Known, Model, several};
use super::{in_modes, in_policy};
use crate::workload::objects::PeerAuthentication;
use crate::workload::{ServiceName, WorkloadId};

pub(super) fn check(model: &Model<'_>, findings: &mut Findings) {
    for (object, policy) in &model.policies {
        let named = object.spec.rules.iter().enumerate();
        let named = named.flat_map(|(index, rule)| ports(rule, index));
        let mut named = named.peekable();
        if named.peek().is_none() {
            continue;
        }
        let held = Held::of(model, &model.held_by(policy.name()).collect::<Vec<_>>());
        for (path, port) in named {
            held.report(model, (port, &in_policy(object, &path)), findings);
        }
    }
    for object in &model.objects.peer_authentications {
        let Some(ports) = &object.spec.port_level_mtls else {
            continue;
        };
        let held = Held::of(model, &held_by_modes(model, object));
        for port in ports.keys() {
            let place = in_modes(object, &format!("spec.portLevelMtls[\"{port}\"]"));
            held.report(model, (port, &place), findings);
        }
    }
}

/// What is known of the ports of the workloads that a policy holds for.
struct Held<'m> {
    workloads: Vec<&'m WorkloadId>,
    numbers: BTreeSet<u16>,
    names: BTreeSet<&'m str>,
    /// Ports of Services that lead elsewhere: the Service, the target port, a workload behind it.
    service_ports: BTreeMap<u16, (&'m ServiceName, u16, &'m WorkloadId)>,
    /// Whether all of them declare their ports.
    declared: bool,
}

impl<'m> Held<'m> {
    fn of(model: &'m Model<'_>, workloads: &[&'m Known<'_>]) -> Self {
        let mut held = Self {
            workloads: workloads.iter().map(|known| &known.workload.id).collect(),
            numbers: BTreeSet::new(),
            names: BTreeSet::new(),
            service_ports: BTreeMap::new(),
            declared: workloads.iter().all(|known| known.declares_ports()),
        };
        for known in workloads {
            let id = &known.workload.id;
            let declared = known.template.map(|template| template.declared.iter());
            held.numbers.extend(&known.ports);
            held.numbers
                .extend(declared.into_iter().flatten().map(|port| port.number));
            let names = known.workload.ports.keys();
            held.names.extend(names.map(String::as_str));
            for service in model.mesh.services_of(id) {
                let targets = model.targets(service, id);
                let leads = targets.into_iter().flatten();
                let leads = leads.map(|(port, target)| (*port, (service, *target, id)));
                held.service_ports.extend(leads);
            }
        }
        held
    }

    fn report(&self, model: &Model<'_>, (port, place): (&str, &Place), findings: &mut Findings) {
        if self.workloads.is_empty() {
            return;
        }
        if let Ok(number) = port.parse::<u16>() {
            self.report_number(number, place, findings);
            return;
        }
        let is_name = port.contains(|c: char| c.is_ascii_alphabetic());
        if !is_name || self.names.contains(port) {
            return;
        }
        let fix = match model.meant(port, self.names.iter().copied()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("name the container port {port}, or write its number"),
        };
        let who = several(&self.workloads);
        findings.add(
            &POLICY_PORT_NAME,
            place,
            format!("matches nothing: {who} has no port named {port:?}"),
            fix,
        );
    }

    fn report_number(&self, number: u16, place: &Place, findings: &mut Findings) {
        if self.numbers.contains(&number) {
            return;
        }
        if let Some((service, target, id)) = self.service_ports.get(&number) {
            findings.add(
                &SERVICE_PORT_IN_POLICY,
                place,
                format!(
                    "matches nothing: {number} is the port of Service {service}, which leads to port \
                     {target} of {id}"
                ),
                format!("write {target}, or its name"),
            );
        } else if self.declared {
            let who = several(&self.workloads);
            findings.add(
                &POLICY_PORT_UNDECLARED,
                place,
                format!("matches nothing that is declared: {who} has no port {number}"),
                "correct the number; fine if the application listens there all the same",
            );
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
