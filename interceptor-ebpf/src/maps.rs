//! Every map, who writes it, and how large it is.
//!
//! Sizes here are defaults; the agent sets them from its configuration when it loads the object.
//! All maps are pinned and outlive the agent.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{
    Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, SkStorage, SockHash,
    lpm_trie::Key,
};
use aya_ebpf::macros::btf_map;
use interceptor_common::{
    Address, CALL_PLACES, COUNTERS, Call, CallPlace, Counter, DirectEvent, ExpectedKey,
    ExpectedPlace, Flow, FlowKey, Grant, GrantKey, Inbound, InboundPortKey, ListenerKey, OpenFlow,
    RuleKey, Unserved, WorkloadEntry,
};

/// Workloads by key. Written by the agent; an entry appears last at enrolment and goes first.
#[btf_map]
pub(crate) static WORKLOADS: HashMap<u64, WorkloadEntry, 1024> = HashMap::new();

/// Outbound capture rules. Written by the agent.
#[btf_map]
pub(crate) static RULES: LpmTrie<RuleKey, u32, 65_536> = LpmTrie::new();

/// Inbound side of workloads by address. Written by the agent.
#[btf_map]
pub(crate) static INBOUND: HashMap<Address, Inbound, 4096> = HashMap::new();

/// Inbound ports that differ from their workload's default. Written by the agent.
#[btf_map]
pub(crate) static INBOUND_PORTS: HashMap<InboundPortKey, u32, 16_384> = HashMap::new();

/// The agent's listeners. Written by the agent; a socket that closes leaves by itself, which is
/// how the kernel knows that the agent is gone.
#[btf_map]
pub(crate) static LISTENERS: SockHash<ListenerKey, 8192> = SockHash::new();

/// Workloads whose connections may pass while no agent listens for them, and how many did. The
/// entry is the permission. Written by the agent, counted by the kernel.
#[btf_map]
pub(crate) static UNSERVED: PerCpuHashMap<u64, Unserved, 1024> = PerCpuHashMap::new();

/// Live flows by 4-tuple, from before the SYN until close, except for those in [`OPEN`]. Written by
/// the kernel.
///
/// Least recently used entries give way. A flow is looked up during its handshake only, and one
/// that was lost meanwhile is refused or sent to the agent, never let through.
#[btf_map]
pub(crate) static FLOWS: LruHashMap<FlowKey, Flow, 65_536> = LruHashMap::new();

/// Direct connections by 4-tuple, from before the SYN until close. Written by the kernel; the agent
/// reads them, and removes those whose sockets are gone.
///
/// Nothing gives way: it is what the agent lists, and where an end finds what it is the end of. What
/// has no room is a flow that its socket remembers.
#[btf_map]
pub(crate) static OPEN: HashMap<FlowKey, OpenFlow, 16_384> = HashMap::new();

/// Calls to connect(2) that lead to such connections, until their SYNs leave, in the places of their
/// sockets. Written by the kernel.
///
/// Mapped by nobody: so it begins with a page, and no place is in more lines of a cache than it fills.
#[btf_map]
pub(crate) static PLACES: Array<CallPlace, { call_places() }, { mapped() }> = Array::new();

/// Those whose place was taken, by the cookie of the socket. Written by the kernel.
///
/// An entry is there for microseconds. Those of calls that failed before their SYN stay, and the agent
/// removes them.
#[btf_map]
pub(crate) static CALLS: HashMap<u64, Call, 1024> = HashMap::new();

/// Datagrams that workloads expect although their owners want none, to the turns in which they asked
/// for them last. Written by the kernel.
///
/// Least recently used entries give way: an answer that nobody remembers is refused, and asked for
/// again. No workload has more than its share of them, see [`EXPECTED_PLACES`].
#[btf_map]
pub(crate) static EXPECTED: LruHashMap<ExpectedKey, u32, 16_384> = LruHashMap::new();

/// What each workload expects, in the order in which it asked. Written by the kernel.
#[btf_map]
pub(crate) static EXPECTED_PLACES: LruHashMap<ExpectedPlace, ExpectedKey, 16_384> =
    LruHashMap::new();

/// How often each workload has asked. Written by the kernel.
#[btf_map]
pub(crate) static EXPECTED_TURNS: LruHashMap<u64, u32, 1024> = LruHashMap::new();

/// Which workload is behind an interface of the host's, by its index. Written by the agent.
#[btf_map]
pub(crate) static GUARDED: HashMap<u32, u64, 4096> = HashMap::new();

/// What workloads may connect to directly. Written by the agent. Entries are large and mostly few,
/// so memory is taken as they come.
#[btf_map]
pub(crate) static GRANTS: HashMap<GrantKey, Grant, 16_384, { no_prealloc() }> = HashMap::new();

/// The current generation of grants; others are not applied. Mapped into the agent's memory,
/// so that it is written as one.
#[btf_map]
static GENERATION: Array<u64, 1, { mapped() }> = Array::new();

/// What happens to direct connections. Written by the kernel, read by one agent.
#[btf_map]
pub(crate) static EVENTS: RingBuf<DirectEvent, 1_048_576> = RingBuf::new();

/// What is known of a socket. Written by the kernel, and by the agent for its own sockets.
#[btf_map]
pub(crate) static SOCKETS: SkStorage<Flow> = SkStorage::new();

/// Outcomes, one number per CPU. Written by the kernel.
#[btf_map]
static COUNTS: PerCpuArray<u64, { counters() }> = PerCpuArray::new();

/// The key under which the trie is asked for everything that matches `data`.
#[inline]
pub(crate) const fn full_key(data: RuleKey) -> Key<RuleKey> {
    Key::new(RuleKey::ALL_BITS, data)
}

/// Counts one `outcome`.
///
/// A plain addition: a CPU that is interrupted between load and store by another program loses
/// one count, which is right for metrics and cheaper than an atomic.
#[inline]
pub(crate) fn count(outcome: Counter) {
    if let Some(slot) = COUNTS.get_ptr_mut(outcome.index()) {
        // SAFETY: the slot is this CPU's, and lives as long as the map.
        unsafe { *slot += 1 };
    }
}

/// Whether grants and flows of this generation hold.
#[inline]
pub(crate) fn is_current(generation: u64) -> bool {
    GENERATION
        .get(0)
        .is_some_and(|current| *current == generation)
}

/// `BPF_F_NO_PREALLOC` as a map's flags.
#[expect(clippy::as_conversions, reason = "const context; a small constant")]
const fn no_prealloc() -> usize {
    BPF_F_NO_PREALLOC as usize
}

/// `BPF_F_MMAPABLE` as a map's flags.
#[expect(clippy::as_conversions, reason = "const context; a small constant")]
const fn mapped() -> usize {
    BPF_F_MMAPABLE as usize
}

/// [`CALL_PLACES`] as a map size.
#[expect(clippy::as_conversions, reason = "const context; a small constant")]
const fn call_places() -> usize {
    CALL_PLACES as usize
}

/// [`COUNTERS`] as a map size.
#[expect(clippy::as_conversions, reason = "const context; a small constant")]
const fn counters() -> usize {
    COUNTERS as usize
}
