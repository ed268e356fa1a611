//! `interceptor policy test`: do the policies do what their authors think they do?

mod read;

use std::collections::BTreeSet;
use std::path::PathBuf;

use interceptor_policy::RuleRef;
use serde::Serialize;

use self::read::{Case, Expect, Suite};
use super::judge::{self, Judged, Way};
use super::world;
use crate::cli::output::{Printer, Report, Style, Table, Tone, cell};
use crate::cli::{Exit, Failure, human};
use crate::workload::Mesh;

/// Do the policies do what we think they do?
///
/// Runs the cases of `PolicyTest` documents against the manifests that they name, without an agent
/// and without privileges. A case says who calls what, and what is expected to become of it. The
/// verdict is that of the functions with which the agent decides. Rules that no case exercised are
/// listed by name.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A test:
  apiVersion: interceptor.dev/v1alpha1
  kind: PolicyTest
  metadata: {name: demo}
  spec:
    manifests: [../examples]                 # files and folders, from this file's folder
    cases:
      - name: the caller may call
        from: {workload: demo/caller}        # or identity: td/ns/N/sa/A, ip: 10.0.0.1,
                                             # plaintext: true (alone or with workload or ip)
        to: {service: demo/server, port: 80} # or workload: demo/server, or ip; port also by name
        expect: allow                        # or deny, or audit: an AUDIT policy records it
        policy: demo/allow-caller            # optional: the policy that must decide

Exit code: 0 every case is as expected, 1 one is not, 2 a file is wrong.

