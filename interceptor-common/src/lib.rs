//! The contract between the kernel programs and the agent: map keys and values, nothing else.
//!
//! Everything here is `repr(C)`, without hidden padding, and valid for any bit pattern, because
//! one side writes it and the other reads it through the kernel. [`LAYOUT`] names the whole set:
//! it is part of the folder in which the maps are pinned, so an agent never adopts maps that mean
//! something else.
//!
//! Addresses are always 16 bytes in network order, IPv4 as `::ffff:a.b.c.d`; a port with the
//! suffix `_be` is in network order.
//!
//! Not here: which program writes what (`interceptor-ebpf`), how rules are compiled
//! (`interceptor::capture`).
#![no_std]

mod address;
mod call;
mod counter;
mod direct;
mod flow;
mod key;
mod rule;

pub use address::{Address, FAMILY_IPV4, FAMILY_IPV6};
pub use call::{CALL_PLACES, Call, CallPlace, Claim};
pub use counter::{COUNTERS, Counter};
pub use direct::{
    DirectEvent, FIN_ACKNOWLEDGED, FIN_RECEIVED, Grant, GrantKey, GrantTarget, MAX_TARGETS,
    UNKNOWN_ERROR,
};
pub use flow::{Flow, FlowKey, FlowKind, OpenFlow};
pub use key::{CGROUP_BIT, ListenerKey, Role, cgroup_key, is_cgroup_key};
pub use rule::{
    Action, EXPECTED_EACH, ExpectedKey, ExpectedPlace, Inbound, InboundPortKey, RuleKey, TCP, Udp,
    Unserved, WorkloadEntry,
};

/// Version of everything in this crate. Raise it with any change to a type, to a map's key or to
/// the meaning of a field; maps of another version are refused, never read.
pub const LAYOUT: u32 = 3;

/// Entry of [`WorkloadEntry::flags`]: this key is the host's network namespace, whose workloads
/// are told apart by cgroup.
pub const HOST_NAMESPACE: u32 = 1;

/// Entry of [`WorkloadEntry::flags`]: this key is no workload but a cgroup of the host's namespace
/// whose processes are trusted as the node's prober, kubelet.
pub const PROBER: u32 = 2;

/// Entry of [`WorkloadEntry::flags`]: while no agent listens for this workload, its connections
/// go where they are headed, in plaintext. Those are counted in its [`Unserved`], without which
/// they are refused all the same.
pub const PLAINTEXT_WITHOUT_AGENT: u32 = 4;

/// How deep below the cgroup root a host-network workload may sit; bounds a loop in the kernel.
pub const MAX_CGROUP_LEVEL: u32 = 16;
