//! `interceptor policy shadow`: what would enforcing the policies in dry-run change?

use std::collections::BTreeSet;
use std::path::Path;

use super::super::client;
use crate::cli::output::{Printer, Report, Style, Table, Tone, cell};
use crate::cli::{Exit, Failure, human};
use crate::telemetry::shadow::{self, Effect, Reporting};

/// What would enforcing the policies in dry-run change?
///
/// Asks the running agent what AUDIT policies and policies with the annotation
/// `istio.io/dry-run: "true"` said of the connections to this node's workloads since it started: per
/// policy and caller, how many connections enforcing it would have refused, or let through. Each is
/// judged alone, against what really became of the connection; ALLOW policies in dry-run that nothing
/// matched are judged together and reported under the first of them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code: 0 enforcing would refuse nothing, 1 it would, 2 no agent answers.

The same numbers are in the metric interceptor_policy_shadow_connections_total, and the access line
of each connection says audit= and dry_run=.

Examples:
  interceptor policy shadow
  interceptor policy shadow -o json | jq '.counts[] | select(.effect == \"would_refuse\")'")]
pub(in crate::cli) struct Args {}

pub(super) fn run(_args: &Args, socket: &Path, printer: &Printer) -> Result<Exit, Failure> {
    let report: shadow::Report = client::fetch(socket, "/shadow")?;
    printer.report(&report)
}

impl Report for shadow::Report {
    fn text(&self, style: Style) -> String {
        let mut text = self.answer(style);
        let mut table = Table::new(["POLICY", "KIND", "EFFECT", "CONNECTIONS", "CALLER"]);
        for count in &self.counts {
            table.row([
                cell(&count.policy),
                cell(self.kind(&count.policy)),
                (count.effect.text().to_owned(), tone(count.effect)),
                cell(count.connections.to_string()),
                cell(&count.caller),
            ]);
        }
        let silent: Vec<&Reporting> = self.policies.iter().filter(|p| !self.spoke(p)).collect();
        for policy in &silent {
            table.row([
                cell(&policy.policy),
                cell(policy.kind()),
                ("nothing yet".to_owned(), Tone::Faint),
            ]);
        }
        if !self.counts.is_empty() || !silent.is_empty() {
            text.push('\n');
            text.push_str(&table.text(style));
        }
        if self.overflowed > 0 {
            let more = format!(
                "\n{} reports more were not counted by name: too many callers\n",
                self.overflowed
            );
            text.push_str(&style.paint(Tone::Warning, &more));
        }
        text
    }

    fn exit(&self) -> Exit {
        if self.sum(Effect::WouldRefuse) == 0 {
            Exit::Yes
        } else {
            Exit::No
        }
    }
}

impl shadow::Report {
    /// The answer in one line.
    fn answer(&self, style: Style) -> String {
        let known: BTreeSet<&str> = self.policies.iter().map(|p| p.policy.as_str()).collect();
        let (refuse, allow) = (self.sum(Effect::WouldRefuse), self.sum(Effect::WouldAllow));
        let (line, tone) = if refuse + allow > 0 {
            let line = format!(
                "enforcing would have refused {refuse} and let through {allow} connections since the \
                 agent started"
            );
            (
                line,
                if refuse > 0 {
                    Tone::Warning
                } else {
                    Tone::Normal
                },
            )
        } else if known.is_empty() && self.counts.is_empty() {
            let none = "no policy only reports: none is in dry-run, none has action AUDIT";
            (none.to_owned(), Tone::Normal)
        } else {
            let policies = human::count(known.len(), "policy").replace("policys", "policies");
            let line =
                format!("enforcing would have changed nothing so far ({policies} reporting)");
            (line, Tone::Good)
        };
        format!("{}\n", style.paint(tone, &line))
    }

    fn sum(&self, effect: Effect) -> u64 {
        let counts = self.counts.iter().filter(|count| count.effect == effect);
        counts.map(|count| count.connections).sum()
    }

    fn spoke(&self, policy: &Reporting) -> bool {
        self.counts
            .iter()
            .any(|count| count.policy == policy.policy)
    }

    /// What a policy is now; a count may outlive it.
    fn kind(&self, name: &str) -> String {
        let policy = self.policies.iter().find(|policy| policy.policy == name);
        policy.map_or_else(|| "gone".to_owned(), Reporting::kind)
    }
}

const fn tone(effect: Effect) -> Tone {
    match effect {
        Effect::WouldRefuse => Tone::Bad,
        Effect::WouldAllow => Tone::Warning,
        Effect::NoChange => Tone::Good,
        Effect::Audited => Tone::Normal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::shadow::Count;

    fn policy(name: &str, action: &str, dry_run: bool) -> Reporting {
        Reporting {
            policy: format!("demo/{name}"),
            action: action.to_owned(),
            dry_run,
        }
    }

    fn count(name: &str, effect: Effect, caller: &str, connections: u64) -> Count {
        Count {
            policy: format!("demo/{name}"),
            effect,
            caller: caller.to_owned(),
            connections,
        }
    }

    #[test]
    fn a_report_is_golden() {
        let caller = "spiffe://cluster.local/ns/demo/sa/caller";
        let report = shadow::Report {
            policies: vec![
                policy("no-admin", "DENY", true),
                policy("only-caller", "ALLOW", true),
                policy("watch", "AUDIT", false),
            ],
            counts: vec![
                count("no-admin", Effect::WouldRefuse, caller, 12),
                count("no-admin", Effect::NoChange, "unknown", 3),
                count("removed", Effect::WouldAllow, caller, 1),
                count("watch", Effect::Audited, caller, 40),
            ],
            overflowed: 2,
        };
        assert_eq!(report.exit(), Exit::No);
        insta::assert_snapshot!(report.text(Style::Plain));
    }

    #[test]
    fn nothing_to_report_is_said() {
        let mut report = shadow::Report::default();
        assert_eq!(report.exit(), Exit::Yes);
        assert_eq!(
            report.text(Style::Plain),
            "no policy only reports: none is in dry-run, none has action AUDIT\n"
        );
        report.policies = vec![policy("watch", "AUDIT", false)];
        assert!(
            report
                .text(Style::Plain)
                .starts_with("enforcing would have changed nothing so far (1 policy reporting)\n")
        );
    }
}
