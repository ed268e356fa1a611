//! `interceptor status`: is this node well, and what is not protected?

use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::output::{Printer, Report, Style, Table, Tone, cell};
use super::{Exit, Failure, certificates, client, human};
use crate::telemetry::Status;
use crate::telemetry::shadow::Summary;
use crate::telemetry::status::{
    Authority, EnrolledWorkload, KernelLoss, MapFill, Prober, SameNode, Severity,
};

/// Is this node well, and what is not protected?
///
/// Shows what the agent has enrolled and attached, its certificates, the configuration in force,
/// what the kernel programs counted, and everything on this node that is not protected, with the
/// reason.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code: 0 well, 1 not well (the first line says why), 2 no agent answers.

Examples:
  interceptor status                    the whole picture
  interceptor status && echo well       in scripts
  interceptor status -o json | jq '.complaints[], .unprotected[]'
  interceptor --socket /run/two/interceptor.sock status")]
pub(super) struct Args {}

pub(super) fn run(_args: &Args, socket: &Path, printer: &Printer) -> Result<Exit, Failure> {
    let status: Status = client::fetch(socket, "/status")?;
    printer.report(&Answer::new(status, Timestamp::now()))
}

#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// Why the node is not well, most important first; empty if it is.
    complaints: Vec<String>,
    #[serde(flatten)]
    status: Status,
    #[serde(skip)]
    now: Timestamp,
}

impl Answer {
    /// What `status` means at the time `now`.
    pub(super) fn new(status: Status, now: Timestamp) -> Self {
        Self {
            complaints: Self::complaints(&status, now),
            status,
            now,
        }
    }

    fn complaints(status: &Status, now: Timestamp) -> Vec<String> {
        let mut complaints = status.readiness.missing.clone();
        let left_out = status.workloads.iter().filter(|it| it.error.is_some());
        let left_out = left_out.count();
        if left_out > 0 {
            complaints.push(format!(
                "{} not enrolled",
                human::count(left_out, "workload")
            ));
        }
        let errors = errors(status);
        if errors > 0 {
            complaints.push(format!(
                "{} in the configuration, version {} stays in force",
                human::count(errors, "error"),
                status.configuration.version
            ));
        }
        // What gives its oldest entries up is not full before it is needed.
        let filling = |map: &&MapFill| {
            map.name != "EXPECTED" && map.entries.saturating_mul(100) > map.capacity * 80
        };
        for map in status.maps.iter().filter(filling) {
            complaints.push(format!(
                "the map of {} is nearly full ({} of {}): raise its size in the configuration",
                map.holds, map.entries, map.capacity
            ));
        }
        let failing = |c: &&_| certificates::is_failing(c, now);
        let failing = status.certificates.iter().filter(failing).count();
        if failing > 0 {
            complaints.push(format!(
                "{} cannot be renewed",
                human::count(failing, "certificate")
            ));
        }
        if status.authority.last_error.is_some() {
            complaints.push(
                "the CA's files cannot be used, the CA read before stays in force".to_owned(),
            );
        }
        if status.buffered.is_short() {
            complaints.push(format!(
                "{} are kept for ends that do not take them: connections have small buffers (transport.maxBuffered is {})",
                human::bytes(status.buffered.bytes),
                human::bytes(status.buffered.most)
            ));
        }
        if status.panics > 0 {
            complaints.push(format!(
                "{} of the agent has panicked: report it with the agent's log",
                human::count(usize::try_from(status.panics).unwrap_or(usize::MAX), "task")
            ));
        }
        complaints
    }

    fn first_line(&self, style: Style) -> String {
        let status = &self.status;
        if self.complaints.is_empty() {
            let enrolled = human::count(status.workloads.len(), "workload");
            return style.paint(
                Tone::Good,
                &format!(
                    "node {} is well: {enrolled} enrolled, configuration {} in force, {} open",
                    status.node,
                    status.configuration.version,
                    human::count(
                        usize::try_from(status.connections_open).unwrap_or(usize::MAX),
                        "connection"
                    )
                ),
            );
        }
        let text = format!(
            "node {} is NOT well: {}",
            status.node,
            self.complaints.join("; ")
        );
        style.paint(Tone::Bad, &text)
    }

