//! `interceptor policy diff`: who may call what, before and after?
//!
//! Compared are verdicts, not texts: every caller of either mesh with every port of every Service
//! (and every named port of workloads that no Service leads to). Two workloads with one identity
//! and one address are one caller. A caller or a port that only one of the two has is compared with
//! "absent".

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use interceptor_policy::SpiffeId;
use serde::Serialize;

use super::judge::{self, Caller, Goal, NOWHERE, Way};
use super::world;
use crate::cli::output::{Printer, Report, Style, Table, Tone, cell};
use crate::cli::{Exit, Failure, human};
use crate::workload::{Enrolment, Mesh};

/// Who may call what, before and after?
///
/// Compares the verdicts that two folders of manifests (or two files) lead to, for every caller and
/// every port of every Service, and shows the pairs for which they differ. Callers are the
/// identities of the workloads, workloads outside of the mesh, and plaintext from an unknown
/// address; `--caller` adds identities that have no workload here.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code: 0 no verdict changes, 1 at least one does, 2 a file is wrong.

Examples:
  interceptor policy diff manifests/ proposed/
  interceptor policy diff main/ branch/ -o json | jq -r '.changes[] | select(.after == \"allow\")'")]
pub(in crate::cli) struct Args {
    /// The manifests before: a folder or a file.
    #[arg(value_name = "OLD")]
    old: PathBuf,

    /// The manifests after.
    #[arg(value_name = "NEW")]
    new: PathBuf,

    /// An identity that calls and has no workload in the manifests (may be repeated).
    #[arg(long, value_name = "SPIFFE-ID")]
    caller: Vec<SpiffeId>,

    /// The agent's configuration file, which says what the mesh's trust domain and root namespace
    /// are. The defaults without it.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let settings = world::mesh_settings(args.config.as_deref())?;
    let old = world::mesh(&args.old, &settings)?;
    let new = world::mesh(&args.new, &settings)?;
    printer.report(&Differences::between(&old, &new, &args.caller))
}

/// The pairs whose verdicts differ.
#[derive(Debug, Serialize)]
struct Differences {
    compared: usize,
    changes: Vec<Change>,
}

/// One pair of caller and port.
#[derive(Debug, Serialize)]
struct Change {
    caller: String,
    port: String,
    before: Answer,
    after: Answer,
    /// Why, before and after; none where there is nothing to ask.
    #[serde(rename = "saidBefore")]
    said_before: Option<String>,
    #[serde(rename = "saidAfter")]
    said_after: Option<String>,
}

/// What a caller gets at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Allow,
    Deny,
    /// It depends on which workload answers.
    Mixed,
    /// The caller or the port is not there, or nothing is behind it.
    Absent,
}

impl Differences {
    fn between(old: &Mesh, new: &Mesh, extra: &[SpiffeId]) -> Self {
        let (callers, ports) = (
            (callers(old, extra), callers(new, extra)),
            (ports(old), ports(new)),
        );
        let who: BTreeSet<&String> = callers.0.keys().chain(callers.1.keys()).collect();
        let what: BTreeSet<&String> = ports.0.keys().chain(ports.1.keys()).collect();
        let mut changes = Vec::new();
        for &caller in &who {
            for &port in &what {
                let before = ask(old, callers.0.get(caller), ports.0.get(port));
                let after = ask(new, callers.1.get(caller), ports.1.get(port));
                if before.0 != after.0 {
                    changes.push(Change {
                        caller: caller.clone(),
                        port: port.clone(),
                        before: before.0,
                        after: after.0,
                        said_before: before.1,
                        said_after: after.1,
                    });
                }
            }
        }
        Self {
            compared: who.len() * what.len(),
            changes,
        }
    }

    fn count(&self, after: Answer) -> usize {
        let changes = self.changes.iter();
        changes.filter(|change| change.after == after).count()
    }
}

/// Everybody who may call, by the name under which the other mesh knows the same caller.
fn callers(mesh: &Mesh, extra: &[SpiffeId]) -> BTreeMap<String, Caller> {
    let mut callers = BTreeMap::new();
    for workload in mesh.workloads() {
        let caller = Caller::workload(workload);
        let name = match (&caller.identity, workload.enrolment) {
            (Some(identity), Enrolment::Enrolled) => identity.to_string(),
            _ => format!("plaintext from {}", workload.id),
        };
        // Of several workloads with one identity the first by name stands for all.
        callers.entry(name).or_insert(caller);
    }
    for identity in extra {
        let caller = Caller::proven(identity.clone(), NOWHERE);
        callers.entry(identity.to_string()).or_insert(caller);
    }
    let unknown = "plaintext from elsewhere".to_owned();
    callers.insert(unknown, Caller::plaintext(NOWHERE));
    callers
}

/// Every port that may be called, by name.
fn ports(mesh: &Mesh) -> BTreeMap<String, Goal> {
    let mut ports = BTreeMap::new();
    for service in mesh.services() {
        for port in &service.ports {
            let name = format!("{}:{}", service.name, port.port);
            ports.insert(name, Goal::Service(Arc::clone(service), port.port));
        }
    }
    for workload in mesh.workloads() {
        if mesh.services_of(&workload.id).is_empty() {
            for port in workload.ports.values() {
                let name = format!("{}:{port} (no Service)", workload.id);
                ports.insert(name, Goal::Workload(Arc::clone(workload), *port));
            }
        }
    }
    ports
}

fn ask(mesh: &Mesh, caller: Option<&Caller>, goal: Option<&Goal>) -> (Answer, Option<String>) {
    let (Some(caller), Some(goal)) = (caller, goal) else {
        return (Answer::Absent, None);
    };
    let ways = judge::ways(mesh, caller, goal);
    let allowed = ways.iter().filter(|way| way.allowed).count();
    let answer = match allowed {
        _ if ways.is_empty() => Answer::Absent,
        0 => Answer::Deny,
        n if n == ways.len() => Answer::Allow,
        _ => Answer::Mixed,
    };
    // What refuses is what somebody will ask about.
    let telling = ways.iter().find(|way| !way.allowed).or(ways.first());
    (answer, telling.map(|way: &Way| way.said.clone()))
}

impl Answer {
    const fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Mixed => "mixed",
            Self::Absent => "absent",
        }
    }

    const fn tone(self) -> Tone {
        match self {
            Self::Allow => Tone::Good,
            Self::Deny => Tone::Bad,
            Self::Mixed => Tone::Warning,
            Self::Absent => Tone::Faint,
        }
    }
}

impl Report for Differences {
    fn text(&self, style: Style) -> String {
        let compared = human::count(self.compared, "pair");
        if self.changes.is_empty() {
            return format!("no verdict changes: {compared} of caller and port compared\n");
        }
        let mut text = format!(
            "{} of {compared} of caller and port change: {} newly allowed, {} newly denied\n\n",
            self.changes.len(),
            self.count(Answer::Allow),
            self.count(Answer::Deny),
        );
        let mut table = Table::new(["CALLER", "PORT", "BEFORE", "AFTER"]);
        for change in &self.changes {
            table.row([
                cell(&change.caller),
                cell(&change.port),
                (change.before.label().to_owned(), change.before.tone()),
                (change.after.label().to_owned(), change.after.tone()),
            ]);
            if let Some(said) = change.said_after.as_ref().or(change.said_before.as_ref()) {
                table.note(said, Tone::Faint);
            }
        }
        text.push_str(&table.text(style));
        text
    }

    fn exit(&self) -> Exit {
        if self.changes.is_empty() {
            Exit::Yes
        } else {
            Exit::No
        }
    }
}

#[cfg(test)]
mod tests;
