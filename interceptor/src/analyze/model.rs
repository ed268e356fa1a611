//! What the checks look at: the objects, the mesh that they make, and what Pods declare.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use interceptor_policy::{Effective, Policy, PolicyMeta, PolicyName};

use super::extra::Extra;
use crate::workload::objects::{AuthorizationPolicy, Meta, Objects, Template};
use crate::workload::{Enrolment, Mesh, MeshSettings, Workload, WorkloadId};
use crate::yaml::Mistake;

/// Everything that is known of the manifests.
pub(super) struct Model<'a> {
    pub(super) objects: &'a Objects,
    pub(super) extra: &'a Extra,
    pub(super) mesh: Mesh,
    /// The policies that compile, with their objects.
    pub(super) policies: Vec<(&'a AuthorizationPolicy, Policy)>,
    pub(super) workloads: Vec<Known<'a>>,
    pub(super) by_id: HashMap<WorkloadId, usize>,
    /// The workloads that each policy holds for.
    pub(super) held: BTreeMap<PolicyName, Vec<usize>>,
    /// Namespaces with an object of their own.
    pub(super) namespaces: BTreeMap<&'a str, &'a Meta>,
}

/// A workload and what its manifest declares.
pub(super) struct Known<'a> {
    pub(super) workload: Arc<Workload>,
    pub(super) template: Option<&'a Template>,
    pub(super) effective: Effective,
    /// The ports that it is known to have: declared, named, or led to by a Service.
    pub(super) ports: BTreeSet<u16>,
}

/// Whether the agent (or a sidecar) enforces anything at a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Membership {
    /// Yes.
    Member,
    /// Its namespace is not among the manifests, so nobody can tell from them.
    Unknown,
    /// No.
    Outside,
}

impl<'a> Model<'a> {
    /// Builds the mesh as the agent would. The mistakes are those that the agent would report.
    pub(super) fn new(
        objects: &'a Objects,
        extra: &'a Extra,
        settings: &MeshSettings,
    ) -> (Self, Vec<Mistake>) {
        let (mesh, mistakes) = Mesh::build(objects, settings);
        let templates = extra.templates_by_id();
        let workloads: Vec<Known<'a>> = mesh
            .workloads()
            .map(|workload| Known::new(workload, templates.get(&workload.id).copied(), &mesh))
            .collect();
        let mut held: BTreeMap<PolicyName, Vec<usize>> = BTreeMap::new();
        for (index, known) in workloads.iter().enumerate() {
            for policy in known.effective.policies() {
                held.entry(policy.name().clone()).or_default().push(index);
            }
        }
        let policies = compile(objects, settings);
        let namespaces = objects.namespaces.iter();
        let model = Self {
            objects,
            extra,
            by_id: (workloads.iter().enumerate())
                .map(|(index, known)| (known.workload.id.clone(), index))
                .collect(),
            policies,
            workloads,
            held,
            namespaces: namespaces.map(|n| (&*n.meta.name, &n.meta)).collect(),
            mesh,
        };
        (model, mistakes)
    }

    /// The workloads that a policy holds for.
    pub(super) fn held_by(&self, policy: &PolicyName) -> impl Iterator<Item = &Known<'a>> {
        let held = self.held.get(policy).into_iter().flatten();
        held.filter_map(|index| self.workloads.get(*index))
    }

    pub(super) fn known(&self, id: &WorkloadId) -> Option<&Known<'a>> {
        self.workloads.get(*self.by_id.get(id)?)
    }

    pub(super) fn membership(&self, known: &Known<'_>) -> Membership {
        let workload = &known.workload;
        match workload.enrolment {
            Enrolment::Enrolled | Enrolment::Unbound | Enrolment::Sidecar => Membership::Member,
            Enrolment::OptedOut | Enrolment::HostNetwork => Membership::Outside,
            Enrolment::NotLabelled => match self.namespaces.get(&*workload.id.namespace) {
                None => Membership::Unknown,
                Some(meta) if injects_sidecars(meta) => Membership::Member,
                Some(_) => Membership::Outside,
            },
        }
    }

    /// Whether policies may count at a workload.
    pub(super) fn may_enforce(&self, known: &Known<'_>) -> bool {
        self.membership(known) != Membership::Outside
    }
}

fn injects_sidecars(meta: &Meta) -> bool {
    let label = |key: &str| meta.labels.get(key).map(String::as_str);
    label("istio-injection") == Some("enabled") || label("istio.io/rev").is_some()
}

impl<'a> Known<'a> {
    fn new(workload: &Arc<Workload>, template: Option<&'a Template>, mesh: &Mesh) -> Self {
        let mut ports: BTreeSet<u16> = workload.ports.values().copied().collect();
        let declared = template.into_iter().flat_map(|template| &template.declared);
        ports.extend(declared.filter(|port| !port.udp).map(|port| port.number));
        for service in mesh.services_of(&workload.id) {
            let service = mesh.service(&service.namespace, &service.name);
            let endpoints = service.into_iter().flat_map(|service| &service.endpoints);
            let own = endpoints.filter(|endpoint| endpoint.workload.id == workload.id);
            ports.extend(own.flat_map(|endpoint| endpoint.target_ports.values()));
        }
        Self {
            workload: Arc::clone(workload),
            template,
            effective: mesh.policies(workload),
            ports,
        }
    }

    /// Whether its manifest declares TCP ports, so that another number is remarkable.
    pub(super) fn declares_ports(&self) -> bool {
        let declared = self.template.map(|template| &template.declared);
        declared.is_some_and(|ports| ports.iter().any(|port| !port.udp))
    }

    pub(super) fn declares(&self, number: u16) -> bool {
        let declared = self.template.map(|template| &template.declared);
        self.workload.ports.values().any(|port| *port == number)
            || declared.is_some_and(|ports| ports.iter().any(|port| port.number == number))
    }
}

fn compile<'a>(
    objects: &'a Objects,
    settings: &MeshSettings,
) -> Vec<(&'a AuthorizationPolicy, Policy)> {
    let settings = settings.policy_settings();
    let compiled = objects.authorization_policies.iter().filter_map(|object| {
        let name = PolicyName::new(
            Arc::clone(&object.meta.namespace),
            Arc::clone(&object.meta.name),
        );
        let dry_run = object.meta.annotations.get("istio.io/dry-run");
        let meta = PolicyMeta {
            dry_run: dry_run.map(|annotation| annotation.value.clone()),
        };
        let compiled = Policy::compile(name, &meta, &object.spec, &settings).ok()?;
        Some((object, compiled.value))
    });
    compiled.collect()
}

/// "demo/a, demo/b, demo/c and 4 more".
pub(super) fn several<T: ToString>(of: &[T]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = of.iter().take(SHOWN).map(ToString::to_string).collect();
    match of.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
