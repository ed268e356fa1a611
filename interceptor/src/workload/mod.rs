//! What the mesh consists of: workloads, services, and the immutable snapshot that decisions
//! read.
//!
//! ```text
//!  source (directory, later Kubernetes, istiod) ──objects──▶ store ──▶ Mesh (ArcSwap)
//! ```
//!
//! The types here are what was *meant*, validated; how it was written is the sources' business.
//! Values that pass between neighbours of the layer above (a captured connection, a route) are
//! defined here, too, because `capture`, `decide` and `transport` never import each other.

pub mod external;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod objects;
pub mod protocol;
pub mod source;
mod store;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use interceptor_policy::{PolicyName, SpiffeId};
use ipnet::IpNet;
use serde::Serialize;

pub use store::{AgentPorts, Mesh, MeshSettings, Settled, Store};

/// Namespace and name of a workload, unique in the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct WorkloadId {
    /// The Kubernetes namespace.
    pub namespace: Arc<str>,
    /// The Pod's or `WorkloadEntry`'s name.
    pub name: Arc<str>,
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Pod or `WorkloadEntry`: something with an address and an identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Namespace and name.
    pub id: WorkloadId,
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    pub identity: SpiffeId,
    /// Addresses at which it is reached; empty for one that has none yet.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// The node it runs on, if known.
    pub node: Option<Arc<str>>,
    /// Container ports by name: what `targetPort: http` and port names in policies mean here.
    pub ports: Arc<BTreeMap<String, u16>>,
    /// How it is reached.
    pub protocol: TunnelProtocol,
    /// Whether it is part of the mesh, and if not, why.
    pub enrolment: Enrolment,
    /// Whether it takes new connections (ready and not being deleted).
    pub healthy: bool,
    /// What is captured of it. Meaningful on its own node only.
    pub capture: CaptureRules,
    /// Where its sockets are found on its node's machine. Set only for enrolled workloads whose
    /// manifest says so.
    pub binding: Option<Binding>,
    /// What becomes of connections to destinations that the mesh does not know.
    pub unknown_destinations: UnknownDestinations,
    /// How it is connected with other workloads of its node.
    pub same_node: SameNode,
    /// Names for telemetry that are derived from labels once.
    pub canonical: Arc<Canonical>,
}

/// Whether a workload takes HBONE on port 15008.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TunnelProtocol {
    /// Enrolled: it is reached through mutual TLS on port 15008 of its own address.
    Hbone,
    /// Not enrolled: it is reached in plaintext.
    None,
}

/// Whether a workload is part of the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Enrolment {
    /// Captured on its node.
    Enrolled,
    /// Neither it nor its namespace has the label `istio.io/dataplane-mode: ambient`.
    #[default]
    NotLabelled,
    /// It has the label `istio.io/dataplane-mode: none`.
    OptedOut,
    /// A sidecar proxy already captures it.
    Sidecar,
    /// It shares the host's network namespace, and no annotation names its cgroup.
    HostNetwork,
    /// It should be captured, but nothing says where its sockets are.
    Unbound,
}

impl fmt::Display for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enrolled => "enrolled",
            Self::NotLabelled => {
                "not enrolled: neither it nor its namespace has the label \
                 istio.io/dataplane-mode=ambient"
            }
            Self::OptedOut => "not enrolled: it has the label istio.io/dataplane-mode=none",
            Self::Sidecar => "not enrolled: a sidecar proxy captures it",
            Self::HostNetwork => {
                "not enrolled: it uses the host's network and has no annotation \
                 interceptor.dev/cgroup"
            }
            Self::Unbound => {
                "not captured: it is enrolled, but has no annotation \
                 interceptor.dev/network-namespace"
            }
        })
    }
}

/// What ties a workload to this machine's kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Binding {
    /// It has a network namespace of its own, named by a path such as `/run/netns/web`.
    NetworkNamespace(PathBuf),
    /// It shares the host's network namespace and is known by its cgroup, a path relative to the
    /// cgroup2 root.
    Cgroup(PathBuf),
}

/// What becomes of a connection whose destination cannot prove an identity: an address that the
/// mesh does not know, or a workload that is known but not enrolled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub enum UnknownDestinations {
    /// Carried in plaintext, counted and logged: Istio's `ALLOW_ANY`.
    #[default]
    Passthrough,
    /// An address that the mesh does not know is refused, because this `Sidecar` says so: Istio's
    /// `REGISTRY_ONLY`. Workloads that are not enrolled, and what a `ServiceEntry` names, are
    /// reached in plaintext.
    RegistryOnly(PolicyName),
    /// Refused. Stricter than Istio's `REGISTRY_ONLY`, which still sends plaintext to known
    /// workloads.
    Refuse,
}

/// How two workloads of one node are connected: `interceptor.dev/same-node`. One of the two that
/// wants mutual TLS is enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SameNode {
    /// From socket to socket, where a verdict can be held by the kernel: it knows both ends for
    /// certain, and the bytes never leave it.
    #[default]
    Kernel,
    /// Over mutual TLS, as between nodes.
    Mtls(SaidBy),
}

/// Where it was said: whoever wonders about it has to look there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SaidBy {
    /// `sameNode` in the agent's configuration, for the whole mesh.
    Mesh,
    /// The annotation of the workload's namespace.
    Namespace,
    /// The workload's own annotation.
    Workload,
}

