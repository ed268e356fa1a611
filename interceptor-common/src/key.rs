//! Workload keys and the keys of listeners.
//!
//! A workload is known by a number that outlives the agent: the cookie of its network namespace,
//! or, for one that shares the host's namespace, the id of its cgroup with the top bit set.
//! Cookies are counted up from boot and cgroup ids are inode numbers, so neither reaches that
//! bit.

/// Set in the key of a workload that is known by its cgroup.
pub const CGROUP_BIT: u64 = 1 << 63;

/// The key of a host-network workload with this cgroup id.
#[inline]
pub const fn cgroup_key(cgroup: u64) -> u64 {
    cgroup | CGROUP_BIT
}

/// Whether `key` belongs to a host-network workload.
#[inline]
pub const fn is_cgroup_key(key: u64) -> bool {
    key & CGROUP_BIT != 0
}

/// What a listener of the agent is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Role {
    /// Takes the workload's captured outbound connections.
    Outbound = 0,
    /// Takes plaintext connections to the workload.
    Inbound = 1,
    /// Takes HBONE for the workload.
    Hbone = 2,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Outbound, Self::Inbound, Self::Hbone];

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

/// Key of a listening socket of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ListenerKey {
    /// The workload it listens for.
    pub workload: u64,
    /// A [`Role::code`].
    pub role: u32,
    /// [`crate::FAMILY_IPV4`] or [`crate::FAMILY_IPV6`]: a listener takes one family.
    pub family: u32,
}

const _: () = assert!(size_of::<ListenerKey>() == 16);

// SAFETY: `repr(C)`, `Copy`, without padding (size asserted above), valid for any bit pattern.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ListenerKey {}
