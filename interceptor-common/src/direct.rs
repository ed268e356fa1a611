//! Same-node connections that go from socket to socket: what the agent grants, and what the kernel
//! tells of them.
//!
//! A grant is a verdict that was taken in user space, for one workload and one address. It holds
//! while its generation is the current one, so that one write revokes all of them.

use crate::{Address, Flow, FlowKey};

/// Endpoints that a grant can name.
pub const MAX_TARGETS: usize = 16;

/// [`DirectEvent::fins`]: the initiator's FIN was acknowledged.
pub const FIN_ACKNOWLEDGED: u32 = 1;
/// [`DirectEvent::fins`]: the initiator received a FIN.
pub const FIN_RECEIVED: u32 = 2;

/// [`DirectEvent::error`] where the program could not read it.
pub const UNKNOWN_ERROR: u32 = u32::MAX;

/// Key of a grant: who connects, and to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct GrantKey {
    /// The source workload.
    pub workload: u64,
    /// The address that its application connects to: a workload's own or a Service's.
    pub address: Address,
    /// The port, network order.
    pub port_be: u16,
    /// Always zero.
    pub reserved: [u8; 6],
}

const _: () = assert!(size_of::<GrantKey>() == 32);

/// One endpoint of a grant. Zero in every field means that this share of the connections is the
/// agent's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GrantTarget {
    /// The workload for which the verdict was taken. It must still have the address.
    pub workload: u64,
    /// Its address.
    pub address: Address,
    /// The port, network order; never zero in a real endpoint.
    pub port_be: u16,
    /// Always zero.
    pub reserved: [u8; 6],
}

const _: () = assert!(size_of::<GrantTarget>() == 32);

/// What one workload may connect to directly at one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Grant {
    /// The generation in which the verdict was taken.
    pub generation: u64,
    /// The agent's own mark of that verdict.
    pub tag: u32,
    /// How many of `targets` there are: 1 to [`MAX_TARGETS`]. Each gets an equal share.
    pub count: u32,
    /// The endpoints.
    pub targets: [GrantTarget; MAX_TARGETS],
}

const _: () = assert!(size_of::<Grant>() == 528);

/// Something that happened to a direct connection, as its initiator's socket saw it.
///
/// Numbers are the kernel's own, taken when its state changed to `state`: the agent makes sense of
/// them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DirectEvent {
    /// The connection.
    pub flow: Flow,
    /// Its 4-tuple, after rewriting.
    pub key: FlowKey,
    /// The state that the socket had before, as in `tcp_states.h`.
    pub old_state: u16,
    /// The state that it has now: established or closed.
    pub state: u16,
    /// The cookie of the initiator's socket.
    pub socket: u64,
    /// When, in nanoseconds of the monotonic clock.
    pub at_ns: u64,
    /// Sequence numbers of the initiator that were acknowledged: payload, SYN and FIN.
    pub bytes_acked: u64,
    /// Sequence numbers that the initiator received after the handshake: payload and FIN.
    pub bytes_received: u64,
    /// Eight times the smoothed round trip in microseconds.
    pub srtt_us: u32,
    /// Segments that the initiator sent again.
    pub retransmits: u32,
    /// The socket's error, or [`UNKNOWN_ERROR`].
    pub error: u32,
    /// [`FIN_ACKNOWLEDGED`] and [`FIN_RECEIVED`].
    pub fins: u32,
}

const _: () = assert!(size_of::<DirectEvent>() == 160);

// SAFETY: `repr(C)`, `Copy`, without padding (size asserted above), valid for any bit pattern.
#[cfg(feature = "user")]
unsafe impl aya::Pod for GrantKey {}

// SAFETY: `repr(C)`, `Copy`, without padding (size asserted above), valid for any bit pattern.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Grant {}

// SAFETY: `repr(C)`, `Copy`, without padding (size asserted above), valid for any bit pattern.
#[cfg(feature = "user")]
unsafe impl aya::Pod for DirectEvent {}
