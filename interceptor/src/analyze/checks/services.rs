//! Services: port names, target ports, selectors.

use super::super::catalogue::{
    EXTERNAL_NAME_PORT, PORT_NAME, PORT_TYPO, SERVICE_EMPTY, SERVICE_NO_SELECTOR,
    TARGET_NAME_DANGLING, TARGET_NAME_PARTIAL, TARGET_UNDECLARED,
};
use super::super::finding::{Findings, Place};
use super::super::model::{Known, Model, several};
use super::super::protocol::{self, Told};
use crate::workload::objects::{Service, ServicePort, TargetPort};
use crate::workload::protocol::{Port, Protocol};

const KIND: &str = "Service";

pub(super) fn check(model: &Model<'_>, findings: &mut Findings) {
    for service in &model.objects.services {
        for port in &service.ports {
            name(service, port, findings);
        }
        selector(model, service, findings);
    }
    for (place, name) in &model.extra.external_ports {
        let told = protocol::of(&Port {
            name: name.as_deref(),
            ..Port::default()
        });
        if !matches!(told, Told::Protocol(protocol) if protocol != Protocol::Tcp) {
            findings.add(
                &EXTERNAL_NAME_PORT,
                place,
                "Istio's proxies capture this port for every address, because its name is tcp or tells no \
                 protocol",
                "name the port after its HTTP or TLS protocol, or leave the ports out",
            );
        }
    }
}

/// What the port's name says about its protocol.
fn name(service: &Service, port: &ServicePort, findings: &mut Findings) {
    let (text, is_app_protocol) = match (&port.app_protocol, &port.name) {
        (Some(protocol), _) => (protocol, true),
        (None, Some(name)) => (name, false),
        (None, None) => return,
    };
    let what = if is_app_protocol {
        "appProtocol"
    } else {
        "name"
    };
    let place = Place::at(KIND, &service.meta, &port.tells);
    let number = port.port.value;
    let told = protocol::of(&Port {
        transport: None,
        app_protocol: port.app_protocol.as_deref(),
        name: port.name.as_deref(),
        number,
    });
    match told {
        Told::Protocol(_) => {}
        Told::Nearly(meant) => findings.add(
            &PORT_TYPO,
            &place,
            format!(
                "the {what} {text:?} of port {number} tells no protocol: carried as TCP here, guessed by \
                 Istio, and a waypoint applies no L7 policy to it"
            ),
            format!("did you mean {meant}?"),
        ),
        Told::Unknown => findings.add(
            &PORT_NAME,
            &place,
            format!("the {what} {text:?} of port {number} tells no protocol: carried as TCP here, guessed by Istio"),
            "begin the name with the protocol (http-, grpc-, tcp-, ...), or set appProtocol",
        ),
    }
}

fn selector(model: &Model<'_>, service: &Service, findings: &mut Findings) {
    let place = Place::at(KIND, &service.meta, &service.selector.origin);
    if service.selector.value.is_empty() {
        findings.add(
            &SERVICE_NO_SELECTOR,
            &place,
            "has no endpoints here: it has no selector, and EndpointSlices are not read",
            "give it a selector; WorkloadEntries can stand for machines",
        );
        return;
    }
    if model.workloads.is_empty() {
        return;
    }
    let built = model
        .mesh
        .service(&service.meta.namespace, &service.meta.name);
    let endpoints = built
        .map(|built| built.endpoints.as_slice())
        .unwrap_or_default();
    let selected: Vec<&Known<'_>> = endpoints
        .iter()
        .filter_map(|endpoint| model.known(&endpoint.workload.id))
        .collect();
    if selected.is_empty() {
        let wanted = &service.selector.value;
        let labels = wanted.iter();
        let labels: Vec<String> = labels
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let meant = super::selectors::nearest_labels(model, &service.meta.namespace, wanted);
        findings.add(
            &SERVICE_EMPTY,
            &place,
            format!(
                "connections to it are refused: no workload of namespace {} has {}",
                service.meta.namespace,
                labels.join(",")
            ),
            meant.unwrap_or_else(|| "compare it with the Pods' labels".to_owned()),
        );
        return;
    }
    for port in &service.ports {
        target(model, (service, port), &selected, findings);
    }
}

/// Where a port leads at the selected workloads.
fn target(
    model: &Model<'_>,
    (service, port): (&Service, &ServicePort),
    selected: &[&Known<'_>],
    findings: &mut Findings,
) {
    let place = Place::at(KIND, &service.meta, &port.target.origin);
    let number = port.port.value;
    match &port.target.value {
        TargetPort::Name(name) => {
            let lacks = |known: &&&Known<'_>| !known.workload.ports.contains_key(name);
            let without: Vec<_> = selected
                .iter()
                .filter(lacks)
                .map(|known| &known.workload.id)
                .collect();
            if without.is_empty() {
                return;
            }
            let there = selected
                .iter()
                .flat_map(|known| known.workload.ports.keys());
            let meant = model.meant(name, there.map(String::as_str));
            let fix = meant.map_or_else(
                || format!("name a container port {name:?}, or write the number"),
                |meant| format!("did you mean {meant}?"),
            );
            let (check, effect) = if without.len() == selected.len() {
                (&TARGET_NAME_DANGLING, "connections to it are refused")
            } else {
                (&TARGET_NAME_PARTIAL, "they never get a connection")
            };
            let who = several(&without);
            findings.add(
                check,
                &place,
                format!("port {number} leads to a port {name:?} that {who} lacks: {effect}"),
                fix,
            );
        }
        TargetPort::Number(target) => {
            let declaring = || selected.iter().filter(|known| known.declares_ports());
            let declared = declaring().any(|known| known.declares(*target));
            if declaring().count() < selected.len() || declared {
                return;
            }
            let who: Vec<_> = selected.iter().map(|known| &known.workload.id).collect();
            findings.add(
                &TARGET_UNDECLARED,
                &place,
                format!(
                    "port {number} leads to {target}, which {} does not declare",
                    several(&who)
                ),
                "correct the number; if the application does listen there, declare it",
            );
        }
    }
}
