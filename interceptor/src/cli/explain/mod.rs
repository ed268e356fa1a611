//! `interceptor explain`: would this connection be allowed, and why?

use std::io::BufRead as _;
use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::connections::Answer as Connections;
use super::manifests::{Manifests, Mesh};
use super::output::{Printer, Report, Style, Tone};
use super::{Exit, Failure, client, human};
use crate::explain::{self, Answer, Outcome, Question, Sense, Step};
use crate::telemetry::ConnectionView;
use crate::telemetry::record::{Outcome as Recorded, Reporter};

/// The longest line of a batch: two names and an address.
const LONGEST_LINE: usize = 64 * 1024;

/// Would this connection be allowed, and why?
///
/// Follows a connection from its caller to the application, as the agents of both nodes would:
/// whether the caller is enrolled and its connection captured, where the destination leads, how it
/// is carried, which mode the port has, what each policy says, and what the smallest change is that
/// would turn the answer. What it says is asked of the functions that the data plane asks.
///
/// Asks the running agent about the mesh in force; with `-f` it reads manifests instead, without an
/// agent and without privileges.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
FROM is NAMESPACE/NAME of a workload, an identity (spiffe://… or TRUST-DOMAIN/ns/…/sa/…), an IP
address, or the word `plaintext` for somebody outside of the mesh.
TO is a host, NAMESPACE/NAME of a Service or workload, or an IP address; with :PORT by number or
name, unless there is only one.

Exit code: 0 allowed, 1 denied, 2 could not tell.

Examples:
  interceptor explain --from demo/caller --to demo/server:80
  interceptor explain -f deploy/examples --from demo/intruder --to server.demo.svc:80
  interceptor explain --from cluster.local/ns/demo/sa/caller --to 10.244.2.10:9090
  interceptor explain --last-denied             the last refusal that the agent has seen
  interceptor explain --connection 6f1c0a…      one from `interceptor connections`
  echo '{\"from\": \"demo/caller\", \"to\": \"demo/server:80\"}' | interceptor explain -f . --batch")]
pub(super) struct Args {
    /// Who calls.
    #[arg(long, value_name = "WHO", requires = "to")]
    from: Option<String>,

    /// What is called.
    #[arg(long, value_name = "WHAT", requires = "from")]
    to: Option<String>,

    /// The caller's address, if it is not the workload's.
    #[arg(long, value_name = "IP", requires = "from")]
    source_ip: Option<IpAddr>,

    /// Explain the last connection that the agent refused.
    #[arg(long, conflicts_with_all = ["from", "file", "batch", "connection"])]
    last_denied: bool,

    /// Explain a connection that the agent has seen, by its number or the beginning of it.
    #[arg(long, value_name = "ID", conflicts_with_all = ["from", "file", "batch"])]
    connection: Option<String>,

    /// Answer questions from standard input, one JSON object with `from` and `to` per line.
    #[arg(long, conflicts_with = "from")]
    batch: bool,

    #[command(flatten)]
    manifests: Manifests,
}

pub(super) fn run(args: &Args, socket: &Path, printer: &Printer) -> Result<Exit, Failure> {
    let asked = Asked {
        mesh: args.manifests.load()?,
        socket,
    };
    if args.batch {
        return batch(&asked, printer);
    }
    if args.last_denied || args.connection.is_some() {
        let view = recorded(socket, args.connection.as_deref())?;
        let answer = asked.answer(&question_of(&view)?)?;
        let now = Timestamp::now();
        return printer.report(&Explained {
            answer,
            recorded: Some(view),
            now,
        });
    }
    let (Some(from), Some(to)) = (&args.from, &args.to) else {
        let failure = Failure::new("nothing was asked");
        return Err(
            failure.try_next("say --from WHO --to WHAT, --last-denied, --connection ID or --batch")
        );
    };
    let question = Question {
        from: from.clone(),
        to: to.clone(),
        source_ip: args.source_ip,
    };
    printer.report(&Explained {
        answer: asked.answer(&question)?,
        recorded: None,
        now: Timestamp::now(),
    })
}

/// Who is asked: manifests, or the running agent.
struct Asked<'a> {
    mesh: Option<Mesh>,
    socket: &'a Path,
}

impl Asked<'_> {
    fn answer(&self, question: &Question) -> Result<Answer, Failure> {
        if let Some(mesh) = &self.mesh {
            return Ok(explain::explain(mesh, question));
        }
        let source_ip = question.source_ip;
        let path = format!(
            "/explain?from={}&to={}{}",
            client::encoded(&question.from),
            client::encoded(&question.to),
            source_ip.map_or_else(String::new, |ip| format!("&sourceIp={ip}")),
        );
        client::fetch(self.socket, &path)
    }
}

