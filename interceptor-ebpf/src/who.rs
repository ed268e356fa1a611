//! Whose socket a system call is about: the workload, or the node's prober, found by the kernel's
//! own knowledge.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie};
use interceptor_common::{HOST_NAMESPACE, MAX_CGROUP_LEVEL, PROBER, WorkloadEntry, cgroup_key};

use crate::maps::WORKLOADS;

/// The workload that a socket belongs to, or the prober.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub(crate) key: u64,
    pub(crate) entry: WorkloadEntry,
}

impl Source {
    /// Whether this is the node's prober and no workload.
    #[inline]
    pub(crate) const fn is_prober(&self) -> bool {
        self.entry.flags & PROBER != 0
    }
}

/// Where a socket is that belongs to no workload.
#[derive(Clone, Copy)]
pub(crate) struct Stranger {
    /// The cookie of its namespace.
    pub(crate) namespace: u64,
    /// In the host's namespace, how deep workloads' cgroups are, as bits; else zero.
    pub(crate) levels: u32,
}

/// The workload that the socket belongs to; nobody if it is the prober's.
///
/// `ctx` is that of a `sock_addr` or `cgroup_sock` program; other types have no such helper, and
/// the verifier refuses them.
#[inline]
pub(crate) fn workload_of(ctx: *mut c_void) -> Option<Source> {
    source(ctx).ok().filter(|source| !source.is_prober())
}

/// The workload that the socket's namespace belongs to; in the host's namespace, the one whose
/// cgroup the connecting task is in, or the prober's, the deepest if they are nested.
///
/// `ctx` is as for [`workload_of`].
#[inline]
pub(crate) fn source(ctx: *mut c_void) -> Result<Source, Stranger> {
    let namespace = namespace(ctx);
    let Some(source) = workload(namespace) else {
        return Err(Stranger {
            namespace,
            levels: 0,
        });
    };
    if source.entry.flags & HOST_NAMESPACE == 0 {
        return Ok(source);
    }
    let levels = source.entry.levels;
    let mut level = MAX_CGROUP_LEVEL;
    while level > 0 {
        if levels & (1 << level) != 0
            && let Some(source) = workload(cgroup_key(ancestor(level)))
        {
            return Ok(source);
        }
        level -= 1;
    }
    Err(Stranger { namespace, levels })
}

/// The cookie of the socket's namespace.
///
/// `ctx` is as for [`workload_of`].
#[inline]
pub(crate) fn namespace(ctx: *mut c_void) -> u64 {
    // SAFETY: the helper reads the context that the running program was given.
    unsafe { bpf_get_netns_cookie(ctx) }
}

/// The id of the current task's cgroup at `level`, or zero if it is not that deep.
#[inline]
fn ancestor(level: u32) -> u64 {
    // SAFETY: the helper takes a number.
    unsafe { bpf_get_current_ancestor_cgroup_id(level.cast_signed()) }
}

/// The workload with this key, copied at once.
#[inline]
fn workload(key: u64) -> Option<Source> {
    let entry = *entry(key)?;
    Some(Source { key, entry })
}

/// What is known of the workload with this key, not copied: the stack is short.
#[inline]
pub(crate) fn entry<'a>(key: u64) -> Option<&'a WorkloadEntry> {
    // SAFETY: the agent replaces entries and does not edit them; an old one is freed after the program
    // has ended.
    unsafe { WORKLOADS.get(key) }
}
