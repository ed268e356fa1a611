//! What one agent tells the other about a connection, beyond where it goes.
//!
//! `baggage` and `forwarded` are ztunnel's, `traceparent` is W3C's. All three are hints that a peer
//! may invent: they name things in telemetry and never take part in a decision.
//!
//! # Invariants
//!
//! * Written values are percent-encoded, so no label of a workload can break a header.
//! * Read values are bounded in number and length and contain no control characters. What does not
//!   parse is absent.

use std::fmt;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::str::FromStr;

use http::{HeaderMap, HeaderValue};

/// Longest header value that is looked at.
const MAX_HEADER: usize = 8192;
/// Longest single value that is kept: a Kubernetes name has at most 253 characters.
const MAX_VALUE: usize = 253;

/// Hints about the other end that travel with a CONNECT and its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectHeaders {
    /// Who the workload is.
    pub baggage: Baggage,
    /// The client's true address and port.
    pub forwarded: Option<SocketAddr>,
    /// The trace that the connection belongs to.
    pub traceparent: Option<Traceparent>,
}

impl ConnectHeaders {
    /// Adds the headers that there is something to say in.
    pub(in crate::transport) fn write(&self, headers: &mut HeaderMap) {
        let baggage = self.baggage.encode();
        let forwarded = self.forwarded.map(|client| format!("for=\"{client}\""));
        let traceparent = self.traceparent.map(|trace| trace.to_string());
        let values = [
            ("baggage", (!baggage.is_empty()).then_some(baggage)),
            ("forwarded", forwarded),
            ("traceparent", traceparent),
        ];
        for (name, value) in values {
            if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
                headers.insert(name, value);
            }
        }
    }

    /// Reads what is there and makes sense.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let text = |name| {
            let value = headers.get(name)?.to_str().ok()?;
            (value.len() <= MAX_HEADER).then_some(value)
        };
        Self {
            baggage: text("baggage").map(Baggage::decode).unwrap_or_default(),
            forwarded: text("forwarded").and_then(forwarded_for),
            traceparent: text("traceparent").and_then(|value| value.parse().ok()),
        }
    }
}

/// The client in a `forwarded` header's first element (RFC 7239).
fn forwarded_for(value: &str) -> Option<SocketAddr> {
    let element = value.split(',').next()?;
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(())?;
        value.trim().trim_matches('"').parse().ok()
    })
}

/// A workload's names, in ztunnel's `baggage` keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`.
    pub cluster: Option<String>,
    /// `k8s.namespace.name`.
    pub namespace: Option<String>,
    /// `k8s.<kind>.name`: the kind, such as `deployment` or `pod`, and the name.
    pub workload: Option<(String, String)>,
    /// `service.name`: the canonical service.
    pub service: Option<String>,
    /// `service.version`: the canonical revision.
    pub revision: Option<String>,
}

impl Baggage {
    fn encode(&self) -> String {
        let workload = self.workload.as_ref();
        let kind = workload.map_or("pod", |(kind, _)| kind.as_str());
        let kind: String = kind.chars().filter(char::is_ascii_lowercase).collect();
        let workload_key = format!("k8s.{kind}.name");
        let entries = [
            ("k8s.cluster.name", self.cluster.as_deref()),
            ("k8s.namespace.name", self.namespace.as_deref()),
            (&workload_key, workload.map(|(_, name)| name.as_str())),
            ("service.name", self.service.as_deref()),
            ("service.version", self.revision.as_deref()),
        ];
        let mut out = String::new();
        for (key, value) in entries {
            let Some(value) = value else { continue };
            if !out.is_empty() {
                out.push(',');
            }
            out.push_str(key);
            out.push('=');
            push_encoded(&mut out, value);
        }
        out
    }

    fn decode(text: &str) -> Self {
        let mut baggage = Self::default();
        for member in text.split(',') {
            // A member may have properties after a semicolon; none is of interest.
            let member = member.split(';').next().unwrap_or_default();
            let Some((key, value)) = member.split_once('=') else {
                continue;
            };
            let Some(value) = decoded(value.trim()) else {
                continue;
            };
            match key.trim() {
                "k8s.cluster.name" => baggage.cluster = Some(value),
                "k8s.namespace.name" => baggage.namespace = Some(value),
                "service.name" => baggage.service = Some(value),
                "service.version" => baggage.revision = Some(value),
                other => {
                    if let Some(kind) = workload_kind(other) {
                        baggage.workload = Some((kind.to_owned(), value));
                    }
                }
            }
        }
        baggage
    }
}

/// The kind in a key such as `k8s.deployment.name`.
fn workload_kind(key: &str) -> Option<&'static str> {
    const KINDS: [&str; 8] = [
        "pod",
        "deployment",
        "statefulset",
        "daemonset",
        "replicaset",
        "job",
        "cronjob",
        "workloadentry",
    ];
    let written = key.strip_prefix("k8s.")?.strip_suffix(".name")?;
    KINDS.into_iter().find(|kind| *kind == written)
}

/// Appends `value` percent-encoded (W3C baggage), within [`MAX_VALUE`].
fn push_encoded(out: &mut String, value: &str) {
    for byte in value.bytes().take(MAX_VALUE) {
        if matches!(byte, b'!'..=b'~') && !b"\",;\\%".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _written = write!(out, "%{byte:02X}");
        }
    }
}

/// A percent-encoded value in plain, or `None` if it is nothing that could be shown.
fn decoded(value: &str) -> Option<String> {
    if value.len() > 3 * MAX_VALUE {
        return None;
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    let fit = !text.is_empty() && text.len() <= MAX_VALUE;
    (fit && !text.contains(char::is_control)).then_some(text)
}

/// A W3C trace context, version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent {
    /// The trace; never zero.
    pub trace: u128,
    /// The span that called; never zero.
    pub parent: u64,
    /// Whether the caller records it.
    pub sampled: bool,
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace, self.parent)
    }
}

/// The text is not a trace context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C trace context")]
pub struct NotATraceparent;

impl FromStr for Traceparent {
    type Err = NotATraceparent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('-');
        let mut part = |digits: usize| {
            let part = parts.next().ok_or(NotATraceparent)?;
            let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            let fits = part.len() == digits && part.bytes().all(hex);
            fits.then_some(part).ok_or(NotATraceparent)
        };
        let (version, trace, parent, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        // Later versions may append fields; version 00 may not, and ff is invalid.
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return Err(NotATraceparent);
        }
        let number = |text| u128::from_str_radix(text, 16).map_err(|_not_a_number| NotATraceparent);
        let parsed = Self {
            trace: number(trace)?,
            parent: u64::try_from(number(parent)?).map_err(|_not_a_number| NotATraceparent)?,
            sampled: number(flags)? & 1 == 1,
        };
        let valid = parsed.trace != 0 && parsed.parent != 0;
        valid.then_some(parsed).ok_or(NotATraceparent)
    }
}

#[cfg(test)]
mod tests;
