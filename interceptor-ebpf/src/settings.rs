//! What the agent tells the programs when it loads them. Constants to the verifier, which removes
//! the code that they switch off.

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::bpf_set_retval;

/// The port at which every workload takes HBONE, host order.
#[unsafe(no_mangle)]
static HBONE_PORT: Global<u16> = Global::new(15_008);

/// Not zero if the kernel lets a program choose the errno of a refused call (5.18 and later).
#[unsafe(no_mangle)]
static CHOOSE_ERRNO: Global<u8> = Global::new(0);

/// Not zero if the kernel surely compiles compare-and-exchange for this machine (5.18 and later).
#[unsafe(no_mangle)]
static EXCHANGE: Global<u8> = Global::new(0);

/// Not zero if the kernel tells lookup programs over which interface a packet came (5.17 and later).
#[unsafe(no_mangle)]
static TELL_INTERFACE: Global<u8> = Global::new(0);

/// Where `sk_err`, `sk_flags` and `write_seq` are in this kernel's `tcp_sock`; zero in all of them
/// if that is not known.
#[unsafe(no_mangle)]
static SOCKET_ERROR: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SOCKET_FLAGS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static WRITE_SEQUENCE: Global<u32> = Global::new(0);

/// Where `fastopen_connect` is in this kernel's `tcp_sock`: its byte, and its bit as a mask, which is
/// zero if that is not known.
#[unsafe(no_mangle)]
static DEFERRAL_AT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static DEFERRAL_BIT: Global<u8> = Global::new(0);

/// Where `bpf_sock_ops_cb_flags` is in this kernel's `tcp_sock`; zero if that is not known.
#[unsafe(no_mangle)]
static CALLBACKS_AT: Global<u32> = Global::new(0);

/// Where a task's namespaces are in this kernel's `task_struct`, the network's among them, and its
/// cookie in that; zero in the first if that is not known.
#[unsafe(no_mangle)]
static TASK_PROXY: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TASK_NAMESPACE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TASK_COOKIE: Global<u32> = Global::new(0);

/// Where its cgroup is in this kernel's `tcp_sock`, and in that its level, its node and the node's
/// number, its parent's state and that one's cgroup; zero in the first if that is not known.
#[unsafe(no_mangle)]
static CGROUP_OF_SOCKET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static CGROUP_LEVEL: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static CGROUP_NODE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static CGROUP_ID: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static CGROUP_PARENT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static CGROUP_OF_PARENT: Global<u32> = Global::new(0);

/// `EPERM`: what it would see under a packet filter.
pub(crate) const NOT_PERMITTED: i32 = 1;
/// `ECONNREFUSED`: what the application would see of a port that nobody listens on.
pub(crate) const CONNECTION_REFUSED: i32 = 111;
/// `ENETUNREACH`: what it would see without an address of that family.
pub(crate) const NETWORK_UNREACHABLE: i32 = 101;
/// `EINVAL`: what it would see when bound to loopback.
pub(crate) const INVALID: i32 = 22;
/// `EPROTONOSUPPORT`: runtimes fall back to plain TCP.
pub(crate) const PROTOCOL_NOT_SUPPORTED: i32 = 93;

/// The HBONE port, host order.
#[inline]
pub(crate) fn hbone_port() -> u32 {
    u32::from(HBONE_PORT.load())
}

/// Whether numbers in maps can be compared and exchanged.
#[inline]
pub(crate) fn can_exchange() -> bool {
    EXCHANGE.load() != 0
}

/// Whether lookup programs are told over which interface a packet came.
#[inline]
pub(crate) fn tells_interface() -> bool {
    TELL_INTERFACE.load() != 0
}

/// Offsets in this kernel's `tcp_sock`.
pub(crate) struct Offsets {
    pub(crate) error: u32,
    pub(crate) flags: u32,
    pub(crate) write_sequence: u32,
}

/// The offsets, if they are known.
#[inline]
pub(crate) fn offsets() -> Option<Offsets> {
    let error = SOCKET_ERROR.load();
    (error != 0).then(|| Offsets {
        error,
        flags: SOCKET_FLAGS.load(),
        write_sequence: WRITE_SEQUENCE.load(),
    })
}

/// A bit in this kernel's `tcp_sock`.
pub(crate) struct Bit {
    pub(crate) at: u32,
    pub(crate) bit: u8,
}

/// The bit that says that the SYN waits for data, if it is known.
#[inline]
pub(crate) fn deferral() -> Option<Bit> {
    let bit = DEFERRAL_BIT.load();
    (bit != 0).then(|| Bit {
        at: DEFERRAL_AT.load(),
        bit,
    })
}

/// Where the byte is that says which changes of a socket programs are told, if that is known.
#[inline]
pub(crate) fn callbacks_at() -> Option<u32> {
    let at = CALLBACKS_AT.load();
    (at != 0).then_some(at)
}

/// The way from a task to the cookie of its network namespace.
pub(crate) struct TaskOffsets {
    pub(crate) proxy: u32,
    pub(crate) namespace: u32,
    pub(crate) cookie: u32,
}

/// That way, if it is known.
#[inline]
pub(crate) fn task_offsets() -> Option<TaskOffsets> {
    let proxy = TASK_PROXY.load();
    (proxy != 0).then(|| TaskOffsets {
        proxy,
        namespace: TASK_NAMESPACE.load(),
        cookie: TASK_COOKIE.load(),
    })
}

/// The way from a TCP socket to the cgroup in which it was made, and to those above.
pub(crate) struct CgroupOffsets {
    pub(crate) of_socket: u32,
    pub(crate) level: u32,
    pub(crate) node: u32,
    pub(crate) id: u32,
    pub(crate) parent: u32,
    pub(crate) of_parent: u32,
}

/// That way, if it is known.
#[inline]
pub(crate) fn cgroup_offsets() -> Option<CgroupOffsets> {
    let of_socket = CGROUP_OF_SOCKET.load();
    (of_socket != 0).then(|| CgroupOffsets {
        of_socket,
        level: CGROUP_LEVEL.load(),
        node: CGROUP_NODE.load(),
        id: CGROUP_ID.load(),
        parent: CGROUP_PARENT.load(),
        of_parent: CGROUP_OF_PARENT.load(),
    })
}

/// Chooses the errno that the refused system call returns; without this it is `EPERM`.
#[inline]
pub(crate) fn fail_with(errno: i32) {
    if CHOOSE_ERRNO.load() != 0 {
        // SAFETY: the helper takes a number; the verifier sees this call only where it exists.
        let _previous = unsafe { bpf_set_retval(-errno) };
    }
}
