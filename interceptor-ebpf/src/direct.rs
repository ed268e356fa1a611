//! Which connections go straight to a workload of this node.
//!
//! The verdict is the agent's; what is checked here is only what may have changed since: that the
//! grant is of the current generation, and that the workload for which it was given still has the
//! address. In doubt the connection takes the agent's path, where it is decided anew.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use interceptor_common::{Address, Counter, Grant, GrantKey, GrantTarget, MAX_TARGETS};

use crate::maps::{GRANTS, INBOUND, count, is_current};
use crate::sock_addr::Endpoint;
use crate::who::Source;

/// Whose share a connection is.
pub(crate) enum Share {
    /// It goes straight to an endpoint.
    Direct(Granted),
    /// It goes to the agent.
    Agents {
        /// Generation of the grant that says so; zero if there is none that holds.
        generation: u64,
    },
}

/// An endpoint that a workload may be connected to.
pub(crate) struct Granted {
    pub(crate) endpoint: Endpoint,
    pub(crate) workload: u64,
    pub(crate) generation: u64,
    pub(crate) tag: u32,
}

/// Nothing was granted, or it does not hold any more.
const NOTHING: Share = Share::Agents { generation: 0 };

/// Whose share the connection of `source` to this destination is.
#[inline]
pub(crate) fn share(source: &Source, to: Endpoint) -> Share {
    let key = GrantKey {
        workload: source.key,
        address: to.address,
        port_be: to.port_be,
        reserved: [0; 6],
    };
    // SAFETY: the agent replaces grants and does not edit them; an old one is freed after the
    // program has ended.
    let Some(grant) = (unsafe { GRANTS.get(key) }) else {
        return NOTHING;
    };
    let Some(target) = draw(grant) else {
        return NOTHING;
    };
    if !is_current(grant.generation) {
        return outdated();
    }
    if target.port_be == 0 {
        count(Counter::DirectElsewhere);
        let generation = grant.generation;
        return Share::Agents { generation };
    }
    if !is_at(target.address, target.workload) {
        return outdated();
    }
    Share::Direct(Granted {
        endpoint: Endpoint {
            address: target.address,
            port_be: target.port_be,
        },
        workload: target.workload,
        generation: grant.generation,
        tag: grant.tag,
    })
}

/// One endpoint of the grant, each as likely as any other.
#[inline]
fn draw(grant: &Grant) -> Option<&GrantTarget> {
    let count = grant.count;
    let drawn = if count > 1 {
        // SAFETY: the helper takes nothing.
        let random = unsafe { bpf_get_prandom_u32() };
        random % count
    } else {
        0
    };
    // The verifier does not follow the remainder, and does follow this.
    let index = usize::try_from(drawn).ok()? % MAX_TARGETS;
    grant.targets.get(index)
}

/// Whether the workload with this key has the address.
#[inline]
pub(crate) fn is_at(address: Address, workload: u64) -> bool {
    // SAFETY: one field is read at once.
    unsafe { INBOUND.get(address) }.is_some_and(|inbound| inbound.workload == workload)
}

/// Counts a grant that does not hold any more.
#[inline]
fn outdated() -> Share {
    count(Counter::DirectOutdated);
    NOTHING
}
