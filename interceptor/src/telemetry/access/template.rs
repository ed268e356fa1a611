//! A line without its numbers.
//!
//! Names, identities, verdict and reason are the same for every connection of a caller to a server;
//! looking them up, escaping and bounding them is nearly all of a line's cost. It is done once here,
//! and what is a connection's own is put into the holes that are left.
//!
//! Every line is made this way, so that a line of many cannot look different from a single one.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

use super::Format;
use super::words::{What, Words};
use crate::telemetry::record::{Outcome, Record, Reporter, Security};
use crate::telemetry::shadow::Effect;
use crate::telemetry::text::{Quoted, bounded};

/// What the numbers of a line take at most.
const NUMBERS: usize = 256;

/// What they take usually.
const USUAL: usize = 96;

/// A line without its numbers: a whole one together with a connection's
/// [`Numbers`](crate::telemetry::Numbers).
#[derive(Clone, Debug)]
pub struct Template {
    pub(super) format: Format,
    reporter: Reporter,
    text: String,
    /// In the order of their places.
    holes: Vec<Hole>,
    /// The client's address that is expected, and how it is written.
    pub(super) client: Option<(IpAddr, String)>,
}

/// Something is to be put in at this place of the text.
#[derive(Clone, Copy, Debug)]
struct Hole {
    at: usize,
    what: What,
}

impl Template {
    /// Of connections like `record`.
    pub(super) fn new(record: &Record, format: Format) -> Self {
        let mut line = Line {
            out: String::with_capacity(640),
            holes: Vec::with_capacity(8),
            format,
            first: true,
        };
        // Writing to a String cannot fail.
        line.write(record).unwrap_or_default();
        let client = record.source.address.map(|address| {
            let ip = address.ip();
            let port_zero = SocketAddr::new(ip, 0).to_string();
            (ip, port_zero.trim_end_matches('0').to_owned())
        });
        Self {
            format,
            reporter: record.reporter,
            text: line.out,
            holes: line.holes,
            client,
        }
    }

    /// How many bytes a line takes at most.
    pub(super) const fn longest(&self) -> usize {
        self.text.len() + NUMBERS
    }

    /// How many bytes a line takes, about.
    pub(super) const fn about(&self) -> usize {
        self.text.len() + USUAL
    }

    /// Appends the line of the connection with these numbers.
    pub(super) fn fill(&self, out: &mut Vec<u8>, words: &Words) {
        out.reserve(self.longest());
        let mut begin = 0;
        for hole in &self.holes {
            let part = self.text.get(begin..hole.at).unwrap_or_default();
            out.extend_from_slice(part.as_bytes());
            out.extend_from_slice(words.word(hole.what, self.reporter));
            begin = hole.at;
        }
        let rest = self.text.get(begin..).unwrap_or_default();
        out.extend_from_slice(rest.as_bytes());
    }
}

const fn level(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Allowed => "info",
        Outcome::Denied | Outcome::Cut => "warn",
        Outcome::Failed => "error",
    }
}

/// A template being written, in either format.
struct Line {
    out: String,
    holes: Vec<Hole>,
    format: Format,
    first: bool,
}

impl Line {
    fn write(&mut self, r: &Record) -> fmt::Result {
        let level = level(r.outcome);
        let message = match r.outcome {
            Outcome::Allowed | Outcome::Cut => "connection complete",
            Outcome::Denied | Outcome::Failed => "connection failed",
        };
        match self.format {
            Format::Text => {
                self.hole(What::Time);
                write!(self.out, "\t{level}\taccess\t{message}\t")?;
            }
            Format::Json => {
                write!(self.out, "{{\"level\":\"{level}\",\"time\":\"")?;
                self.hole(What::Time);
                write!(
                    self.out,
                    "\",\"scope\":\"access\",\"message\":\"{message}\""
                )?;
            }
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
        if source.address.is_some() {
            self.key("src.addr")?;
            match self.format {
                Format::Text => self.hole(What::Source),
                Format::Json => self.quoted(What::Source, ""),
            }
        }
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
        self.key("bytes_sent")?;
        self.hole(What::Sent);
        self.key("bytes_recv")?;
        self.hole(What::Received);
        self.key("duration")?;
        self.quoted(What::Milliseconds, "ms");
        if r.outcome != Outcome::Allowed {
            let detail = r.reason.detail.as_deref();
            self.text("error", Some(detail.unwrap_or(r.reason.label.as_str())))?;
        }
        self.text("decision", Some(r.outcome.label()))?;
        self.text("policy", r.reason.policy.as_ref())?;
        self.number("rule", r.reason.rule)?;
        self.text("reason", Some(r.reason.label.as_str()))?;
        self.shadows("audit", r, |effect| effect == Effect::Audited)?;
        self.shadows("dry_run", r, |effect| effect != Effect::Audited)?;
        self.key("conn_id")?;
        self.quoted(What::Id, "");
        self.text("tls.cipher", r.tls.map(|tls| tls.cipher))?;
        self.text("tls.kx", r.tls.map(|tls| tls.key_exchange))?;
        let kernel = (r.security == Security::Kernel).then_some(r.security.label());
        self.text("path", kernel)?;
        self.hole(What::Tcp);
        Ok(())
    }

    /// What policies that only report said, if some did.
    fn shadows(&mut self, key: &str, r: &Record, which: fn(Effect) -> bool) -> fmt::Result {
        let shadows = r.shadows.iter().filter(|shadow| which(shadow.effect));
        let said: Vec<String> = shadows.map(ToString::to_string).collect();
        self.text(key, (!said.is_empty()).then(|| said.join("; ")))
    }

    /// Something is put in here.
    fn hole(&mut self, what: What) {
        let at = self.out.len();
        self.holes.push(Hole { at, what });
    }

    /// Something is put in here, between quotes and before its unit.
    fn quoted(&mut self, what: What, unit: &str) {
        self.out.push('"');
        self.hole(what);
        self.out.push_str(unit);
        self.out.push('"');
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
                let text = serde_json::Value::String(bounded(&value));
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
