//! `interceptor connections`: what is carried, what was refused, and why.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::output::{Printer, Report, Style, Table, Tone, cell};
use super::{Exit, Failure, client, human};
use crate::telemetry::ConnectionView;
use crate::telemetry::record::{Outcome, Reporter, Security};
use crate::telemetry::view::{EndView, State};

/// What is carried now, what was refused or failed recently, and why.
///
/// A refusal names the policy, the rule and the field that decided. The same connection has the
/// same number (`connId`) at both nodes and in both access logs.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code: 0 answered, 2 no agent answers.

Examples:
  interceptor connections                   now, and the last refusals
  interceptor connections --denied          the refusals only
  interceptor connections -w                follow: one line as things happen, until Ctrl-C
  interceptor connections -w --denied -o json | jq -r .detail")]
pub(super) struct Args {
    /// Follow: print connections as they open, close and are refused.
    #[arg(short, long)]
    watch: bool,

    /// Only what was refused, failed or cut.
    #[arg(long)]
    denied: bool,
}

pub(super) fn run(args: &Args, socket: &Path, printer: &Printer) -> Result<Exit, Failure> {
    if args.watch {
        watch(args, socket, printer)?;
        return Ok(Exit::Yes);
    }
    let mut answer: Answer = client::fetch(socket, "/connections")?;
    answer.now = Timestamp::now();
    if args.denied {
        answer.live = None;
    }
    printer.report(&answer)
}

/// The document at `/connections`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) live: Option<Vec<ConnectionView>>,
    /// What was refused, failed or cut.
    pub(super) recent: Vec<ConnectionView>,
    #[serde(skip)]
    pub(super) now: Timestamp,
}

impl Report for Answer {
    fn text(&self, style: Style) -> String {
        let refused = match self.recent.len() {
            0 => "nothing was refused or failed".to_owned(),
            n => format!("{n} refused, failed or cut recently"),
        };
        let Some(live) = &self.live else {
            let table = self.refusals().text(style);
            return if self.recent.is_empty() {
                refused
            } else {
                format!("{refused}\n\n{table}")
            };
        };
        let open = human::count(live.len(), "connection");
        let mut sections = vec![format!("{open} open, {refused}\n")];
        if !live.is_empty() {
            sections.push(open_table(live).text(style));
        }
        if !self.recent.is_empty() {
            sections.push(self.refusals().text(style));
        }
        sections.join("\n")
    }

    fn exit(&self) -> Exit {
        Exit::Yes
    }
}

impl Answer {
    fn refusals(&self) -> Table {
        let mut table = Table::new(["AGO", "WHAT", "DIRECTION", "FROM", "TO", "CONNECTION"]);
        for view in self.recent.iter().rev() {
            table.row([
                cell(human::since(view.at, self.now)),
                (view.decision.label().to_owned(), tone(view)),
                cell(view.reporter.direction()),
                cell(end(&view.source, None)),
                cell(destination(view)),
                (view.conn_id.clone(), Tone::Faint),
            ]);
            table.note(reason(view), Tone::Normal);
        }
        table
    }
}

fn open_table(live: &[ConnectionView]) -> Table {
    let mut table = Table::new([
        "AGE",
        "DIRECTION",
        "FROM",
        "TO",
        "SENT",
        "RECEIVED",
        "SECURITY",
        "CONNECTION",
    ]);
    for view in live {
        let age = std::time::Duration::from_millis(view.age_ms);
        table.row([
            cell(human::duration(age)),
            cell(view.reporter.direction()),
            cell(end(&view.source, None)),
            cell(destination(view)),
            cell(human::bytes(view.bytes_sent)),
            cell(human::bytes(view.bytes_received)),
            security(view),
            (view.conn_id.clone(), Tone::Faint),
        ]);
    }
    table
}

fn security(view: &ConnectionView) -> (String, Tone) {
    match view.security {
        Security::MutualTls => ("mTLS".to_owned(), Tone::Good),
        Security::Kernel => ("kernel".to_owned(), Tone::Good),
        Security::None => (format!("plaintext ({})", view.reason), Tone::Warning),
    }
}

/// The workload and its address; the address alone where the workload is not known.
fn end(end: &EndView, address: Option<std::net::SocketAddr>) -> String {
    let address = address.or(end.address).map(|a| a.to_string());
    match (&end.workload, address) {
        (Some(workload), Some(address)) => format!("{workload} {address}"),
        (Some(workload), None) => workload.clone(),
        (None, Some(address)) => address,
        (None, None) => "?".to_owned(),
    }
}

/// The destination with the port that was meant, not the tunnel's.
fn destination(view: &ConnectionView) -> String {
    let end = end(&view.destination, view.hbone_address);
    match &view.service {
        Some(service) => format!("{end} (service {service})"),
        None => end,
    }
}

fn reason(view: &ConnectionView) -> String {
    let detail = view.detail.as_deref().unwrap_or(&view.reason);
    let who = match (&view.source.identity, view.reporter) {
        (Some(identity), Reporter::Destination) => format!("{identity}: "),
        _ => String::new(),
    };
    format!("{who}{detail}")
}

const fn tone(view: &ConnectionView) -> Tone {
    match (view.state, view.decision) {
        (State::Open, _) | (_, Outcome::Allowed) => Tone::Good,
        (_, Outcome::Denied | Outcome::Cut) => Tone::Bad,
        (_, Outcome::Failed) => Tone::Warning,
    }
}

/// One line of the feed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Event {
    Missed { missed: u64 },
    Connection(Box<ConnectionView>),
}

fn watch(args: &Args, socket: &Path, printer: &Printer) -> Result<(), Failure> {
    client::follow(
        socket,
        "/connections?watch=1",
        |event: Event| match &event {
            Event::Connection(view) if args.denied && view.decision == Outcome::Allowed => Ok(()),
            Event::Connection(view) => printer.event(view, |style| event_line(view, style)),
            Event::Missed { missed } => printer.event(&event, |style| {
                let text = format!("{missed} connections were not shown: too many at once");
                style.paint(Tone::Warning, &text)
            }),
        },
    )
}

/// A connection as one line: time, what, from, to, how much or why.
pub(super) fn event_line(view: &ConnectionView, style: Style) -> String {
    let what = match view.state {
        State::Open => "open",
        State::Closed if view.decision == Outcome::Allowed => "closed",
        State::Closed | State::Refused => view.decision.label(),
    };
    let ending = match (view.state, view.decision) {
        (State::Open, _) => security(view).0,
        (_, Outcome::Allowed) => format!(
            "{} sent, {} received in {} ms",
            human::bytes(view.bytes_sent),
            human::bytes(view.bytes_received),
            view.age_ms
        ),
        _ => reason(view),
    };
    let time = view.at.strftime("%H:%M:%S").to_string();
    format!(
        "{} {} {:<8} {} -> {}  {ending}",
        style.paint(Tone::Faint, &time),
        style.paint(tone(view), &format!("{what:<7}")),
        view.reporter.direction(),
        end(&view.source, None),
        destination(view),
    )
}
