//! Reading the kernel's own `tcp_sock`, where its fields are known (settings.rs).

use aya_ebpf::bindings::{bpf_sock, tcp_sock};
use aya_ebpf::helpers::generated::bpf_skc_to_tcp_sock;

use crate::settings::{callbacks_at, deferral, offsets};

/// The kernel's structure of this socket, if it is a TCP socket.
///
/// # Safety
///
/// `socket` must come from the context of the running program.
#[inline]
pub(crate) unsafe fn tcp_socket(socket: *mut bpf_sock) -> Option<*mut tcp_sock> {
    // SAFETY: the caller vouches for the socket.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket.cast()) };
    (!tcp.is_null()).then_some(tcp)
}

/// Reads one field of a structure of the kernel's: of a TCP socket, or of what a field points to.
#[inline]
pub(crate) fn read<S, T: Copy>(of: *mut S, offset: u32) -> T {
    let offset = usize::try_from(offset).unwrap_or(0);
    let field = of.wrapping_byte_add(offset).cast::<T>();
    // SAFETY: the verifier refuses an offset at which there is no such field.
    unsafe { field.read_volatile() }
}

/// Whether the SYN certainly leaves within `connect(2)`, if any does. With `TCP_FASTOPEN_CONNECT` it
/// leaves with the first data.
///
/// # Safety
///
/// `socket` must come from the context of the running program.
#[inline]
pub(crate) unsafe fn leaves_at_once(socket: *mut bpf_sock) -> bool {
    let Some(deferral) = deferral() else {
        return false;
    };
    // SAFETY: the caller vouches for the socket.
    let tcp = unsafe { tcp_socket(socket) };
    tcp.is_some_and(|tcp| read::<_, u8>(tcp, deferral.at) & deferral.bit == 0)
}

/// The number of what the socket sends next: of its SYN, when that is about to leave. Zero if the kernel's
/// structures are not known.
///
/// # Safety
///
/// `socket` must come from the context of the running program.
#[inline]
pub(crate) unsafe fn next_sequence(socket: *mut bpf_sock) -> u32 {
    let Some(offsets) = offsets() else {
        return 0;
    };
    // SAFETY: the caller vouches for the socket.
    let tcp = unsafe { tcp_socket(socket) };
    tcp.map_or(0, |tcp| read(tcp, offsets.write_sequence))
}

/// Whether programs may be told of changes of this socket's state, as of those that initiated a flow.
/// False only of others: a look that costs less than looking for the flow.
///
/// # Safety
///
/// `socket` must come from the context of the running program.
#[inline]
pub(crate) unsafe fn may_have_flow(socket: *mut bpf_sock) -> bool {
    let Some(at) = callbacks_at() else {
        return true;
    };
    // SAFETY: the caller vouches for the socket.
    let tcp = unsafe { tcp_socket(socket) };
    tcp.is_some_and(|tcp| read::<_, u8>(tcp, at) != 0)
}