/// One answer per line of standard input; the worst is the exit code.
fn batch(asked: &Asked<'_>, printer: &Printer) -> Result<Exit, Failure> {
    let mut worst = Outcome::Allowed;
    let mut unclear = false;
    let mut input = std::io::stdin().lock();
    let mut line = String::new();
    loop {
        line.clear();
        let limit = u64::try_from(LONGEST_LINE).unwrap_or(u64::MAX);
        let read = std::io::Read::take(&mut input, limit).read_line(&mut line);
        match read.map_err(|error| Failure::from_error(&error))? {
            0 => break,
            _ if line.trim().is_empty() => continue,
            LONGEST_LINE => return Err(Failure::new("a line of the batch is too long")),
            _ => {}
        }
        let question: Question = serde_json::from_str(&line).map_err(|error| {
            let failure = Failure::new(format!("{:?} is no question: {error}", line.trim()));
            failure.try_next(r#"write {"from": "demo/caller", "to": "demo/server:80"}"#)
        })?;
        let answer = asked.answer(&question)?;
        unclear |= answer.outcome == Outcome::Unclear;
        worst = worst.max(answer.outcome);
        printer.event(&answer, |style| headline(&answer, style))?;
    }
    Ok(if unclear { Exit::Unclear } else { exit(worst) })
}

// === what the agent has seen ===

/// The newest refusal, or the connection with this number.
fn recorded(socket: &Path, number: Option<&str>) -> Result<ConnectionView, Failure> {
    let Connections { live, recent, .. } = client::fetch(socket, "/connections")?;
    let mut newest_first = recent.into_iter().rev();
    let Some(number) = number else {
        let refused = newest_first.find(|view| view.decision == Recorded::Denied);
        return refused.ok_or_else(|| {
            Failure::new("the agent has refused nothing lately")
                .try_next("`interceptor connections` shows what it has seen")
        });
    };
    let mut all = live.into_iter().flatten().chain(newest_first);
    all.find(|view| view.conn_id.starts_with(number))
        .ok_or_else(|| {
            Failure::new(format!("the agent remembers no connection {number}"))
                .try_next("`interceptor connections` shows open connections and recent refusals")
        })
}

/// The question that a recorded connection answers.
fn question_of(view: &ConnectionView) -> Result<Question, Failure> {
    let source_ip = view
        .source
        .address
        .map(|address| address.ip().to_canonical());
    let from = match view.reporter {
        Reporter::Source => view.source.workload.clone(),
        Reporter::Destination => view.source.identity.clone(),
    };
    let from = from.or_else(|| source_ip.map(|address| address.to_string()));
    let to = view.hbone_address.or(view.destination.address);
    match (from, to) {
        (Some(from), Some(to)) => Ok(Question {
            from,
            to: to.to_string(),
            source_ip,
        }),
        _ => Err(Failure::new(format!(
            "connection {} ended before it was known who called whom",
            view.conn_id
        ))),
    }
}

// === how it is shown ===

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explained {
    #[serde(flatten)]
    pub(super) answer: Answer,
    /// What the agent has recorded of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) recorded: Option<ConnectionView>,
    #[serde(skip)]
    pub(super) now: Timestamp,
}

impl Report for Explained {
    fn text(&self, style: Style) -> String {
        let mut text = headline(&self.answer, style);
        text.push('\n');
        if !self.answer.steps.is_empty() || self.recorded.is_some() {
            text.push('\n');
        }
        if let Some(view) = &self.recorded {
            let told = format!(
                "{} ago, {} at the {}: {}",
                human::since(view.at, self.now),
                view.decision.label(),
                view.reporter.label(),
                view.detail.as_deref().unwrap_or(&view.reason),
            );
            text.push_str(&row(style, "recorded", Tone::Strong, &told, Tone::Normal));
        }
        for step in &self.answer.steps {
            text.push_str(&shown(step, style));
        }
        let turned = match self.answer.outcome {
            Outcome::Denied => "to allow it",
            Outcome::Allowed | Outcome::Unclear => "to deny it",
        };
        for (position, change) in self.answer.changes.iter().enumerate() {
            let (label, tone) = match position {
                0 => (turned, Tone::Normal),
                _ => ("or", Tone::Faint),
            };
            if position == 0 {
                text.push('\n');
            }
            text.push_str(&row(style, label, Tone::Strong, &change.message, tone));
        }
        text
    }

    fn exit(&self) -> Exit {
        exit(self.answer.outcome)
    }
}

const fn exit(outcome: Outcome) -> Exit {
    match outcome {
        Outcome::Allowed => Exit::Yes,
        Outcome::Denied => Exit::No,
        Outcome::Unclear => Exit::Unclear,
    }
}

/// The answer in one line.
fn headline(answer: &Answer, style: Style) -> String {
    let tone = match answer.outcome {
        Outcome::Allowed => Tone::Good,
        Outcome::Denied => Tone::Bad,
        Outcome::Unclear => Tone::Warning,
    };
    let Question { from, to, .. } = &answer.question;
    let label = style.paint(tone, answer.outcome.label());
    let summary = answer
        .summary
        .strip_prefix("allowed: ")
        .unwrap_or(&answer.summary);
    format!("{label}  {from} -> {to}: {summary}")
}

fn shown(step: &Step, style: Style) -> String {
    let tone = match step.sense {
        Sense::Good => Tone::Normal,
        Sense::Warning => Tone::Warning,
        Sense::Bad => Tone::Bad,
    };
    let mut text = row(style, step.step.label(), Tone::Strong, &step.answer, tone);
    for note in &step.notes {
        let tone = match note.trim_start().split_once(' ') {
            Some(("FAIL", _)) => Tone::Warning,
            Some(("ok", _)) => Tone::Faint,
            _ => Tone::Normal,
        };
        text.push_str(&row(style, "", Tone::Normal, note, tone));
    }
    text
}

/// A label and what belongs to it, in columns.
fn row(style: Style, label: &str, label_tone: Tone, text: &str, tone: Tone) -> String {
    let label = style.paint(label_tone, &format!("{label:<11}"));
    format!("  {label}  {}\n", style.paint(tone, text))
}

#[cfg(test)]
mod tests;