/// Which connections of a workload are captured: Istio's include and exclude annotations.
///
/// Order outbound: excluded ports, excluded ranges, included ports, included ranges. A workload
/// without annotations has everything captured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CaptureRules {
    /// Inbound ports that are captured.
    pub inbound: PortSelection,
    /// Outbound ports that are never captured.
    pub excluded_outbound_ports: Vec<OutboundPort>,
    /// Destinations that are never captured.
    pub excluded_outbound_ranges: Vec<IpNet>,
    /// Outbound ports that are captured whatever the included ranges say.
    pub included_outbound_ports: Vec<OutboundPort>,
    /// Destinations that are captured; `None` means all.
    pub included_outbound_ranges: Option<Vec<IpNet>>,
    /// What becomes of its datagrams, which cannot be captured.
    pub udp: UdpRule,
    /// What becomes of connections that it had before it was enrolled.
    pub existing: ExistingConnections,
    /// What becomes of its connections while the agent is down.
    pub on_agent_down: OnAgentDown,
}

/// What becomes of a workload's connections while no agent runs: `interceptor.dev/on-agent-down`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnAgentDown {
    /// They are refused.
    #[default]
    Refuse,
    /// They go where they are headed in plaintext, asked by nobody, and are counted.
    AllowPlaintext,
}

/// What becomes of the connections that a workload had before it was enrolled:
/// `interceptor.dev/existing-connections`. They cannot be captured any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExistingConnections {
    /// They stay as they are and are listed.
    #[default]
    Keep,
    /// They are reset, so that they are made again and captured.
    Reset,
}

/// What becomes of the datagrams that a workload sends: `interceptor.dev/udp`. Those to itself
/// are always left alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UdpRule {
    /// Nothing: they leave as they are.
    #[default]
    Allow,
    /// They leave and are counted, QUIC on its own.
    Observe,
    /// Those to port 443 are refused, so that clients fall back to TCP, which is captured.
    DenyQuic,
    /// All but those to port 53 are refused.
    DenyExceptDns,
    /// All are refused.
    Deny,
}

impl fmt::Display for UdpRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Observe => "observe",
            Self::DenyQuic => "deny-quic",
            Self::DenyExceptDns => "deny-except-dns",
            Self::Deny => "deny",
        })
    }
}

/// A selection of a workload's own ports, names already resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum PortSelection {
    /// All but these.
    AllExcept(Vec<u16>),
    /// These and no others.
    Only(Vec<u16>),
}

impl Default for PortSelection {
    fn default() -> Self {
        Self::AllExcept(Vec::new())
    }
}

/// A destination port in a capture rule, as far as the mesh could resolve it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum OutboundPort {
    /// This port at any address.
    Number(u16),
    /// A Service port's name, resolved to every address and port that bears it in the mesh now.
    Named {
        /// As written.
        name: String,
        /// Service addresses and endpoint addresses with their ports.
        endpoints: Vec<SocketAddr>,
    },
}

/// Istio's canonical names of a workload, for metric labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Canonical {
    /// Label `app`, or empty.
    pub app: Arc<str>,
    /// Label `version`, or empty.
    pub version: Arc<str>,
    /// `service.istio.io/canonical-name`, else `app.kubernetes.io/name`, else `app`, else the
    /// workload's name.
    pub service: Arc<str>,
    /// `service.istio.io/canonical-revision`, else `app.kubernetes.io/version`, else `version`,
    /// else `latest`.
    pub revision: Arc<str>,
    /// The owner's name (a Deployment's, if the Pod's name tells), else the workload's.
    pub workload: Arc<str>,
}

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ServiceName {
    /// The Kubernetes namespace.
    pub namespace: Arc<str>,
    /// The Service's name.
    pub name: Arc<str>,
    /// `<name>.<namespace>.svc.<cluster domain>`.
    pub host: Arc<str>,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Service: addresses and ports in front of workloads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Its names.
    pub name: ServiceName,
    /// Its `clusterIPs`; empty for a headless Service.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// The workloads behind it, by name.
    pub endpoints: Vec<Endpoint>,
    /// `publishNotReadyAddresses`: workloads that are not ready get connections, too.
    pub publish_not_ready: bool,
    /// Which endpoints a client's node may choose.
    pub locality: Locality,
}

/// Which endpoints of a Service a client may choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Locality {
    /// All alike.
    #[default]
    Any,
    /// Those of the client's node, if one is healthy there (`trafficDistribution:
    /// PreferSameNode`).
    PreferNode,
    /// Those of the client's node and no others (`internalTrafficPolicy: Local`).
    OnlyNode,
}

/// One port of a [`Service`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServicePort {
    /// The port's name, if it has one.
    pub name: Option<String>,
    /// The port at the Service's address.
    pub port: u16,
    /// `appProtocol`, as written.
    pub app_protocol: Option<String>,
}

/// One workload behind a [`Service`], with its own idea of the target ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// The workload.
    pub workload: Arc<Workload>,
    /// Service port to this workload's target port. A named target port that the workload does
    /// not have is absent.
    pub target_ports: Arc<BTreeMap<u16, u16>>,
    /// Its share of the connections relative to the others', at least 1.
    pub weight: u32,
}

/// Where a connection is carried, chosen by `decide` and followed by `transport`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The peer's HBONE listener: the workload's address, port 15008.
    pub gateway: SocketAddr,
    /// The `:authority` of the CONNECT: the workload's address and target port.
    pub authority: SocketAddr,
    /// The identity that the peer must prove.
    pub peer: SpiffeId,
    /// The workload behind it.
    pub destination: Arc<Workload>,
    /// The Service through which it was addressed.
    pub service: Option<ServiceName>,
}
