//! What the checks look at: the objects, the mesh that they make, and what Pods declare.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use interceptor_policy::{Effective, PlaintextAt, Policy, PolicyMeta, PolicyName};

use super::extra::Extra;
use crate::workload::objects::{AuthorizationPolicy, Meta, Objects, PeerAuthentication, Template};
use crate::workload::{Enrolment, Mesh, MeshSettings, ServiceName, Workload, WorkloadId};
use crate::yaml::{Mistake, nearest};

/// More pairs of a workload and a policy that holds for it are not worked out: each costs memory.
const MAX_HELD: usize = 500_000;
/// So many policies are asked whether they let plaintext through, over all workloads and ports.
const MAX_ASKED: usize = 2_000_000;
/// So many words are compared to find out what was meant.
const MAX_SUGGESTED: usize = 200_000;

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
    /// How many workloads were left out, because too many policies hold for them.
    pub(super) left_out: usize,
    suggestions: Cell<usize>,
    asked: Budget,
    modes: HashMap<(&'a str, &'a str), usize>,
}

/// A workload and what its manifest declares.
pub(super) struct Known<'a> {
    pub(super) workload: Arc<Workload>,
    pub(super) template: Option<&'a Template>,
    pub(super) effective: Effective,
    /// The ports that it is known to have: declared, named, or led to by a Service.
    pub(super) ports: BTreeSet<u16>,
    /// One at which a caller without mutual TLS may come through.
    pub(super) open: Option<u16>,
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
        let mut workloads: Vec<Known<'a>> = Vec::new();
        let asked = Budget::new(MAX_ASKED);
        let (mut pairs, mut left_out) = (0_usize, 0_usize);
        for workload in mesh.workloads() {
            if pairs > MAX_HELD {
                left_out = left_out.saturating_add(1);
                continue;
            }
            let known = Known::new(
                workload,
                templates.get(&workload.id).copied(),
                &mesh,
                &asked,
            );
            pairs = pairs.saturating_add(known.effective.policies().count());
            workloads.push(known);
        }
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
            left_out,
            suggestions: Cell::new(MAX_SUGGESTED),
            asked,
            modes: (objects.peer_authentications.iter().enumerate())
                .map(|(at, object)| ((&*object.meta.namespace, &*object.meta.name), at))
                .collect(),
        };
        (model, mistakes)
    }

    /// What was probably meant by a word; nothing once so much was compared that nobody reads on.
    pub(super) fn meant<'c>(
        &self,
        word: &str,
        candidates: impl IntoIterator<Item = &'c str>,
    ) -> Option<&'c str> {
        let counted = candidates.into_iter().take_while(|_| {
            let left = self.suggestions.get();
            self.suggestions.set(left.saturating_sub(1));
            left > 0
        });
        nearest(word, counted)
    }

    /// The workloads that a policy holds for.
    pub(super) fn held_by(&self, policy: &PolicyName) -> impl Iterator<Item = &Known<'a>> {
        let held = self.held.get(policy).into_iter().flatten();
        held.filter_map(|index| self.workloads.get(*index))
    }

    pub(super) fn known(&self, id: &WorkloadId) -> Option<&Known<'a>> {
        self.workloads.get(*self.by_id.get(id)?)
    }

    /// Where the ports of a Service lead at one of its workloads.
    pub(super) fn targets(
        &self,
        service: &ServiceName,
        id: &WorkloadId,
    ) -> Option<&BTreeMap<u16, u16>> {
        let service = self.mesh.service(&service.namespace, &service.name)?;
        let mut endpoints = service.endpoints.iter();
        let own = endpoints.find(|endpoint| endpoint.workload.id == *id)?;
        Some(&own.target_ports)
    }

    /// A `PeerAuthentication` by name.
    pub(super) fn modes(&self, name: &PolicyName) -> Option<&'a PeerAuthentication> {
        let at = self.modes.get(&(&*name.namespace, &*name.name))?;
        self.objects.peer_authentications.get(*at).map(Arc::as_ref)
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

    /// What becomes of plaintext at a port; nothing once so much was asked that it takes too long.
    pub(super) fn plaintext_at(&self, known: &Known<'_>, port: u16) -> Option<PlaintextAt> {
        plaintext_at(&known.effective, port, &self.asked)
    }

    /// How often it was not asked what becomes of plaintext at a port.
    pub(super) const fn not_asked(&self) -> usize {
        self.asked.refused.get()
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
    fn new(
        workload: &Arc<Workload>,
        template: Option<&'a Template>,
        mesh: &Mesh,
        asked: &Budget,
    ) -> Self {
        let mut ports: BTreeSet<u16> = workload.ports.values().copied().collect();
        let declared = template.into_iter().flat_map(|template| &template.declared);
        ports.extend(declared.filter(|port| !port.udp).map(|port| port.number));
        for service in mesh.services_of(&workload.id) {
            let service = mesh.service(&service.namespace, &service.name);
            let endpoints = service.into_iter().flat_map(|service| &service.endpoints);
            let own = endpoints.filter(|endpoint| endpoint.workload.id == workload.id);
            ports.extend(own.flat_map(|endpoint| endpoint.target_ports.values()));
        }
        let effective = mesh.policies(workload);
        let is_open =
            |port: &u16| plaintext_at(&effective, *port, asked) == Some(PlaintextAt::Possible);
        Self {
            workload: Arc::clone(workload),
            template,
            open: ports.iter().copied().find(is_open),
            effective,
            ports,
        }
    }

    /// Whether its manifest declares TCP ports, so that another number is remarkable.
    pub(super) fn declares_ports(&self) -> bool {
        let declared = self.template.map(|template| &template.declared);
        declared.is_some_and(|ports| ports.iter().any(|port| !port.udp))
    }

    /// Whether its manifest declares a number.
    pub(super) fn declares(&self, number: u16) -> bool {
        let declared = self.template.map(|template| &template.declared);
        self.workload.ports.values().any(|port| *port == number)
            || declared.is_some_and(|ports| ports.iter().any(|port| port.number == number))
    }
}

fn plaintext_at(effective: &Effective, port: u16, asked: &Budget) -> Option<PlaintextAt> {
    let cost = effective.policies().count();
    asked.spend(cost).then(|| effective.plaintext_at(port))
}

/// How much may still be asked.
#[derive(Debug)]
struct Budget {
    left: Cell<usize>,
    refused: Cell<usize>,
}

impl Budget {
    const fn new(most: usize) -> Self {
        Self {
            left: Cell::new(most),
            refused: Cell::new(0),
        }
    }

    /// Whether there is so much left; it is gone then.
    fn spend(&self, cost: usize) -> bool {
        let rest = self.left.get().checked_sub(cost);
        match rest {
            Some(rest) => self.left.set(rest),
            None => self.refused.set(self.refused.get().saturating_add(1)),
        }
        rest.is_some()
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
        Some((&**object, compiled.value))
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
