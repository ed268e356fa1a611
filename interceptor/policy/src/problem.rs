//! What is wrong with a written policy, where, and what to do about it.
//!
//! Compilation never stops at the first mistake: all of them come back together, each with the path
//! of the field, so that a source that knows lines can name file, line and key.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};

/// A mistake or a surprise in a written object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The field that is meant, from the top of the manifest.
    pub path: FieldPath,
    /// Whether the object is refused for it.
    pub severity: Severity,
    /// What is wrong and what to write instead; one sentence, no final stop.
    pub message: String,
}

/// Whether a [`Problem`] stops an object from being used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object is used, but does something that its author may not expect.
    Warning,
    /// The object is refused.
    Error,
}

/// A compiled object and what its author should know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled<T> {
    /// The object, correct and ready for use.
    pub value: T,
    /// Only [`Severity::Warning`].
    pub warnings: Vec<Problem>,
}

/// The way from the top of a manifest to a field: `spec.rules[0].from[1].source.ipBlocks[0]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(Vec<Segment>);

/// One step of a [`FieldPath`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    /// Into a mapping.
    Key(Cow<'static, str>),
    /// Into a list, from 0.
    Index(usize),
}

/// The problems found so far.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Problem>);

// === impl FieldPath ===

impl FieldPath {
    /// The path of a top-level key.
    pub fn root(key: impl Into<Cow<'static, str>>) -> Self {
        Self(vec![Segment::Key(key.into())])
    }

    /// The path of a key of this mapping.
    #[must_use]
    pub fn key(&self, key: impl Into<Cow<'static, str>>) -> Self {
        self.with(Segment::Key(key.into()))
    }

    /// The path of an entry of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    /// The steps, from the top.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    fn with(&self, segment: Segment) -> Self {
        let mut segments = Vec::with_capacity(self.0.len().saturating_add(1));
        segments.extend_from_slice(&self.0);
        segments.push(segment);
        Self(segments)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) if !is_plain(key) => write!(f, "[{key:?}]")?,
                Segment::Key(key) if position == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

/// Whether a key reads well after a dot.
fn is_plain(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl Serialize for FieldPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.severity, self.path, self.message)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

// === impl Problems ===

impl Problems {
    pub(crate) fn error(&mut self, path: FieldPath, message: impl Into<String>) {
        self.0.push(Problem {
            path,
            severity: Severity::Error,
            message: message.into(),
        });
    }

    pub(crate) fn warn(&mut self, path: FieldPath, message: impl Into<String>) {
        self.0.push(Problem {
            path,
            severity: Severity::Warning,
            message: message.into(),
        });
    }

    /// Whether nothing that was found is an error.
    pub(crate) fn no_errors(&self) -> bool {
        (self.0.iter()).all(|problem| problem.severity != Severity::Error)
    }

    /// The compiled object if nothing is an error; otherwise everything that was found.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<Compiled<T>, Vec<Problem>> {
        let refused = self
            .0
            .iter()
            .any(|problem| problem.severity == Severity::Error);
        match value {
            Some(value) if !refused => Ok(Compiled {
                value,
                warnings: self.0,
            }),
            _ => Err(self.0),
        }
    }
}
