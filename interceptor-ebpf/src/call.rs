//! A direct connection between the two moments in which something is known of it: `connect(2)`, when
//! its 4-tuple is not complete, and the SYN, when nobody knows any more what was asked for.
//!
//! Nearly always both are in one system call. Then an entry of a map carries what is known from the
//! one to the other, by the cookie of the socket, wherever the task is by then. That spares the socket
//! a storage of its own, which is two allocations, and two frees after a grace period.
//!
//! A call that fails before its SYN (no route, no port) leaves its entry behind. It says what it said
//! if the same socket connects to the same endpoint again, until the agent removes it. Who finds no room
//! remembers in the socket.

use interceptor_common::{Call, OpenFlow};

use crate::maps::CALLS;
use crate::sock_addr::Endpoint;

/// Leaves what is known of a connection to this endpoint to its SYN. False if there is no room.
#[inline]
#[must_use]
pub(crate) fn leave(open: OpenFlow, endpoint: Endpoint) -> bool {
    let call = Call {
        open,
        address: endpoint.address,
        port_be: endpoint.port_be,
        reserved: [0; 6],
    };
    CALLS.insert(open.socket, call, 0).is_ok()
}

/// Does something with what was left for the socket with this cookie, if anything was. Nobody else
/// writes that meanwhile: the socket is locked.
#[inline]
pub(crate) fn collect(socket: u64, with: impl FnOnce(&mut Call)) {
    let Some(call) = CALLS.get_ptr_mut(socket) else {
        return;
    };
    // SAFETY: the entry lives until the program ends, and only this socket's calls write it.
    with(unsafe { &mut *call });
    // What is gone already was to go.
    let _gone = CALLS.remove(socket);
}
