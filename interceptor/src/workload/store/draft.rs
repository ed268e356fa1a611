//! From a Pod or `WorkloadEntry` to a workload: everything that follows from the object itself, its
//! namespace, and the `Sidecar` objects there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use interceptor_policy::SpiffeId;

use super::MeshSettings;
use super::egress::Sidecars;
use super::enrol::{self, Membership};
use super::interned::Interned;
use super::noted::Findings;
use super::table::Source;
use crate::workload::objects::{Meta, NamedPort, Pod, WorkloadEntry, Written};
use crate::workload::{
    Binding, Canonical, CaptureRules, UnknownDestinations, Workload, WorkloadId,
};

/// A workload whose capture rules are not known yet.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) workload: Workload,
    /// Whether it is found by its addresses; not so if they are the host's.
    pub(super) own_address: bool,
}

/// What Pods and `WorkloadEntries` have in common.
struct Parts<'o> {
    meta: &'o Meta,
    service_account: &'o Written<String>,
    addresses: Vec<IpAddr>,
    ports: &'o [Written<NamedPort>],
    node: Option<Arc<str>>,
    healthy: bool,
    host_network: bool,
}

impl<'o> Parts<'o> {
    fn of_pod(pod: &'o Pod) -> Self {
        Self {
            meta: &pod.meta,
            service_account: &pod.service_account,
            addresses: pod.addresses.iter().map(|it| it.value).collect(),
            ports: &pod.ports,
            node: pod.node.clone(),
            healthy: pod.ready && !pod.meta.deleting,
            host_network: pod.host_network,
        }
    }

    fn of_entry(entry: &'o WorkloadEntry) -> Self {
        Self {
            meta: &entry.meta,
            service_account: &entry.service_account,
            addresses: entry.address.iter().map(|it| it.value).collect(),
            ports: &entry.ports,
            node: enrol::node_of(&entry.meta),
            healthy: !entry.meta.deleting,
            host_network: false,
        }
    }
}

/// What a workload follows from besides its own object.
pub(super) struct Around<'a> {
    pub(super) namespace: Option<&'a Meta>,
    pub(super) sidecars: &'a Sidecars,
    pub(super) settings: &'a MeshSettings,
}

/// The workload that `source` describes; `None` for one that will never run again, or has no
/// identity.
pub(super) fn draft(
    source: &Source,
    around: &Around<'_>,
    interned: &mut Interned,
    findings: &mut Findings,
) -> Option<Draft> {
    let (namespace, settings) = (around.namespace, around.settings);
    let (parts, membership) = match source {
        Source::Pod(pod) if pod.terminal => return None,
        Source::Pod(pod) => {
            let membership = enrol::pod(pod, namespace, settings, findings);
            (Parts::of_pod(pod), membership)
        }
        Source::Entry(entry) => {
            let membership = enrol::workload_entry(entry, namespace, settings, findings);
            (Parts::of_entry(entry), membership)
        }
    };
    let sidecars = around.sidecars;
    let unknown = sidecars.unknown_destinations(parts.meta, namespace, findings);
    let identity = identity(&parts, settings, interned, findings)?;
    let on_host = parts.host_network || matches!(membership.binding, Some(Binding::Cgroup(_)));
    let mut workload = workload(parts, identity, membership, findings);
    workload.unknown_destinations = unknown;
    interned.ports.intern(&mut workload.ports);
    interned.canonical.intern(&mut workload.canonical);
    Some(Draft {
        workload,
        own_address: !on_host,
    })
}

fn identity(
    parts: &Parts<'_>,
    settings: &MeshSettings,
    interned: &mut Interned,
    findings: &mut Findings,
) -> Option<SpiffeId> {
    let account = parts.service_account;
    let namespace = &parts.meta.namespace;
    let identity = interned.identity(&settings.trust_domain, namespace, &account.value);
    let wrong = |error| {
        let message = format!("makes no identity: {error}; correct the service account's name");
        findings.add(account.origin.error(message));
    };
    identity.map_err(wrong).ok()
}

fn workload(
    parts: Parts<'_>,
    identity: SpiffeId,
    membership: Membership,
    findings: &mut Findings,
) -> Workload {
    let meta = parts.meta;
    Workload {
        id: WorkloadId {
            namespace: Arc::clone(&meta.namespace),
            name: Arc::clone(&meta.name),
        },
        identity,
        addresses: parts.addresses,
        labels: Arc::clone(&meta.labels),
        node: parts.node,
        ports: Arc::new(named_ports(parts.ports, findings)),
        protocol: membership.protocol,
        enrolment: membership.enrolment,
        healthy: parts.healthy,
        capture: CaptureRules {
            udp: membership.udp,
            existing: membership.existing,
            on_agent_down: membership.on_agent_down,
            ..CaptureRules::default()
        },
        binding: membership.binding,
        unknown_destinations: UnknownDestinations::default(),
        same_node: membership.same_node,
        canonical: Arc::new(canonical(meta)),
    }
}

fn named_ports(ports: &[Written<NamedPort>], findings: &mut Findings) -> BTreeMap<String, u16> {
    let mut named = BTreeMap::new();
    for written in ports {
        let NamedPort { name, port } = &written.value;
        if let Some(first) = named.insert(name.clone(), *port)
            && first != *port
        {
            findings.add(written.origin.error(format!(
                "the port name {name} means {first} and {port} in one workload; rename one"
            )));
        }
    }
    named
}

fn canonical(meta: &Meta) -> Canonical {
    let label = |keys: &[&str]| keys.iter().find_map(|key| meta.labels.get(*key));
    let text =
        |keys: &[&str], otherwise: &str| Arc::from(label(keys).map_or(otherwise, String::as_str));
    let owner = meta.owner.as_deref().unwrap_or(&meta.name);
    Canonical {
        app: text(&["app"], ""),
        version: text(&["version"], ""),
        service: text(
            &[
                "service.istio.io/canonical-name",
                "app.kubernetes.io/name",
                "app",
            ],
            owner,
        ),
        revision: text(
            &[
                "service.istio.io/canonical-revision",
                "app.kubernetes.io/version",
                "version",
            ],
            "latest",
        ),
        workload: Arc::from(owner),
    }
}
