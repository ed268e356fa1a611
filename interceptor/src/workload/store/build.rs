//! From objects to a mesh: drafts of workloads, Services over them, capture rules, policies.
//!
//! What is wrong is reported and left out; the caller refuses the whole mesh if anything of it is
//! an error, so what is left out is never missing in a mesh that is in force.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use interceptor_policy::SpiffeId;

use super::egress::{self, Sidecars};
use super::enrol::{self, Membership};
use super::service::{self, LabelIndex, Plan};
use super::{Mesh, MeshSettings, capture, policies};
use crate::workload::objects::{Meta, NamedPort, Objects, Origin, Pod, WorkloadEntry, Written};
use crate::workload::{
    Binding, Canonical, CaptureRules, UnknownDestinations, Workload, WorkloadId,
};
use crate::yaml::{Mistake, Severity};

/// More findings than this are counted only.
const MAX_FINDINGS: usize = 1000;

/// Collects findings up to a bound.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Mistake>,
    dropped: usize,
}

impl Findings {
    pub(super) fn add(&mut self, mistake: Mistake) {
        if self.list.len() < MAX_FINDINGS {
            self.list.push(mistake);
        } else {
            self.dropped += 1;
            // An error must stay visible as such, however many warnings came before it.
            if mistake.is_error()
                && let Some(last) = self.list.iter_mut().rfind(|kept| !kept.is_error())
            {
                *last = mistake;
            }
        }
    }

    fn into_mistakes(mut self) -> Vec<Mistake> {
        // What a namespace says wrongly is found once for each of its workloads.
        self.list.sort();
        self.list.dedup();
        if let (Some(last), true) = (self.list.last(), self.dropped > 0) {
            let message = format!("{} more findings are not shown", self.dropped);
            let file = Arc::clone(&last.file);
            self.list
                .push(Mistake::in_file(&file, message).with(Severity::Warning));
        }
        self.list
    }
}

/// A workload before its Services and capture rules are known.
#[derive(Debug)]
pub(super) struct Draft<'o> {
    pub(super) workload: Workload,
    pub(super) weight: u32,
    pub(super) meta: &'o Meta,
    /// Whether it is found by its address; not so if it shares the host's.
    own_address: bool,
    addresses: Vec<&'o Written<IpAddr>>,
}

pub(super) fn build(objects: &Objects, settings: &MeshSettings) -> (Mesh, Vec<Mistake>) {
    let mut findings = Findings::default();
    report_duplicates(objects, &mut findings);
    let mut drafts = drafts(objects, settings, &mut findings);
    report_shared_bindings(&drafts, &mut findings);
    enrol::report_unknown_modes(objects, &mut findings);
    let by_label = LabelIndex::new(&drafts);
    let plan = Plan::new(objects, &by_label, &mut findings);
    let policies = policies::policies(objects, settings, &by_label, &mut findings);
    capture::apply(&mut drafts, &plan, &mut findings);
    let own: Vec<(bool, Vec<&Written<IpAddr>>)> = drafts
        .iter()
        .map(|draft| (draft.own_address, draft.addresses.clone()))
        .collect();
    let arcs: Vec<(Arc<Workload>, u32)> = drafts
        .into_iter()
        .map(|draft| (Arc::new(draft.workload), draft.weight))
        .collect();
    let mut mesh = Mesh {
        policies,
        ..Mesh::empty(settings.clone())
    };
    index_workloads(&mut mesh, &arcs, &own, &mut findings);
    service::index(&mut mesh, plan, &arcs, settings, &mut findings);
    mesh.externals = egress::externals(objects, &arcs, &mut findings);
    policies::work_out_local(&mut mesh, objects, &mut findings);
    (mesh, findings.into_mistakes())
}

/// Two objects of one kind with one name: which of them counts would depend on the order of
/// loading.
fn report_duplicates(objects: &Objects, findings: &mut Findings) {
    fn check(kind: &str, metas: &[&Meta], findings: &mut Findings) {
        let mut seen: HashMap<(&str, &str), &Origin> = HashMap::new();
        for meta in metas {
            if let Some(first) = seen.insert((&meta.namespace, &meta.name), &meta.origin) {
                let slash = if meta.namespace.is_empty() { "" } else { "/" };
                findings.add(meta.origin.error(format!(
                    "{kind} {}{slash}{} is defined twice, also in {}; delete one",
                    meta.namespace,
                    meta.name,
                    first.place()
                )));
            }
        }
    }
    check(
        "Namespace",
        &metas(&objects.namespaces, |o| &o.meta),
        findings,
    );
    check("Service", &metas(&objects.services, |o| &o.meta), findings);
    check(
        "AuthorizationPolicy",
        &metas(&objects.authorization_policies, |o| &o.meta),
        findings,
    );
    check(
        "PeerAuthentication",
        &metas(&objects.peer_authentications, |o| &o.meta),
        findings,
    );
    check(
        "ServiceEntry",
        &metas(&objects.service_entries, |o| &o.meta),
        findings,
    );
    check("Sidecar", &metas(&objects.sidecars, |o| &o.meta), findings);
    // Pods and WorkloadEntries share the names of workloads.
    let mut workloads = metas(&objects.pods, |o| &o.meta);
    workloads.extend(metas(&objects.workload_entries, |o| &o.meta));
    check("workload", &workloads, findings);
}

fn metas<T>(objects: &[T], meta: impl Fn(&T) -> &Meta) -> Vec<&Meta> {
    objects.iter().map(meta).collect()
}

