//! Services over workloads: who is behind which address and port.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::build::{Draft, Findings};
use super::{Mesh, MeshSettings};
use crate::workload::objects::{self, Objects, Origin, TargetPort};
use crate::workload::{Endpoint, Service, ServiceName, ServicePort, Workload};

/// Drafts by one label, so that a selector does not look at every workload.
pub(super) struct LabelIndex<'d> {
    by_label: HashMap<(&'d str, &'d str, &'d str), Vec<usize>>,
    drafts: &'d [Draft<'d>],
}

impl<'d> LabelIndex<'d> {
    pub(super) fn new(drafts: &'d [Draft<'d>]) -> Self {
        let mut by_label: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, draft) in drafts.iter().enumerate() {
            let workload = &draft.workload;
            for (key, value) in &workload.labels {
                let label = (&*workload.id.namespace, key.as_str(), value.as_str());
                by_label.entry(label).or_default().push(index);
            }
        }
        Self { by_label, drafts }
    }

    /// The drafts of a namespace that have all labels of a selector; none for an empty one.
    fn select<'s>(
        &'s self,
        namespace: &'s str,
        selector: &'s BTreeMap<String, String>,
    ) -> impl Iterator<Item = (usize, &'d Workload)> + 's {
        let with = |(key, value): (&'s String, &'s String)| {
            self.by_label
                .get(&(namespace, key.as_str(), value.as_str()))
                .map_or(&[][..], Vec::as_slice)
        };
        let fewest = selector.iter().map(with).min_by_key(|found| found.len());
        fewest
            .into_iter()
            .flatten()
            .filter_map(|index| Some((*index, &self.drafts.get(*index)?.workload)))
            .filter(|(_, workload)| has(workload, selector))
    }

    /// Whether any workload (of the namespace, if one is given) has all labels.
    pub(super) fn any(&self, namespace: Option<&str>, selector: &BTreeMap<String, String>) -> bool {
        match namespace {
            Some(namespace) => self.select(namespace, selector).next().is_some(),
            None => self
                .drafts
                .iter()
                .any(|draft| has(&draft.workload, selector)),
        }
    }
}

fn has(workload: &Workload, selector: &BTreeMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(key, value)| workload.labels.get(key) == Some(value))
}

/// Which drafts are behind which Service, and on which ports.
pub(super) struct Plan<'o> {
    services: Vec<Planned<'o>>,
}

struct Planned<'o> {
    object: &'o objects::Service,
    endpoints: Vec<PlannedEndpoint>,
}

struct PlannedEndpoint {
    draft: usize,
    target_ports: BTreeMap<u16, u16>,
    addresses: Vec<IpAddr>,
}

