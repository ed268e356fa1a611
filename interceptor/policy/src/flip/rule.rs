//! Ways to make one rule match the connection, and to keep it from matching.

use super::change::{Edit, list};
use super::search::Situation;
use crate::compile::compile_value;
use crate::field::{Attribute, FieldRef, Place};
use crate::policy::{Action, Clause, Entry, Policy, Rule, Test};
use crate::spec::RuleSpec;
use crate::value::Outcome;

/// So many entries of a clause are repaired, and so many ways are followed up.
const MAX_ENTRIES: usize = 4;
const MAX_WAYS: usize = 12;

/// Edits of one rule, and how much else they would affect.
pub(super) type Edits = (Vec<Edit>, u32);

/// One rule, compiled and as written.
pub(super) struct RuleAt<'a> {
    now: &'a Situation<'a>,
    policy: &'a Policy,
    index: usize,
    rule: &'a Rule,
}

impl<'a> RuleAt<'a> {
    pub(super) fn new(now: &'a Situation<'a>, policy: &'a Policy, index: usize) -> Option<Self> {
        Some(Self {
            now,
            policy,
            index,
            rule: policy.rules.get(index)?,
        })
    }

    fn written(&self) -> Option<&RuleSpec> {
        self.policy.source.spec.rules.get(self.index)
    }

    /// Edits after which the rule matches.
    pub(super) fn matching(&self) -> Vec<Edits> {
        let attempt = self.now.attempt();
        let failing = self.rule.clauses.iter().filter(|c| !c.matches(&attempt));
        let mut ways: Vec<Edits> = vec![(Vec::new(), 0)];
        for (position, clause) in failing.enumerate() {
            // Two lists that grow admit every combination: a rule of its own is less.
            let combined = (Vec::new(), if position > 0 { 2 } else { 0 });
            let repairs = self.repairs(clause);
            ways = (ways.iter())
                .flat_map(|way| repairs.iter().map(|repair| joined(way, repair)))
                .map(|way| joined(&way, &combined))
                .take(MAX_WAYS)
                .collect();
        }
        ways.retain(|(edits, _)| !edits.is_empty());
        ways
    }

    /// Edits after which a clause holds, one of its entries repaired or one added.
    fn repairs(&self, clause: &Clause) -> Vec<Edits> {
        let entries = clause.entries.iter().take(MAX_ENTRIES);
        let mut repairs: Vec<Edits> = entries.filter_map(|entry| self.repair(entry)).collect();
        let next = clause.entries.len();
        let added = match clause.entries.first().map(|entry| entry.place) {
            Some(Place::From(_)) => self.caller_field(Place::From(next), false),
            Some(Place::To(_)) => self.port_field(Place::To(next), false),
            Some(Place::When(_)) | None => None,
        };
        let least = repairs.iter().map(|(_, cost)| *cost).min();
        // An entry of its own is worth naming only where it is less than what an entry lacks.
        let added = added.filter(|_| least.is_none_or(|least| least > 3));
        repairs.extend(added.map(|(edit, _)| (vec![edit], 3)));
        repairs.sort_by_key(|(_, cost)| *cost);
        repairs
    }

    /// Edits after which every test of an entry holds.
    fn repair(&self, entry: &Entry) -> Option<Edits> {
        let attempt = self.now.attempt();
        let mut all: Edits = (Vec::new(), 0);
        for test in &entry.tests {
            let edits = match test.check(&attempt) {
                Outcome::Holds(_) => continue,
                Outcome::NotListed => self.add_value(entry, test, false)?,
                Outcome::Excluded(_) => self.remove_values(entry.field(test, true)),
            };
            all = joined(&all, &edits);
        }
        Some(all)
    }

    /// Edits after which the rule does not match.
    pub(super) fn unmatching(&self) -> Vec<Edits> {
        let mut ways = Vec::new();
        for clause in &self.rule.clauses {
            ways.extend(self.excluding(clause));
            ways.extend(self.unlisting(clause));
            ways.extend(self.removing(clause));
        }
        let has = |key: fn(&RuleSpec) -> bool| self.written().is_some_and(key);
        if has(|rule| rule.from.is_none()) {
            let made = self.caller_field(Place::From(0), true);
            ways.extend(made.map(|(edit, cost)| (vec![edit], cost)));
        }
        if has(|rule| rule.to.is_none()) {
            let made = self.port_field(Place::To(0), true);
            ways.extend(made.map(|(edit, _)| (vec![edit], 5)));
        }
        ways
    }

    fn holding<'c>(&'c self, clause: &'c Clause) -> impl Iterator<Item = &'c Entry> {
        let attempt = self.now.attempt();
        (clause.entries.iter()).filter(move |entry| entry.matches(&attempt))
    }

    /// The connection becomes an exception in every entry that holds.
    fn excluding(&self, clause: &Clause) -> Option<Edits> {
        let mut all: Edits = (Vec::new(), 0);
        for entry in self.holding(clause) {
            let edits = match entry.place {
                Place::From(_) => self.except_caller(entry)?,
                Place::To(_) => {
                    let (edit, _) = self.port_field(entry.place, true)?;
                    (vec![edit], 5)
                }
                Place::When(_) => self.add_value(entry, entry.tests.first()?, true)?,
            };
            all = joined(&all, &edits);
        }
        Some(all)
    }

