//! Connections of workloads for which no agent listens, where the owner wants them to pass.
//!
//! Whether the agent is there is asked of the map of listeners: a listener leaves it in the moment
//! in which its process ends, so there is no interval in which a dead agent counts as alive, no
//! clock, and no agent that is busy and counts as dead.

use core::ptr;

use aya_ebpf::helpers::generated::{bpf_map_lookup_elem, bpf_sk_release};
use interceptor_common::ListenerKey;

use crate::maps::{LISTENERS, UNSERVED};

/// Which way a connection goes, seen from the workload.
#[derive(Clone, Copy)]
pub(crate) enum Direction {
    Outbound,
    Inbound,
}

/// Whether somebody listens under `key`.
#[inline]
pub(crate) fn is_served(key: &ListenerKey) -> bool {
    let map = (&raw const LISTENERS).cast_mut().cast();
    // SAFETY: the map is a map, and the key is of its type.
    let listener = unsafe { bpf_map_lookup_elem(map, ptr::from_ref(key).cast()) };
    if listener.is_null() {
        return false;
    }
    // SAFETY: the lookup gave a reference to the socket, which goes back here.
    let _always_zero = unsafe { bpf_sk_release(listener) };
    true
}

/// Counts a connection of `workload` that passes without an agent. False if it may not.
#[inline]
pub(crate) fn may_pass(workload: u64, direction: Direction) -> bool {
    let Some(unserved) = UNSERVED.get_ptr_mut(workload) else {
        return false;
    };
    // SAFETY: the entry is this CPU's, and lives as long as the map.
    let unserved = unsafe { &mut *unserved };
    match direction {
        Direction::Outbound => unserved.outbound += 1,
        Direction::Inbound => unserved.inbound += 1,
    }
    true
}
