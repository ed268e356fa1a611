//! One rule: its clauses, and what becomes of the conditions that L4 cannot decide.

use super::list::{self, Written};
use super::{Context, condition};
use crate::field::{Attribute, Place};
use crate::policy::{Action, Clause, Entry, Fidelity, Rule, Test};
use crate::problem::{FieldPath, Problems};
use crate::settings::OnUnsupported;
use crate::spec::{FromSpec, OperationSpec, RuleSpec, SourceSpec, ToSpec};
use crate::value::IpBlock;

/// A rule under construction.
pub(super) struct Draft<'a> {
    pub(super) path: &'a FieldPath,
    pub(super) context: &'a Context<'a>,
    pub(super) problems: &'a mut Problems,
    /// What L4 cannot decide: its path, and how a verdict names it.
    unsupported: Vec<(FieldPath, String)>,
}

/// What the values of a list that L4 cannot decide must look like all the same.
#[derive(Clone, Copy)]
pub(super) enum Syntax {
    Text,
    Address,
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
        let written = [
            (
                Attribute::Principal,
                &source.principals,
                &source.not_principals,
            ),
            (
                Attribute::Namespace,
                &source.namespaces,
                &source.not_namespaces,
            ),
            (
                Attribute::ServiceAccount,
                &source.service_accounts,
                &source.not_service_accounts,
            ),
            (
                Attribute::TrustDomain,
                &source.trust_domains,
                &source.not_trust_domains,
            ),
            (
                Attribute::SourceIp,
                &source.ip_blocks,
                &source.not_ip_blocks,
            ),
        ];
        let tests = written.map(|(attribute, values, not_values)| {
            self.test(
                &Written {
                    attribute,
                    values,
                    not_values,
                },
                place,
            )
        });
        let before = self.unsupported.len();
        self.unsupported_list(
            place,
            "remoteIpBlocks",
            &source.remote_ip_blocks,
            Syntax::Address,
        );
        self.unsupported_list(
            place,
            "notRemoteIpBlocks",
            &source.not_remote_ip_blocks,
            Syntax::Address,
        );
        self.unsupported_list(
            place,
            "requestPrincipals",
            &source.request_principals,
            Syntax::Text,
        );
        self.unsupported_list(
            place,
            "notRequestPrincipals",
            &source.not_request_principals,
            Syntax::Text,
        );
        self.entry(place, tests, before)
    }

    fn to(&mut self, index: usize, spec: &ToSpec) -> Entry {
        let place = Place::To(index);
        let Some(operation) = &spec.operation else {
            return self.missing(place);
        };
        let ports = Written {
            attribute: Attribute::DestinationPort,
            values: &operation.ports,
            not_values: &operation.not_ports,
        };
        let test = self.test(&ports, place);
        let before = self.unsupported.len();
        for (key, values) in http_lists(operation) {
            self.unsupported_list(place, key, values, Syntax::Text);
        }
        self.entry(place, [test], before)
    }

    pub(super) fn test(&mut self, written: &Written<'_>, place: Place) -> Option<Test> {
        list::compile(written, place, self.path, self.context, self.problems)
    }

    /// An entry of a list; `before` is how much was unsupported before it.
    fn entry<const N: usize>(
        &mut self,
        place: Place,
        tests: [Option<Test>; N],
        before: usize,
    ) -> Entry {
        let tests: Box<[Test]> = tests.into_iter().flatten().collect();
        if tests.is_empty() && self.unsupported.len() == before {
            self.problems.error(
                place.path(self.path),
                "an entry without conditions is not allowed: remove it, or say what it matches",
            );
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

    /// Notes a list that L4 cannot decide, after checking that it is at least well-formed.
    fn unsupported_list(
        &mut self,
        place: Place,
        key: &'static str,
        values: &[String],
        syntax: Syntax,
    ) {
        if values.is_empty() {
            return;
        }
        let path = place.path(self.path).key(key);
        self.check_values(&path, values, syntax);
        self.unsupported(path, format!("{place}.{key}"));
    }

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
        let left = clauses.iter().flat_map(|clause| &*clause.entries);
        let what_is_left = if left.into_iter().any(|entry| !entry.tests.is_empty()) {
            "every connection that the rest of the rule matches"
        } else {
            "every connection"
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

fn http_lists(operation: &OperationSpec) -> [(&'static str, &[String]); 6] {
    [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
        ("paths", &operation.paths),
        ("notPaths", &operation.not_paths),
    ]
}

impl Syntax {
    fn check(self, value: &str) -> Result<(), String> {
        match self {
            _ if value.is_empty() => Err("an empty value is not allowed: remove it".to_owned()),
            Self::Text => Ok(()),
            Self::Address => value
                .parse::<IpBlock>()
                .map(drop)
                .map_err(|error| error.to_string()),
        }
    }
}
