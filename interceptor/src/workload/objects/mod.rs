//! Objects as their manifests describe them, read from located YAML.
//!
//! Each object is checked alone here: field names, types, values. What only shows when objects are
//! seen together (two workloads with one address, a selector that selects nothing) is found when
//! the mesh is built. Values keep their place in the file as long as somebody may still complain
//! about them.
//!
//! # Invariants
//!
//! * Of Istio's kinds every field is known: an unknown one is an error, because a security rule
//!   that was not understood must not look as if it were in force.
//! * Of Kubernetes' kinds the fields at the levels that we read are checked against Kubernetes'
//!   own: a typo is an error, a field that we do not use is not.
//! * Kinds that we do not read are ignored with a note.
//!
//! Not here: defaults that depend on other objects, such as enrolment by namespace.

mod egress;
mod istio;
mod kubernetes;
mod meta;
mod pod;
mod service;
mod template;
mod workload_entry;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use interceptor_policy::spec::{AuthorizationPolicySpec, PeerAuthenticationSpec};
use ipnet::IpNet;

use super::external::{Location, Resolution};
use crate::yaml::{Mistake, Node, Position, Severity};

pub use meta::Ignored;
pub(in crate::workload) use meta::{
    CGROUP, EXISTING, NETWORK_NAMESPACE, NODE, ON_AGENT_DOWN, SAME_NODE, UDP, UNKNOWN_DESTINATIONS,
};
pub use template::{DeclaredPort, Template, templates};

/// Everything that a source knows, before it is put together.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Namespaces with their labels.
    pub namespaces: Vec<Arc<Namespace>>,
    /// Pods.
    pub pods: Vec<Arc<Pod>>,
    /// Istio's `WorkloadEntry` objects.
    pub workload_entries: Vec<Arc<WorkloadEntry>>,
    /// Services.
    pub services: Vec<Arc<Service>>,
    /// Istio's `AuthorizationPolicy` objects.
    pub authorization_policies: Vec<Arc<AuthorizationPolicy>>,
    /// Istio's `PeerAuthentication` objects.
    pub peer_authentications: Vec<Arc<PeerAuthentication>>,
    /// Istio's `ServiceEntry` objects.
    pub service_entries: Vec<Arc<ServiceEntry>>,
    /// Istio's `Sidecar` objects.
    pub sidecars: Vec<Arc<Sidecar>>,
    /// Objects of kinds that are not read.
    pub ignored: Vec<Ignored>,
}

/// Where an object, or a value in it, was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file.
    pub file: Arc<str>,
    /// The place in it.
    pub at: Position,
    /// The key path.
    pub key: Arc<str>,
}

impl Origin {
    /// An error about it.
    pub fn error(&self, message: impl Into<String>) -> Mistake {
        Mistake::at(&self.file, self.at, &*self.key, message)
    }

    /// A warning about it.
    pub fn warning(&self, message: impl Into<String>) -> Mistake {
        self.error(message).with(Severity::Warning)
    }

    /// `file:line`, for messages about another place.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.at.line)
    }
}

/// A value that remembers where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub origin: Origin,
}

/// What `metadata` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Namespace; `default` if none is given. Empty for a Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
    /// Labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// The annotations that have a meaning for us.
    pub annotations: BTreeMap<String, Written<String>>,
    /// `creationTimestamp`, as written.
    pub created: Option<String>,
    /// Whether `deletionTimestamp` is set.
    pub deleting: bool,
    /// The name without what its controller appended, if `generateName` or an owner tells.
    pub owner: Option<String>,
    /// Where the object was written.
    pub origin: Origin,
}

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its metadata; the name is what counts.
    pub meta: Meta,
}

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its metadata.
    pub meta: Meta,
    /// `spec.serviceAccountName`, `default` if none is given.
    pub service_account: Written<String>,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// TCP ports of its containers that have a name.
    pub ports: Vec<Written<NamedPort>>,
    /// `status.podIPs` and `status.podIP`.
    pub addresses: Vec<Written<IpAddr>>,
    /// Whether it takes connections, as far as its own status tells.
    pub ready: bool,
    /// Succeeded or Failed: it will never run again.
    pub terminal: bool,
}

/// A port that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// The name.
    pub name: String,
    /// The number.
    pub port: u16,
}

