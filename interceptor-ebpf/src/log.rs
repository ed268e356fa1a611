//! What the programs log when they are told to. Off by default: the level is a constant to the
//! verifier, which then removes all of this, so it costs nothing.
//!
//! The functions are not inlined, to keep the buffers of the log off the programs' small stack.

use aya_log_ebpf::debug;
use interceptor_common::FlowKey;

use crate::sock_addr::Endpoint;

/// A connection was captured on its way to this destination.
#[inline(never)]
pub(crate) fn captured(to: &Endpoint) {
    debug!(
        (),
        "captured: {:i} port {}",
        to.address.octets(),
        u16::from_be(to.port_be)
    );
}

/// A connection goes straight to this endpoint.
#[inline(never)]
pub(crate) fn direct(to: &Endpoint) {
    debug!(
        (),
        "direct: {:i} port {}",
        to.address.octets(),
        u16::from_be(to.port_be)
    );
}

/// A `connect(2)` was refused with this errno.
#[inline(never)]
pub(crate) fn refused(errno: i32) {
    debug!((), "connect refused: errno {}", errno);
}

/// A connection arrived that may not go straight to the application.
#[inline(never)]
pub(crate) fn steered(key: &FlowKey) {
    debug!(
        (),
        "steered: {:i} port {} to {:i} port {}",
        key.source.octets(),
        u16::from_be(key.source_port_be),
        key.destination.octets(),
        u16::from_be(key.destination_port_be)
    );
}
