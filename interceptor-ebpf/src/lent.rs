//! Sockets that are used by somebody else than who they belong to.
//!
//! A socket stays in the network namespace in which it was made, and whoever gets hold of it connects
//! from there. One that is brought into a workload would carry its connections out past the agent, by
//! way of the namespace of somebody who is not enrolled. In the host's namespace it is the task that
//! counts and not the socket, so there it is the other way round: a socket of a workload that is
//! brought to somebody who is not enrolled.
//!
//! Both are asked only about sockets that are nobody's, so that nobody else pays for it: what belongs
//! to a workload is captured, whoever uses it. Where the kernel does not describe its structures,
//! neither is known.

use core::ffi::c_void;

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::bpf_get_current_task_btf;
use interceptor_common::{HOST_NAMESPACE, PROBER, WorkloadEntry, cgroup_key};

use crate::settings::{cgroup_offsets, task_offsets};
use crate::tcp::{read, tcp_socket};
use crate::who::{Stranger, entry};

/// How many cgroups above a socket's are asked about; one that is nested deeper is a workload's, as far
/// as anybody knows.
const MOST_CGROUPS: u32 = 32;

/// The workload in whose namespace the calling task is. `namespace` is the socket's, which is no
/// workload's.
#[inline]
pub(crate) fn borrower<'a>(namespace: u64) -> Option<&'a WorkloadEntry> {
    let offsets = task_offsets()?;
    // SAFETY: the helper takes nothing; the verifier sees this call only where it exists.
    let task = unsafe { bpf_get_current_task_btf() };
    let proxy: *mut c_void = read(task, offsets.proxy);
    let tasks: *mut c_void = read(proxy, offsets.namespace);
    let cookie = read(tasks, offsets.cookie);
    // Nearly everybody uses sockets of his own.
    if cookie == namespace {
        return None;
    }
    entry(cookie).filter(|it| it.flags & HOST_NAMESPACE == 0)
}

/// Whether a socket of the host's namespace was made in the cgroup of a workload.
///
/// `socket` is that of the context of a `sock_addr` program.
#[inline]
pub(crate) fn is_from_workload(stranger: Stranger, socket: *mut bpf_sock) -> bool {
    let levels = stranger.levels;
    if levels == 0 {
        return false;
    }
    let Some(offsets) = cgroup_offsets() else {
        return false;
    };
    // SAFETY: the caller vouches for the socket.
    let Some(tcp) = (unsafe { tcp_socket(socket) }) else {
        return false;
    };
    let mut cgroup: *mut c_void = read(tcp, offsets.of_socket);
    let mut steps = 0;
    while steps < MOST_CGROUPS {
        let level: u32 = read(cgroup, offsets.level);
        if level == 0 {
            return false;
        }
        if level < u32::BITS && levels & (1 << level) != 0 {
            let node: *mut c_void = read(cgroup, offsets.node);
            if entry(cgroup_key(read(node, offsets.id))).is_some_and(|it| it.flags & PROBER == 0) {
                return true;
            }
        }
        let parent: *mut c_void = read(cgroup, offsets.parent);
        cgroup = read(parent, offsets.of_parent);
        steps += 1;
    }
    true
}
