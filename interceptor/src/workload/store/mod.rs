//! The immutable view of the mesh from which every decision is made.
//!
//! Published by swapping a pointer, never changed. Lookups are hash lookups; what can be worked out
//! once per change (which policies hold for a local workload, which Services a workload backs) is.
//! A mesh shares with its successor what the change between them left alone ([`Store`]).
//!
//! Not here: where objects come from (`source`), how they were written (`objects`).

mod capture;
mod claims;
mod draft;
mod egress;
mod enrol;
mod intern;
mod interned;
mod members;
mod noted;
mod policies;
mod port_names;
mod reach;
mod selection;
mod service;
mod shards;
mod table;
mod update;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use interceptor_policy::{
    Attempt, Effective, Flip, OnUnsupported, PolicySet, ServicePorts, Settings, SpiffeId, Target,
    TrustDomain,
};
use serde::Serialize;

use super::external::{External, Externals, Registered};
use super::objects::Objects;
use super::{SameNode, Service, ServiceName, Workload, WorkloadId};
use crate::yaml::Mistake;
use shards::Shards;
pub use update::{Settled, Store};

/// What the configuration says about the mesh as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    /// The name of this node, as in `spec.nodeName` of its Pods.
    pub node: Arc<str>,
    /// The trust domain of every identity in this mesh.
    pub trust_domain: TrustDomain,
    /// Other names of the same trust domain.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Policies of this namespace hold for the whole mesh.
    pub root_namespace: Arc<str>,
    /// The suffix of Service names: `<name>.<namespace>.svc.<this>`.
    pub cluster_domain: Arc<str>,
    /// What becomes of policy rules that L4 cannot decide.
    pub on_unsupported: OnUnsupported,
    /// How workloads of one node are connected, unless a namespace or workload says otherwise.
    pub same_node: SameNode,
    /// The agent's ports inside of every enrolled workload.
    pub ports: AgentPorts,
}

/// The agent's ports inside of every enrolled workload's network namespace. The same in the whole
/// mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentPorts {
    /// Where captured outbound connections arrive.
    pub outbound: u16,
    /// Where plaintext inbound connections arrive.
    pub inbound: u16,
    /// Where tunnels from other agents arrive.
    pub hbone: u16,
}

impl Default for AgentPorts {
    fn default() -> Self {
        Self {
            // The ports of ztunnel, so that network policies written for it keep working.
            outbound: 15001,
            inbound: 15006,
            hbone: 15008,
        }
    }
}

impl AgentPorts {
    /// Whether connecting to `port` of an enrolled workload would call the agent instead of the
    /// application.
    pub const fn contains(&self, port: u16) -> bool {
        port == self.outbound || port == self.inbound || port == self.hbone
    }
}

impl MeshSettings {
    /// Istio's and Kubernetes' defaults for everything but the node's name.
    pub fn for_node(node: impl Into<Arc<str>>) -> Self {
        Self {
            node: node.into(),
            trust_domain: TrustDomain::cluster_local(),
            trust_domain_aliases: Vec::new(),
            root_namespace: Arc::from("istio-system"),
            cluster_domain: Arc::from("cluster.local"),
            on_unsupported: OnUnsupported::default(),
            same_node: SameNode::default(),
            ports: AgentPorts::default(),
        }
    }

    /// What policies are compiled with.
    pub fn policy_settings(&self) -> Settings {
        Settings {
            root_namespace: self.root_namespace.to_string(),
            trust_domain: self.trust_domain.clone(),
            trust_domain_aliases: self.trust_domain_aliases.clone(),
            on_unsupported: self.on_unsupported,
        }
    }
}

/// Everything that is known of the mesh at one time.
#[derive(Clone, Debug)]
pub struct Mesh {
    version: u64,
    settings: Arc<MeshSettings>,
    workloads: Shards<WorkloadId, Arc<Workload>>,
    /// Those of this node.
    here: Arc<BTreeMap<WorkloadId, Arc<Workload>>>,
    by_address: Shards<IpAddr, Arc<Workload>>,
    services: Services,
    by_virtual_address: Shards<IpAddr, Arc<Service>>,
    backed: Shards<WorkloadId, Arc<[ServiceName]>>,
    externals: Arc<Externals>,
    policies: Arc<PolicySet>,
    /// Of local workloads, or of all.
    effective: Arc<HashMap<WorkloadId, Effective>>,
}

/// Services by namespace, then name.
type Services = Shards<Arc<str>, Arc<BTreeMap<Arc<str>, Arc<Service>>>>;

impl Mesh {
    /// A mesh in which nothing is known: nothing is enrolled, every destination is unknown.
    pub fn empty(settings: MeshSettings) -> Self {
        let policies = PolicySet::new(settings.policy_settings(), Vec::new(), Vec::new());
        Self {
            version: 0,
            settings: Arc::new(settings),
            workloads: Shards::default(),
            here: Arc::default(),
            by_address: Shards::default(),
            services: Shards::default(),
            by_virtual_address: Shards::default(),
            backed: Shards::default(),
            externals: Arc::default(),
            policies: Arc::new(policies),
            effective: Arc::default(),
        }
    }

    /// Builds the mesh that `objects` describe. The mistakes are those that only show when objects
    /// are seen together, and all of policies. If one of them is an error, the mesh must not be
    /// used for anything but looking at it.
    pub fn build(objects: &Objects, settings: &MeshSettings) -> (Self, Vec<Mistake>) {
        let mut store = Store::new(settings.clone());
        store.say(&Arc::from(""), objects.clone());
        store.settle();
        (store.mesh, store.noted.to_mistakes())
    }