    fn agent(&self) -> Table {
        let status = &self.status;
        let configuration = &status.configuration;
        let mut table = Table::headless();
        table.row([
            ("agent".to_owned(), Tone::Strong),
            cell(format!(
                "version {}, pid {}, up {}",
                status.version,
                status.pid,
                human::since(status.started, self.now)
            )),
        ]);
        let loaded = configuration.loaded.map_or_else(
            || "no configuration was loaded yet: nothing is enrolled".to_owned(),
            |at| {
                format!(
                    "version {} of {}, loaded {} ago",
                    configuration.version,
                    configuration.source,
                    human::since(at, self.now)
                )
            },
        );
        table.row([("configuration".to_owned(), Tone::Strong), cell(loaded)]);
        for mistake in &configuration.mistakes {
            let tone = match mistake.severity {
                Severity::Error => Tone::Bad,
                Severity::Warning => Tone::Warning,
                Severity::Note => Tone::Faint,
            };
            table.note(format!("{}: {}", mistake.place, mistake.message), tone);
        }
        authority(&mut table, &status.authority, self.now);
        let (text, tone) = same_node(&status.same_node);
        table.row([("same node".to_owned(), Tone::Strong), (text, tone)]);
        prober(&mut table, &status.prober);
        losses(&mut table, &status.losses);
        table
    }
}

impl Report for Answer {
    fn text(&self, style: Style) -> String {
        let status = &self.status;
        let mut sections = vec![
            format!("{}\n", self.first_line(style)),
            self.agent().text(style),
        ];
        if !status.workloads.is_empty() {
            sections.push(workloads(&status.workloads).text(style));
        }
        if !status.certificates.is_empty() {
            sections.push(certificates::table(&status.certificates, self.now).text(style));
        }
        sections.push(kernel(status).text(style));
        if !status.reporting.is_empty() {
            sections.push(reporting(&status.reporting).text(style));
        }
        sections.push(unprotected(status, style));
        sections.join("\n")
    }

    fn exit(&self) -> Exit {
        if self.complaints.is_empty() {
            Exit::Yes
        } else {
            Exit::No
        }
    }
}

/// What somebody has taken away of the kernel half.
fn losses(table: &mut Table, losses: &[KernelLoss]) {
    let lost = losses.iter().filter(|it| it.count > 0);
    let lost: Vec<_> = lost.map(|it| format!("{} {}", it.what, it.count)).collect();
    if !lost.is_empty() {
        let text = format!(
            "found missing since the start: {}; the log says what",
            lost.join(", ")
        );
        table.row([
            ("tampering".to_owned(), Tone::Strong),
            (text, Tone::Warning),
        ]);
    }
}

/// Who signs, whom the node trusts, and until when.
fn authority(table: &mut Table, authority: &Authority, now: Timestamp) {
    let Some(first) = authority
        .roots
        .iter()
        .filter_map(|root| root.not_after)
        .min()
    else {
        return;
    };
    let signer = authority.serial.as_deref();
    let signer = signer.map_or("-".to_owned(), certificates::short);
    let tone = if first > now {
        Tone::Normal
    } else {
        Tone::Warning
    };
    let roots: Vec<_> = authority
        .roots
        .iter()
        .map(|root| certificates::short(&root.serial))
        .collect();
    let text = format!(
        "{} signs as {signer}; {} trusted ({}), the first ends in {}",
        authority.issuer,
        human::count(roots.len(), "root"),
        roots.join(", "),
        human::until(first, now)
    );
    table.row([("authority".to_owned(), Tone::Strong), (text, tone)]);
    if let Some(error) = &authority.last_error {
        let text = format!("not in force, the one before is: {error}");
        table.note(text, Tone::Bad);
    }
}

/// Whose connections are kubelet's probes.
fn prober(table: &mut Table, prober: &Prober) {
    let text = if prober.cgroups.is_empty() {
        "none is recognised: kubelet's probes are plaintext connections".to_owned()
    } else {
        let probes = usize::try_from(prober.probes).unwrap_or(usize::MAX);
        format!(
            "{}: {}",
            prober.cgroups.join(", "),
            human::count(probes, "probe")
        )
    };
    table.row([("prober".to_owned(), Tone::Strong), cell(text)]);
    if let Some(problem) = &prober.problem {
        table.note(problem.clone(), Tone::Warning);
    }
}

