//! Services over workloads: who is behind which address and port.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::MeshSettings;
use super::egress::Member;
use super::noted::Findings;
use super::selection::Wanted;
use crate::workload::objects::{self, Origin, TargetPort};
use crate::workload::{Endpoint, Service, ServiceName, ServicePort, Workload};

/// The workloads that a Service selects; `None` if it has no selector.
pub(super) fn wanted(object: &objects::Service) -> Option<Wanted> {
    let labels = &object.selector.value;
    (!labels.is_empty()).then(|| Wanted {
        namespace: Some(Arc::clone(&object.meta.namespace)),
        labels: labels.clone(),
    })
}

/// The Service that `object` makes of the workloads that it selects.
pub(super) fn service(
    object: &objects::Service,
    selected: Vec<Member<'_>>,
    settings: &MeshSettings,
    findings: &mut Findings,
) -> Service {
    let mut targets = Targets::of(object);
    let endpoints: Vec<Endpoint> = selected
        .into_iter()
        .map(|(workload, weight)| Endpoint {
            workload: Arc::clone(workload),
            target_ports: targets.at(workload),
            weight,
        })
        .collect();
    report(object, &endpoints, findings);
    let (namespace, name) = (&object.meta.namespace, &object.meta.name);
    let host = format!("{name}.{namespace}.svc.{}", settings.cluster_domain);
    Service {
        name: ServiceName {
            namespace: Arc::clone(namespace),
            name: Arc::clone(name),
            host: Arc::from(host),
        },
        addresses: object.addresses.iter().map(|it| it.value).collect(),
        ports: object
            .ports
            .iter()
            .map(|port| ServicePort {
                name: port.name.clone(),
                port: port.port.value,
                app_protocol: port.app_protocol.clone(),
            })
            .collect(),
        endpoints,
        publish_not_ready: object.publish_not_ready,
        locality: object.locality,
    }
}

/// A workload's ports by name, and what the Service's ports are there.
type Ports = (Arc<BTreeMap<String, u16>>, Arc<BTreeMap<u16, u16>>);

/// Target ports, which replicas share.
struct Targets<'o> {
    object: &'o objects::Service,
    /// Of the workload before.
    last: Option<Ports>,
}

impl<'o> Targets<'o> {
    const fn of(object: &'o objects::Service) -> Self {
        Self { object, last: None }
    }

    /// This workload's idea of them.
    fn at(&mut self, workload: &Workload) -> Arc<BTreeMap<u16, u16>> {
        if let Some((ports, targets)) = &self.last
            && Arc::ptr_eq(ports, &workload.ports)
        {
            return Arc::clone(targets);
        }
        let target = |port: &objects::ServicePort| {
            let target = match &port.target.value {
                TargetPort::Number(number) => *number,
                TargetPort::Name(name) => *workload.ports.get(name)?,
            };
            Some((port.port.value, target))
        };
        let targets: BTreeMap<u16, u16> = self.object.ports.iter().filter_map(target).collect();
        let targets = match &self.last {
            Some((_, last)) if **last == targets => Arc::clone(last),
            _ => Arc::new(targets),
        };
        self.last = Some((Arc::clone(&workload.ports), Arc::clone(&targets)));
        targets
    }
}

/// What is probably not meant: a Service that reaches nobody, a target port that nobody has.
fn report(object: &objects::Service, endpoints: &[Endpoint], findings: &mut Findings) {
    if object.selector.value.is_empty() {
        findings.add(object.selector.origin.warning(
            "without a selector this Service has no endpoints here: connections to it are \
             refused",
        ));
    } else if endpoints.is_empty() {
        findings.add(object.selector.origin.warning(
            "selects no workload: connections to this Service are refused; compare it with \
             the Pods' labels",
        ));
    } else {
        report_targets(object, endpoints, findings);
    }
    let mut numbers: HashMap<u16, &Origin> = HashMap::new();
    for port in &object.ports {
        if let Some(first) = numbers.insert(port.port.value, &port.port.origin) {
            let message = format!("is there twice, first in line {}", first.at.line);
            findings.add(port.port.origin.error(message));
        }
    }
}

fn report_targets(object: &objects::Service, endpoints: &[Endpoint], findings: &mut Findings) {
    for port in &object.ports {
        let TargetPort::Name(name) = &port.target.value else {
            continue;
        };
        let number = port.port.value;
        let lacks = |endpoint: &&Endpoint| !endpoint.target_ports.contains_key(&number);
        let without = endpoints.iter().filter(lacks).count();
        if without > 0 {
            findings.add(port.target.origin.warning(format!(
                "{without} of {} selected workloads have no TCP port named \"{name}\": \
                 connections to port {number} never reach them",
                endpoints.len()
            )));
        }
    }
}