    fn except_caller(&self, entry: &Entry) -> Option<Edits> {
        let by_account = (entry.tests.iter()).find(|test| matches!(test, Test::ServiceAccount(_)));
        if let (Some(test), Some(_)) = (by_account, &self.now.source) {
            return self.add_value(entry, test, true);
        }
        let (edit, cost) = self.caller_field(entry.place, true)?;
        Some((vec![edit], cost))
    }

    /// What matched is taken out of a list that has more, in every entry that holds.
    fn unlisting(&self, clause: &Clause) -> Option<Edits> {
        let mut all: Edits = (Vec::new(), 0);
        for entry in self.holding(clause) {
            let edits = entry.tests.iter().find_map(|test| {
                let field = entry.field(test, false);
                let (edits, _) = self.remove_values(field);
                let left = (self.values(field).len()).checked_sub(edits.len())?;
                (left > 0 && !edits.is_empty()).then(|| {
                    // A pattern may be there for others, too.
                    let cost = if self.is_exact(field, &edits) { 1 } else { 6 };
                    (edits, cost)
                })
            })?;
            all = joined(&all, &edits);
        }
        Some(all)
    }

    /// The entries that hold go, if there are others.
    fn removing(&self, clause: &Clause) -> Option<Edits> {
        let places: Vec<Place> = self.holding(clause).map(|entry| entry.place).collect();
        let others = clause.entries.len() > places.len();
        // From the last, so that the indices stay right.
        let edits = places.into_iter().rev().map(|place| Edit::RemoveEntry {
            rule: self.index,
            place,
        });
        others.then(|| (edits.collect(), 6))
    }

    /// What the connection has is added to one of a test's lists.
    fn add_value(&self, entry: &Entry, test: &Test, negated: bool) -> Option<Edits> {
        let attribute = test.attribute();
        let value = self.now.own_value(attribute)?;
        if attribute == Attribute::SourceIp && self.now.attempt.source_ip.is_unspecified() {
            return None;
        }
        let cost = match attribute {
            // One more port of a DENY is closed to everybody that it means.
            Attribute::DestinationPort if self.policy.action == Action::Deny => 6,
            Attribute::Principal | Attribute::ServiceAccount | Attribute::DestinationPort => 2,
            Attribute::SourceIp | Attribute::DestinationIp => 3,
            Attribute::Namespace => 4,
            Attribute::TrustDomain => 5,
        };
        let field = entry.field(test, negated);
        let rule = self.index;
        Some((vec![Edit::AddValue { rule, field, value }], cost))
    }

    /// The caller, by the most exact that is known of it, in an entry of `from`.
    fn caller_field(&self, place: Place, negated: bool) -> Option<(Edit, u32)> {
        let attempt = self.now.attempt();
        let attribute = match attempt.source {
            Some(_) => Attribute::Principal,
            None if attempt.source_ip.is_unspecified() => return None,
            None => Attribute::SourceIp,
        };
        let cost = if attempt.source.is_some() { 2 } else { 3 };
        Some((self.field_value(place, attribute, negated)?, cost))
    }

    fn port_field(&self, place: Place, negated: bool) -> Option<(Edit, u32)> {
        let edit = self.field_value(place, Attribute::DestinationPort, negated)?;
        Some((edit, 2))
    }

    fn field_value(&self, place: Place, attribute: Attribute, negated: bool) -> Option<Edit> {
        let field = FieldRef {
            place,
            attribute,
            negated,
        };
        let value = self.now.own_value(attribute)?;
        let rule = self.index;
        Some(Edit::AddValue { rule, field, value })
    }

    /// Takes out every value of a list that matches the connection.
    fn remove_values(&self, field: FieldRef) -> Edits {
        let Self { now, policy, .. } = self;
        let matches = |value: &&String| {
            let test = compile_value(value, field.attribute, &policy.name, now.settings);
            let bound = test.map(|test| test.bound(now.target.ports));
            bound.is_some_and(|test| test.check(&now.attempt()).holds())
        };
        let values = self.values(field);
        let edits: Vec<Edit> = values
            .iter()
            .filter(matches)
            .map(|value| Edit::RemoveValue {
                rule: self.index,
                field,
                value: value.clone(),
            })
            .collect();
        (edits, 2)
    }

    /// The values of a list, as written.
    fn values(&self, field: FieldRef) -> Vec<String> {
        let mut rule = self.written().cloned().unwrap_or_default();
        list(&mut rule, field).cloned().unwrap_or_default()
    }

    /// Whether the edits take out nothing but what this connection has.
    fn is_exact(&self, field: FieldRef, edits: &[Edit]) -> bool {
        let own = self.now.own_value(field.attribute);
        edits.iter().all(|edit| match edit {
            Edit::RemoveValue { value, .. } => Some(value) == own.as_ref(),
            _ => false,
        })
    }
}

fn joined(left: &Edits, right: &Edits) -> Edits {
    let edits = left.0.iter().chain(&right.0).cloned().collect();
    (edits, left.1.saturating_add(right.1))
}
