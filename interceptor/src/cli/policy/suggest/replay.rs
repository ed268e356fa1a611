//! The past again, under other policies: what would have been refused, what newly allowed?

use std::sync::Arc;

use serde::Serialize;

use super::super::judge::{self, Caller, Goal, Judged};
use super::recording::{Call, Departure, Recording, Seen};
use crate::cli::Exit;
use crate::cli::output::{Report, Style, Table, Tone, cell};
use crate::workload::{Enrolment, Mesh};

/// What a set of policies would have made of what was recorded.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Replay {
    /// Connections that would have ended as they did.
    unchanged: u64,
    /// Connections that went through and would have been refused.
    refused: Vec<Changed>,
    /// Connections that were refused and would have gone through.
    allowed: Vec<Changed>,
    /// Connections of workloads that the manifests do not have.
    unknown: u64,
    /// Records that say too little.
    unusable: u64,
}

/// A kind of connection that would have ended otherwise.
#[derive(Debug, Serialize)]
struct Changed {
    caller: String,
    destination: String,
    connections: u64,
    said: String,
}

impl Replay {
    /// Judges everything that was recorded again, by the functions of the data plane.
    pub(super) fn of(mesh: &Mesh, recording: &Recording) -> Self {
        let mut replay = Self {
            unusable: recording.unusable,
            ..Self::default()
        };
        for (call, seen) in &recording.calls {
            replay.arrival(mesh, call, *seen);
        }
        for (departure, seen) in &recording.departures {
            replay.departure(mesh, departure, *seen);
        }
        replay
    }

    /// What the policies of the workload that was called say.
    fn arrival(&mut self, mesh: &Mesh, call: &Call, seen: Seen) {
        let Some(destination) = mesh.workload(&call.destination) else {
            self.unknown += seen.count();
            return;
        };
        let (allowed, said) = if destination.enrolment == Enrolment::Enrolled {
            let identity = call.identity.clone();
            let judged = Judged::new(mesh, destination, identity, call.source_ip, call.target);
            (judged.verdict.is_allowed(), judged.verdict.to_string())
        } else {
            (
                true,
                format!("no policy protects it: {}", destination.enrolment),
            )
        };
        let caller = match &call.identity {
            Some(identity) => identity.to_string(),
            None => format!("plaintext from {}", call.source_ip),
        };
        let changed = Changed {
            caller,
            destination: format!("{}:{}", call.destination, call.target.port()),
            connections: seen.count(),
            said,
        };
        self.judge(call.allowed, allowed, changed);
    }

    /// What the egress rules of the workload that called say, and then whoever would answer.
    fn departure(&mut self, mesh: &Mesh, departure: &Departure, seen: Seen) {
        let Some(source) = mesh.workload(&departure.source) else {
            self.unknown += seen.count();
            return;
        };
        let to = departure.to;
        let goal = match mesh.workload_at(to.ip()) {
            Some(workload) => Goal::Workload(Arc::clone(workload), to.port()),
            None => Goal::Elsewhere(to),
        };
        let ways = judge::ways(mesh, &Caller::workload(source), &goal);
        let refused = ways.iter().find(|way| !way.allowed);
        let Some(way) = refused.or(ways.first()) else {
            self.unknown += seen.count();
            return;
        };
        let changed = Changed {
            caller: departure.source.to_string(),
            destination: to.to_string(),
            connections: seen.count(),
            said: way.said.clone(),
        };
        self.judge(departure.allowed, way.allowed, changed);
    }

    fn judge(&mut self, was_allowed: bool, is_allowed: bool, changed: Changed) {
        match (was_allowed, is_allowed) {
            (true, false) => self.refused.push(changed),
            (false, true) => self.allowed.push(changed),
            (true, true) | (false, false) => self.unchanged += changed.connections,
        }
    }
}

fn sum(changed: &[Changed]) -> u64 {
    changed.iter().map(|changed| changed.connections).sum()
}

impl Report for Replay {
    fn text(&self, style: Style) -> String {
        let (refused, allowed) = (sum(&self.refused), sum(&self.allowed));
        let line = format!(
            "of {} recorded connections {refused} would have been refused, {allowed} newly allowed",
            self.unchanged + refused + allowed
        );
        let tone = if refused > 0 { Tone::Bad } else { Tone::Good };
        let mut text = style.paint(tone, &line) + "\n";
        let mut table = Table::new(["WOULD BE", "CONNECTIONS", "CALLER", "TO"]);
        for (changes, what, tone) in [
            (&self.refused, "refused", Tone::Bad),
            (&self.allowed, "allowed", Tone::Warning),
        ] {
            for change in changes {
                table.row([
                    (what.to_owned(), tone),
                    cell(change.connections.to_string()),
                    cell(&change.caller),
                    cell(&change.destination),
                ]);
                table.note(&change.said, Tone::Faint);
            }
        }
        if !self.refused.is_empty() || !self.allowed.is_empty() {
            text.extend(["\n", &table.text(style)]);
        }
        for (count, what) in [
            (
                self.unknown,
                "are of workloads that the manifests do not have",
            ),
            (self.unusable, "records say too little"),
        ] {
            if count > 0 {
                text.push_str(
                    &style.paint(Tone::Warning, &format!("\nnot judged: {count} {what}\n")),
                );
            }
        }
        text
    }

    fn exit(&self) -> Exit {
        if self.refused.is_empty() {
            Exit::Yes
        } else {
            Exit::No
        }
    }
}
