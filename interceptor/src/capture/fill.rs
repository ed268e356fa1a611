//! How full the pinned maps are, and what they counted, read without the handles that write them.

use aya::Pod;
use aya::maps::{HashMap as KernelMap, LpmTrie, Map, MapData, PerCpuHashMap, SockHash};
use interceptor_common::{
    Address, Call, ExpectedKey, Flow, FlowKey, Grant, GrantKey, Inbound, InboundPortKey,
    ListenerKey, OpenFlow, RuleKey, Unserved, WorkloadEntry,
};

/// The connections of a workload that passed while no agent was there, if it may have any.
pub(super) fn unserved(map: MapData, key: u64) -> Option<Unserved> {
    let map = Map::from_map_data(map).ok()?;
    let map: PerCpuHashMap<_, u64, Unserved> = map.try_into().ok()?;
    let each = map.get(&key, 0).ok()?;
    Some(each.iter().fold(Unserved::default(), |all, it| Unserved {
        outbound: all.outbound.saturating_add(it.outbound),
        inbound: all.inbound.saturating_add(it.inbound),
    }))
}

/// How many entries a pinned map has; `None` for maps that have no such number.
pub(super) fn count(name: &str, map: MapData) -> Option<usize> {
    match name {
        "WORKLOADS" => keys::<u64, WorkloadEntry>(map),
        "INBOUND" => keys::<Address, Inbound>(map),
        "INBOUND_PORTS" => keys::<InboundPortKey, u32>(map),
        "FLOWS" => keys::<FlowKey, Flow>(map),
        "OPEN" => keys::<FlowKey, OpenFlow>(map),
        "CALLS" => keys::<u64, Call>(map),
        "EXPECTED" => keys::<ExpectedKey, u32>(map),
        "GUARDED" => keys::<u32, u64>(map),
        "UNSERVED" => {
            let map: PerCpuHashMap<_, u64, Unserved> = Map::PerCpuHashMap(map).try_into().ok()?;
            Some(map.keys().count())
        }
        "GRANTS" => keys::<GrantKey, Grant>(map),
        "RULES" => {
            let map: LpmTrie<_, RuleKey, u32> = Map::LpmTrie(map).try_into().ok()?;
            Some(map.keys().count())
        }
        "LISTENERS" => {
            let map: SockHash<_, ListenerKey> = Map::SockHash(map).try_into().ok()?;
            Some(map.keys().count())
        }
        _ => None,
    }
}

/// How many entries a hash map has.
fn keys<K: Pod, V: Pod>(map: MapData) -> Option<usize> {
    let map = Map::from_map_data(map).ok()?;
    let map: KernelMap<_, K, V> = map.try_into().ok()?;
    Some(map.keys().count())
}
