//! Access lines: one for every connection at its end, one for every refusal.
//!
//! The field names, their order, the levels and the look are ztunnel's, so that people's queries
//! keep working; `decision` and what follows are ours. A line is rendered by the task whose
//! connection ended and written by a thread behind a bounded queue ([`Lines`]). Whoever has many
//! that differ only in numbers makes the rest of them once ([`Template`]), and hands them over
//! together ([`Batch`]).
//!
//! `bytes_sent` and `bytes_recv` are seen from the local workload, as in ztunnel's lines (and
//! unlike Istio's metrics, which are always seen from the server).
//!
//! Lines obey the log level of target `access`: completed connections are `info`, refused ones
//! `warn`, failed ones `error`; `info,access=warn` keeps the refusals only.

use std::io;
use std::time::Duration;

use jiff::Timestamp;
use tracing::Level;

use super::queue::{Destination, Lines};
use super::record::{Outcome, Record};

mod batch;
mod clock;
mod template;
mod words;

pub use batch::Batch;
pub use template::Template;

use clock::Clock;
use words::Words;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Tab-separated head, then `key=value`.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Where and how access lines are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Where they go. Standard output by default, so that they can be told from the agent's own
    /// log, which goes to standard error.
    pub destination: Destination,
    /// How they look.
    pub format: Format,
}

/// The access log. Clones share it.
#[derive(Clone, Debug)]
pub struct AccessLog {
    lines: Option<Lines>,
    format: Format,
}

impl AccessLog {
    /// Opens the log and starts its writer.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or the thread cannot be started.
    pub fn open(config: &Config) -> io::Result<Self> {
        let notice = match config.format {
            Format::Text => lost_as_text,
            Format::Json => lost_as_json,
        };
        Ok(Self {
            lines: Some(Lines::open(&config.destination, notice)?),
            format: config.format,
        })
    }

    /// A log that writes nothing.
    pub const fn disabled() -> Self {
        Self {
            lines: None,
            format: Format::Text,
        }
    }

    /// Writes the line of `record`, if its level is enabled. Never waits.
    pub fn write(&self, record: &Record) {
        let Some(lines) = &self.lines else { return };
        if is_enabled(record.outcome) {
            lines.push(render(record, Timestamp::now(), self.format));
        }
    }

    /// The line of `record` without its numbers, for others like it.
    pub fn template(&self, record: &Record) -> Template {
        Template::new(record, self.format)
    }

    /// Takes lines that are handed over together.
    pub fn batch(&self) -> Batch {
        Batch::new(self.lines.clone())
    }

    /// How many lines were lost because they could not be written fast enough.
    pub fn lost(&self) -> u64 {
        self.lines.as_ref().map_or(0, Lines::lost)
    }

    /// Waits until all lines are written or `limit` has passed. Blocks the calling thread.
    pub fn flush(&self, limit: Duration) {
        if let Some(lines) = &self.lines {
            lines.flush(limit);
        }
    }
}

fn is_enabled(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Allowed => tracing::enabled!(target: "access", Level::INFO),
        Outcome::Denied | Outcome::Cut => tracing::enabled!(target: "access", Level::WARN),
        Outcome::Failed => tracing::enabled!(target: "access", Level::ERROR),
    }
}

/// The line of `record`, with its line break.
pub fn render(record: &Record, at: Timestamp, format: Format) -> Vec<u8> {
    let template = Template::new(record, format);
    let mut line = Vec::with_capacity(template.longest());
    let mut words = Words::default();
    words.set(&template, &mut Clock::default(), at, &record.numbers());
    template.fill(&mut line, &words);
    line
}

fn lost_as_text(lost: u64) -> Vec<u8> {
    format!(
        "{:.6}\terror\taccess\tlines lost\tcount={lost}\n",
        Timestamp::now()
    )
    .into_bytes()
}

fn lost_as_json(lost: u64) -> Vec<u8> {
    format!(
        "{{\"level\":\"error\",\"time\":\"{:.6}\",\"scope\":\"access\",\"message\":\"lines lost\",\"count\":{lost}}}\n",
        Timestamp::now()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests;
