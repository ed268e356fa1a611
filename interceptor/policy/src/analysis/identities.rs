//! Sets of identities: patterns taken apart into trust domain, namespace and service account.
//!
//! Every pattern that a policy can write is a [`Cube`]: one condition on each part. That makes
//! "does anybody match both?" and "does everybody who matches this match that?" questions about
//! the beginnings and ends of three texts.

use crate::SpiffeId;
use crate::policy::Test;
use crate::value::{Pattern, ServiceAccountRef, Values};

/// More alternatives than this are not compared.
const MAX_CUBES: usize = 4096;

/// A condition on one part of an identity. Parts are never empty and contain no slash.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Exact(Box<str>),
    /// Begins and ends so; with two empty texts, any.
    Affixes(Box<str>, Box<str>),
}

/// Identities by a condition on each part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cube {
    trust_domain: Part,
    namespace: Part,
    account: Part,
}

/// Callers: identities in one of the cubes and in none of the excluded ones, and maybe plaintext.
#[derive(Clone, Debug)]
pub(super) struct Identities {
    pub(super) plaintext: bool,
    pub(super) cubes: Vec<Cube>,
    excluded: Vec<Cube>,
    /// There are more cubes than these, too many to look at.
    pub(super) unbounded: bool,
}

// === impl Part ===

impl Part {
    fn any() -> Self {
        Self::Affixes("".into(), "".into())
    }

    fn of(pattern: &Pattern) -> Self {
        match pattern {
            Pattern::Present => Self::any(),
            Pattern::Exact(text) => Self::Exact(text.clone()),
            Pattern::Prefix(text) => Self::Affixes(text.clone(), "".into()),
            Pattern::Suffix(text) => Self::Affixes("".into(), text.clone()),
        }
    }

    fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => **text == *value,
            Self::Affixes(prefix, suffix) => {
                value.starts_with(&**prefix) && value.ends_with(&**suffix)
            }
        }
    }

    /// Whether everything that matches `other` matches this. May miss a case, never invents one.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(text)) => self.matches(text),
            (Self::Exact(_), Self::Affixes(..)) => false,
            (Self::Affixes(prefix, suffix), Self::Affixes(longer_prefix, longer_suffix)) => {
                longer_prefix.starts_with(&**prefix) && longer_suffix.ends_with(&**suffix)
            }
        }
    }

    /// What matches both; `None` if nothing can.
    fn and(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Exact(text), condition) | (condition, Self::Exact(text)) => {
                condition.matches(text).then(|| Self::Exact(text.clone()))
            }
            (Self::Affixes(prefix, suffix), Self::Affixes(other_prefix, other_suffix)) => {
                let prefix = longer(prefix, other_prefix, |long, short| long.starts_with(short))?;
                let suffix = longer(suffix, other_suffix, |long, short| long.ends_with(short))?;
                Some(Self::Affixes(prefix.into(), suffix.into()))
            }
        }
    }

    /// A value that matches, and as little else as possible.
    fn example(&self, filler: char) -> String {
        match self {
            Self::Exact(text) => text.to_string(),
            Self::Affixes(prefix, suffix) => format!("{prefix}{filler}{filler}{suffix}"),
        }
    }
}

fn longer<'t>(a: &'t str, b: &'t str, extends: fn(&str, &str) -> bool) -> Option<&'t str> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    extends(long, short).then_some(long)
}

// === impl Cube ===

impl Cube {
    fn any() -> Self {
        Self {
            trust_domain: Part::any(),
            namespace: Part::any(),
            account: Part::any(),
        }
    }

    /// The identities whose principal matches; `None` if no identity's can.
    fn of_principal(pattern: &Pattern) -> Option<Self> {
        match pattern {
            Pattern::Present => Some(Self::any()),
            Pattern::Exact(text) => {
                let id: SpiffeId = format!("spiffe://{text}").parse().ok()?;
                Some(Self {
                    trust_domain: Part::Exact(id.trust_domain().as_str().into()),
                    namespace: Part::Exact(id.namespace().into()),
                    account: Part::Exact(id.service_account().into()),
                })
            }
            Pattern::Prefix(text) => {
                let parts = text.split('/').enumerate();
                Self::of_parts(parts, text.matches('/').count(), |affix| {
                    Part::Affixes(affix.into(), "".into())
                })
            }
            Pattern::Suffix(text) => {
                let parts = text.rsplit('/').enumerate();
                let parts = parts.map(|(from_end, part)| (4_usize.wrapping_sub(from_end), part));
                let last = 4_usize.wrapping_sub(text.matches('/').count());
                Self::of_parts(parts, last, |affix| Part::Affixes("".into(), affix.into()))
            }
        }
    }

