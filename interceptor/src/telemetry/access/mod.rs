//! Access lines: one for every connection at its end, one for every refusal.
//!
//! The field names, their order, the levels and the look are ztunnel's, so that people's queries
//! keep working; `decision` and what follows are ours. A line is rendered by the task whose
//! connection ended and written by a thread behind a bounded queue ([`Lines`]).
//!
//! `bytes_sent` and `bytes_recv` are seen from the local workload, as in ztunnel's lines (and
//! unlike Istio's metrics, which are always seen from the server).
//!
//! Lines obey the log level of target `access`: completed connections are `info`, refused ones
//! `warn`, failed ones `error`; `info,access=warn` keeps the refusals only.

use std::fmt::{self, Write as _};
use std::io;
use std::time::Duration;

use jiff::Timestamp;
use tracing::Level;

use super::queue::{Destination, Lines};
use super::record::{Outcome, Record, Security};
use super::shadow::Effect;
use super::text::Quoted;

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

const fn level(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Allowed => "info",
        Outcome::Denied | Outcome::Cut => "warn",
        Outcome::Failed => "error",
    }
}

/// The line of `record`, with its line break.
pub fn render(record: &Record, at: Timestamp, format: Format) -> Vec<u8> {
    let message = match record.outcome {
        Outcome::Allowed | Outcome::Cut => "connection complete",
        Outcome::Denied | Outcome::Failed => "connection failed",
    };
    let level = level(record.outcome);
    let mut line = Line {
        out: String::with_capacity(640),
        format,
        first: true,
    };
    // Writing to a String cannot fail.
    line.write(record, at, level, message).unwrap_or_default();
    line.out.into_bytes()
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

/// A line being written, in either format.
struct Line {
    out: String,
    format: Format,
    first: bool,
}

impl Line {
    fn write(&mut self, r: &Record, at: Timestamp, level: &str, message: &str) -> fmt::Result {
        match self.format {
            Format::Text => write!(self.out, "{at:.6}\t{level}\taccess\t{message}\t")?,
            Format::Json => write!(
                self.out,
                "{{\"level\":\"{level}\",\"time\":\"{at:.6}\",\"scope\":\"access\",\"message\":\"{message}\""
            )?,
        }
        self.ends(r)?;
        self.result(r)?;
        if self.format == Format::Json {
            self.out.push('}');
        }
        self.out.push('\n');
        Ok(())
    }

    fn ends(&mut self, r: &Record) -> fmt::Result {
        let proven = r.security.proves_identity();
        let (source, destination) = (&r.source, &r.destination);
        self.bare("src.addr", source.address.as_ref())?;
        if let Some(workload) = &source.workload {
            self.text("src.workload", Some(&*workload.id.name))?;
            self.text("src.namespace", Some(&*workload.id.namespace))?;
        }
        self.text("src.identity", source.identity.as_ref().filter(|_| proven))?;
        self.bare("dst.addr", destination.address.as_ref())?;
        self.bare("dst.hbone_addr", r.hbone_address.as_ref())?;
        self.text("dst.service", r.service.as_ref().map(|s| &*s.host))?;
        if let Some(workload) = &destination.workload {
            self.text("dst.workload", Some(&*workload.id.name))?;
            self.text("dst.namespace", Some(&*workload.id.namespace))?;
        }
        self.text(
            "dst.identity",
            destination.identity.as_ref().filter(|_| proven),
        )
    }

    fn result(&mut self, r: &Record) -> fmt::Result {
        self.text("direction", Some(r.reporter.direction()))?;
        self.number("bytes_sent", Some(r.sent_by_local()))?;
        self.number("bytes_recv", Some(r.received_by_local()))?;
        self.text(
            "duration",
            Some(format_args!("{}ms", r.duration.as_millis())),
        )?;
        if r.outcome != Outcome::Allowed {
            let detail = r.reason.detail.as_deref();
            self.text("error", Some(detail.unwrap_or(r.reason.label)))?;
        }
        self.text("decision", Some(r.outcome.label()))?;
        self.text("policy", r.reason.policy.as_ref())?;
        self.number("rule", r.reason.rule)?;
        self.text("reason", Some(r.reason.label))?;
        self.shadows("audit", r, |effect| effect == Effect::Audited)?;
        self.shadows("dry_run", r, |effect| effect != Effect::Audited)?;
        self.text("conn_id", Some(r.id))?;
        self.text("tls.cipher", r.tls.map(|tls| tls.cipher))?;
        self.text("tls.kx", r.tls.map(|tls| tls.key_exchange))?;
        let kernel = (r.security == Security::Kernel).then_some(r.security.label());
        self.text("path", kernel)?;
        self.number("tcp.srtt_us", r.tcp.map(|tcp| tcp.round_trip.as_micros()))?;
        self.number("tcp.retransmits", r.tcp.map(|tcp| tcp.retransmits))
    }

    /// What policies that only report said, if some did.
    fn shadows(&mut self, key: &str, r: &Record, which: fn(Effect) -> bool) -> fmt::Result {
        let shadows = r.shadows.iter().filter(|shadow| which(shadow.effect));
        let said: Vec<String> = shadows.map(ToString::to_string).collect();
        self.text(key, (!said.is_empty()).then(|| said.join("; ")))
    }

    /// A value that needs no quotes in text: addresses.
    fn bare(&mut self, key: &str, value: Option<impl fmt::Display>) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        self.key(key)?;
        match self.format {
            Format::Text => write!(self.out, "{value}"),
            Format::Json => write!(self.out, "\"{value}\""),
        }
    }

    fn number(&mut self, key: &str, value: Option<impl fmt::Display>) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        self.key(key)?;
        write!(self.out, "{value}")
    }

    /// A value that is quoted, escaped and bounded.
    fn text(&mut self, key: &str, value: Option<impl fmt::Display>) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        self.key(key)?;
        let value = value.to_string();
        match self.format {
            Format::Text => write!(self.out, "{}", Quoted(&value)),
            Format::Json => {
                let text = serde_json::Value::String(super::text::bounded(&value));
                write!(self.out, "{text}")
            }
        }
    }

    fn key(&mut self, key: &str) -> fmt::Result {
        match (self.format, std::mem::take(&mut self.first)) {
            (Format::Text, true) => write!(self.out, "{key}="),
            (Format::Text, false) => write!(self.out, " {key}="),
            (Format::Json, _) => write!(self.out, ",\"{key}\":"),
        }
    }
}

#[cfg(test)]
mod tests;
