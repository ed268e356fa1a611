//! What becomes of connections for which [`FLOWS`] has no room.
//!
//! Nothing gives way in it: a live connection never loses what is known of it to another. Whether there
//! is room shows when the SYN is about to leave, when nothing can be refused any more: then the
//! connection fails by itself, for its SYN is a stranger's to every program that sees it. From there on
//! until something closes, `connect(2)` is refused in the first place, which tells the application at
//! once. What had no room is tried again after a moment, for no close may be noticed.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_setsockopt};
use aya_ebpf::programs::SockOpsContext;
use interceptor_common::{Counter, Flow, FlowKey};

use crate::field::{get, set};
use crate::maps::{CROWDED, FLOWS, count};

/// How long connections are refused after one that had no room.
const MOMENT_NS: u64 = 100_000_000;

/// `IPPROTO_TCP`.
const LEVEL_TCP: i32 = 6;
/// `TCP_USER_TIMEOUT`.
const USER_TIMEOUT: i32 = 18;

/// Whether connections are refused because there is no room.
#[inline]
pub(crate) fn is_missing() -> bool {
    let since = CROWDED.get(0).map_or(0, get);
    // SAFETY: the helper takes nothing.
    since != 0 && unsafe { bpf_ktime_get_ns() }.saturating_sub(since) < MOMENT_NS
}

/// Enters a flow before its SYN leaves, or sees to it that the connection fails soon.
#[inline]
pub(crate) fn enter(ctx: &SockOpsContext, key: &FlowKey, flow: &Flow) {
    if FLOWS.insert(key, flow, 0).is_ok() {
        return;
    }
    count(Counter::FlowNotPublished);
    // SAFETY: the helper takes nothing.
    mark(unsafe { bpf_ktime_get_ns() });
    // Where a guard drops the SYN without a word, this ends it when it would be sent again. Elsewhere
    // a reset does that before.
    let mut milliseconds: u32 = 1;
    let value = (&raw mut milliseconds).cast();
    // SAFETY: the context is the program's, and the value as long as it is said to be.
    let _older_kernels_wait =
        unsafe { bpf_setsockopt(ctx.as_ptr(), LEVEL_TCP, USER_TIMEOUT, value, 4) };
}

/// Forgets a flow that is over. False if it was not there.
#[inline]
pub(crate) fn leave(key: &FlowKey) -> bool {
    let was_there = FLOWS.remove(key).is_ok();
    if was_there && CROWDED.get(0).map_or(0, get) != 0 {
        mark(0);
    }
    was_there
}

/// Notes when there was no room; zero if there is.
#[inline]
fn mark(at: u64) {
    if let Some(slot) = CROWDED.get_ptr_mut(0) {
        // SAFETY: the slot lives as long as the map, and is read and written as one.
        set(unsafe { &mut *slot }, at);
    }
}
