//! Sets of ports, some of them known only by name.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ranges::Ranges;
use crate::policy::Test;
use crate::value::PortMatch;

/// Ports by number, and by names whose numbers depend on the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Set {
    numbers: Ranges,
    names: BTreeSet<Arc<str>>,
}

/// What is known of a set of ports: it has all of `least` and nothing beyond `most`.
#[derive(Clone, Debug)]
pub(super) struct Ports {
    least: Set,
    most: Set,
}

impl Set {
    fn all() -> Self {
        Self {
            numbers: Ranges::new([(0, u128::from(u16::MAX))]),
            names: BTreeSet::new(),
        }
    }

    fn none() -> Self {
        Self {
            numbers: Ranges::default(),
            names: BTreeSet::new(),
        }
    }

    fn of(ports: &[PortMatch]) -> Self {
        let range = |port: &PortMatch| match port {
            PortMatch::Number(number) => Some((u128::from(*number), u128::from(*number))),
            PortMatch::Range(range) => Some((u128::from(*range.start()), u128::from(*range.end()))),
            PortMatch::Name { number, .. } => number.map(|n| (u128::from(n), u128::from(n))),
        };
        let name = |port: &PortMatch| match port {
            PortMatch::Name { name, number: None } => Some(Arc::clone(name)),
            _ => None,
        };
        Self {
            numbers: Ranges::new(ports.iter().filter_map(range)),
            names: ports.iter().filter_map(name).collect(),
        }
    }

    fn is_all(&self) -> bool {
        self.numbers.cover(&Self::all().numbers)
    }

    fn is_empty(&self) -> bool {
        self.numbers.is_empty() && self.names.is_empty()
    }

    /// Whether every port of `other` is one of these, whatever the names stand for.
    fn cover(&self, other: &Self) -> bool {
        self.is_all() || (self.numbers.cover(&other.numbers) && other.names.is_subset(&self.names))
    }
}

impl Ports {
    pub(super) fn all() -> Self {
        Self {
            least: Set::all(),
            most: Set::all(),
        }
    }

    /// Leaves those that also pass one more field.
    pub(super) fn narrow(&mut self, test: &Test) {
        let Test::DestinationPort(values) = test else {
            return;
        };
        let listed = if values.any_of.is_empty() {
            Set::all()
        } else {
            Set::of(&values.any_of)
        };
        let excluded = Set::of(&values.none_of);
        let numbers = listed.numbers.without(&excluded.numbers);
        let most = Set {
            numbers: numbers.clone(),
            names: listed.names.difference(&excluded.names).cloned().collect(),
        };
        let least = if !excluded.names.is_empty() {
            // An excluded name may stand for any of the numbers.
            Set::none()
        } else if excluded.is_empty() {
            Set { numbers, ..listed }
        } else {
            // A listed name may stand for an excluded number.
            Set {
                numbers,
                ..Set::none()
            }
        };
        self.and(&Self { least, most });
    }

    fn and(&mut self, other: &Self) {
        self.most = Set {
            numbers: self.most.numbers.intersection(&other.most.numbers),
            names: match (self.most.is_all(), other.most.is_all()) {
                (true, _) => other.most.names.clone(),
                (_, true) => self.most.names.clone(),
                // A name on one side may stand for a number on the other.
                (false, false) => self.most.names.union(&other.most.names).cloned().collect(),
            },
        };
        let (a, b) = (&self.least, &other.least);
        let names = match (a.is_all(), b.is_all()) {
            (true, _) => b.names.clone(),
            (_, true) => a.names.clone(),
            (false, false) => a.names.intersection(&b.names).cloned().collect(),
        };
        self.least = Set {
            numbers: a.numbers.intersection(&b.numbers),
            names,
        };
    }

    /// Whether no port can be in here.
    pub(super) fn is_empty(&self) -> bool {
        self.most.is_empty()
    }

    /// Whether this port is in here; not if only a name without a number says so.
    pub(super) fn contains(&self, port: u16) -> bool {
        self.most.numbers.contains(u128::from(port))
    }

    /// Whether all ports of `other` are surely in here.
    pub(super) fn cover(&self, other: &Self) -> bool {
        self.least.cover(&other.most)
    }

    /// At least what is in either.
    pub(super) fn or(&self, other: &Self) -> Self {
        let union = |a: &Set, b: &Set| Set {
            numbers: a.numbers.union(&b.numbers),
            names: a.names.union(&b.names).cloned().collect(),
        };
        Self {
            least: union(&self.least, &other.least),
            most: union(&self.most, &other.most),
        }
    }

    /// The names that ports of this set may have.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.most.names.iter()
    }

    /// The least number of this set.
    pub(super) fn first(&self) -> Option<u16> {
        u16::try_from(self.most.numbers.first()?).ok()
    }
}
