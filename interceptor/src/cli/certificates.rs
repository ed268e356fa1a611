//! `interceptor certificates`.

use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::output::{Printer, Report, Style, Table, Tone, cell};
use super::{Exit, Failure, client, human};
use crate::telemetry::status::Certificate;

/// Which identities the agent holds, who issued them, and when they are renewed.
///
/// Certificates are renewed at half of their life while connections go on. Keys never leave the
/// agent's memory.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code: 0 all valid, 1 one has expired or cannot be renewed, 2 no agent answers.

Examples:
  interceptor certificates
  interceptor certificates -o json | jq -r '.certificates[] | [.identity, .notAfter] | @tsv'")]
pub(super) struct Args {}

pub(super) fn run(_args: &Args, socket: &Path, printer: &Printer) -> Result<Exit, Failure> {
    let certificates = client::fetch(socket, "/certificates")?;
    printer.report(&Answer {
        certificates,
        now: Timestamp::now(),
    })
}

#[derive(Debug, Serialize)]
pub(super) struct Answer {
    pub(super) certificates: Vec<Certificate>,
    #[serde(skip)]
    pub(super) now: Timestamp,
}

/// Whether `certificate` is missing, has expired, or could not be renewed.
pub(super) fn is_failing(certificate: &Certificate, now: Timestamp) -> bool {
    certificate.last_error.is_some() || !is_valid(certificate, now)
}

fn is_valid(certificate: &Certificate, now: Timestamp) -> bool {
    certificate.not_after.is_some_and(|end| end > now)
}

/// As much of a serial number as people are shown: the first 16 digits tell certificates apart, and
/// JSON has all of them.
pub(super) fn short(serial: &str) -> String {
    serial.chars().take(16).collect()
}

/// One row for each certificate.
pub(super) fn table(certificates: &[Certificate], now: Timestamp) -> Table {
    let mut table = Table::new(["IDENTITY", "EXPIRES IN", "RENEWED IN", "ISSUER", "SERIAL"]);
    for certificate in certificates {
        let tone = if is_valid(certificate, now) {
            Tone::Normal
        } else {
            Tone::Bad
        };
        let until = |at: Option<Timestamp>| at.map_or("-".to_owned(), |at| human::until(at, now));
        let serial = short(certificate.serial.as_deref().unwrap_or("none yet"));
        table.row([
            cell(&certificate.identity),
            (until(certificate.not_after), tone),
            cell(until(certificate.renew_at)),
            cell(&certificate.issuer),
            cell(serial),
        ]);
        if let Some(error) = &certificate.last_error {
            table.note(format!("could not be renewed: {error}"), Tone::Bad);
        }
    }
    table
}

impl Report for Answer {
    fn text(&self, style: Style) -> String {
        let failing = |c: &&_| is_failing(c, self.now);
        let failing = self.certificates.iter().filter(failing).count();
        let count = human::count(self.certificates.len(), "certificate");
        let first = match failing {
            0 => style.paint(Tone::Good, &format!("{count}, all valid")),
            n => style.paint(Tone::Bad, &format!("{count}, {n} expired or not renewable")),
        };
        if self.certificates.is_empty() {
            return "no certificates: no workload of this node is enrolled\n".to_owned();
        }
        let table = table(&self.certificates, self.now).text(style);
        format!("{first}\n\n{table}")
    }

    fn exit(&self) -> Exit {
        if self.certificates.iter().any(|c| is_failing(c, self.now)) {
            Exit::No
        } else {
            Exit::Yes
        }
    }
}