/// What goes from socket to socket, and what of it the agent could not follow.
fn same_node(same_node: &SameNode) -> (String, Tone) {
    let count = |n: u64, what| human::count(usize::try_from(n).unwrap_or(usize::MAX), what);
    let mut text = format!(
        "{} in the kernel, {} open there",
        count(same_node.granted, "pair"),
        count(same_node.open, "connection")
    );
    let mut tone = Tone::Normal;
    if same_node.unpublished > 0 {
        let without = count(same_node.unpublished, "pair");
        text = format!("{text}; no room for {without} (maxGrants, a quarter for each workload)");
        tone = Tone::Warning;
    }
    if same_node.events_lost > 0 {
        let lost = count(same_node.events_lost, "event");
        text = format!("{text}; {lost} lost (eventBufferBytes)");
        tone = Tone::Warning;
    }
    (text, tone)
}

fn errors(status: &Status) -> usize {
    let mistakes = status.configuration.mistakes.iter();
    mistakes.filter(|m| m.severity == Severity::Error).count()
}

fn workloads(workloads: &[EnrolledWorkload]) -> Table {
    let mut table = Table::new([
        "WORKLOAD",
        "IDENTITY",
        "ADDRESSES",
        "INBOUND",
        "OUTBOUND",
        "KEY",
    ]);
    for workload in workloads {
        let addresses: Vec<_> = workload.addresses.iter().map(ToString::to_string).collect();
        let key = workload.key.as_deref().unwrap_or("-");
        table.row([
            cell(format!("{}/{}", workload.namespace, workload.name)),
            cell(&workload.identity),
            cell(addresses.join(", ")),
            cell(&workload.inbound),
            cell(&workload.outbound),
            cell(key),
        ]);
        if let Some(error) = &workload.error {
            table.note(format!("NOT enrolled: {error}"), Tone::Bad);
        }
    }
    table
}

fn kernel(status: &Status) -> Table {
    let mut table = Table::new(["KERNEL", "", ""]);
    let mut programs = std::collections::BTreeMap::<&str, Vec<&str>>::new();
    for program in &status.programs {
        let place = programs.entry(&program.name).or_default();
        place.push(&program.attached_to);
    }
    for (name, places) in programs {
        let place = match places.as_slice() {
            [place] => (*place).to_owned(),
            places => human::count(places.len(), "place"),
        };
        table.row([
            cell(name),
            ("attached".to_owned(), Tone::Good),
            cell(format!("to {place}")),
        ]);
    }
    for map in &status.maps {
        // A map that is nearly full is about to refuse or to forget.
        let full = map.entries.saturating_mul(10) >= map.capacity.saturating_mul(9);
        let tone = if full { Tone::Warning } else { Tone::Normal };
        table.row([
            cell(&map.name),
            (map.entries.to_string(), tone),
            cell(format!("of {}: {}", map.capacity, map.holds)),
        ]);
    }
    let (zero, seen): (Vec<_>, Vec<_>) = status.counters.iter().partition(|c| c.value == 0);
    for counter in seen {
        table.row([
            cell(&counter.name),
            cell(counter.value.to_string()),
            cell(&counter.help),
        ]);
    }
    if !zero.is_empty() {
        let names: Vec<_> = zero.iter().map(|counter| counter.name.as_str()).collect();
        table.note(format!("never: {}", names.join(", ")), Tone::Faint);
    }
    table
}

/// Policies that refuse nothing yet, so that nobody takes them for protection.
fn reporting(policies: &[Summary]) -> Table {
    let mut table = Table::new([
        "ONLY REPORTS",
        "KIND",
        "WOULD REFUSE",
        "WOULD ALLOW",
        "AUDITED",
    ]);
    for summary in policies {
        let number = |count: u64, tone: Tone| match count {
            0 => ("-".to_owned(), Tone::Faint),
            count => (count.to_string(), tone),
        };
        table.row([
            cell(&summary.policy.policy),
            cell(summary.policy.kind()),
            number(summary.would_refuse, Tone::Warning),
            number(summary.would_allow, Tone::Warning),
            number(summary.audited, Tone::Normal),
        ]);
    }
    table.note("interceptor policy shadow tells the callers", Tone::Faint);
    table
}

fn unprotected(status: &Status, style: Style) -> String {
    if status.unprotected.is_empty() {
        return "everything that the agent knows of on this node is protected\n".to_owned();
    }
    let mut table = Table::new(["NOT PROTECTED", "WHAT", "WHY", "SEEN"]);
    for entry in &status.unprotected {
        let seen = entry
            .connections
            .map_or_else(String::new, |count| count.to_string());
        table.row([
            cell(&entry.subject),
            (entry.what.clone(), Tone::Warning),
            cell(&entry.why),
            cell(seen),
        ]);
    }
    table.text(style)
}
