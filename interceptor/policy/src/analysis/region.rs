//! What a rule matches, as sets.
//!
//! A rule's conditions speak either of the caller (identity, source address) or of the workload
//! (destination address and port), and a clause never of both. So a rule is a product: the callers
//! that it matches, times the destinations, each the union of a few conjunctions, one per entry of
//! `from` or `to`. Size stays linear in what was written.

use super::identities::Identities;
use super::ports::Ports;
use super::ranges::Addresses;
use crate::field::Place;
use crate::policy::{Clause, Entry, Fidelity, Rule, Test};

/// Which end of a connection a condition speaks of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Caller,
    Workload,
}

/// A field together with the entry that it stands in.
pub(super) type Written<'r> = (&'r Entry, &'r Test);

/// The connections that pass several fields.
#[derive(Clone, Debug)]
pub(super) struct Conjunction {
    pub(super) callers: Identities,
    pub(super) sources: Addresses,
    pub(super) destinations: Addresses,
    pub(super) ports: Ports,
    /// The entry of `from` or `to` that it belongs to.
    pub(super) place: Option<Place>,
}

/// The connections that a rule matches. What cannot match is left out, so either side is empty if
/// the rule never matches.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) callers: Vec<Conjunction>,
    pub(super) workloads: Vec<Conjunction>,
}

impl Conjunction {
    pub(super) fn of<'r, F: IntoIterator<Item = Written<'r>>>(fields: F) -> Self {
        let mut all = Self {
            callers: Identities::all(),
            sources: Addresses::all(),
            destinations: Addresses::all(),
            ports: Ports::all(),
            place: None,
        };
        for (entry, test) in fields {
            all.callers.narrow(test);
            all.ports.narrow(test);
            match test {
                Test::SourceIp(values) => {
                    all.sources = all.sources.intersection(&Addresses::of(values));
                }
                Test::DestinationIp(values) => {
                    all.destinations = all.destinations.intersection(&Addresses::of(values));
                }
                _ => {}
            }
            if !matches!(entry.place, Place::When(_)) {
                all.place = Some(entry.place);
            }
        }
        all.callers.settle();
        all
    }

    /// Whether no connection at all is in here. "No" may be wrong, "yes" is not.
    pub(super) fn is_empty(&self) -> bool {
        self.callers.is_empty()
            || self.sources.is_empty()
            || self.destinations.is_empty()
            || self.ports.is_empty()
    }
}

impl Region {
    pub(super) fn of(rule: &Rule) -> Self {
        if rule.fidelity == Fidelity::Dropped {
            return Self {
                callers: Vec::new(),
                workloads: Vec::new(),
            };
        }
        let live = |side: Side| -> Vec<Conjunction> {
            let all = alternatives(rule, side).into_iter().map(Conjunction::of);
            all.filter(|conjunction| !conjunction.is_empty()).collect()
        };
        Self {
            callers: live(Side::Caller),
            workloads: live(Side::Workload),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.callers.is_empty() || self.workloads.is_empty()
    }

    /// Whether every connection of `other` is in here. May miss a case, never invents one.
    pub(super) fn cover(&self, other: &Self) -> bool {
        other.workloads.iter().all(|w| self.cover_workload(w))
            && other.callers.iter().all(|c| self.cover_caller(c))
    }

    fn cover_workload(&self, other: &Conjunction) -> bool {
        let own = self.workloads.iter();
        let ports = own
            .filter(|own| own.destinations.cover(&other.destinations))
            .map(|own| &own.ports)
            .fold(None, |all: Option<Ports>, ports| {
                Some(all.map_or_else(|| ports.clone(), |all| all.or(ports)))
            });
        ports.is_some_and(|ports| ports.cover(&other.ports))
    }

    fn cover_caller(&self, other: &Conjunction) -> bool {
        let from_there: Vec<&Identities> = (self.callers.iter())
            .filter(|own| own.sources.cover(&other.sources))
            .map(|own| &own.callers)
            .collect();
        let callers = &other.callers;
        let plaintext = || from_there.iter().any(|own| own.plaintext && !own.unbounded);
        let identities = || {
            let covered = |cube| from_there.iter().any(|own| own.cover(cube, callers));
            callers.cubes.iter().all(covered)
        };
        !callers.unbounded && (!callers.plaintext || plaintext()) && identities()
    }
}

/// The fields of one side, once for each entry of its `from` or `to`; `when` is in all of them.
pub(super) fn alternatives(rule: &Rule, side: Side) -> Vec<Vec<Written<'_>>> {
    let of_side = |clause: &&Clause| clause.entries.iter().any(|entry| side_of(entry) == side);
    let mut conditions: Vec<Written<'_>> = Vec::new();
    let mut entries: Option<&[Entry]> = None;
    for clause in rule.clauses.iter().filter(of_side) {
        match &*clause.entries {
            [one] if matches!(one.place, Place::When(_)) => {
                conditions.extend(one.tests.iter().map(|test| (one, test)));
            }
            several => entries = Some(several),
        }
    }

    match entries {
        None => vec![conditions],
        Some(entries) => entries
            .iter()
            .map(|entry| {
                let mut fields =
                    Vec::with_capacity(entry.tests.len().saturating_add(conditions.len()));
                fields.extend(entry.tests.iter().map(|test| (entry, test)));
                fields.extend(conditions.iter().copied());
                fields
            })
            .collect(),
    }
}

/// An entry without fields holds for everything, so either side may have it.
fn side_of(entry: &Entry) -> Side {
    match entry.place {
        Place::From(_) => Side::Caller,
        Place::To(_) => Side::Workload,
        Place::When(_) => match entry.tests.first() {
            Some(Test::DestinationIp(_) | Test::DestinationPort(_)) => Side::Workload,
            _ => Side::Caller,
        },
    }
}
