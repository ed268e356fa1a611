//! One rule: its clauses, and what becomes of the conditions that L4 cannot decide.

use super::fields::{self, Syntax, Unsupported};
use super::list::{self, Written};
use super::{Context, condition};
use crate::field::Place;
use crate::policy::{Action, Clause, Entry, Fidelity, Rule, Test};
use crate::problem::{FieldPath, Problems};
use crate::settings::OnUnsupported;
use crate::spec::{FromSpec, RuleSpec, SourceSpec, ToSpec};

/// A rule under construction.
pub(super) struct Draft<'a> {
    pub(super) path: &'a FieldPath,
    pub(super) context: &'a Context<'a>,
    pub(super) problems: &'a mut Problems,
    /// What L4 cannot decide: its path, and how a verdict names it.
    unsupported: Vec<(FieldPath, String)>,
}

pub(super) fn compile(
    spec: &RuleSpec,
    path: &FieldPath,
    context: &Context<'_>,
    problems: &mut Problems,
) -> Rule {
    let mut draft = Draft {
        path,
        context,
        problems,
        unsupported: Vec::new(),
    };
    let mut clauses = Vec::new();
    if let Some(from) = &spec.from {
        clauses.push(draft.clause("from", from, Draft::from));
    }
    if let Some(to) = &spec.to {
        clauses.push(draft.clause("to", to, Draft::to));
    }
    for (index, condition) in spec.when.iter().enumerate() {
        let entry = condition::compile(condition, index, &mut draft);
        clauses.push(Clause {
            entries: Box::new([entry]),
        });
    }
    let fidelity = draft.settle(&clauses);
    Rule {
        clauses: clauses.into(),
        unsupported: draft
            .unsupported
            .into_iter()
            .map(|(_, name)| name)
            .collect(),
        fidelity,
    }
}

impl Draft<'_> {
    /// A clause of a list that must not be empty.
    fn clause<T>(
        &mut self,
        key: &'static str,
        specs: &[T],
        compile: fn(&mut Self, usize, &T) -> Entry,
    ) -> Clause {
        if specs.is_empty() {
            self.problems.error(
                self.path.key(key),
                "an empty list is not allowed: remove the key to match everything",
            );
        }
        let entries = specs
            .iter()
            .enumerate()
            .map(|(index, spec)| compile(self, index, spec));
        Clause {
            entries: entries.collect(),
        }
    }

    fn from(&mut self, index: usize, spec: &FromSpec) -> Entry {
        let place = Place::From(index);
        let Some(source) = &spec.source else {
            return self.missing(place);
        };
        self.check_service_accounts_alone(source, place);
        let tests = fields::of_source(source).map(|written| self.test(&written, place));
        self.entry(place, tests, &fields::unsupported_of_source(source))
    }

    fn to(&mut self, index: usize, spec: &ToSpec) -> Entry {
        let place = Place::To(index);
        let Some(operation) = &spec.operation else {
            return self.missing(place);
        };
        let test = self.test(&fields::of_operation(operation), place);
        self.entry(place, [test], &fields::unsupported_of_operation(operation))
    }

    pub(super) fn test(&mut self, written: &Written<'_>, place: Place) -> Option<Test> {
        list::compile(written, place, self.path, self.context, self.problems)
    }

    /// An entry of a list: what can be decided, and the lists that cannot.
    fn entry<const N: usize>(
        &mut self,
        place: Place,
        tests: [Option<Test>; N],
        unsupported: &[Unsupported<'_>],
    ) -> Entry {
        let tests: Box<[Test]> = tests.into_iter().flatten().collect();
        let mut written = unsupported
            .iter()
            .filter(|list| !list.values.is_empty())
            .peekable();
        if tests.is_empty() && written.peek().is_none() {
            self.problems.error(
                place.path(self.path),
                "an entry without conditions is not allowed: remove it, or say what it matches",
            );
        }
        for list in written {
            let path = place.path(self.path).key(list.key);
            self.check_values(&path, list.values, list.syntax);
            self.unsupported(path, format!("{place}.{}", list.key));
        }
        Entry { place, tests }
    }

    fn missing(&mut self, place: Place) -> Entry {
        self.problems.error(
            place.path(self.path),
            "missing: every entry of from has a source, every entry of to has an operation",
        );
        Entry {
            place,
            tests: Box::default(),
        }
    }

    fn check_service_accounts_alone(&mut self, source: &SourceSpec, place: Place) {
        let accounts = [&source.service_accounts, &source.not_service_accounts];
        let others = [
            &source.principals,
            &source.not_principals,
            &source.namespaces,
            &source.not_namespaces,
        ];
        let used = |lists: &[&Vec<String>]| lists.iter().any(|list| !list.is_empty());
        if used(&accounts) && used(&others) {
            self.problems.error(
                place.path(self.path).key("serviceAccounts"),
                "not together with principals or namespaces in one source: use one of them",
            );
        }
    }

    /// Notes a condition that L4 cannot decide.
    pub(super) fn unsupported(&mut self, path: FieldPath, name: String) {
        self.unsupported.push((path, name));
    }

    pub(super) fn check_values(&mut self, path: &FieldPath, values: &[String], syntax: Syntax) {
        for (index, value) in values.iter().enumerate() {
            if let Err(message) = syntax.check(value) {
                self.problems.error(path.index(index), message);
            }
        }
    }

    /// Decides what becomes of the rule, and reports it for each condition that is left out.
    fn settle(&mut self, clauses: &[Clause]) -> Fidelity {
        if self.unsupported.is_empty() {
            return Fidelity::Exact;
        }
        let open = |clause: &Clause| clause.entries.iter().any(|entry| entry.tests.is_empty());
        let what_is_left = if clauses.iter().all(open) {
            "every connection"
        } else {
            "every connection that the rest of the rule matches"
        };
        let (fidelity, effect) = match self.context.action {
            Action::Allow => (Fidelity::Dropped, "the rule allows nothing".to_owned()),
            Action::Deny => (Fidelity::Widened, format!("the rule denies {what_is_left}")),
            Action::Audit => (
                Fidelity::Widened,
                format!("the rule records {what_is_left}"),
            ),
        };
        for (path, _) in &self.unsupported {
            match self.context.settings.on_unsupported {
                OnUnsupported::Widen => self.problems.warn(
                    path.clone(),
                    format!("cannot be decided at L4, so {effect}: enforce it at a waypoint, or remove it"),
                ),
                OnUnsupported::Reject => self.problems.error(
                    path.clone(),
                    "cannot be decided at L4, and onUnsupported is reject: enforce it at a \
                     waypoint, or remove it",
                ),
            }
        }
        fidelity
    }
}
