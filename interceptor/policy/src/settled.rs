//! Whether a verdict is settled before the connection exists: what may be published to the kernel.
//!
//! A verdict that is taken beforehand holds for every connection of a pair only if nothing in it
//! depends on what is known no sooner than the connection itself. That is the address from which
//! the caller dials (it may bind any that its namespace has), and whatever L4 cannot see. Nor may a
//! policy want to count each connection.
//!
//! Logic of three values: a test of the source address is open, everything else is decided. A rule
//! that is decided against needs no second look, whatever else it says.
//!
//! Not here: the verdict itself (`decide`).

use std::fmt;

use crate::Attempt;
use crate::effective::{Bound, Effective};
use crate::index::Class;
use crate::policy::{Clause, Entry, PolicyName, Rule, Test};
use crate::verdict::RuleRef;

/// Why a verdict cannot be taken before the connection exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsettled {
    /// A policy that only reports (AUDIT, or in dry-run) may have something to say of each
    /// connection.
    Reported(PolicyName),
    /// It depends on the caller's address whether this rule matches.
    ByAddress(RuleRef),
    /// The connection is one to which this rule applies what only an HTTP proxy sees.
    ByRequest(RuleRef),
}

/// What is known of a condition before the source address is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    No,
    Open,
    Yes,
}

impl Effective {
    /// What keeps the verdict on connections like `attempt` from being taken once for all of them;
    /// `None` if it is the same for every source address and there is nothing to report.
    ///
    /// The source address of `attempt` is not looked at.
    pub fn unsettled(&self, attempt: &Attempt<'_>) -> Option<Unsettled> {
        let parts = &*self.0;
        reported(&parts.audit, attempt)
            .or_else(|| reported(&parts.dry_deny, attempt))
            .or_else(|| reported(&parts.dry_allow, attempt))
            .or_else(|| {
                // Without an enforced ALLOW policy, it counts what none in dry-run allows.
                let unmatched = parts.allow.concerned(attempt).next().is_none();
                let bound = parts.dry_allow.concerned(attempt).next();
                let bound = bound.filter(|_| unmatched)?;
                Some(Unsettled::Reported(bound.policy.name.clone()))
            })
            .or_else(|| denied(&parts.deny, attempt))
            .or_else(|| allowed(&parts.allow, attempt))
    }
}

/// Whether policies that only report may have something to say.
fn reported(class: &Class, attempt: &Attempt<'_>) -> Option<Unsettled> {
    let mut relevant = rules(class, attempt).filter(|(_, _, known)| *known != Known::No);
    let (bound, ..) = relevant.next()?;
    Some(Unsettled::Reported(bound.policy.name.clone()))
}

/// Whether a DENY rule may match by what is not known yet.
fn denied(class: &Class, attempt: &Attempt<'_>) -> Option<Unsettled> {
    if class.is_plain() {
        return None;
    }
    rules(class, attempt).find_map(|(bound, index, known)| {
        let rule = bound.rule_ref(index);
        match known {
            Known::No => None,
            _ if is_about_requests(bound, index) => Some(Unsettled::ByRequest(rule)),
            Known::Open => Some(Unsettled::ByAddress(rule)),
            Known::Yes => None,
        }
    })
}

/// Whether it is by what is not known yet that an ALLOW rule matches. One that matches in any case
/// settles it, unless requests are wanted to be looked at.
fn allowed(class: &Class, attempt: &Attempt<'_>) -> Option<Unsettled> {
    if class.is_plain() {
        return None;
    }
    let mut open = None;
    let mut settled = false;
    for (bound, index, known) in rules(class, attempt) {
        if known != Known::No && is_about_requests(bound, index) {
            return Some(Unsettled::ByRequest(bound.rule_ref(index)));
        }
        settled |= known == Known::Yes;
        if known == Known::Open && open.is_none() {
            open = Some(Unsettled::ByAddress(bound.rule_ref(index)));
        }
    }
    open.filter(|_| !settled)
}

/// Every rule of the policies that say something about the port, and whether its conditions at L4
/// hold. What L4 cannot see is taken to hold.
fn rules<'a>(
    class: &'a Class,
    attempt: &'a Attempt<'_>,
) -> impl Iterator<Item = (&'a Bound, usize, Known)> {
    class.concerned(attempt).flat_map(move |bound| {
        let rules = bound.policy.rules.iter().enumerate();
        rules.map(move |(index, rule)| (bound, index, rule.known(attempt)))
    })
}

fn is_about_requests(bound: &Bound, rule: usize) -> bool {
    let rule = bound.policy.rules.get(rule);
    rule.is_some_and(|rule| !rule.unsupported.is_empty())
}

// === the parts of a rule, in three values ===

impl Rule {
    /// Whether a verdict that involves this rule may be open.
    pub(crate) fn is_plain(&self) -> bool {
        let tests = (self.clauses.iter())
            .flat_map(|clause| &*clause.entries)
            .flat_map(|entry| &*entry.tests);
        self.unsupported.is_empty() && !tests.into_iter().any(Test::is_open)
    }

    fn known(&self, attempt: &Attempt<'_>) -> Known {
        let clauses = self.clauses.iter().map(|clause| clause.known(attempt));
        clauses.min().unwrap_or(Known::Yes)
    }
}

impl Clause {
    fn known(&self, attempt: &Attempt<'_>) -> Known {
        let entries = self.entries.iter().map(|entry| entry.known(attempt));
        entries.max().unwrap_or(Known::No)
    }
}

impl Entry {
    fn known(&self, attempt: &Attempt<'_>) -> Known {
        let tests = self.tests.iter().map(|test| {
            if test.is_open() {
                Known::Open
            } else if test.check(attempt).holds() {
                Known::Yes
            } else {
                Known::No
            }
        });
        tests.min().unwrap_or(Known::Yes)
    }
}

impl Test {
    const fn is_open(&self) -> bool {
        matches!(self, Self::SourceIp(_))
    }
}

impl fmt::Display for Unsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reported(policy) => write!(f, "{policy} reports each connection"),
            Self::ByAddress(rule) => write!(f, "{rule} looks at the caller's address"),
            Self::ByRequest(rule) => write!(f, "{rule} looks at requests"),
        }
    }
}
