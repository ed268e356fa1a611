//! Whether a rule can match at all: a proof that it cannot, or a connection that it matches.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::region::{self, Conjunction, Region, Side, Written};
use crate::field::{FieldRef, Place};
use crate::policy::{Fidelity, Policy, Rule, Test};
use crate::value::Outcome;
use crate::{Attempt, SpiffeId};

/// How many values of a list are shown.
const MAX_SHOWN: usize = 3;
/// In entries of more fields than this, the pair that conflicts is not looked for.
const MAX_FIELDS: usize = 32;
/// What stands for "anything" in an example. Several, because a policy may exclude one of them.
const FILLERS: [char; 6] = ['x', 'q', 'w', '7', 'k', 'j'];

/// Whether a rule can match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It matches this connection, among others.
    Live(Box<Witness>),
    /// It matches no connection.
    Dead(Dead),
    /// Neither a proof nor an example was found: the rule is too large, or full of exceptions.
    Unknown,
}

/// A connection that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Witness {
    /// The caller's identity; `None` for a caller without mutual TLS.
    pub source: Option<SpiffeId>,
    /// Where it calls from.
    pub source_ip: IpAddr,
    /// The address that it calls.
    pub destination_ip: IpAddr,
    /// The port that it calls.
    pub destination_port: u16,
    /// What the port names in the policy must stand for at the workload.
    pub port_names: BTreeMap<String, u16>,
}

/// Why a rule never matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Dead {
    /// It needs what L4 cannot see (these fields), and allowing without looking would allow more.
    NotAtL4(Vec<String>),
    /// Whatever entry is taken, its fields exclude each other.
    Conflict(Vec<Conflict>),
}

/// Fields that no connection passes together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// The entry of `from` or `to`; `None` if conditions of `when` conflict among themselves.
    pub entry: Option<Place>,
    /// The fewest fields that were found to conflict, each with some of its values.
    pub fields: Vec<(FieldRef, Vec<String>)>,
}

impl Policy {
    /// Whether the rule with this index can match anything; `None` if there is no such rule.
    ///
    /// `Dead` is a proof and `Live` comes with an example that was evaluated.
    pub fn liveness(&self, rule: usize) -> Option<Liveness> {
        let rule = self.rules.get(rule)?;
        if rule.fidelity == Fidelity::Dropped {
            return Some(Liveness::Dead(Dead::NotAtL4(rule.unsupported.to_vec())));
        }
        let region = Region::of(rule);
        if region.is_empty() {
            let side = if region.callers.is_empty() {
                Side::Caller
            } else {
                Side::Workload
            };
            return Some(Liveness::Dead(Dead::Conflict(conflicts(rule, side))));
        }
        let example = witness(rule, &region);
        Some(example.map_or(Liveness::Unknown, |w| Liveness::Live(Box::new(w))))
    }

    /// The entries of a rule that never match although the rule does. Empty for a dead rule.
    pub fn dead_entries(&self, rule: usize) -> Vec<Conflict> {
        let live = self
            .rules
            .get(rule)
            .filter(|rule| rule.fidelity != Fidelity::Dropped && !Region::of(rule).is_empty());
        let sides = [Side::Caller, Side::Workload];
        live.into_iter()
            .flat_map(|rule| sides.into_iter().flat_map(|side| conflicts(rule, side)))
            .collect()
    }
}

// === why not ===

/// What is wrong with each entry of one side that never matches.
fn conflicts(rule: &Rule, side: Side) -> Vec<Conflict> {
    let all = region::alternatives(rule, side).into_iter();
    all.filter(|fields| Conjunction::of(fields.iter().copied()).is_empty())
        .map(|fields| Conflict::of(&fields))
        .collect()
}

