//! Policies of one effect, and which of their rules can match a connection at all.
//!
//! For a rule to match, one entry of each of its clauses must hold. So it is filed under the values
//! of one clause, the one whose values are rarest among all rules; a connection looks up what it
//! has (its principal, its port, ...) and tests only the rules filed there, and those that no value
//! narrows (`*`, only negations, no clauses).
//!
//! Built per workload when its policies change. The index only leaves out rules that cannot match:
//! the answer is that of testing every rule in order, and a property test holds it to that.

mod key;
mod table;

use std::collections::HashMap;

use crate::Attempt;
use crate::effective::Bound;
use crate::policy::{Clause, Fidelity, Rule};
use crate::verdict::RuleRef;
use key::Key;
use table::Table;

/// A rule: the position of its policy in the class, and its own in the policy. Ordered as policies
/// are considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    policy: usize,
    rule: usize,
}

/// Policies of one effect, by name.
#[derive(Debug, Default)]
pub(crate) struct Class {
    policies: Vec<Bound>,
    /// Made of `policies`.
    table: Table,
    /// Made of `policies`: whether no rule looks at more than who calls what.
    plain: bool,
}

/// How often each value stands in a class.
type Frequencies<'a> = HashMap<Key<'a>, usize>;

impl Class {
    pub(crate) fn new(policies: Vec<Bound>) -> Self {
        let table = build(&policies);
        let all = policies.iter().flat_map(|bound| &*bound.policy.rules);
        let plain = all.into_iter().all(Rule::is_plain);
        Self {
            policies,
            table,
            plain,
        }
    }

    /// Whether no rule looks at the source address, or at what L4 cannot see.
    pub(crate) const fn is_plain(&self) -> bool {
        self.plain
    }

    /// The policies, as they are considered.
    pub(crate) fn policies(&self) -> &[Bound] {
        &self.policies
    }

    /// Those that say something about the port of this connection.
    pub(crate) fn concerned(&self, attempt: &Attempt<'_>) -> impl Iterator<Item = &Bound> {
        self.policies.iter().filter(|bound| bound.concerns(attempt))
    }

    /// The first rule that matches, with its policy. Does not allocate.
    pub(crate) fn first_match(&self, attempt: &Attempt<'_>) -> Option<(&Bound, usize)> {
        let mut first: Option<Slot> = None;
        self.table.visit(attempt, |slots| {
            let before = |slot: &&Slot| first.is_none_or(|first| **slot < first);
            let found = slots
                .iter()
                .take_while(before)
                .find(|slot| self.holds(**slot, attempt));
            first = found.copied().or(first);
        });
        let Slot { policy, rule } = first?;
        Some((self.policies.get(policy)?, rule))
    }

    /// The first matching rule of every policy that matches. Allocates only if there is one.
    pub(crate) fn matches(&self, attempt: &Attempt<'_>) -> Vec<RuleRef> {
        let mut found: Vec<Slot> = Vec::new();
        self.table.visit(attempt, |slots| {
            found.extend(slots.iter().filter(|slot| self.holds(**slot, attempt)));
        });
        found.sort_unstable();
        found.dedup_by_key(|slot| slot.policy);
        let named = |slot: Slot| Some(self.policies.get(slot.policy)?.rule_ref(slot.rule));
        found.into_iter().filter_map(named).collect()
    }

    fn holds(&self, slot: Slot, attempt: &Attempt<'_>) -> bool {
        self.policies.get(slot.policy).is_some_and(|bound| {
            let rule = bound.policy.rules.get(slot.rule);
            bound.concerns(attempt) && rule.is_some_and(|rule| rule.matches(attempt))
        })
    }
}

/// The table follows from the policies.
impl PartialEq for Class {
    fn eq(&self, other: &Self) -> bool {
        self.policies == other.policies
    }
}

impl Eq for Class {}

fn build(policies: &[Bound]) -> Table {
    let mut frequencies = Frequencies::new();
    for key in rules(policies)
        .flat_map(|(_, rule)| &*rule.clauses)
        .flat_map(all_keys)
    {
        let count = frequencies.entry(key).or_default();
        *count = count.saturating_add(1);
    }
    let mut table = Table::default();
    for (slot, rule) in rules(policies) {
        let narrowing = rule
            .clauses
            .iter()
            .filter_map(|clause| narrow(clause, &frequencies));
        match narrowing.min_by_key(|(commonest, keys)| (*commonest, keys.len())) {
            Some((_, keys)) => keys.into_iter().for_each(|key| table.file(key, slot)),
            None => table.file_anywhere(slot),
        }
    }
    table
}

/// Every rule that can match, in order.
fn rules(policies: &[Bound]) -> impl Iterator<Item = (Slot, &Rule)> {
    policies.iter().enumerate().flat_map(|(policy, bound)| {
        let rules = bound.policy.rules.iter().enumerate();
        let live = rules.filter(|(_, rule)| rule.fidelity != Fidelity::Dropped);
        live.map(move |(rule, of)| (Slot { policy, rule }, of))
    })
}

fn all_keys(clause: &Clause) -> impl Iterator<Item = Key<'_>> {
    let tests = clause.entries.iter().flat_map(|entry| &*entry.tests);
    tests.filter_map(key::of).flatten()
}

/// Values of which a connection must have one for the clause to hold, and how many rules have the
/// commonest of them; `None` if some entry can hold whatever the connection has.
fn narrow<'a>(clause: &'a Clause, frequencies: &Frequencies<'_>) -> Option<(usize, Vec<Key<'a>>)> {
    let mut narrowed: (usize, Vec<Key<'a>>) = (0, Vec::new());
    for entry in &clause.entries {
        let candidates = entry.tests.iter().filter_map(key::of).map(|keys| {
            let count = |key| frequencies.get(key).copied().unwrap_or_default();
            (keys.iter().map(count).max().unwrap_or_default(), keys)
        });
        let (commonest, keys) = candidates.min_by_key(|(commonest, _)| *commonest)?;
        narrowed.0 = narrowed.0.max(commonest);
        narrowed.1.extend(keys);
    }
    Some(narrowed)
}
