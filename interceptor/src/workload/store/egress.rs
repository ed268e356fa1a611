//! What workloads may reach outside of the mesh: `Sidecar` objects by scope, `ServiceEntry` objects
//! by address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use interceptor_policy::PolicyName;

use super::build::Findings;
use super::{MeshSettings, enrol};
use crate::workload::external::{External, ExternalEndpoint, ExternalPort, Externals, Resolution};
use crate::workload::objects::{Meta, Objects, OutboundMode, ServiceEntry, Sidecar};
use crate::workload::{ServiceName, UnknownDestinations, Workload};

/// The `Sidecar` objects that say something about unknown destinations, by namespace.
pub(super) struct Sidecars<'o> {
    root: &'o str,
    /// Those with a selector first, then by age.
    by_namespace: HashMap<&'o str, Vec<&'o Sidecar>>,
}

impl<'o> Sidecars<'o> {
    pub(super) fn new(
        objects: &'o Objects,
        settings: &'o MeshSettings,
        findings: &mut Findings,
    ) -> Self {
        let mut by_namespace: HashMap<&str, Vec<&Sidecar>> = HashMap::new();
        for sidecar in &objects.sidecars {
            let namespace = &*sidecar.meta.namespace;
            by_namespace.entry(namespace).or_default().push(sidecar);
        }
        for sidecars in by_namespace.values_mut() {
            sidecars.sort_by_key(|sidecar| (sidecar.selector.is_none(), age(&sidecar.meta)));
            let mut whole = sidecars.iter().filter(|sidecar| sidecar.selector.is_none());
            let Some(first) = whole.next() else { continue };
            for other in whole {
                let message = format!(
                    "has no effect: {} is older and holds for the whole namespace, too",
                    first.meta.name
                );
                findings.add(other.meta.origin.warning(message));
            }
        }
        Self {
            root: &settings.root_namespace,
            by_namespace,
        }
    }

    /// What becomes of a workload's connections to what the mesh does not know: as annotations say,
    /// else as `Sidecar` objects say.
    pub(super) fn unknown_destinations(
        &self,
        meta: &Meta,
        namespace: Option<&Meta>,
        findings: &mut Findings,
    ) -> UnknownDestinations {
        enrol::unknown_destinations(meta, namespace, findings)
            .or_else(|| self.mode(&meta.namespace, &meta.labels))
            .unwrap_or_default()
    }

