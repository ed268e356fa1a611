//! What the kernel remembers of a connection, by socket and by 4-tuple.

use crate::Address;

/// What a connection is to the datapath. The kind decides who may receive it.
///
/// Stored as `u32`; zero is no kind, so that fresh storage means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FlowKind {
    /// Left alone by a capture rule. Opens no door; known so that its SYN may leave.
    Passed = 1,
    /// Captured: rewritten to the workload's own address, goes to the agent's outbound listener.
    /// The address is the original destination.
    Redirected = 2,
    /// Straight to the application of another workload of this node, as the agent granted. Opens
    /// that door until it is accepted. The address is what the application connected to.
    Direct = 3,
    /// The agent's own leg to a peer. Opens no door: at a local workload it is steered like any
    /// other connection.
    Agent = 4,
    /// The agent's leg to the application of a local workload: opens that door until it is
    /// accepted. The address is the true client.
    AgentInbound = 5,
    /// A probe from the node's recognised prober: opens the door until it is accepted.
    Host = 6,
    /// In an accepted socket of the agent: the address is the original destination.
    AcceptedOutbound = 7,
    /// In an accepted socket of an application: the address is the true client.
    AcceptedInbound = 8,
    /// A workload talking to itself: opens its own door until it is accepted.
    Own = 9,
    /// A connection that opened a door and was accepted. Opens none any more; known until its close.
    Settled = 10,
}

impl FlowKind {
    /// The number that is stored.
    #[inline]
    #[expect(
        clippy::as_conversions,
        reason = "the discriminant of a repr(u32) enum"
    )]
    pub const fn code(self) -> u32 {
        self as u32
    }
}

/// A connection's 4-tuple as its initiator sees it.
///
/// All four, because anything less hands a connection the destination of another one as soon as
/// ports are reused quickly (3 in 54,000 with the source alone).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// The initiator's address.
    pub source: Address,
    /// The address that is connected to, after rewriting.
    pub destination: Address,
    /// The initiator's port, network order.
    pub source_port_be: u16,
    /// The port that is connected to, after rewriting, network order.
    pub destination_port_be: u16,
}

const _: () = assert!(size_of::<FlowKey>() == 36);

/// What is remembered of a connection: the value of the flows map and of a socket's storage, and
/// part of the value of the table of direct connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// Key of the workload it belongs to: the initiator's, or, for the agent's leg to an
    /// application, the application's.
    pub workload: u64,
    /// Cgroup of the task that called `connect(2)`.
    pub cgroup: u64,
    /// When it did, in nanoseconds of the monotonic clock.
    pub since_ns: u64,
    /// Key of the workload that may accept a direct connection; else zero.
    pub destination: u64,
    /// Generation of the grant that was applied, zero if there was none. In a captured connection
    /// it says that the grant left this one to the agent.
    pub generation: u64,
    /// Original destination or true client, as the kind says.
    pub address: Address,
    /// The port to `address`, network order.
    pub port_be: u16,
    /// Always zero.
    pub reserved: [u8; 2],
    /// A [`FlowKind::code`].
    pub kind: u32,
    /// The tag of the grant that was applied.
    pub tag: u32,
    /// The number of the initiator's SYN: who accepts a connection sees by it that this is the one, and not
    /// a later one of the same 4-tuple. Zero where it is not known.
    pub sequence: u32,
}

const _: () = assert!(size_of::<Flow>() == 72);

/// A direct connection in the table of those: from before its SYN until its close.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct OpenFlow {
    /// What is remembered of it. Of kind [`FlowKind::Direct`] until it is accepted, then
    /// [`FlowKind::Settled`].
    pub flow: Flow,
    /// The cookie of the initiator's socket, which no other socket ever has.
    pub socket: u64,
}

const _: () = assert!(size_of::<OpenFlow>() == 80);

impl Flow {
    /// Whether it is of this kind.
    #[inline]
    pub const fn is(&self, kind: FlowKind) -> bool {
        self.kind == kind.code()
    }
}

// SAFETY: `repr(C)`, `Copy`, without padding (size asserted above), valid for any bit pattern.
#[cfg(feature = "user")]
unsafe impl aya::Pod for FlowKey {}

// SAFETY: `repr(C)`, `Copy`, without padding (size asserted above), valid for any bit pattern.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Flow {}

// SAFETY: `repr(C)`, `Copy`, without padding (size asserted above), valid for any bit pattern.
#[cfg(feature = "user")]
unsafe impl aya::Pod for OpenFlow {}