fn drafts<'o>(
    objects: &'o Objects,
    settings: &MeshSettings,
    findings: &mut Findings,
) -> Vec<Draft<'o>> {
    let namespaces: HashMap<&str, &Meta> = objects
        .namespaces
        .iter()
        .map(|namespace| (&*namespace.meta.name, &namespace.meta))
        .collect();
    let sidecars = Sidecars::new(objects, settings, findings);
    let mut drafts = Vec::with_capacity(objects.pods.len() + objects.workload_entries.len());
    for pod in objects.pods.iter().filter(|pod| !pod.terminal) {
        let namespace = namespaces.get(&*pod.meta.namespace).copied();
        let membership = enrol::pod(pod, namespace, settings, findings);
        let unknown = sidecars.unknown_destinations(&pod.meta, namespace, findings);
        let parts = Parts::of_pod(pod);
        drafts.extend(draft(parts, membership, unknown, settings, findings));
    }
    for entry in &objects.workload_entries {
        let namespace = namespaces.get(&*entry.meta.namespace).copied();
        let membership = enrol::workload_entry(entry, namespace, settings, findings);
        let unknown = sidecars.unknown_destinations(&entry.meta, namespace, findings);
        let parts = Parts::of_entry(entry);
        drafts.extend(draft(parts, membership, unknown, settings, findings));
    }
    drafts
}

/// What Pods and `WorkloadEntries` have in common.
struct Parts<'o> {
    meta: &'o Meta,
    service_account: &'o Written<String>,
    addresses: Vec<&'o Written<IpAddr>>,
    ports: &'o [Written<NamedPort>],
    node: Option<Arc<str>>,
    healthy: bool,
    host_network: bool,
    weight: u32,
}

impl<'o> Parts<'o> {
    fn of_pod(pod: &'o Pod) -> Self {
        Self {
            meta: &pod.meta,
            service_account: &pod.service_account,
            addresses: pod.addresses.iter().collect(),
            ports: &pod.ports,
            node: pod.node.clone(),
            healthy: pod.ready && !pod.meta.deleting,
            host_network: pod.host_network,
            weight: 1,
        }
    }

    fn of_entry(entry: &'o WorkloadEntry) -> Self {
        Self {
            meta: &entry.meta,
            service_account: &entry.service_account,
            addresses: entry.address.iter().collect(),
            ports: &entry.ports,
            node: enrol::node_of(&entry.meta),
            healthy: !entry.meta.deleting,
            host_network: false,
            weight: entry.weight,
        }
    }
}

fn draft<'o>(
    parts: Parts<'o>,
    membership: Membership,
    unknown_destinations: UnknownDestinations,
    settings: &MeshSettings,
    findings: &mut Findings,
) -> Option<Draft<'o>> {
    let meta = parts.meta;
    let account = parts.service_account;
    let identity = SpiffeId::new(&settings.trust_domain, &meta.namespace, &account.value);
    let identity = match identity {
        Ok(identity) => identity,
        Err(error) => {
            findings.add(account.origin.error(format!(
                "makes no identity: {error}; correct the service account's name"
            )));
            return None;
        }
    };
    let on_host = parts.host_network || matches!(membership.binding, Some(Binding::Cgroup(_)));
    let workload = Workload {
        id: WorkloadId {
            namespace: Arc::clone(&meta.namespace),
            name: Arc::clone(&meta.name),
        },
        identity,
        addresses: parts
            .addresses
            .iter()
            .map(|written| written.value)
            .collect(),
        labels: meta.labels.clone(),
        node: parts.node,
        ports: named_ports(parts.ports, findings),
        protocol: membership.protocol,
        enrolment: membership.enrolment,
        healthy: parts.healthy,
        capture: CaptureRules {
            udp: membership.udp,
            existing: membership.existing,
            ..CaptureRules::default()
        },
        binding: membership.binding,
        unknown_destinations,
        same_node: membership.same_node,
        canonical: canonical(meta),
    };
    Some(Draft {
        workload,
        weight: parts.weight,
        meta,
        own_address: !on_host,
        addresses: parts.addresses,
    })
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

/// A namespace or cgroup that two workloads of one node claim: the kernel could not tell them
/// apart, and one would get the other's identity.
fn report_shared_bindings(drafts: &[Draft<'_>], findings: &mut Findings) {
    let mut seen: HashMap<(Option<&str>, &Binding), &Draft<'_>> = HashMap::new();
    for draft in drafts {
        let Some(binding) = &draft.workload.binding else {
            continue;
        };
        let key = (draft.workload.node.as_deref(), binding);
        if let Some(first) = seen.insert(key, draft) {
            let origin = enrol::binding_origin(draft.meta);
            findings.add(origin.error(format!(
                "is also where {} is bound ({}); two workloads cannot share it",
                first.workload.id,
                enrol::binding_origin(first.meta).place()
            )));
        }
    }
}

fn index_workloads(
    mesh: &mut Mesh,
    workloads: &[(Arc<Workload>, u32)],
    own: &[(bool, Vec<&Written<IpAddr>>)],
    findings: &mut Findings,
) {
    let mut places: HashMap<IpAddr, &Origin> = HashMap::new();
    for ((workload, _), (own_address, addresses)) in workloads.iter().zip(own) {
        mesh.workloads
            .insert(workload.id.clone(), Arc::clone(workload));
        for written in addresses.iter().filter(|_| *own_address) {
            let taken = mesh.by_address.insert(written.value, Arc::clone(workload));
            let place = places.insert(written.value, &written.origin);
            if let (Some(other), Some(place)) = (taken, place) {
                findings.add(written.origin.error(format!(
                    "{} is also the address of {} ({}); correct one of them",
                    written.value,
                    other.id,
                    place.place()
                )));
            }
        }
    }
}