    /// What holds for a workload: its own, its namespace's, the mesh's. One that does not say
    /// anything about unknown destinations leaves it to the next; Istio would fall back to
    /// everything being allowed.
    fn mode(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Option<UnknownDestinations> {
        let selects = |sidecar: &&&Sidecar| {
            let selector = sidecar.selector.as_ref();
            selector.is_none_or(|selector| {
                let mut wanted = selector.value.iter();
                wanted.all(|(key, value)| labels.get(key) == Some(value))
            })
        };
        let own = self.by_namespace.get(namespace).into_iter().flatten();
        let mesh = self.by_namespace.get(self.root).into_iter().flatten();
        // From the root namespace only those without a selector reach into others.
        let mesh = mesh.filter(|sidecar| sidecar.selector.is_none());
        let mut holding = own.filter(selects).chain(mesh);
        holding.find_map(|sidecar| {
            Some(match sidecar.mode? {
                OutboundMode::AllowAny => UnknownDestinations::Passthrough,
                OutboundMode::RegistryOnly => {
                    let Meta {
                        namespace, name, ..
                    } = &sidecar.meta;
                    UnknownDestinations::RegistryOnly(PolicyName::new(
                        Arc::clone(namespace),
                        Arc::clone(name),
                    ))
                }
            })
        })
    }
}

/// The order of objects of which one must come first.
fn age(meta: &Meta) -> (bool, Option<&str>, &str) {
    (meta.created.is_none(), meta.created.as_deref(), &meta.name)
}

/// All `ServiceEntry` objects, the older first.
pub(super) fn externals(
    objects: &Objects,
    workloads: &[(Arc<Workload>, u32)],
    findings: &mut Findings,
) -> Externals {
    let mut entries: Vec<&ServiceEntry> = objects.service_entries.iter().collect();
    entries.sort_by_key(|entry| (age(&entry.meta), &*entry.meta.namespace));
    let externals = entries.into_iter().map(|entry| {
        report(entry, findings);
        external(entry, workloads)
    });
    Externals::new(externals.collect())
}

/// What cannot be decided by address.
fn report(entry: &ServiceEntry, findings: &mut Findings) {
    let addressable = !entry.addresses.is_empty() || !entry.endpoints.is_empty();
    let origin = entry
        .hosts
        .first()
        .map_or(&entry.meta.origin, |host| &host.origin);
    if entry.resolution == Resolution::Dns && addressable {
        findings.add(origin.warning(
            "names are not resolved by the node: connections to this entry's addresses go where \
             the client dialled",
        ));
    } else if !addressable && entry.selector.is_none() {
        findings.add(origin.warning(
            "cannot be told by address: connections to this host count as unknown destinations; \
             add addresses, or endpoints with IP addresses and resolution STATIC",
        ));
    }
}

fn external(entry: &ServiceEntry, workloads: &[(Arc<Workload>, u32)]) -> External {
    let Meta {
        namespace, name, ..
    } = &entry.meta;
    let hosts: Vec<Arc<str>> = entry
        .hosts
        .iter()
        .map(|host| Arc::from(host.value.as_str()))
        .collect();
    External {
        name: ServiceName {
            namespace: Arc::clone(namespace),
            name: Arc::clone(name),
            host: hosts.first().map_or_else(|| Arc::from(""), Arc::clone),
        },
        addresses: entry
            .addresses
            .iter()
            .map(|written| written.value)
            .collect(),
        ports: entry
            .ports
            .iter()
            .map(|port| ExternalPort {
                name: port.name.clone(),
                port: port.port.value,
                protocol: port.protocol.clone(),
            })
            .collect(),
        location: entry.location,
        resolution: entry.resolution,
        endpoints: endpoints(entry, workloads),
        visible_to: visible_to(entry),
        hosts,
    }
}

/// Those that are listed by address, and the workloads that are selected.
fn endpoints(entry: &ServiceEntry, workloads: &[(Arc<Workload>, u32)]) -> Vec<ExternalEndpoint> {
    let targets = |named: &dyn Fn(&str) -> Option<u16>| -> BTreeMap<u16, u16> {
        let target = |port: &crate::workload::objects::EntryPort| {
            let own = port.name.as_deref().and_then(named);
            (port.port.value, own.unwrap_or(port.target))
        };
        entry.ports.iter().map(target).collect()
    };
    let listed = entry.endpoints.iter().map(|endpoint| ExternalEndpoint {
        address: endpoint.address.value,
        target_ports: targets(&|name| endpoint.ports.get(name).copied()),
        weight: endpoint.weight,
        workload: None,
    });
    let selected = entry.selector.iter().flat_map(|selector| {
        let wanted = &selector.value;
        workloads.iter().filter(move |(workload, _)| {
            workload.id.namespace == entry.meta.namespace
                && !wanted.is_empty()
                && wanted
                    .iter()
                    .all(|(key, value)| workload.labels.get(key) == Some(value))
        })
    });
    let selected = selected.filter_map(|(workload, weight)| {
        let address: IpAddr = *workload.addresses.first()?;
        Some(ExternalEndpoint {
            address,
            target_ports: targets(&|name| workload.ports.get(name).copied()),
            weight: *weight,
            workload: Some(Arc::clone(workload)),
        })
    });
    listed.chain(selected).collect()
}

/// `exportTo`: `*` all, `.` its own namespace, or names.
fn visible_to(entry: &ServiceEntry) -> Option<BTreeSet<Arc<str>>> {
    let names = &entry.export_to;
    if names.is_empty() || names.iter().any(|name| name == "*") {
        return None;
    }
    let own = &entry.meta.namespace;
    let namespace = |name: &String| match name.as_str() {
        "." => Arc::clone(own),
        "~" => Arc::from(""),
        name => Arc::from(name),
    };
    Some(names.iter().map(namespace).collect())
}
