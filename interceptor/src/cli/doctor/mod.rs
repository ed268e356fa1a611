//! `interceptor doctor`: can this machine run the agent?
//!
//! Each row is a trial, not a look at a version number: programs are loaded (and thrown away),
//! ports are opened, a socket is asked to be destroyed that does not exist. Nothing is attached,
//! pinned or changed.

use serde::Serialize;

use super::output::{Printer, Report, Style, Table, Tone, cell};
use super::{Exit, Failure};

mod diag;
mod kernel;
mod machine;
mod neighbours;
mod pins;

/// Can this machine run the agent, and what would be missing?
///
/// Tries everything that the agent needs, hook by hook, and says what each thing is for and how to
/// get it. Changes nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code: 0 the agent can run (perhaps with less, see `degraded`), 1 something is missing.

Examples:
  sudo interceptor doctor
  sudo interceptor doctor -o json | jq '.checks[] | select(.state != \"ok\")'")]
pub(super) struct Args {}

pub(super) fn run(_args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    printer.report(&Diagnosis::make())
}

/// What the names of the agent's own programs begin with.
const OURS: &str = "ic_";

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Health {
    /// As it should be.
    Ok,
    /// The agent runs, with less.
    Degraded,
    /// The agent cannot run.
    Missing,
    /// It could not be tried.
    Unknown,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    /// What was tried.
    name: String,
    state: Health,
    /// What was found.
    found: String,
    /// What the agent needs it for.
    purpose: &'static str,
    /// What to do, where something should be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Check {
    /// A check that ended well.
    fn ok(name: impl Into<String>, found: impl Into<String>, purpose: &'static str) -> Self {
        Self {
            name: name.into(),
            state: Health::Ok,
            found: found.into(),
            purpose,
            remedy: None,
        }
    }

    /// The same with another end.
    fn but(self, state: Health, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            state,
            found: found.into(),
            remedy: Some(remedy.into()),
            ..self
        }
    }
}

/// The whole table.
#[derive(Debug, Serialize)]
struct Diagnosis {
    checks: Vec<Check>,
}

impl Diagnosis {
    fn make() -> Self {
        let mut checks = machine::checks();
        checks.extend(kernel::checks());
        checks.extend(neighbours::checks());
        checks.push(pins::check());
        Self { checks }
    }

    fn count(&self, state: Health) -> usize {
        self.checks.iter().filter(|c| c.state == state).count()
    }
}

/// The first thing without which the agent cannot run, as a sentence with its remedy.
///
/// # Errors
///
/// Names what is missing.
pub(super) fn preflight() -> Result<(), Failure> {
    demand(machine::essentials(), "the agent cannot run here")
}

/// Whether this process may look at programs and at what is pinned. Without it, everything would
/// look as if it were not there.
///
/// # Errors
///
/// Names what is missing.
pub(super) fn privileges() -> Result<(), Failure> {
    demand(vec![machine::privileges()], "this cannot be done")
}

fn demand(checks: Vec<Check>, without: &str) -> Result<(), Failure> {
    let missing = |check: &Check| check.state == Health::Missing;
    let Some(check) = checks.into_iter().find(missing) else {
        return Ok(());
    };
    let remedy = check.remedy.unwrap_or_default();
    Err(
        Failure::new(format!("{without}: {}: {}", check.name, check.found)).try_next(format!(
            "{remedy}; `interceptor doctor` shows the whole table"
        )),
    )
}

impl Report for Diagnosis {
    fn text(&self, style: Style) -> String {
        let (missing, degraded, unknown) = (
            self.count(Health::Missing),
            self.count(Health::Degraded),
            self.count(Health::Unknown),
        );
        let first = match (missing, degraded + unknown) {
            (0, 0) => style.paint(Tone::Good, "this machine can run the agent"),
            (0, _) => style.paint(
                Tone::Warning,
                &format!(
                    "this machine can run the agent: {degraded} degraded, {unknown} not known"
                ),
            ),
            _ => style.paint(
                Tone::Bad,
                &format!("this machine can NOT run the agent: {missing} missing"),
            ),
        };
        let mut table = Table::new(["CHECK", "STATE", "FOUND", "FOR"]);
        for check in &self.checks {
            let (state, tone) = match check.state {
                Health::Ok => ("ok", Tone::Good),
                Health::Degraded => ("degraded", Tone::Warning),
                Health::Missing => ("missing", Tone::Bad),
                Health::Unknown => ("unknown", Tone::Warning),
            };
            table.row([
                cell(&check.name),
                (state.to_owned(), tone),
                cell(&check.found),
                (check.purpose.to_owned(), Tone::Faint),
            ]);
            if let Some(remedy) = &check.remedy {
                table.note(format!("-> {remedy}"), tone);
            }
        }
        format!("{first}\n\n{}", table.text(style))
    }

    fn exit(&self) -> Exit {
        if self.count(Health::Missing) == 0 {
            Exit::Yes
        } else {
            Exit::No
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnosis() -> Diagnosis {
        let base = Check::ok(
            "cgroup2",
            "/sys/fs/cgroup",
            "seeing connections as they are made",
        );
        Diagnosis {
            checks: vec![
                base.clone(),
                Check::ok("tcx", "available", "a backstop on the workload's interface").but(
                    Health::Degraded,
                    "not in this kernel",
                    "Linux 6.6 has it",
                ),
                base.but(
                    Health::Missing,
                    "not mounted",
                    "mount -t cgroup2 none /sys/fs/cgroup",
                ),
            ],
        }
    }

    #[test]
    fn the_table_is_golden() {
        insta::assert_snapshot!(diagnosis().text(Style::Plain));
    }

    #[test]
    fn only_what_is_missing_makes_the_answer_no() {
        let mut diagnosis = diagnosis();
        assert_eq!(diagnosis.exit(), Exit::No);
        diagnosis.checks.retain(|c| c.state != Health::Missing);
        assert_eq!(diagnosis.exit(), Exit::Yes);
    }

    #[test]
    fn this_machine_is_diagnosed_without_a_panic() {
        let diagnosis = Diagnosis::make();
        assert!(diagnosis.checks.len() > 10);
        for check in &diagnosis.checks {
            assert_eq!(
                check.state == Health::Ok,
                check.remedy.is_none(),
                "{check:?}"
            );
        }
    }
}
