//! What a workload's entries should be: a pure function of the workload and of what its network
//! namespace looks like.

use std::io;
use std::net::IpAddr;

use interceptor_common::{
    Action, Address, Inbound, InboundPortKey, PLAINTEXT_WITHOUT_AGENT, Udp, WorkloadEntry,
};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::maps::Entries;
use super::rules::Compiled;
use crate::net::mapped;
use crate::workload::{OnAgentDown, UdpRule, Workload};

/// What a workload's entries depend on besides the workload itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The workload's key.
    pub(super) key: u64,
    /// Addresses of the interfaces in its namespace, without loopback and link-local ones.
    pub(super) local: Vec<IpAddr>,
    /// Of those, the ones that another workload has, and that are left out therefore.
    pub(super) left: Vec<Address>,
    /// Whether connections to it are steered: true in a namespace of its own.
    pub(super) steered: bool,
}

impl Place {
    /// Every address of the workload: those that the mesh knows and those that its interfaces
    /// have. One that the mesh has not heard of is steered as well, or it would be a way around.
    pub(super) fn addresses(&self, workload: &Workload) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = workload
            .addresses
            .iter()
            .map(IpAddr::to_canonical)
            .collect();
        all.extend(&self.local);
        all.sort_unstable();
        all.dedup();
        all
    }

    /// What captured connections of a family are rewritten to: a known address of the workload
    /// if its namespace has it, else any that the namespace has. Never one that it has not, or
    /// the connection would leave.
    fn target(&self, workload: &Workload, family: fn(&IpAddr) -> bool) -> Address {
        let known = workload.addresses.iter().map(IpAddr::to_canonical);
        let mut known = known.filter(|address| self.local.contains(address));
        let found = known
            .find(family)
            .or_else(|| self.local.iter().copied().find(family));
        found.map_or(Address::NONE, mapped)
    }

    /// The entries of `workload` here.
    pub(super) fn entries(&self, workload: &Workload) -> Entries {
        let rules = Compiled::new(&workload.capture);
        let mut entries = Entries {
            workload: Some(WorkloadEntry {
                flags: match workload.capture.on_agent_down {
                    OnAgentDown::Refuse => 0,
                    OnAgentDown::AllowPlaintext => PLAINTEXT_WITHOUT_AGENT,
                },
                outbound: rules.outbound_default.code(),
                levels: 0,
                udp: refused_udp(workload.capture.udp),
                address4: self.target(workload, IpAddr::is_ipv4),
                address6: self.target(workload, IpAddr::is_ipv6),
            }),
            rules: rules
                .trie(self.key)
                .map(|(bits, data, action)| ((bits, data), action.code()))
                .collect(),
            ..Entries::default()
        };
        if self.steered {
            for address in self.addresses(workload) {
                steer(&mut entries, self.key, mapped(address), &rules);
            }
        }
        entries
    }
}

/// The kinds of datagrams that are refused, as the kernel reads it.
const fn refused_udp(rule: UdpRule) -> u32 {
    match rule {
        UdpRule::Allow => 0,
        UdpRule::Observe => Udp::OBSERVED,
        UdpRule::DenyQuic => Udp::QUIC,
        UdpRule::DenyExceptDns => Udp::ALL_BUT_DNS,
        UdpRule::Deny => Udp::ALL,
    }
}

/// Adds the inbound entries of one address.
fn steer(entries: &mut Entries, key: u64, address: Address, rules: &Compiled) {
    entries.inbound.insert(
        address,
        Inbound {
            workload: key,
            action: rules.inbound_default.code(),
            reserved: 0,
        },
    );
    for (port, action) in &rules.inbound {
        let port = InboundPortKey {
            address,
            port_be: port.to_be(),
            reserved: 0,
        };
        entries.ports.insert(port, Action::code(*action));
    }
}

/// The interfaces of a network namespace, as far as they matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interfaces {
    /// Whether the loopback interface is up, over which everything is redirected.
    pub(super) loopback_up: bool,
    /// Addresses that can be redirected to. Link-local ones are left out: they are not unique on
    /// a node, so nothing can hang on them.
    pub(super) addresses: Vec<IpAddr>,
}

impl Interfaces {
    /// Those of the calling thread's namespace.
    pub(super) fn here() -> io::Result<Self> {
        let mut found = Self::default();
        for interface in getifaddrs()? {
            let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_LOOPBACK;
            found.loopback_up |= interface.flags.contains(up);
            let Some(address) = interface.address else {
                continue;
            };
            let address = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => IpAddr::V4(v4.ip()),
                (_, Some(v6)) if !v6.ip().is_unicast_link_local() => IpAddr::V6(v6.ip()),
                _ => continue,
            };
            if !address.is_loopback() {
                found.addresses.push(address.to_canonical());
            }
        }
        found.addresses.sort_unstable();
        found.addresses.dedup();
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
