//! The compiled rules against a direct reading of their order.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;
use rstest::rstest;

use super::*;

/// The order, read literally: first match wins.
fn captured(rules: &CaptureRules, to: SocketAddr) -> bool {
    let bears = |port: &OutboundPort| match port {
        OutboundPort::Number(number) => *number == to.port(),
        OutboundPort::Named { endpoints, .. } => endpoints.contains(&to),
    };
    let inside = |range: &IpNet| range.contains(&to.ip());
    if rules.excluded_outbound_ports.iter().any(bears) {
        return false;
    }
    if rules.excluded_outbound_ranges.iter().any(inside) {
        return false;
    }
    if rules.included_outbound_ports.iter().any(bears) {
        return true;
    }
    match &rules.included_outbound_ranges {
        None => true,
        Some(ranges) => ranges.iter().any(inside),
    }
}

/// What the kernel does with the compiled rules: bits of the key, longest prefix, two ports.
fn looked_up(compiled: &Compiled, to: SocketAddr) -> bool {
    let lookup = |port: u16| {
        let wanted = RuleKey {
            workload: RuleKey::halves(7),
            port_be: port.to_be(),
            protocol: TCP,
            family: mapped(to.ip()).family(),
            address: mapped(to.ip()),
        };
        compiled
            .trie(7)
            .filter(|(bits, data, _)| same_prefix(data, &wanted, *bits))
            .max_by_key(|(bits, _, _)| *bits)
            .map(|(_, _, action)| action)
    };
    let action = lookup(to.port())
        .or_else(|| lookup(ANY_PORT))
        .unwrap_or(compiled.outbound_default);
    action == Action::Capture
}

/// Whether the first `bits` bits of two keys are the same, as the trie compares them.
fn same_prefix(left: &RuleKey, right: &RuleKey, bits: u32) -> bool {
    assert!(bits <= RuleKey::ALL_BITS, "no key is that long");
    let (left, right) = (bytes(left), bytes(right));
    (0..bits).all(|bit| {
        let index = usize::try_from(bit / 8).unwrap();
        let mask = 0x80_u8 >> (bit % 8);
        left[index] & mask == right[index] & mask
    })
}

/// A key as it lies in memory.
fn bytes(key: &RuleKey) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(key.workload.iter().flat_map(|half| half.to_ne_bytes()));
    bytes.extend(key.port_be.to_ne_bytes());
    bytes.extend([key.protocol, key.family]);
    bytes.extend(key.address.octets());
    bytes
}

