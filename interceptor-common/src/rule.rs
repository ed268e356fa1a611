//! Which connections of a workload are captured: entries that the agent writes and the kernel
//! reads.

use crate::Address;

/// The protocol number of TCP.
pub const TCP: u8 = 6;

/// What becomes of a connection that a rule or a default matches. Stored as `u32`; zero is no
/// action, and what is not known is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Action {
    /// Leave it alone.
    Pass = 1,
    /// Hand it to the agent.
    Capture = 2,
}

impl Action {
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

/// Data of a key in the outbound rules, a longest-prefix trie.
///
/// The order of the fields is the order of precedence: a rule for one port beats a rule for any
/// port (`port_be` zero, asked second), then the longer address prefix wins. The family keeps
/// `::/0` from meaning IPv4 as well, whose addresses lie inside of it when mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct RuleKey {
    /// The two halves of the workload's key. Not a `u64`, which would need padding inside the
    /// trie's packed key.
    pub workload: [u32; 2],
    /// The destination port in network order, or zero for rules of any port.
    pub port_be: u16,
    /// [`TCP`].
    pub protocol: u8,
    /// [`crate::FAMILY_IPV4`] or [`crate::FAMILY_IPV6`].
    pub family: u8,
    /// The destination.
    pub address: Address,
}

const _: () = assert!(size_of::<RuleKey>() == 28);

impl RuleKey {
    /// Bits before the address: every rule matches on all of them.
    pub const FIXED_BITS: u32 = 96;
    /// Bits of a key with the full address: what a lookup asks for.
    pub const ALL_BITS: u32 = 224;

    /// The halves of `key` as they are stored.
    #[inline]
    pub const fn halves(key: u64) -> [u32; 2] {
        let b = key.to_ne_bytes();
        [
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        ]
    }
}

/// What becomes of a workload's datagrams: the kinds that are refused, or zero if nobody asks.
/// What is asked about and not refused is counted.
#[derive(Clone, Copy, Debug)]
pub struct Udp;

impl Udp {
    /// Nothing is refused, everything counted.
    pub const OBSERVED: u32 = 1;
    /// QUIC: port 443.
    pub const QUIC: u32 = 2;
    /// DNS: port 53.
    pub const DNS: u32 = 4;
    /// Every other port.
    pub const OTHER: u32 = 8;
    /// Everything but questions to port 53 and their answers.
    pub const ALL_BUT_DNS: u32 = Self::QUIC | Self::OTHER;
    /// Everything.
    pub const ALL: u32 = Self::QUIC | Self::DNS | Self::OTHER;
}

/// A datagram that a workload expects although its owner wants none of that kind: an answer to a
/// question that it was allowed to ask, or what it sends to itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ExpectedKey {
    /// The workload's key.
    pub workload: u64,
    /// Where it comes from; [`Address::NONE`] if that is the workload itself.
    pub from: Address,
    /// The port at which it arrives, network order.
    pub port_be: u16,
    /// Always zero.
    pub reserved: [u8; 6],
}

const _: () = assert!(size_of::<ExpectedKey>() == 32);

/// How many datagrams a workload may expect at a time. Its own oldest give way to more.
pub const EXPECTED_EACH: u32 = 256;

/// The place of one datagram that a workload expects, among its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ExpectedPlace {
    /// The workload's key.
    pub workload: u64,
    /// Below [`EXPECTED_EACH`].
    pub place: u32,
    /// Always zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<ExpectedPlace>() == 16);

/// A workload, by its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct WorkloadEntry {
    /// [`crate::HOST_NAMESPACE`], [`crate::PROBER`], [`crate::PLAINTEXT_WITHOUT_AGENT`] or zero.
    pub flags: u32,
    /// [`Action::code`] for outbound connections that no rule matches.
    pub outbound: u32,
    /// For the host's namespace: bit `n` is set if some workload's or prober's cgroup is `n`
    /// levels below the root.
    pub levels: u32,
    /// What becomes of its datagrams: [`Udp`].
    pub udp: u32,
    /// A local IPv4 address: what captured IPv4 connections are rewritten to. [`Address::NONE`]
    /// if there is none.
    pub address4: Address,
    /// The same for IPv6.
    pub address6: Address,
}

const _: () = assert!(size_of::<WorkloadEntry>() == 48);

/// Connections of one workload that passed unprotected because no agent was there and the
/// workload's owner allows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Unserved {
    /// From it.
    pub outbound: u64,
    /// To it.
    pub inbound: u64,
}

const _: () = assert!(size_of::<Unserved>() == 16);

/// A workload's inbound side, by each of its addresses. `sk_lookup` programs cannot ask for the
/// network namespace, so their state hangs on the address, which is unique on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Inbound {
    /// The workload's key.
    pub workload: u64,
    /// [`Action::code`] for ports without an entry of their own.
    pub action: u32,
    /// Always zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Inbound>() == 16);

/// Key of an inbound port that is treated otherwise than the rest; the value is an
/// [`Action::code`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct InboundPortKey {
    /// The workload's address.
    pub address: Address,
    /// The port, network order.
    pub port_be: u16,
    /// Always zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<InboundPortKey>() == 20);

// SAFETY: `repr(transparent)` over four words, valid for any bit pattern.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Address {}

// SAFETY: `repr(C)`, `Copy`, without padding (size asserted above), valid for any bit pattern.
#[cfg(feature = "user")]
unsafe impl aya::Pod for RuleKey {}

// SAFETY: `repr(C)`, `Copy`, without padding (size asserted above), valid for any bit pattern.
#[cfg(feature = "user")]
unsafe impl aya::Pod for WorkloadEntry {}

// SAFETY: `repr(C)`, `Copy`, without padding (size asserted above), valid for any bit pattern.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Unserved {}

// SAFETY: `repr(C)`, `Copy`, without padding (size asserted above), valid for any bit pattern.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Inbound {}

// SAFETY: `repr(C)`, `Copy`, without padding (size asserted above), valid for any bit pattern.
#[cfg(feature = "user")]
unsafe impl aya::Pod for InboundPortKey {}

// SAFETY: `repr(C)`, `Copy`, without padding (size asserted above), valid for any bit pattern.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ExpectedKey {}

// SAFETY: `repr(C)`, `Copy`, without padding (size asserted above), valid for any bit pattern.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ExpectedPlace {}
