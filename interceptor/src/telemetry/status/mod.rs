//! What `interceptor status` shows: one value, made by the running agent, served by `admin`,
//! rendered by `cli`, and read by the metrics at every scrape. It is the wire format between
//! agent and command line, so fields are only ever added.

mod convert;

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::shadow::Summary;

/// The state of one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// Process id of the agent.
    pub pid: u32,
    /// When the agent started.
    pub started: Timestamp,
    /// Whether it does its work, and if not, what is missing.
    pub readiness: Readiness,
    /// Kernel programs.
    pub programs: Vec<Program>,
    /// Kernel counters: one per outcome, summed over CPUs.
    pub counters: Vec<KernelCounter>,
    /// How full the kernel's maps are.
    pub maps: Vec<MapFill>,
    /// How often something of the kernel half was not in its place, by what it was.
    #[serde(default)]
    pub losses: Vec<KernelLoss>,
    /// Workloads of this node that are enrolled, or should be and could not.
    pub workloads: Vec<EnrolledWorkload>,
    /// Certificates of local identities.
    pub certificates: Vec<Certificate>,
    /// Who signs these, and whom the node trusts.
    #[serde(default)]
    pub authority: Authority,
    /// What is configured.
    pub configuration: Configuration,
    /// Whose connections are kubelet's probes.
    #[serde(default)]
    pub prober: Prober,
    /// What is not protected, and why.
    pub unprotected: Vec<Unprotected>,
    /// Policies that only report (AUDIT, dry-run), and what they said since the agent started.
    #[serde(default)]
    pub reporting: Vec<Summary>,
    /// How many connections are being carried.
    pub connections_open: u64,
    /// What they keep for ends that do not take it.
    #[serde(default)]
    pub buffered: Buffered,
    /// Tasks of the agent's that have panicked since it started.
    #[serde(default)]
    pub panics: u64,
    /// Connections inside of the node that the kernel carries.
    #[serde(default)]
    pub same_node: SameNode,
}

/// Memory of all connections for bytes that their ends have not taken, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Buffered {
    /// What is kept, and promised to peers to be kept.
    pub bytes: u64,
    /// With so many (`transport.maxBuffered`), connections have the least that they need.
    pub most: u64,
}

impl Buffered {
    /// Whether connections are slower for want of buffers, or about to be: a large one does not fit
    /// into the last eighth for long.
    pub const fn is_short(&self) -> bool {
        self.bytes > self.most - self.most / 8
    }
}

/// Connections inside of the node that the kernel carries by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SameNode {
    /// Pairs of a workload and an address whose connections may go from socket to socket.
    pub granted: u64,
    /// Pairs that may, and take the agent's path because the kernel has no room for them.
    pub unpublished: u64,
    /// How often a pair was not granted for want of room, since the agent started.
    #[serde(default)]
    pub refused: u64,
    /// Connections that are open.
    pub open: u64,
    /// Events that the kernel could not tell the agent of, since its maps were created.
    pub events_lost: u64,
    /// Connections whose end was found by comparing with the sockets that are open.
    pub ends_unseen: u64,
}

/// Whether the agent protects what it should.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Readiness {
    /// What is still missing, as sentences; empty when ready.
    pub missing: Vec<String>,
}

impl Readiness {
    /// True when nothing is missing.
    pub const fn is_ready(&self) -> bool {
        self.missing.is_empty()
    }
}

/// A loaded kernel program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Program {
    /// Its name, such as `connect4`.
    pub name: String,
    /// Where it is attached: a cgroup path or a workload.
    pub attached_to: String,
    /// The kernel's id of the program.
    pub id: u32,
    /// Whether it stays attached when the agent dies.
    pub pinned: bool,
}

/// A kernel counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelCounter {
    /// Its stable name.
    pub name: String,
    /// What it counts.
    pub help: String,
    /// Its value since the maps were created.
    pub value: u64,
}

/// Fill of a kernel map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapFill {
    /// The map's name.
    pub name: String,
    /// What it holds, for people.
    pub holds: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries that fit.
    pub capacity: u64,
}

/// Something of the kernel half that somebody has taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelLoss {
    /// What it was: `folder`, `pin`, `attachment` or `program`.
    pub what: String,
    /// How often, since the agent started.
    pub count: u64,
}

/// A workload of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnrolledWorkload {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The kernel's key of it, in hexadecimal: network namespace cookie or cgroup id. Absent when
    /// enrolment failed.
    pub key: Option<String>,
    /// Its SPIFFE ID.
    pub identity: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What is captured inbound, such as `all except 15020, 15021`.
    pub inbound: String,
    /// What is captured outbound.
    pub outbound: String,
    /// Why it could not be enrolled, and what to do.
    pub error: Option<String>,
}

/// A certificate of a local identity. Never the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// The SPIFFE ID that it proves.
    pub identity: String,
    /// Serial number in hexadecimal. Absent, like the times, while there is no certificate.
    pub serial: Option<String>,
    /// Who issues it.
    pub issuer: String,
    /// Start of validity.
    pub not_before: Option<Timestamp>,
    /// End of validity.
    pub not_after: Option<Timestamp>,
    /// When it will be renewed, or issuing is tried again.
    pub renew_at: Option<Timestamp>,
    /// Why the last attempt failed, if it did.
    pub last_error: Option<String>,
}

/// Who signs the certificates of local identities, and which roots vouch for those of peers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authority {
    /// Who issues, such as `embedded CA`.
    pub issuer: String,
    /// Serial number of the certificate that signs, in hexadecimal.
    pub serial: Option<String>,
    /// The roots that are trusted.
    pub roots: Vec<Root>,
    /// Why what is in the CA's folder now is not in force, if it is not.
    pub last_error: Option<String>,
}

/// A root that is trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Root {
    /// For whose identities it vouches.
    pub trust_domain: String,
    /// Serial number in hexadecimal.
    pub serial: String,
    /// Start of validity.
    pub not_before: Option<Timestamp>,
    /// End of validity.
    pub not_after: Option<Timestamp>,
}

/// What the agent was told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// Where it comes from, such as a folder.
    pub source: String,
    /// Number of the snapshot in force; 0 before the first.
    pub version: u64,
    /// When that snapshot came into force.
    pub loaded: Option<Timestamp>,
    /// What is wrong with what was read last. If any is an error, the snapshot in force is older
    /// than what was read.
    pub mistakes: Vec<Finding>,
}

/// A mistake in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Whether it keeps the snapshot from coming into force.
    pub severity: Severity,
    /// File, line, column and key: `demo.yaml:12:7: spec.rules[0]`.
    pub place: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// What was read is not used.
    Error,
    /// It is used, and is probably not what was meant.
    Warning,
    /// For information: something was left out on purpose.
    Note,
}

/// Whose connections from the host's network go straight to applications, as kubelet's probes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prober {
    /// The cgroups that are trusted, as in `/proc/PID/cgroup`; empty if none is.
    pub cgroups: Vec<String>,
    /// What keeps the configured one from being trusted.
    pub problem: Option<String>,
    /// Probes so far.
    pub probes: u64,
}

/// Something on this node that is not protected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unprotected {
    /// Whose it is: `demo/caller`, or a place such as `host network`.
    pub subject: String,
    /// What is not protected: `outbound to 192.0.2.7:443`, `inbound port 9090`.
    pub what: String,
    /// Why, and which key says so.
    pub why: String,
    /// How many connections were seen, where that is counted.
    pub connections: Option<u64>,
}

#[cfg(test)]
pub(crate) mod fixtures;