    /// The same mesh with the number under which it is published.
    #[must_use]
    pub const fn with_version(mut self, version: u64) -> Self {
        self.version = version;
        self
    }

    /// The number of this snapshot, growing with every change; 0 before the first.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// What it was built with.
    pub fn settings(&self) -> &MeshSettings {
        &self.settings
    }

    /// All workloads, by namespace and name.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        let mut all: Vec<&Arc<Workload>> = self.workloads.values().collect();
        all.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        all.into_iter()
    }

    /// How many workloads there are.
    pub const fn workload_count(&self) -> usize {
        self.workloads.len()
    }

    /// All Services, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        let of_namespaces = self.services.values();
        let mut all: Vec<&Arc<Service>> = of_namespaces.flat_map(|of| of.values()).collect();
        all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        all.into_iter()
    }

    /// How many Services there are.
    pub fn service_count(&self) -> usize {
        self.services.values().map(|of| of.len()).sum()
    }

    /// The workloads that this node's agent captures.
    pub fn local(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.on_this_node()
            .filter(|workload| workload.binding.is_some())
    }

    /// The workloads of this node that run unprotected; [`Workload::enrolment`] says why.
    pub fn unprotected(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.on_this_node()
            .filter(|workload| workload.binding.is_none())
    }

    fn on_this_node(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.here.values()
    }

    /// A workload by name.
    pub fn workload(&self, id: &WorkloadId) -> Option<&Arc<Workload>> {
        self.workloads.get(id)
    }

    /// The workload at an address. Workloads that share the host's address are never found this
    /// way.
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&address.to_canonical())
    }

    /// The Service at a virtual address (`clusterIP`).
    pub fn service_at(&self, address: IpAddr) -> Option<&Arc<Service>> {
        self.by_virtual_address.get(&address.to_canonical())
    }

    /// A Service by namespace and name.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Arc<Service>> {
        self.services.get(namespace)?.get(name)
    }

    /// All `ServiceEntry` objects, the older first.
    pub fn externals(&self) -> impl Iterator<Item = &Arc<External>> {
        self.externals.iter()
    }

    /// What workloads of a namespace may know of an address and port outside of the mesh.
    pub fn registered_at(&self, namespace: &str, to: SocketAddr) -> Registered<'_> {
        self.externals.at(namespace, to)
    }

    /// The Services that a workload backs, in the order of their names.
    pub fn services_of(&self, id: &WorkloadId) -> &[ServiceName] {
        self.backed.get(id).map_or(&[], |names| names)
    }

    /// The policies of the whole mesh.
    pub fn policy_set(&self) -> &PolicySet {
        &self.policies
    }

    /// What holds for connections to `workload`. Worked out beforehand for local workloads.
    pub fn policies(&self, workload: &Workload) -> Effective {
        match self.effective.get(&workload.id) {
            Some(effective) => effective.clone(),
            None => self.work_out_policies(workload),
        }
    }

    /// The same mesh with what holds for every workload worked out, for whoever asks about all of
    /// them.
    #[must_use]
    pub fn worked_out(mut self) -> Self {
        let all = (self.workloads.values())
            .map(|workload| (workload.id.clone(), self.work_out_policies(workload)));
        self.effective = Arc::new(all.collect());
        self
    }

    /// The changes that would turn the verdict on a connection to `workload`, smallest first.
    ///
    /// `identity` is what a caller in plaintext would prove if it came through the mesh.
    pub fn flips(
        &self,
        workload: &Workload,
        attempt: &Attempt<'_>,
        identity: Option<&SpiffeId>,
    ) -> Vec<Flip> {
        self.with_target(workload, |target| {
            self.policies.flips(target, attempt, identity)
        })
    }

    /// The Services that a workload backs, with its ports behind theirs.
    fn backed_by(
        &self,
        workload: &Workload,
    ) -> impl Iterator<Item = (&Arc<Service>, &Arc<BTreeMap<u16, u16>>)> {
        let names = self.services_of(&workload.id).iter();
        let services = names.filter_map(|name| self.service(&name.namespace, &name.name));
        services.filter_map(|service| {
            // Endpoints are in the order of their names.
            let endpoints = &service.endpoints;
            let at = endpoints.binary_search_by(|it| it.workload.id.cmp(&workload.id));
            Some((service, &endpoints.get(at.ok()?)?.target_ports))
        })
    }

    fn work_out_policies(&self, workload: &Workload) -> Effective {
        self.with_target(workload, |target| self.policies.effective(target))
    }

    /// Shows `work` a workload as the policy engine sees it.
    fn with_target<T>(&self, workload: &Workload, work: impl FnOnce(&Target<'_>) -> T) -> T {
        let backed: Vec<(&str, Vec<u16>)> = self
            .backed_by(workload)
            .map(|(service, ports)| (&*service.name.name, ports.values().copied().collect()))
            .collect();
        let services: Vec<ServicePorts<'_>> = backed
            .iter()
            .map(|(service, target_ports)| ServicePorts {
                service,
                target_ports,
            })
            .collect();
        work(&Target {
            namespace: &workload.id.namespace,
            labels: &workload.labels,
            ports: &workload.ports,
            services: &services,
        })
    }
}

#[cfg(test)]
mod tests;