    /// From the parts of `td/ns/N/sa/S` that a pattern reaches. The one at `partial` is cut off,
    /// and `cut` makes it a condition; the others are whole.
    fn of_parts<'t, P: Iterator<Item = (usize, &'t str)>>(
        parts: P,
        partial: usize,
        cut: impl Fn(&str) -> Part,
    ) -> Option<Self> {
        let mut cube = Self::any();
        for (position, text) in parts {
            let whole = position != partial;
            if whole && text.is_empty() {
                return None;
            }
            let condition = if whole {
                Part::Exact(text.into())
            } else {
                cut(text)
            };
            match position {
                0 => cube.trust_domain = condition,
                1 if condition.matches("ns") => {}
                2 => cube.namespace = condition,
                3 if condition.matches("sa") => {}
                4 => cube.account = condition,
                _ => return None,
            }
        }
        Some(cube)
    }

    fn of_namespace(pattern: &Pattern) -> Self {
        Self {
            namespace: Part::of(pattern),
            ..Self::any()
        }
    }

    fn of_trust_domain(pattern: &Pattern) -> Self {
        Self {
            trust_domain: Part::of(pattern),
            ..Self::any()
        }
    }

    fn of_account(account: &ServiceAccountRef) -> Self {
        Self {
            namespace: Part::Exact(account.namespace().into()),
            account: Part::Exact(account.name().into()),
            ..Self::any()
        }
    }

    /// Whether every identity of `other` is one of these.
    fn covers(&self, other: &Self) -> bool {
        self.trust_domain.covers(&other.trust_domain)
            && self.namespace.covers(&other.namespace)
            && self.account.covers(&other.account)
    }

    fn and(&self, other: &Self) -> Option<Self> {
        Some(Self {
            trust_domain: self.trust_domain.and(&other.trust_domain)?,
            namespace: self.namespace.and(&other.namespace)?,
            account: self.account.and(&other.account)?,
        })
    }

    /// An identity of these that is in as few others as possible.
    pub(super) fn example(&self, filler: char) -> Option<SpiffeId> {
        let domain = self.trust_domain.example(filler).parse().ok()?;
        let namespace = self.namespace.example(filler);
        SpiffeId::new(&domain, &namespace, &self.account.example(filler)).ok()
    }
}

// === impl Identities ===

impl Identities {
    pub(super) fn all() -> Self {
        Self {
            plaintext: true,
            cubes: vec![Cube::any()],
            excluded: Vec::new(),
            unbounded: false,
        }
    }

    /// Leaves those that also pass one more field. Fields about other things let all pass.
    pub(super) fn narrow(&mut self, test: &Test) {
        match test {
            Test::Principal(values) => self.narrow_by(values, Cube::of_principal),
            Test::Namespace(values) => self.narrow_by(values, |v| Some(Cube::of_namespace(v))),
            Test::TrustDomain(values) => {
                self.narrow_by(values, |v| Some(Cube::of_trust_domain(v)));
            }
            Test::ServiceAccount(values) => self.narrow_by(values, |v| Some(Cube::of_account(v))),
            Test::SourceIp(_) | Test::DestinationIp(_) | Test::DestinationPort(_) => {}
        }
    }

    fn narrow_by<T>(&mut self, values: &Values<T>, cube: impl Fn(&T) -> Option<Cube>) {
        self.excluded
            .extend(values.none_of.iter().filter_map(&cube));
        if values.any_of.is_empty() {
            return;
        }
        self.plaintext = false;
        let listed: Vec<Cube> = values.any_of.iter().filter_map(&cube).collect();
        let pairs = self.cubes.len().saturating_mul(listed.len());
        if pairs > MAX_CUBES {
            // What is kept is a superset of those that pass.
            self.unbounded = true;
            return;
        }
        let both = |one: &Cube| {
            listed
                .iter()
                .filter_map(|other| one.and(other))
                .collect::<Vec<_>>()
        };
        self.cubes = self.cubes.iter().flat_map(both).collect();
    }

    /// Takes out what is excluded as a whole. A cube that is left has an identity that no excluded
    /// one has: each leaves out something, and none of the open conditions is ever used up.
    pub(super) fn settle(&mut self) {
        if self.cubes.len().saturating_mul(self.excluded.len()) > MAX_CUBES.saturating_mul(16) {
            self.unbounded = true;
            return;
        }
        let excluded = &self.excluded;
        self.cubes
            .retain(|cube| !excluded.iter().any(|excluded| excluded.covers(cube)));
    }

    /// Whether no caller at all is in here.
    pub(super) const fn is_empty(&self) -> bool {
        !self.plaintext && self.cubes.is_empty()
    }

    /// Whether everybody in `cube`, apart from those that `all` excludes, is in here.
    pub(super) fn cover(&self, cube: &Cube, all: &Self) -> bool {
        let still_excluded = |excluded: &Cube| match excluded.and(cube) {
            None => false,
            Some(both) => !all.excluded.iter().any(|already| already.covers(&both)),
        };
        !self.unbounded
            && self.cubes.iter().any(|own| own.covers(cube))
            && !self.excluded.iter().any(still_excluded)
    }
}
