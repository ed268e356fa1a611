//! One finding, and the list of them.

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::catalogue::{Check, Severity};
use crate::workload::objects::{Meta, Origin};
use crate::yaml::{Mistake, Node, Position};

/// More findings than this are counted only: nobody reads more.
const MAX_FINDINGS: usize = 1000;

/// Something that is wrong or weaker than it looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The code of its kind.
    pub code: &'static str,
    /// The name of its kind.
    pub name: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// `Service demo/web`; empty if a file as a whole is meant.
    pub object: String,
    /// The file.
    pub file: String,
    /// Line, from 1; 0 if the whole file is meant.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// The key path.
    pub key: String,
    /// What it does, in one sentence without a full stop.
    pub effect: String,
    /// What to do about it.
    pub fix: String,
}

/// Where a finding is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) object: String,
    pub(super) file: Arc<str>,
    pub(super) at: Position,
    pub(super) key: String,
}

/// The findings so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Finding>,
    dropped: usize,
    /// File, line and key of what was found already, so that it is not found again in other words.
    covered: HashSet<(Arc<str>, u32, String)>,
}

/// A finding that its reader has seen and accepted: `CODE` or `CODE=OBJECT`, with `*` for any
/// text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppression {
    code: String,
    object: Option<String>,
}

impl Place {
    /// The place of a key path in an object.
    pub(super) fn of(kind: &str, meta: &Meta, tree: &Node, path: &str) -> Self {
        let origin = &meta.origin;
        let key = match &*origin.key {
            "" => path.to_owned(),
            object => format!("{object}.{path}"),
        };
        Self {
            object: name(kind, meta),
            file: Arc::clone(&origin.file),
            at: tree.locate(path),
            key,
        }
    }

    /// A place that is known.
    pub(super) fn at(kind: &str, meta: &Meta, origin: &Origin) -> Self {
        Self {
            object: name(kind, meta),
            file: Arc::clone(&origin.file),
            at: origin.at,
            key: origin.key.to_string(),
        }
    }

    /// `file:line`, for messages about another place.
    pub(super) fn short(&self) -> String {
        format!("{}:{}", self.file, self.at.line)
    }
}

/// `Service demo/web`.
pub(super) fn name(kind: &str, meta: &Meta) -> String {
    if meta.namespace.is_empty() {
        format!("{kind} {}", meta.name)
    } else {
        format!("{kind} {}/{}", meta.namespace, meta.name)
    }
}

impl Findings {
    pub(super) fn add(
        &mut self,
        check: &'static Check,
        place: &Place,
        effect: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.cover(place);
        if self.list.len() >= MAX_FINDINGS {
            self.dropped = self.dropped.saturating_add(1);
            // What matters most must stay, however much there is of the rest.
            let least = self.list.iter_mut().min_by_key(|kept| kept.severity);
            match least {
                Some(least) if least.severity < check.severity => {
                    *least = finding(check, place, effect.into(), fix.into());
                }
                _ => {}
            }
            return;
        }
        let found = finding(check, place, effect.into(), fix.into());
        self.list.push(found);
    }

    /// Takes a place for explained.
    pub(super) fn cover(&mut self, place: &Place) {
        let file = Arc::clone(&place.file);
        self.covered
            .insert((file, place.at.line, place.key.clone()));
    }

    /// Whether a place was found already.
    pub(super) fn covers(&self, mistake: &Mistake) -> bool {
        let file = Arc::clone(&mistake.file);
        self.covered
            .contains(&(file, mistake.line, mistake.key.clone()))
    }

    /// The findings, the worst first, and how many more there are.
    pub(super) fn finish(mut self) -> (Vec<Finding>, usize) {
        let order = |one: &Finding| {
            let severity = std::cmp::Reverse(one.severity);
            (severity, one.file.clone(), one.line, one.column, one.code)
        };
        self.list.sort_by_cached_key(order);
        self.list.dedup();
        (self.list, self.dropped)
    }
}

fn finding(check: &'static Check, place: &Place, effect: String, fix: String) -> Finding {
    Finding {
        code: check.code,
        name: check.name,
        severity: check.severity,
        object: place.object.clone(),
        file: place.file.to_string(),
        line: place.at.line,
        column: place.at.column,
        key: place.key.clone(),
        effect,
        fix,
    }
}

impl std::str::FromStr for Suppression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (code, object) = match text.split_once('=') {
            Some((code, object)) => (code, Some(object.to_owned())),
            None => (text, None),
        };
        let known = |check: &&&Check| check.code == code || check.name == code;
        match super::catalogue::CATALOGUE.iter().find(known) {
            Some(check) => Ok(Self {
                code: check.code.to_owned(),
                object,
            }),
            None => Err(format!(
                "there is no finding {code:?}; docs/analyze.md lists them"
            )),
        }
    }
}

impl Suppression {
    /// Whether it hides this finding.
    pub fn hides(&self, finding: &Finding) -> bool {
        let object = self.object.as_deref();
        self.code == finding.code && object.is_none_or(|pattern| matches(pattern, &finding.object))
    }
}

/// Whether a text matches a pattern in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else {
        return rest.is_empty();
    };
    for part in middle {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = rest
            .get(at.saturating_add(part.len())..)
            .unwrap_or_default();
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{Suppression, matches};

    #[rstest]
    #[case("Service demo/web", "Service demo/web", true)]
    #[case("Service demo/*", "Service demo/web", true)]
    #[case("*/web", "Service demo/web", true)]
    #[case("*demo*b", "Service demo/web", true)]
    #[case("Service demo", "Service demo/web", false)]
    #[case("Service ops/*", "Service demo/web", false)]
    #[case("a*a", "a", false)]
    fn a_star_stands_for_any_text(#[case] pattern: &str, #[case] text: &str, #[case] hit: bool) {
        assert_eq!(matches(pattern, text), hit);
    }

    #[test]
    fn only_findings_that_exist_can_be_suppressed() {
        assert!("IST0118=Service *".parse::<Suppression>().is_ok());
        assert!("PortNameNearlyProtocol".parse::<Suppression>().is_ok());
        assert!("IST9999".parse::<Suppression>().is_err());
    }
}
