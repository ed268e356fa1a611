//! What every map is: its name, its shape, and its size by configuration. A pinned map of another shape
//! is another version's, and is not adopted.

use aya::maps::MapType;
use interceptor_common::{
    Address, Call, CallPlace, EXPECTED_EACH, ExpectedKey, ExpectedPlace, Flow, FlowKey, Grant,
    GrantKey, Inbound, InboundPortKey, ListenerKey, OpenFlow, RuleKey, Unserved, WorkloadEntry,
};

use super::config::Sizes;
use super::prober::MOST_PROBERS;

/// Names, shapes and capacities of the maps: what a pinned one must look like to be adopted.
pub(super) struct Shape {
    /// The map's name in the object and in the pin folder.
    pub(super) name: &'static str,
    /// Its type.
    pub(super) kind: MapType,
    /// Bytes of a key.
    pub(super) key_bytes: usize,
    /// Bytes of a value.
    pub(super) value_bytes: usize,
    /// Its capacity by configuration; `None` if it is part of the layout.
    pub(super) capacity: Option<fn(&Sizes) -> u32>,
    /// What it holds, for people.
    pub(super) holds: &'static str,
}

/// Listeners of a workload: three roles, two families.
const LISTENERS_EACH: u32 = 6;

/// Addresses of a workload that may be on a node: two families, a second interface.
const ADDRESSES_EACH: u32 = 4;

/// Questions that may be open at a time, for each workload that fits. One alone may have eight times
/// as many.
const EXPECTED_ON_AVERAGE: u32 = EXPECTED_EACH / 8;

/// Every map.
pub(super) const SHAPES: &[Shape] = &[
    Shape {
        name: "WORKLOADS",
        kind: MapType::Hash,
        key_bytes: size_of::<u64>(),
        value_bytes: size_of::<WorkloadEntry>(),
        // As many again to refuse those that do not fit, and one for the host's namespace.
        capacity: Some(|sizes| {
            (sizes.workloads.saturating_mul(2)).saturating_add(1 + MOST_PROBERS)
        }),
        holds: "workloads",
    },
    Shape {
        name: "RULES",
        kind: MapType::LpmTrie,
        key_bytes: size_of::<u32>() + size_of::<RuleKey>(),
        value_bytes: size_of::<u32>(),
        capacity: Some(|sizes| sizes.rules),
        holds: "outbound rules",
    },
    Shape {
        name: "INBOUND",
        kind: MapType::Hash,
        key_bytes: size_of::<Address>(),
        value_bytes: size_of::<Inbound>(),
        capacity: Some(|sizes| sizes.workloads.saturating_mul(ADDRESSES_EACH)),
        holds: "workload addresses",
    },
    Shape {
        name: "INBOUND_PORTS",
        kind: MapType::Hash,
        key_bytes: size_of::<InboundPortKey>(),
        value_bytes: size_of::<u32>(),
        capacity: Some(|sizes| sizes.inbound_ports),
        holds: "inbound ports",
    },
    Shape {
        name: "LISTENERS",
        kind: MapType::SockHash,
        key_bytes: size_of::<ListenerKey>(),
        value_bytes: size_of::<u32>(),
        capacity: Some(|sizes| sizes.workloads.saturating_mul(LISTENERS_EACH)),
        holds: "listeners",
    },
    Shape {
        name: "UNSERVED",
        kind: MapType::PerCpuHash,
        key_bytes: size_of::<u64>(),
        value_bytes: size_of::<Unserved>(),
        capacity: Some(|sizes| sizes.workloads),
        holds: "workloads that pass without an agent",
    },
    Shape {
        name: "FLOWS",
        kind: MapType::LruHash,
        key_bytes: size_of::<FlowKey>(),
        value_bytes: size_of::<Flow>(),
        capacity: Some(|sizes| sizes.flows),
        holds: "flows",
    },
    Shape {
        name: "OPEN",
        kind: MapType::Hash,
        key_bytes: size_of::<FlowKey>(),
        value_bytes: size_of::<OpenFlow>(),
        capacity: Some(|sizes| (sizes.flows / 4).max(16)),
        holds: "direct connections",
    },
    Shape {
        name: "PLACES",
        kind: MapType::Array,
        key_bytes: size_of::<u32>(),
        value_bytes: size_of::<CallPlace>(),
        capacity: None,
        holds: "direct connections before their SYN",
    },
    Shape {
        name: "CALLS",
        kind: MapType::Hash,
        key_bytes: size_of::<u64>(),
        value_bytes: size_of::<Call>(),
        // For microseconds each, except for those that fail: small, so that it stays in the caches.
        capacity: Some(|sizes| (sizes.flows / 64).max(16)),
        holds: "direct connections before their SYN without a place",
    },
    Shape {
        name: "EXPECTED",
        kind: MapType::LruHash,
        key_bytes: size_of::<ExpectedKey>(),
        value_bytes: size_of::<u32>(),
        capacity: Some(|sizes| sizes.workloads.saturating_mul(EXPECTED_ON_AVERAGE)),
        holds: "expected datagrams",
    },
    Shape {
        name: "EXPECTED_PLACES",
        kind: MapType::LruHash,
        key_bytes: size_of::<ExpectedPlace>(),
        value_bytes: size_of::<ExpectedKey>(),
        capacity: Some(|sizes| sizes.workloads.saturating_mul(EXPECTED_ON_AVERAGE)),
        holds: "the order of expected datagrams",
    },
    Shape {
        name: "EXPECTED_TURNS",
        kind: MapType::LruHash,
        key_bytes: size_of::<u64>(),
        value_bytes: size_of::<u32>(),
        capacity: Some(|sizes| sizes.workloads),
        holds: "workloads that expect datagrams",
    },
    Shape {
        name: "GUARDED",
        kind: MapType::Hash,
        key_bytes: size_of::<u32>(),
        value_bytes: size_of::<u64>(),
        capacity: Some(|sizes| sizes.workloads.saturating_mul(ADDRESSES_EACH)),
        holds: "guarded interfaces",
    },
    Shape {
        name: "GRANTS",
        kind: MapType::Hash,
        key_bytes: size_of::<GrantKey>(),
        value_bytes: size_of::<Grant>(),
        capacity: Some(|sizes| sizes.grants),
        holds: "grants",
    },
    Shape {
        name: "GENERATION",
        kind: MapType::Array,
        key_bytes: size_of::<u32>(),
        value_bytes: size_of::<u64>(),
        capacity: None,
        holds: "the generation of grants",
    },
    Shape {
        name: "EVENTS",
        kind: MapType::RingBuf,
        key_bytes: 0,
        value_bytes: 0,
        capacity: Some(|sizes| sizes.event_bytes),
        holds: "events of direct connections",
    },
    Shape {
        name: "SOCKETS",
        kind: MapType::SkStorage,
        key_bytes: size_of::<i32>(),
        value_bytes: size_of::<Flow>(),
        capacity: None,
        holds: "marked sockets",
    },
    Shape {
        name: "COUNTS",
        kind: MapType::PerCpuArray,
        key_bytes: size_of::<u32>(),
        value_bytes: size_of::<u64>(),
        capacity: None,
        holds: "counters",
    },
];