impl Conflict {
    /// The fewest of the fields that already conflict.
    fn of(fields: &[Written<'_>]) -> Self {
        let place = |(entry, _): &Written<'_>| entry.place;
        let in_when = |place: &Place| matches!(place, Place::When(_));
        let core = core(fields).unwrap_or_else(|| fields.to_vec());
        let described = core.iter().map(|(entry, test)| {
            let negated = test.value_count(false) == 0;
            let values = (0..MAX_SHOWN).map_while(|index| test.value(negated, index));
            (entry.field(test, negated), values.collect())
        });
        Self {
            entry: fields.iter().map(place).find(|place| !in_when(place)),
            fields: described.collect(),
        }
    }
}

fn core<'r>(fields: &[Written<'r>]) -> Option<Vec<Written<'r>>> {
    let empty = |fields: &[Written<'r>]| Conjunction::of(fields.iter().copied()).is_empty();
    let one = fields.iter().find(|field| empty(&[**field]));
    if let Some(field) = one {
        return Some(vec![*field]);
    }
    if fields.len() > MAX_FIELDS {
        return None;
    }
    let pairs = fields.iter().enumerate().flat_map(|(index, first)| {
        let rest = fields.iter().skip(index.saturating_add(1));
        rest.map(move |second| vec![*first, *second])
    });
    pairs.into_iter().find(|pair| empty(pair))
}

impl fmt::Display for Dead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAtL4(fields) => write!(
                f,
                "{} cannot be decided at L4, and allowing without it would allow more",
                fields.join(" and ")
            ),
            Self::Conflict(conflicts) => {
                for (index, conflict) in conflicts.iter().take(MAX_SHOWN).enumerate() {
                    let separator = if index > 0 { "; " } else { "" };
                    write!(f, "{separator}{conflict}")?;
                }
                match conflicts.len().saturating_sub(MAX_SHOWN) {
                    0 => Ok(()),
                    more => write!(f, "; and {more} more entries likewise"),
                }
            }
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (field, values)) in self.fields.iter().enumerate() {
            let separator = if index > 0 { " and " } else { "" };
            write!(f, "{separator}{field} [{}]", values.join(", "))?;
        }
        f.write_str(match self.fields.len() {
            0 | 1 => " matches nothing",
            _ => " exclude each other",
        })
    }
}

// === an example ===

fn witness(rule: &Rule, region: &Region) -> Option<Witness> {
    let caller = region.callers.iter();
    let caller = caller
        .clone()
        .find(|c| !c.callers.cubes.is_empty())
        .or_else(|| caller.clone().next())?;
    let workload = region.workloads.first()?;
    FILLERS.into_iter().find_map(|filler| {
        let cubes = caller.callers.cubes.iter();
        let mut examples = cubes
            .take(MAX_SHOWN)
            .filter_map(|cube| cube.example(filler));
        let source = examples.next();
        let mut witness = Witness {
            source: source.filter(|_| !caller.callers.cubes.is_empty()),
            source_ip: caller.sources.first()?,
            destination_ip: workload.destinations.first()?,
            destination_port: workload.ports.first().unwrap_or(UNLIKELY_PORT),
            port_names: BTreeMap::new(),
        };
        for name in workload.ports.names() {
            let port = witness.destination_port;
            witness.port_names.insert(name.to_string(), port);
        }
        witness.matches(rule).then_some(witness)
    })
}

/// The port of an example in which only names say which port.
const UNLIKELY_PORT: u16 = 40_404;

impl Witness {
    /// The connection, as it is evaluated.
    pub const fn attempt(&self) -> Attempt<'_> {
        Attempt {
            source: self.source.as_ref(),
            source_ip: self.source_ip,
            destination_ip: self.destination_ip,
            destination_port: self.destination_port,
        }
    }

    fn matches(&self, rule: &Rule) -> bool {
        let holds = |test: &Test| match test {
            Test::DestinationPort(_) => {
                let bound = test.bound(&self.port_names);
                matches!(bound.check(&self.attempt()), Outcome::Holds(_))
            }
            _ => test.check(&self.attempt()).holds(),
        };
        rule.clauses.iter().all(|clause| {
            let mut entries = clause.entries.iter();
            entries.any(|entry| entry.tests.iter().all(holds))
        })
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(id) => write!(f, "{} from {}", id.principal(), self.source_ip)?,
            None => write!(f, "plaintext from {}", self.source_ip)?,
        }
        write!(f, " to {}:{}", self.destination_ip, self.destination_port)
    }
}
