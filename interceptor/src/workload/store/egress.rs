//! What workloads may reach outside of the mesh: `Sidecar` objects by scope, `ServiceEntry` objects
//! by address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use interceptor_policy::PolicyName;

use super::enrol;
use super::noted::Findings;
use super::selection::{Wanted, has};
use crate::workload::external::{External, ExternalEndpoint, ExternalPort, Externals, Resolution};
use crate::workload::objects::{Meta, OutboundMode, ServiceEntry, Sidecar};
use crate::workload::{ServiceName, UnknownDestinations, Workload};

/// The `Sidecar` objects that say something about unknown destinations, by namespace.
#[derive(Debug)]
pub(super) struct Sidecars {
    root: Arc<str>,
    /// Those with a selector first, then by age.
    by_namespace: HashMap<Arc<str>, Vec<Arc<Sidecar>>>,
}

impl Sidecars {
    pub(super) fn new(root: Arc<str>) -> Self {
        Self {
            root,
            by_namespace: HashMap::new(),
        }
    }

    /// Takes these for the objects that a namespace had before.
    pub(super) fn set(
        &mut self,
        namespace: &Arc<str>,
        mut sidecars: Vec<Arc<Sidecar>>,
        findings: &mut Findings,
    ) {
        let order = |one: &Arc<Sidecar>, other: &Arc<Sidecar>| {
            let key = |it: &Sidecar| it.selector.is_none();
            let ages = (age(&one.meta), age(&other.meta));
            key(one).cmp(&key(other)).then(ages.0.cmp(&ages.1))
        };
        sidecars.sort_by(order);
        let mut whole = sidecars.iter().filter(|sidecar| sidecar.selector.is_none());
        if let Some(first) = whole.next() {
            for other in whole {
                let message = format!(
                    "has no effect: {} is older and holds for the whole namespace, too",
                    first.meta.name
                );
                findings.add(other.meta.origin.warning(message));
            }
        }
        if sidecars.is_empty() {
            self.by_namespace.remove(namespace);
        } else {
            self.by_namespace.insert(Arc::clone(namespace), sidecars);
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
        let selects = |sidecar: &&Arc<Sidecar>| {
            let selector = sidecar.selector.as_ref();
            selector.is_none_or(|selector| has(labels, &selector.value))
        };
        let own = self.by_namespace.get(namespace).into_iter().flatten();
        let mesh = self.by_namespace.get(&self.root).into_iter().flatten();
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

/// The workloads that an entry selects; `None` if it selects none.
pub(super) fn wanted(entry: &ServiceEntry) -> Option<Wanted> {
    let labels = &entry.selector.as_ref()?.value;
    (!labels.is_empty()).then(|| Wanted {
        namespace: Some(Arc::clone(&entry.meta.namespace)),
        labels: labels.clone(),
    })
}

/// All `ServiceEntry` objects with the workloads that they select, the older first.
pub(super) fn externals(mut entries: Vec<(&ServiceEntry, Vec<Member<'_>>)>) -> Externals {
    entries.sort_by_key(|(entry, _)| (age(&entry.meta), &*entry.meta.namespace));
    let externals = entries
        .into_iter()
        .map(|(entry, selected)| external(entry, &selected));
    Externals::new(externals.collect())
}

/// A selected workload, and its share of the connections.
pub(super) type Member<'w> = (&'w Arc<Workload>, u32);

/// What cannot be decided by address.
pub(super) fn report(entry: &ServiceEntry, findings: &mut Findings) {
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

fn external(entry: &ServiceEntry, selected: &[Member<'_>]) -> External {
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
        endpoints: endpoints(entry, selected),
        visible_to: visible_to(entry),
        hosts,
    }
}

/// Those that are listed by address, and the workloads that are selected.
fn endpoints(entry: &ServiceEntry, selected: &[Member<'_>]) -> Vec<ExternalEndpoint> {
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
    let selected = selected.iter().filter_map(|(workload, weight)| {
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
