//! Compiles a workload's capture rules into what the kernel looks up.
//!
//! The annotations have an order: excluded ports, excluded ranges, included ports, included
//! ranges, and first match wins. The kernel has two lookups: the longest address prefix among the
//! rules for the exact port, then among the rules for any port, then a default. The compiler
//! turns the first into the second, so that no order is left to evaluate per connection:
//!
//! * an excluded port is one rule for every address, and nothing else is written for that port;
//! * an included port is one rule for every address, plus an exception for each excluded range;
//! * ranges are rules for any port; an included range inside an excluded one is not written.
//!
//! A port given by name is one rule per address that bears it.

mod why;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use interceptor_common::{Action, FAMILY_IPV4, FAMILY_IPV6, RuleKey, TCP};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::net::mapped;
use crate::workload::{CaptureRules, OutboundPort, PortSelection};

pub use why::{Captured, Why, inbound_captured, outbound_captured};

/// A workload's rules as the kernel looks them up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Compiled {
    /// Outbound connections that no rule matches.
    pub(super) outbound_default: Action,
    /// By port, zero for any, and destination.
    pub(super) outbound: BTreeMap<(u16, IpNet), Action>,
    /// Inbound ports without an exception.
    pub(super) inbound_default: Action,
    /// Inbound ports that differ from the default.
    pub(super) inbound: BTreeMap<u16, Action>,
}

/// "Any port" in [`Compiled::outbound`].
const ANY_PORT: u16 = 0;

/// The first of all ranges in their order.
const FIRST: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));

impl Compiled {
    /// Compiles `rules`.
    pub(super) fn new(rules: &CaptureRules) -> Self {
        let (outbound_default, outbound) = outbound(rules);
        let (inbound_default, ports, action) = match &rules.inbound {
            PortSelection::AllExcept(ports) => (Action::Capture, ports, Action::Pass),
            PortSelection::Only(ports) => (Action::Pass, ports, Action::Capture),
        };
        Self {
            outbound_default,
            outbound,
            inbound_default,
            inbound: ports.iter().map(|port| (*port, action)).collect(),
        }
    }

    /// The outbound rules as keys of the trie for the workload with this key: prefix length and
    /// data.
    pub(super) fn trie(&self, workload: u64) -> impl Iterator<Item = (u32, RuleKey, Action)> {
        self.outbound.iter().map(move |(&(port, range), &action)| {
            let (family, bits) = match range {
                IpNet::V4(_) => (FAMILY_IPV4, 96 + u32::from(range.prefix_len())),
                IpNet::V6(_) => (FAMILY_IPV6, u32::from(range.prefix_len())),
            };
            let data = RuleKey {
                workload: RuleKey::halves(workload),
                port_be: port.to_be(),
                protocol: TCP,
                family,
                address: mapped(range.network()),
            };
            (RuleKey::FIXED_BITS + bits, data, action)
        })
    }
}

impl Compiled {
    /// What the kernel does with a connection to `to`: the longest prefix among the rules for its
    /// port, then among those for any port, then the default.
    fn outbound_action(&self, to: SocketAddr) -> Action {
        let address = to.ip().to_canonical();
        let longest = |port: u16| {
            (self.outbound.iter())
                .filter(|((of, range), _)| *of == port && range.contains(&address))
                .max_by_key(|((_, range), _)| range.prefix_len())
                .map(|(_, action)| *action)
        };
        longest(to.port())
            .or_else(|| longest(ANY_PORT))
            .unwrap_or(self.outbound_default)
    }

    /// What the kernel does with a connection to this port of the workload.
    fn inbound_action(&self, port: u16) -> Action {
        let own = self.inbound.get(&port);
        own.copied().unwrap_or(self.inbound_default)
    }
}

/// The outbound default and rules.
fn outbound(rules: &CaptureRules) -> (Action, BTreeMap<(u16, IpNet), Action>) {
    let mut compiled = BTreeMap::new();
    let excluded: Vec<IpNet> = rules
        .excluded_outbound_ranges
        .iter()
        .map(canonical)
        .collect();

    for range in rules.included_outbound_ranges.iter().flatten() {
        compiled.insert((ANY_PORT, canonical(range)), Action::Capture);
    }
    // After the included ranges, which they override; those inside of them go altogether.
    compiled.retain(|(_, range), _| !excluded.iter().any(|outer| outer.contains(range)));
    for range in &excluded {
        compiled.insert((ANY_PORT, *range), Action::Pass);
    }

    for port in &rules.included_outbound_ports {
        for (port, range) in occurrences(port) {
            compiled.insert((port, range), Action::Capture);
            for inner in &excluded {
                if inner.contains(&range) {
                    compiled.insert((port, range), Action::Pass);
                } else if range.contains(inner) {
                    compiled.insert((port, *inner), Action::Pass);
                }
            }
        }
    }

    for port in &rules.excluded_outbound_ports {
        for (port, range) in occurrences(port) {
            // Only what is there for this port is looked at: there may be ten thousand others.
            let of_port = compiled.range((port, FIRST)..).map(|(key, _)| *key);
            let of_port = of_port.take_while(|(other, _)| *other == port);
            let inside: Vec<_> = of_port.filter(|(_, inner)| range.contains(inner)).collect();
            for key in inside {
                compiled.remove(&key);
            }
            compiled.insert((port, range), Action::Pass);
        }
    }

    let default = match rules.included_outbound_ranges {
        None => Action::Capture,
        Some(_) => Action::Pass,
    };
    (default, compiled)
}

/// Where a port of a rule occurs: everywhere if it is a number, at its bearers if it is a name.
/// Port zero is nobody's, and would mean any.
fn occurrences(port: &OutboundPort) -> Vec<(u16, IpNet)> {
    let mut found = match port {
        OutboundPort::Number(port) => vec![
            (*port, IpNet::V4(Ipv4Net::default())),
            (*port, IpNet::V6(Ipv6Net::default())),
        ],
        OutboundPort::Named { endpoints, .. } => endpoints
            .iter()
            .map(|endpoint| (endpoint.port(), IpNet::from(endpoint.ip().to_canonical())))
            .collect(),
    };
    found.retain(|(port, _)| *port != ANY_PORT);
    found
}

/// `range` without host bits; one of IPv4-mapped addresses as the IPv4 range that it is.
fn canonical(range: &IpNet) -> IpNet {
    let range = range.trunc();
    let IpNet::V6(v6) = range else { return range };
    let bits = v6.prefix_len().checked_sub(96);
    match (IpAddr::V6(v6.addr()).to_canonical(), bits) {
        (IpAddr::V4(v4), Some(bits)) => Ipv4Net::new(v4, bits).map_or(range, IpNet::V4),
        _ => range,
    }
}

#[cfg(test)]
mod tests;