impl<'o> Plan<'o> {
    pub(super) fn new(
        objects: &'o Objects,
        by_label: &LabelIndex<'_>,
        findings: &mut Findings,
    ) -> Self {
        let plan = |object: &'o objects::Service| Planned {
            object,
            endpoints: by_label
                .select(&object.meta.namespace, &object.selector.value)
                .map(|(draft, workload)| PlannedEndpoint {
                    draft,
                    target_ports: target_ports(object, workload),
                    addresses: workload.addresses.clone(),
                })
                .collect(),
        };
        let services: Vec<_> = objects.services.iter().map(plan).collect();
        for service in &services {
            service.report(findings);
        }
        Self { services }
    }

    /// Every address and port in the mesh that bears a Service port's name; `None` if no Service
    /// has such a name.
    pub(super) fn named(&self, name: &str) -> Option<Vec<SocketAddr>> {
        let mut found = Vec::new();
        let mut known = false;
        for service in &self.services {
            for port in &service.object.ports {
                if port.name.as_deref() != Some(name) {
                    continue;
                }
                known = true;
                let number = port.port.value;
                let own = service.object.addresses.iter();
                found.extend(own.map(|address| SocketAddr::new(address.value, number)));
                for endpoint in &service.endpoints {
                    if let Some(target) = endpoint.target_ports.get(&number) {
                        let addresses = endpoint.addresses.iter();
                        found.extend(addresses.map(|address| SocketAddr::new(*address, *target)));
                    }
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        known.then_some(found)
    }
}

impl Planned<'_> {
    /// What is probably not meant: a Service that reaches nobody, a target port that nobody has.
    fn report(&self, findings: &mut Findings) {
        let object = self.object;
        if object.selector.value.is_empty() {
            findings.add(object.selector.origin.warning(
                "without a selector this Service has no endpoints here: connections to it are \
                 refused",
            ));
        } else if self.endpoints.is_empty() {
            findings.add(object.selector.origin.warning(
                "selects no workload: connections to this Service are refused; compare it with \
                 the Pods' labels",
            ));
        } else {
            self.report_targets(findings);
        }
        let mut numbers: HashMap<u16, &Origin> = HashMap::new();
        for port in &object.ports {
            if let Some(first) = numbers.insert(port.port.value, &port.port.origin) {
                let message = format!("is there twice, first in line {}", first.at.line);
                findings.add(port.port.origin.error(message));
            }
        }
    }

    fn report_targets(&self, findings: &mut Findings) {
        for port in &self.object.ports {
            let number = port.port.value;
            let without = self
                .endpoints
                .iter()
                .filter(|endpoint| !endpoint.target_ports.contains_key(&number))
                .count();
            if let (TargetPort::Name(name), 1..) = (&port.target.value, without) {
                findings.add(port.target.origin.warning(format!(
                    "{without} of {} selected workloads have no TCP port named \"{name}\": \
                     connections to port {number} never reach them",
                    self.endpoints.len()
                )));
            }
        }
    }
}

/// This workload's idea of a Service's target ports.
fn target_ports(service: &objects::Service, workload: &Workload) -> BTreeMap<u16, u16> {
    service
        .ports
        .iter()
        .filter_map(|port| {
            let target = match &port.target.value {
                TargetPort::Number(number) => *number,
                TargetPort::Name(name) => *workload.ports.get(name)?,
            };
            Some((port.port.value, target))
        })
        .collect()
}

/// Puts the planned Services into the mesh.
pub(super) fn index(
    mesh: &mut Mesh,
    plan: Plan<'_>,
    workloads: &[(Arc<Workload>, u32)],
    settings: &MeshSettings,
    findings: &mut Findings,
) {
    let mut places: HashMap<IpAddr, &Origin> = HashMap::new();
    for planned in plan.services {
        let object = planned.object;
        let service = Arc::new(finish(planned, workloads, settings));
        for endpoint in &service.endpoints {
            let backed = mesh.backed.entry(endpoint.workload.id.clone());
            backed.or_default().push(service.name.clone());
        }
        for address in &object.addresses {
            let taken = mesh
                .by_virtual_address
                .insert(address.value, Arc::clone(&service));
            let place = places.insert(address.value, &address.origin);
            if let (Some(other), Some(place)) = (taken, place) {
                findings.add(address.origin.error(format!(
                    "{} is also the address of service {} ({}); correct one of them",
                    address.value,
                    other.name,
                    place.place()
                )));
            }
            if let Some(workload) = mesh.by_address.get(&address.value) {
                findings.add(address.origin.error(format!(
                    "{} is also the address of workload {}; correct one of them",
                    address.value, workload.id
                )));
            }
        }
        mesh.services
            .entry(Arc::clone(&service.name.namespace))
            .or_default()
            .insert(Arc::clone(&service.name.name), service);
    }
    for names in mesh.backed.values_mut() {
        names.sort();
    }
}

fn finish(
    planned: Planned<'_>,
    workloads: &[(Arc<Workload>, u32)],
    settings: &MeshSettings,
) -> Service {
    let object = planned.object;
    let (namespace, name) = (&object.meta.namespace, &object.meta.name);
    let endpoints = planned.endpoints.into_iter().filter_map(|endpoint| {
        let (workload, weight) = workloads.get(endpoint.draft)?;
        Some(Endpoint {
            workload: Arc::clone(workload),
            target_ports: endpoint.target_ports,
            weight: *weight,
        })
    });
    Service {
        name: ServiceName {
            namespace: Arc::clone(namespace),
            name: Arc::clone(name),
            host: Arc::from(format!(
                "{name}.{namespace}.svc.{}",
                settings.cluster_domain
            )),
        },
        addresses: object
            .addresses
            .iter()
            .map(|written| written.value)
            .collect(),
        ports: object
            .ports
            .iter()
            .map(|port| ServicePort {
                name: port.name.clone(),
                port: port.port.value,
                app_protocol: port.app_protocol.clone(),
            })
            .collect(),
        endpoints: endpoints.collect(),
        publish_not_ready: object.publish_not_ready,
        locality: object.locality,
    }
}
