//! The wildcards of principals, namespaces and trust domains.

use std::fmt;

use super::Covers;

/// A text to compare with: `*` any, `*x` suffix, `x*` prefix, anything else exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// There is a value at all: the caller has an identity.
    Present,
    /// The value ends so.
    Suffix(Box<str>),
    /// The value begins so.
    Prefix(Box<str>),
    /// The value is this.
    Exact(Box<str>),
}

impl Pattern {
    /// Reads a pattern, and says what is wrong with one that can never match an identity.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty value matches nothing: remove it".to_owned());
        }
        if let Some(bare) = text.strip_prefix("spiffe://") {
            return Err(format!(
                "written without spiffe://, or it never matches: write {bare:?}"
            ));
        }
        if text == "*" {
            return Ok(Self::Present);
        }
        // A leading `*` wins: the rest of `*x*` would be taken literally, and no identity has a `*`.
        let (pattern, literal): (fn(Box<str>) -> Self, &str) =
            if let Some(rest) = text.strip_prefix('*') {
                (Self::Suffix, rest)
            } else if let Some(rest) = text.strip_suffix('*') {
                (Self::Prefix, rest)
            } else {
                (Self::Exact, text)
            };
        if literal.contains('*') {
            return Err(format!(
                "{text:?} never matches: \"*\" is a wildcard only at one end of a value"
            ));
        }
        check_characters(literal)?;
        Ok(pattern(literal.into()))
    }

    pub(crate) fn matches(&self, value: &str) -> bool {
        match self {
            Self::Present => !value.is_empty(),
            Self::Suffix(suffix) => value.ends_with(&**suffix),
            Self::Prefix(prefix) => value.starts_with(&**prefix),
            Self::Exact(exact) => **exact == *value,
        }
    }
}

/// Refuses characters that no identity has, because the value would never match.
pub(crate) fn check_characters(literal: &str) -> Result<(), String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    match literal.chars().find(|c| !legal(*c)) {
        Some(c) => Err(format!(
            "{literal:?} never matches: no identity contains {c:?}"
        )),
        None => Ok(()),
    }
}

impl Covers for Pattern {
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Present, _) => true,
            (Self::Suffix(suffix), Self::Suffix(text) | Self::Exact(text)) => {
                text.ends_with(&**suffix)
            }
            (Self::Prefix(prefix), Self::Prefix(text) | Self::Exact(text)) => {
                text.starts_with(&**prefix)
            }
            _ => self == other,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("*"),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Exact(exact) => f.write_str(exact),
        }
    }
}
