//! `interceptor analyze`: what is wrong or weaker than it looks in these manifests?

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;

use super::output::{Printer, Report, Style, Tone};
use super::{Exit, Failure, human, settings};
use crate::analyze::{Analysis, Finding, Severity, Suppression, analyze};
use crate::config::Config;

/// What is wrong or weaker than it looks in these manifests, before they are applied?
///
/// Reads manifests as the agent would, with the Pods that Deployments, Jobs and others will make,
/// and finds what the agent accepts and somebody will regret: rules that never match, rules that
/// another one covers, plaintext that comes in, port names that tell no protocol, selectors that
/// select nothing, STRICT that is bypassed. Every finding says where it is, what it does and what to
/// do about it; docs/analyze.md lists them by code. Istio's own codes where it has the same finding.
///
/// Without `-f` and `--config` it reads the folder of the running agent.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code: 0 nothing that --fail-on asks for, 1 findings, 2 could not tell.

Examples:
  interceptor analyze -f deploy/examples/              a folder, and all folders inside it
  interceptor analyze -f app.yaml -f policies/ --fail-on warning
  interceptor analyze -f . --suppress IST0118 --suppress 'INT0107=AuthorizationPolicy web/*'
  interceptor analyze                                  what the running agent has
  interceptor analyze -f . -o json | jq -r '.findings[] | \"\\(.file):\\(.line) \\(.code) \\(.effect)\"'")]
pub(super) struct Args {
    /// Manifests: files, or folders with all folders inside them. May be given several times.
    #[arg(short, long, value_name = "PATH", num_args = 1..)]
    file: Vec<PathBuf>,
    /// The agent's configuration file, which says what the mesh's trust domain and root namespace
    /// are. The defaults without it.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How bad a finding must be for exit code 1.
    #[arg(long, value_enum, default_value_t, value_name = "SEVERITY")]
    fail_on: FailOn,
    /// Hide a finding: its code or name, and with =OBJECT (`*` stands for any text) only there. May
    /// be given several times.
    #[arg(long, value_name = "CODE[=OBJECT]")]
    suppress: Vec<Suppression>,
}

/// How bad a finding must be for exit code 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum FailOn {
    /// Errors.
    #[default]
    Error,
    /// Warnings and errors.
    Warning,
    /// Any finding.
    Note,
}

pub(super) fn run(args: &Args, socket: &Path, printer: &Printer) -> Result<Exit, Failure> {
    let config = match &args.config {
        Some(path) => {
            Config::load(path, Some(NOWHERE)).map_err(|mistakes| settings::failure(&mistakes))?
        }
        None if args.file.is_empty() => settings::of_agent(socket)?,
        None => Config::for_node(NOWHERE),
    };
    let paths = if args.file.is_empty() {
        std::slice::from_ref(&config.manifests)
    } else {
        &args.file
    };
    if let Some(missing) = paths.iter().find(|path| std::fs::metadata(path).is_err()) {
        return Err(Failure::new(format!(
            "cannot read {}\n  is the path right, and may you read it?",
            missing.display()
        )));
    }
    let analysis = analyze(paths, &config.mesh, &args.suppress);
    printer.report(&Answer {
        analysis,
        fail_on: args.fail_on,
    })
}

/// No node in particular: what holds for one only is not found.
const NOWHERE: &str = "none";

/// An analysis and what it is judged by.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    #[serde(flatten)]
    analysis: Analysis,
    #[serde(skip)]
    fail_on: FailOn,
}

impl Report for Answer {
    fn text(&self, style: Style) -> String {
        let mut text = self.headline(style);
        text.push('\n');
        for finding in &self.analysis.findings {
            text.push('\n');
            text.push_str(&paragraph(finding, style));
        }
        if self.analysis.not_shown > 0 {
            let more = format!(
                "\n{} more findings are not shown\n",
                self.analysis.not_shown
            );
            text.push_str(&style.paint(Tone::Warning, &more));
        }
        if !self.analysis.findings.is_empty() {
            let hint = "\ndocs/analyze.md explains every code; --suppress CODE[=OBJECT] hides what is as intended";
            text.push_str(&style.paint(Tone::Faint, hint));
        }
        text
    }

    fn exit(&self) -> Exit {
        let worst = match self.fail_on {
            FailOn::Error => Severity::Error,
            FailOn::Warning => Severity::Warning,
            FailOn::Note => Severity::Note,
        };
        if self.analysis.has(worst) {
            Exit::No
        } else {
            Exit::Yes
        }
    }
}

impl Answer {
    fn headline(&self, style: Style) -> String {
        let analysis = &self.analysis;
        let seen = format!(
            "in {} of {}",
            human::count(analysis.objects, "object"),
            human::count(analysis.files, "file")
        );
        let suppressed = match analysis.suppressed {
            0 => String::new(),
            n => format!(", {n} suppressed"),
        };
        if analysis.findings.is_empty() {
            return style.paint(Tone::Good, &format!("nothing found {seen}{suppressed}"));
        }
        let parts: Vec<String> = [Severity::Error, Severity::Warning, Severity::Note]
            .into_iter()
            .map(|severity| (severity, analysis.count(severity)))
            .filter(|(_, count)| *count > 0)
            .map(|(severity, count)| human::count(count, severity.label()))
            .collect();
        let tone = match self.exit() {
            Exit::Yes if analysis.has(Severity::Warning) => Tone::Warning,
            Exit::Yes => Tone::Good,
            Exit::No | Exit::Unclear | Exit::Replaced => Tone::Bad,
        };
        style.paint(tone, &format!("{} {seen}{suppressed}", parts.join(", ")))
    }
}

/// A finding: what and whom, where, what it does, what to do.
fn paragraph(finding: &Finding, style: Style) -> String {
    let tone = match finding.severity {
        Severity::Error => Tone::Bad,
        Severity::Warning => Tone::Warning,
        Severity::Note => Tone::Faint,
    };
    let label = style.paint(tone, &format!("{:<7}", finding.severity.label()));
    let name = style.paint(Tone::Strong, finding.name);
    let mut place = finding.file.clone();
    if finding.line > 0 {
        place = format!("{place}:{}:{}", finding.line, finding.column);
    }
    if !finding.key.is_empty() {
        place = format!("{place}  {}", finding.key);
    }
    let mut text = format!("{label}  {} {name}  {}\n", finding.code, finding.object)
        .trim_end()
        .to_owned();
    text.extend(["\n         ", &style.paint(Tone::Faint, &place)]);
    text.extend(["\n         ", &finding.effect, "\n"]);
    if !finding.fix.is_empty() {
        text.extend(["         fix: ", &finding.fix, "\n"]);
    }
    text
}

#[cfg(test)]
mod tests;
