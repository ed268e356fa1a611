//! The values that a policy compares with: patterns, service accounts, address blocks, ports.
//!
//! Each parses strictly. A value that can never match anything (a wildcard in the middle, a scheme
//! in front of a principal) is refused: in a DENY it would be a hole, in an ALLOW an outage, and
//! nobody would be told.

mod ip;
mod pattern;
mod port;

use std::fmt;

pub(crate) use ip::IpBlock;
pub(crate) use pattern::Pattern;
pub(crate) use port::PortMatch;

use crate::SpiffeId;

/// How many pairs of values are compared to find a contradiction.
const MAX_COMPARISONS: usize = 4096;

/// One field's values and not-values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Values<T> {
    /// At least one must match, unless there are none.
    pub(crate) any_of: Box<[T]>,
    /// None may match.
    pub(crate) none_of: Box<[T]>,
}

/// What a field says to one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Satisfied, by this entry of `any_of` if there are any.
    Holds(Option<usize>),
    /// No entry of `any_of` matches.
    NotListed,
    /// This entry of `none_of` matches.
    Excluded(usize),
}

/// A set of values that can be compared with another.
pub(crate) trait Covers {
    /// Whether everything that matches `other` matches `self`. May miss a case, never invents one.
    fn covers(&self, other: &Self) -> bool;
}

/// A service account of a namespace, in any trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ServiceAccountRef {
    namespace: Box<str>,
    name: Box<str>,
}

// === impl Values ===

impl<T> Values<T> {
    /// Compares every value by `matches`.
    pub(crate) fn check(&self, matches: impl Fn(&T) -> bool) -> Outcome {
        let listed = self.any_of.iter().position(&matches);
        if listed.is_none() && !self.any_of.is_empty() {
            return Outcome::NotListed;
        }
        match self.none_of.iter().position(&matches) {
            Some(entry) => Outcome::Excluded(entry),
            None => Outcome::Holds(listed),
        }
    }

    /// One of the two lists.
    pub(crate) const fn list(&self, negated: bool) -> &[T] {
        if negated { &self.none_of } else { &self.any_of }
    }

    /// All values of both lists.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.any_of.iter().chain(&self.none_of)
    }

    /// The same lists of other values.
    pub(crate) fn map<U>(&self, change: impl Fn(&T) -> U) -> Values<U> {
        Values {
            any_of: self.any_of.iter().map(&change).collect(),
            none_of: self.none_of.iter().map(&change).collect(),
        }
    }
}

impl<T: Covers> Values<T> {
    /// Whether no connection can satisfy the field, because every value is excluded again. Lists
    /// too long to compare in passing are taken for satisfiable.
    pub(crate) fn contradict(&self) -> bool {
        let comparisons = self.any_of.len().saturating_mul(self.none_of.len());
        let excluded = |value: &T| self.none_of.iter().any(|excluded| excluded.covers(value));
        (1..=MAX_COMPARISONS).contains(&comparisons) && self.any_of.iter().all(excluded)
    }
}

impl<T: fmt::Display> Values<T> {
    /// One value of one list, as text.
    pub(crate) fn text(&self, negated: bool, index: usize) -> Option<String> {
        self.list(negated).get(index).map(ToString::to_string)
    }
}

impl Outcome {
    pub(crate) const fn holds(self) -> bool {
        matches!(self, Self::Holds(_))
    }
}

// === impl ServiceAccountRef ===

impl ServiceAccountRef {
    /// `<namespace>/<name>`, or `<name>` in `own_namespace`.
    pub(crate) fn parse(text: &str, own_namespace: &str) -> Result<Self, String> {
        if text.contains('*') {
            return Err(
                "a service account is exact, without \"*\": use principals for patterns".to_owned(),
            );
        }
        let (namespace, name) = text.split_once('/').unwrap_or((own_namespace, text));
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            return Err(format!("{text:?} is neither <name> nor <namespace>/<name>"));
        }
        pattern::check_characters(text)?;
        Ok(Self {
            namespace: namespace.into(),
            name: name.into(),
        })
    }

    pub(crate) const fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) const fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn matches(&self, id: &SpiffeId) -> bool {
        *self.name == *id.service_account() && *self.namespace == *id.namespace()
    }
}

impl Covers for ServiceAccountRef {
    fn covers(&self, other: &Self) -> bool {
        self == other
    }
}

impl fmt::Display for ServiceAccountRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests;
