//! Sets of numbers as ranges: ports, and the addresses of both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::value::{IpBlock, Values};

/// The IPv6 addresses that mean an IPv4 address, and are counted as such.
const V4_MAPPED: (u128, u128) = (0xffff_0000_0000, 0xffff_ffff_ffff);

/// Inclusive ranges: ascending, apart from each other, not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    pub(super) fn new(ranges: impl IntoIterator<Item = (u128, u128)>) -> Self {
        let mut all: Vec<(u128, u128)> = ranges.into_iter().collect();
        all.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The least of them.
    pub(super) fn first(&self) -> Option<u128> {
        self.0.first().map(|(first, _)| *first)
    }

    pub(super) fn contains(&self, number: u128) -> bool {
        let before = self.0.partition_point(|(_, last)| *last < number);
        self.0
            .get(before)
            .is_some_and(|(first, _)| *first <= number)
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        Self::new(self.0.iter().chain(&other.0).copied())
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        let mut common = Vec::new();
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(&&(a, b)), Some(&&(c, d))) = (left.peek(), right.peek()) {
            if a.max(c) <= b.min(d) {
                common.push((a.max(c), b.min(d)));
            }
            if b < d {
                left.next();
            } else {
                right.next();
            }
        }
        Self(common)
    }

    pub(super) fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        let mut holes = other.0.iter().peekable();
        for &(first, last) in &self.0 {
            let mut from = Some(first);
            while let Some(&&(hole, end)) = holes.peek() {
                if hole > last {
                    break;
                }
                if let Some(start) = from
                    && start < hole
                {
                    left.push((start, hole.saturating_sub(1)));
                }
                from = from.and_then(|start| Some(start.max(end.checked_add(1)?)));
                if end >= last {
                    break;
                }
                holes.next();
            }
            if let Some(start) = from.filter(|start| *start <= last) {
                left.push((start, last));
            }
        }
        Self(left)
    }

    /// Whether every number of `other` is one of these.
    pub(super) fn cover(&self, other: &Self) -> bool {
        other.without(self).is_empty()
    }
}

/// A set of addresses, IPv4-mapped ones counted as IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    v4: Ranges,
    v6: Ranges,
}

impl Addresses {
    pub(super) fn all() -> Self {
        Self {
            v4: Ranges::new([(0, u128::from(u32::MAX))]),
            v6: Ranges::new([(0, u128::MAX)]).without(&Ranges::new([V4_MAPPED])),
        }
    }

    /// The addresses that a field admits.
    pub(super) fn of(values: &Values<IpBlock>) -> Self {
        let listed = |blocks: &[IpBlock]| Self {
            v4: Ranges::new(blocks.iter().filter_map(|block| range_v4(*block))),
            v6: Ranges::new(blocks.iter().filter_map(|block| range_v6(*block))),
        };
        let admitted = if values.any_of.is_empty() {
            Self::all()
        } else {
            Self::all().intersection(&listed(&values.any_of))
        };
        let excluded = listed(&values.none_of);
        Self {
            v4: admitted.v4.without(&excluded.v4),
            v6: admitted.v6.without(&excluded.v6),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    pub(super) fn first(&self) -> Option<IpAddr> {
        let v4 = self.v4.first().and_then(|bits| u32::try_from(bits).ok());
        let v4 = v4.map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)));
        v4.or_else(|| Some(IpAddr::V6(Ipv6Addr::from_bits(self.v6.first()?))))
    }

    pub(super) fn intersection(&self, other: &Self) -> Self {
        Self {
            v4: self.v4.intersection(&other.v4),
            v6: self.v6.intersection(&other.v6),
        }
    }

    pub(super) fn cover(&self, other: &Self) -> bool {
        self.v4.cover(&other.v4) && self.v6.cover(&other.v6)
    }
}

fn range_v4(block: IpBlock) -> Option<(u128, u128)> {
    match block.network() {
        IpNet::V4(net) => {
            let bits = |address: Ipv4Addr| u128::from(address.to_bits());
            Some((bits(net.network()), bits(net.broadcast())))
        }
        IpNet::V6(_) => None,
    }
}

fn range_v6(block: IpBlock) -> Option<(u128, u128)> {
    match block.network() {
        IpNet::V4(_) => None,
        IpNet::V6(net) => Some((net.network().to_bits(), net.broadcast().to_bits())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Ranges;

    fn ranges() -> impl Strategy<Value = Ranges> {
        let range = (0..20_u128, 0..6_u128).prop_map(|(first, more)| (first, first + more));
        proptest::collection::vec(range, 0..5).prop_map(Ranges::new)
    }

    proptest! {
        #[test]
        fn ranges_behave_as_sets(a in ranges(), b in ranges(), number in 0..30_u128) {
            let (in_a, in_b) = (a.contains(number), b.contains(number));
            prop_assert_eq!(a.union(&b).contains(number), in_a || in_b);
            prop_assert_eq!(a.intersection(&b).contains(number), in_a && in_b);
            prop_assert_eq!(a.without(&b).contains(number), in_a && !in_b);
            prop_assert!(!a.cover(&b) || !in_b || in_a);
            prop_assert_eq!(a.first().is_none(), a.is_empty());
        }

        #[test]
        fn what_is_left_is_none_only_if_it_is_covered(a in ranges(), b in ranges()) {
            let every = (0..40).all(|n| !a.contains(n) || b.contains(n));
            prop_assert_eq!(b.cover(&a), every);
        }
    }

    #[test]
    fn the_largest_number_is_no_exception() {
        let all = Ranges::new([(0, u128::MAX)]);
        assert!(all.without(&all).is_empty());
        assert_eq!(all.without(&Ranges::new([(5, u128::MAX)])).first(), Some(0));
    }
}
