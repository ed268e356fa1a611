//! What can go wrong, by what an operator does next.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::bpffs::Holder;
use crate::reason::Label;
use crate::workload::WorkloadId;

/// Why capture could not start.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The node's name cannot be part of a path.
    #[error(
        "the node name {node:?} cannot be used: letters, digits, '-', '_' and '.' are allowed, at \
         most 253 of them"
    )]
    NodeName {
        /// As configured.
        node: String,
    },
    /// There is no cgroup2 hierarchy, or not where it should be.
    #[error("no cgroup2 hierarchy at {}: mount one, or set the cgroup root", path.display())]
    NoCgroup2 {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is no BPF file system and it could not be mounted.
    #[error(
        "no BPF file system at {}: run `mount -t bpf bpf {}`, or give the agent CAP_SYS_ADMIN",
        path.display(),
        path.display()
    )]
    NoBpffs {
        /// Where it was looked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no BPF file system, and somebody keeps all others from mounting one.
    #[error(
        "no BPF file system at {}, and {holder} keeps the folder locked: end it, or run `mount -t bpf \
         bpf {}`",
        path.display(),
        path.display()
    )]
    BpffsLocked {
        /// Where it should be.
        path: PathBuf,
        /// Who has the lock.
        holder: Holder,
    },
    /// The folder for what is pinned is somebody else's.
    #[error(
        "{} {why}: whoever made it could keep every agent of the node from starting, or choose what \
         is pinned. Remove it, and mount the BPF file system with mode=0700",
        folder.display()
    )]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another agent of this node is running.
    #[error(
        "another agent of node {node:?} is running: take over from it with `--take-over`, stop it, \
         or choose another node name"
    )]
    Running {
        /// The node.
        node: String,
    },
    /// What a running agent handed over belongs to another node.
    #[error(
        "the agent that is running is not the one of {}: give each node a run folder of its own",
        folder.display()
    )]
    OtherNode {
        /// This node's folder.
        folder: PathBuf,
    },
    /// What is pinned was made by another version.
    #[error(
        "{} holds maps of another version ({found}, ours is {ours}): run `interceptor uninstall` \
         with the version that made them, or with this one to remove them",
        folder.display()
    )]
    Layout {
        /// The node's folder.
        folder: PathBuf,
        /// What is there.
        found: String,
        /// What this agent understands.
        ours: String,
    },
    /// The kernel refused the maps or a program.
    #[error("the kernel refused {what}: run `interceptor doctor` to see which feature is missing")]
    Load {
        /// A program's name, or what else was loaded.
        what: String,
        /// The refusal, with the verifier's log where there is one.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A program could not be attached or replaced.
    #[error("cannot attach {program} to {}", to.display())]
    Attach {
        /// The program.
        program: &'static str,
        /// The cgroup or namespace.
        to: PathBuf,
        /// The refusal.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The programs are attached but do not see the agent's own sockets.
    #[error(
        "the programs at {} do not see the agent: it must run inside of that cgroup",
        cgroup.display()
    )]
    Blind {
        /// The cgroup root.
        cgroup: PathBuf,
    },
    /// A file or folder could not be used.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// The operation.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why a workload could not be enrolled, updated or un-enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// It has no binding to this machine.
    #[error("{id} is not a workload of this node")]
    NotLocal {
        /// The workload.
        id: WorkloadId,
    },
    /// It is enrolled already.
    #[error("{id} is already enrolled")]
    Already {
        /// The workload.
        id: WorkloadId,
    },
    /// It is not enrolled.
    #[error("{id} is not enrolled")]
    Unknown {
        /// The workload.
        id: WorkloadId,
    },
    /// Its network namespace or cgroup cannot be opened.
    #[error("cannot open {}, to which {id} is bound", path.display())]
    Binding {
        /// The workload.
        id: WorkloadId,
        /// The path it is bound to.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its binding names the agent's own network namespace.
    #[error(
        "{id} is bound to {}, which is the host's network namespace: bind it to a cgroup instead",
        path.display()
    )]
    HostNamespace {
        /// The workload.
        id: WorkloadId,
        /// The path it is bound to.
        path: PathBuf,
    },
    /// Its cgroup is not one in which connections are seen and told apart.
    #[error("{id} cannot be recognised by {}: {why}", path.display())]
    Cgroup {
        /// The workload.
        id: WorkloadId,
        /// The cgroup.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It is bound to something else than when it was enrolled.
    #[error("{id} is bound to another namespace or cgroup now: un-enrol it first")]
    Rebound {
        /// The workload.
        id: WorkloadId,
    },
    /// Another workload has the same namespace or cgroup.
    #[error("{id} is bound to the same namespace or cgroup as {by}")]
    BindingTaken {
        /// The workload.
        id: WorkloadId,
        /// The one that was first.
        by: WorkloadId,
    },
    /// Another workload has the same address.
    #[error("{id} has the same address as {by}: {address}")]
    AddressTaken {
        /// The workload.
        id: WorkloadId,
        /// The address.
        address: IpAddr,
        /// The one that was first.
        by: WorkloadId,
    },
    /// The loopback interface of its namespace is down, so nothing can be redirected.
    #[error("the loopback interface of {id} is down: run `ip link set lo up` in its namespace")]
    LoopbackDown {
        /// The workload.
        id: WorkloadId,
    },
    /// A listener's port is in use inside of the workload.
    #[error("{address} is in use inside of {id}: the agent needs it")]
    PortTaken {
        /// The workload.
        id: WorkloadId,
        /// The address and port.
        address: SocketAddr,
    },
    /// A map is full.
    #[error("the map of {what} is full: raise its size in the agent's configuration")]
    Full {
        /// What it holds.
        what: &'static str,
    },
    /// Another step failed.
    #[error("cannot {step} of {id}")]
    Step {
        /// The workload.
        id: WorkloadId,
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl EnrolError {
    /// The stable, low-cardinality label under which this failure is counted.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotLocal { .. } => "not_local",
            Self::Already { .. } => "already_enrolled",
            Self::Unknown { .. } => "not_enrolled",
            Self::Binding { .. } => "binding",
            Self::HostNamespace { .. } => "host_namespace",
            Self::Cgroup { .. } => "cgroup",
            Self::Rebound { .. } => "rebound",
            Self::BindingTaken { .. } => "binding_taken",
            Self::AddressTaken { .. } => "address_taken",
            Self::LoopbackDown { .. } => "loopback_down",
            Self::PortTaken { .. } => "port_taken",
            Self::Full { .. } => "map_full",
            Self::Step { .. } => "kernel",
        }
    }
}

/// Why the destination of an accepted connection is not known.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// It came to the listener without having been captured: somebody inside of the namespace
    /// dialled the listener, or the kernel could not hand the destination over.
    #[error("the connection to {local} was not captured, so where it was headed is not known")]
    NotCaptured {
        /// What the socket says of itself.
        local: SocketAddr,
    },
    /// The socket is no longer connected.
    #[error("the connection ended before its destination could be read")]
    Gone(#[source] io::Error),
}

impl DestinationError {
    /// The stable, low-cardinality label under which this failure is counted.
    pub const fn reason(&self) -> Label {
        match self {
            Self::NotCaptured { .. } => Label::NotCaptured,
            Self::Gone(_) => Label::Gone,
        }
    }
}