/// Istio's `WorkloadEntry`: a workload that is not a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadEntry {
    /// Its metadata; the labels are those of `metadata` and `spec.labels` together.
    pub meta: Meta,
    /// `spec.serviceAccount`, `default` if none is given.
    pub service_account: Written<String>,
    /// `spec.address`, if it is an IP address.
    pub address: Option<Written<IpAddr>>,
    /// `spec.ports`.
    pub ports: Vec<Written<NamedPort>>,
    /// `spec.weight`.
    pub weight: u32,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its metadata.
    pub meta: Meta,
    /// `spec.clusterIPs` and `spec.clusterIP`; empty for a headless Service.
    pub addresses: Vec<Written<IpAddr>>,
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
    /// `spec.selector`.
    pub selector: Written<BTreeMap<String, String>>,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `spec.internalTrafficPolicy` and `spec.trafficDistribution`.
    pub locality: super::Locality,
}

/// A TCP port of a [`Service`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`.
    pub name: Option<String>,
    /// `port`.
    pub port: Written<u16>,
    /// `targetPort`, `port` if none is given.
    pub target: Written<TargetPort>,
    /// `appProtocol`, as written.
    pub app_protocol: Option<String>,
    /// Where what tells the protocol is written: `appProtocol`, or else `name`, or else `port`.
    pub tells: Origin,
}

/// Where a Service's port leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// To this port of every endpoint.
    Number(u16),
    /// To the port that each endpoint has under this name.
    Name(String),
}

/// Istio's `AuthorizationPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Its metadata.
    pub meta: Meta,
    /// What it says.
    pub spec: AuthorizationPolicySpec,
    /// As written, to find the lines of what does not compile.
    pub written: Arc<Node>,
    /// Keys that could not be read. What follows from them is not complained about again.
    pub misread: Vec<String>,
}

/// Istio's `PeerAuthentication`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// Its metadata.
    pub meta: Meta,
    /// What it says.
    pub spec: PeerAuthenticationSpec,
    /// As written, to find the lines of what does not compile.
    pub written: Arc<Node>,
    /// Keys that could not be read. What follows from them is not complained about again.
    pub misread: Vec<String>,
}

/// Istio's `ServiceEntry`: what may be reached outside of the mesh, or beside its Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Its metadata.
    pub meta: Meta,
    /// `spec.hosts`; at least one.
    pub hosts: Vec<Written<String>>,
    /// `spec.addresses`.
    pub addresses: Vec<Written<IpNet>>,
    /// Its TCP ports.
    pub ports: Vec<EntryPort>,
    /// `spec.location`.
    pub location: Location,
    /// `spec.resolution`.
    pub resolution: Resolution,
    /// `spec.endpoints` that are IP addresses.
    pub endpoints: Vec<EntryEndpoint>,
    /// `spec.workloadSelector`.
    pub selector: Option<Written<BTreeMap<String, String>>>,
    /// `spec.exportTo`.
    pub export_to: Vec<String>,
}

/// A TCP port of a [`ServiceEntry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPort {
    /// `name`.
    pub name: Option<String>,
    /// `number`.
    pub port: Written<u16>,
    /// `protocol`, as written.
    pub protocol: Option<String>,
    /// `targetPort`, `number` if none is given.
    pub target: u16,
}

/// An endpoint of a [`ServiceEntry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryEndpoint {
    /// `address`.
    pub address: Written<IpAddr>,
    /// `ports`, by name of the entry's port.
    pub ports: BTreeMap<String, u16>,
    /// `weight`.
    pub weight: u32,
}

/// Istio's `Sidecar`, of which only the egress mode is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    /// Its metadata.
    pub meta: Meta,
    /// `spec.workloadSelector`.
    pub selector: Option<Written<BTreeMap<String, String>>>,
    /// `spec.outboundTrafficPolicy.mode`; `None` if there is no policy.
    pub mode: Option<OutboundMode>,
}

/// What becomes of connections to destinations that the mesh does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboundMode {
    /// They pass.
    AllowAny,
    /// They are refused.
    RegistryOnly,
}

impl Objects {
    /// How many objects were read.
    pub const fn len(&self) -> usize {
        self.namespaces.len()
            + self.pods.len()
            + self.workload_entries.len()
            + self.services.len()
            + self.authorization_policies.len()
            + self.peer_authentications.len()
            + self.service_entries.len()
            + self.sidecars.len()
    }

    /// Whether none was read.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests;