fn range(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn to(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Excluded: port 22 and 10.1/16 and `::/0`. Included: port 443 and 10/8.
fn example() -> CaptureRules {
    CaptureRules {
        excluded_outbound_ports: vec![OutboundPort::Number(22)],
        excluded_outbound_ranges: vec![range("10.1.0.0/16"), range("::/0")],
        included_outbound_ports: vec![OutboundPort::Number(443)],
        included_outbound_ranges: Some(vec![range("10.0.0.0/8"), range("10.1.2.0/24")]),
        ..CaptureRules::default()
    }
}

#[rstest]
#[case::inside_an_included_range("10.2.0.1:80", true)]
#[case::outside_of_every_range("192.0.2.1:80", false)]
#[case::an_included_port_anywhere("192.0.2.1:443", true)]
#[case::an_excluded_range_beats_an_included_port("10.1.2.3:443", false)]
#[case::an_excluded_port_beats_an_included_range("10.2.0.1:22", false)]
#[case::an_included_range_inside_an_excluded_one("10.1.2.3:80", false)]
#[case::all_of_ipv6_is_excluded("[fd00::1]:443", false)]
fn the_first_match_in_the_documented_order_wins(#[case] address: &str, #[case] expected: bool) {
    let rules = example();
    assert_eq!(captured(&rules, to(address)), expected, "the reading");
    let compiled = Compiled::new(&rules);
    assert_eq!(looked_up(&compiled, to(address)), expected, "the lookup");
}

#[test]
fn a_workload_without_annotations_has_everything_captured() {
    let compiled = Compiled::new(&CaptureRules::default());
    assert_eq!(compiled.outbound_default, Action::Capture);
    assert_eq!(compiled.inbound_default, Action::Capture);
    assert!(compiled.outbound.is_empty());
    assert!(compiled.inbound.is_empty());
}

#[test]
fn a_named_port_is_a_rule_for_its_bearers_only() {
    let rules = CaptureRules {
        excluded_outbound_ports: vec![OutboundPort::Named {
            name: "metrics".to_owned(),
            endpoints: vec![to("10.0.0.1:9090")],
        }],
        ..CaptureRules::default()
    };
    let compiled = Compiled::new(&rules);
    assert!(!looked_up(&compiled, to("10.0.0.1:9090")));
    assert!(looked_up(&compiled, to("10.0.0.2:9090")));
    assert!(looked_up(&compiled, to("10.0.0.1:9091")));
}

#[test]
fn only_the_listed_inbound_ports_are_captured() {
    let rules = CaptureRules {
        inbound: PortSelection::Only(vec![80]),
        ..CaptureRules::default()
    };
    let compiled = Compiled::new(&rules);
    assert_eq!(compiled.inbound_default, Action::Pass);
    assert_eq!(compiled.inbound.get(&80), Some(&Action::Capture));
    let told = [80, 81].map(|port| inbound_captured(&rules, port));
    assert_eq!(told.each_ref().map(|told| told.captured), [true, false]);
    assert_eq!(
        told.each_ref().map(|told| told.why.captures()),
        [true, false]
    );
}

/// Few addresses and ports, so that rules meet each other.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0..4_u8, 0..4_u8).prop_map(|(a, b)| IpAddr::V4(Ipv4Addr::new(10, a, 0, b))),
        (0..4_u16, 0..4_u16)
            .prop_map(|(a, b)| IpAddr::V6(Ipv6Addr::new(0xfd00, a, 0, 0, 0, 0, 0, b))),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    1..5_u16
}

fn network() -> impl Strategy<Value = IpNet> {
    (address(), 0..6_u8).prop_map(|(address, choice)| {
        let lengths = match address {
            IpAddr::V4(_) => [0, 8, 16, 30, 32, 32],
            IpAddr::V6(_) => [0, 16, 32, 126, 128, 128],
        };
        let bits = lengths[usize::from(choice)];
        IpNet::new(address, bits).unwrap()
    })
}

fn outbound_port() -> impl Strategy<Value = OutboundPort> {
    let endpoint = (address(), port()).prop_map(|(ip, port)| SocketAddr::new(ip, port));
    prop_oneof![
        port().prop_map(OutboundPort::Number),
        prop::collection::vec(endpoint, 0..3).prop_map(|endpoints| OutboundPort::Named {
            name: "name".to_owned(),
            endpoints,
        }),
    ]
}

fn rules() -> impl Strategy<Value = CaptureRules> {
    (
        prop::collection::vec(outbound_port(), 0..3),
        prop::collection::vec(network(), 0..3),
        prop::collection::vec(outbound_port(), 0..3),
        prop::option::of(prop::collection::vec(network(), 0..3)),
    )
        .prop_map(
            |(excluded_ports, excluded, included_ports, included)| CaptureRules {
                inbound: PortSelection::default(),
                excluded_outbound_ports: excluded_ports,
                excluded_outbound_ranges: excluded,
                included_outbound_ports: included_ports,
                included_outbound_ranges: included,
                ..CaptureRules::default()
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_lookup_agrees_with_the_reading(rules in rules(), ip in address(), port in port()) {
        let compiled = Compiled::new(&rules);
        let to = SocketAddr::new(ip, port);
        prop_assert_eq!(looked_up(&compiled, to), captured(&rules, to));
        let told = outbound_captured(&rules, to);
        prop_assert_eq!(told.captured, captured(&rules, to), "{:?}", told);
        prop_assert_eq!(told.why.captures(), told.captured, "{:?}", told);
    }
}

#[test]
fn no_range_comes_before_the_first_one() {
    let others = ["0.0.0.0/1", "0.0.0.0/32", "10.0.0.0/8", "::/0"];
    for other in others {
        assert!(FIRST < other.parse().unwrap(), "{other}");
    }
}
