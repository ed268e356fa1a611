//! The immutable view of the mesh from which every decision is made.
//!
//! Built whole from the objects of a source ([`build`]), published by swapping a pointer, never
//! changed. Lookups are hash lookups; what can be worked out once per change (which policies hold
//! for a local workload, which Services a workload backs) is.
//!
//! Not here: where objects come from (`source`), how they were written (`objects`).

mod build;
mod capture;
mod egress;
mod enrol;
mod policies;
mod service;

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
#[derive(Debug)]
pub struct Mesh {
    version: u64,
    settings: Arc<MeshSettings>,
    workloads: BTreeMap<WorkloadId, Arc<Workload>>,
    by_address: HashMap<IpAddr, Arc<Workload>>,
    services: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Service>>>,
    by_virtual_address: HashMap<IpAddr, Arc<Service>>,
    backed: HashMap<WorkloadId, Vec<ServiceName>>,
    externals: Externals,
    policies: PolicySet,
    /// Of local workloads, or of all.
    effective: HashMap<WorkloadId, Effective>,
}

impl Mesh {
    /// A mesh in which nothing is known: nothing is enrolled, every destination is unknown.
    pub fn empty(settings: MeshSettings) -> Self {
        let policies = PolicySet::new(settings.policy_settings(), Vec::new(), Vec::new());
        Self {
            version: 0,
            settings: Arc::new(settings),
            workloads: BTreeMap::new(),
            by_address: HashMap::new(),
            services: BTreeMap::new(),
            by_virtual_address: HashMap::new(),
            backed: HashMap::new(),
            externals: Externals::default(),
            policies,
            effective: HashMap::new(),
        }
    }

    /// Builds the mesh that `objects` describe. The mistakes are those that only show when objects
    /// are seen together, and all of policies. If one of them is an error, the mesh must not be
    /// used for anything but looking at it.
    pub fn build(objects: &Objects, settings: &MeshSettings) -> (Self, Vec<Mistake>) {
        build::build(objects, settings)
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
        self.workloads.values()
    }

    /// All Services, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values().flat_map(BTreeMap::values)
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
        self.workloads
            .values()
            .filter(|workload| workload.node.as_ref() == Some(&self.settings.node))
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
        self.backed.get(id).map_or(&[], Vec::as_slice)
    }

    /// The policies of the whole mesh.
    pub const fn policy_set(&self) -> &PolicySet {
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
        self.effective = all.collect();
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

    fn work_out_policies(&self, workload: &Workload) -> Effective {
        self.with_target(workload, |target| self.policies.effective(target))
    }

    /// Shows `work` a workload as the policy engine sees it.
    fn with_target<T>(&self, workload: &Workload, work: impl FnOnce(&Target<'_>) -> T) -> T {
        let backed: Vec<(&str, Vec<u16>)> = self
            .services_of(&workload.id)
            .iter()
            .filter_map(|name| self.service(&name.namespace, &name.name))
            .filter_map(|service| {
                let own = |endpoint: &&super::Endpoint| endpoint.workload.id == workload.id;
                let endpoint = service.endpoints.iter().find(own)?;
                let ports = endpoint.target_ports.values().copied().collect();
                Some((&*service.name.name, ports))
            })
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