Examples:
  interceptor policy test deploy/tests/*.yaml
  interceptor policy test tests/ports.yaml -o json | jq -r '.uncovered[]'")]
pub(in crate::cli) struct Args {
    /// Files with `PolicyTest` documents.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The agent's configuration file, which says what the mesh's trust domain and root namespace
    /// are. The defaults without it.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Exit with 1 also if a rule was not exercised.
    #[arg(long)]
    require_coverage: bool,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let settings = world::mesh_settings(args.config.as_deref())?;
    let suites =
        read::suites(&args.files, &settings).map_err(|mistakes| world::wrong(&mistakes))?;
    let mut results = Results::of(&suites);
    results.require_coverage = args.require_coverage;
    printer.report(&results)
}

/// What all suites came to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Results {
    passed: usize,
    failed: usize,
    cases: Vec<CaseResult>,
    coverage: Coverage,
    /// Rules that no case exercised.
    uncovered: Vec<String>,
    #[serde(skip)]
    require_coverage: bool,
}

/// How much of what was written was exercised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Coverage {
    exercised: usize,
    rules: usize,
}

/// What one case came to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CaseResult {
    suite: String,
    name: String,
    place: String,
    passed: bool,
    expected: &'static str,
    got: &'static str,
    /// What decided, if it was the same wherever the connection could go.
    policy: Option<String>,
    rule: Option<usize>,
    /// Why, one sentence for each workload that could answer differently.
    said: Vec<String>,
    /// What was wrong, if it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    wrong: Option<String>,
}

impl Results {
    fn of(suites: &[Suite]) -> Self {
        let (mut cases, mut exercised, mut all) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for suite in suites {
            all.extend(rules(&suite.mesh));
            for case in &suite.cases {
                let ways = judge::ways(&suite.mesh, &case.caller, &case.goal);
                exercised.extend(ways.iter().flat_map(|way| matched(&suite.mesh, way)));
                cases.push(CaseResult::of(&suite.name, case, &ways));
            }
        }
        let failed = cases.iter().filter(|case| !case.passed).count();
        let uncovered: Vec<_> = all
            .difference(&exercised)
            .map(ToString::to_string)
            .collect();
        Self {
            passed: cases.len() - failed,
            failed,
            coverage: Coverage {
                exercised: all.len() - uncovered.len(),
                rules: all.len(),
            },
            cases,
            uncovered,
            require_coverage: false,
        }
    }
}

/// Every rule of every policy.
fn rules(mesh: &Mesh) -> impl Iterator<Item = RuleRef> {
    mesh.policy_set().policies().flat_map(|policy| {
        (0..policy.rule_count()).map(|rule| RuleRef {
            policy: policy.name().clone(),
            rule,
        })
    })
}

/// The rules that match on this way, whether or not they decided.
fn matched(mesh: &Mesh, way: &Way) -> Vec<RuleRef> {
    let explanation = way.judged.as_ref().map(|judged| judged.explain(mesh));
    let policies = explanation
        .into_iter()
        .flat_map(|explanation| explanation.policies);
    let mut matched = Vec::new();
    for policy in policies {
        let rules = policy.rules.iter().filter(|rule| rule.matched);
        matched.extend(rules.map(|rule| RuleRef {
            policy: policy.policy.clone(),
            rule: rule.rule,
        }));
    }
    matched
}

impl CaseResult {
    fn of(suite: &str, case: &Case, ways: &[Way]) -> Self {
        let got = outcome(case.expect, ways);
        let wrong = if got == case.expect.label() {
            wrong_policy(case, ways)
        } else {
            Some(format!("expected {}, got {got}", case.expect.label()))
        };
        let mut said: Vec<String> = match ways {
            [one] => vec![one.said.clone()],
            several => several.iter().map(ToString::to_string).collect(),
        };
        said.dedup();
        let decided = unanimous(ways.iter().map(|way| {
            let verdict = &way.judged.as_ref()?.verdict;
            Some((verdict.policy()?.to_string(), verdict.rule()))
        }))
        .flatten();
        let (policy, rule) = decided.map_or((None, None), |(name, rule)| (Some(name), rule));
        Self {
            suite: suite.to_owned(),
            name: case.name.clone(),
            place: case.place.clone(),
            passed: wrong.is_none(),
            expected: case.expect.label(),
            got,
            policy,
            rule,
            said,
            wrong,
        }
    }
}

impl Expect {
    const fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
        }
    }
}

/// What became of the connection, in the terms of the expectation.
fn outcome(expect: Expect, ways: &[Way]) -> &'static str {
    let audited =
        |way: &Way| (way.judged.as_ref()).is_some_and(|judged| !judged.verdict.audited.is_empty());
    let of = |way: &Way| match (expect, way.allowed) {
        (Expect::Audit, _) if audited(way) => "audit",
        (_, true) => "allow",
        (_, false) => "deny",
    };
    unanimous(ways.iter().map(of)).unwrap_or("different answers")
}

/// The one value that all have.
fn unanimous<T: PartialEq>(mut values: impl Iterator<Item = T>) -> Option<T> {
    let first = values.next()?;
    values.all(|value| value == first).then_some(first)
}

/// Whether somebody else decided than the case says.
fn wrong_policy(case: &Case, ways: &[Way]) -> Option<String> {
    let expected = case.policy.as_deref()?;
    let named = |way: &Way| {
        let Some(Judged { verdict, .. }) = &way.judged else {
            return false;
        };
        if case.expect == Expect::Audit {
            let mut audited = verdict.audited.iter();
            return audited.any(|rule| rule.policy.to_string() == expected);
        }
        let by = verdict.policy().map(ToString::to_string);
        by.as_deref() == Some(expected)
    };
    let wrong = !ways.iter().all(named);
    wrong.then(|| format!("expected {expected} to decide"))
}

impl Report for Results {
    fn text(&self, style: Style) -> String {
        let Coverage { exercised, rules } = self.coverage;
        let all = human::count(self.cases.len(), "case");
        let first = match self.failed {
            0 => style.paint(Tone::Good, &format!("{all}, all as expected")),
            failed => style.paint(Tone::Bad, &format!("{failed} of {all} NOT as expected")),
        };
        let mut text = format!(
            "{first}; {exercised} of {} exercised\n\n",
            human::count(rules, "rule")
        );
        let mut table = Table::headless();
        for case in &self.cases {
            let (label, tone) = if case.passed {
                ("ok", Tone::Good)
            } else {
                ("FAILED", Tone::Bad)
            };
            table.row([
                (label.to_owned(), tone),
                cell(&case.suite),
                cell(&case.name),
                (case.got.to_owned(), Tone::Faint),
            ]);
            if let Some(wrong) = &case.wrong {
                table.note(format!("{}: {wrong}", case.place), Tone::Bad);
                for said in &case.said {
                    table.note(said, Tone::Normal);
                }
            }
        }
        text.push_str(&table.text(style));
        if !self.uncovered.is_empty() {
            text.push_str("\nrules that no case exercised:\n");
            for rule in &self.uncovered {
                text.extend(["  ", &style.paint(Tone::Warning, rule), "\n"]);
            }
        }
        text
    }

    fn exit(&self) -> Exit {
        let covered = self.uncovered.is_empty() || !self.require_coverage;
        if self.failed == 0 && covered {
            Exit::Yes
        } else {
            Exit::No
        }
    }
}

#[cfg(test)]
mod tests;
