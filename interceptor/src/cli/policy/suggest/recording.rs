//! Connections of the past: from access logs (JSON), or from the running agent.
//!
//! A connection is judged where it arrives, by the policies there. One that its caller's agent sent
//! out without mutual TLS, or refused before that, is judged where it left, by the egress rules.
//!
//! Equal connections are kept once with their number, so that memory follows how many callers and
//! ports there are and not how long the log is. A connection that both nodes recorded is in the log
//! twice; of equal ones the destination's count is taken, since that is where policy is decided.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use interceptor_policy::SpiffeId;
use jiff::Timestamp;
use serde::Deserialize;

use crate::cli::{Failure, client, connections};
use crate::telemetry::record::{Outcome, Reporter};
use crate::telemetry::{ConnectionView, calls};
use crate::workload::WorkloadId;

/// Different connections that are kept. What comes after is counted as unusable.
const MOST: usize = 1_000_000;

/// The longest line of an access log. Ours stay below 4 KiB.
const LONGEST_LINE: usize = 64 * 1024;

/// One kind of connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Call {
    /// The workload that was called.
    pub(super) destination: WorkloadId,
    /// Its address and port.
    pub(super) target: SocketAddr,
    /// What the caller proved; `None` for plaintext.
    pub(super) identity: Option<SpiffeId>,
    /// The caller's address.
    pub(super) source_ip: IpAddr,
    /// Whether it went through. What failed for other reasons than policy is not recorded here.
    pub(super) allowed: bool,
}

/// One kind of connection that left a workload without proving anything.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Departure {
    /// The workload that called.
    pub(super) source: WorkloadId,
    /// Where to.
    pub(super) to: SocketAddr,
    /// Whether it went out.
    pub(super) allowed: bool,
}

/// How often, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    at_source: u64,
    at_destination: u64,
    /// The last time.
    pub(super) last: Option<Timestamp>,
}

/// What was recorded.
#[derive(Debug, Default)]
pub(super) struct Recording {
    /// Every kind of connection.
    pub(super) calls: BTreeMap<Call, Seen>,
    /// Every kind that left without mutual TLS.
    pub(super) departures: BTreeMap<Departure, Seen>,
    /// Records that say too little: of connections that failed, whose ends are not known, or that
    /// are not understood.
    pub(super) unusable: u64,
}

impl Seen {
    /// How many connections.
    pub(super) const fn count(&self) -> u64 {
        if self.at_destination > 0 {
            self.at_destination
        } else {
            self.at_source
        }
    }
}

/// One record, from wherever it comes.
struct Entry {
    reporter: Reporter,
    outcome: Outcome,
    source: Option<WorkloadId>,
    source_ip: Option<IpAddr>,
    /// As written.
    identity: Option<String>,
    destination: Option<WorkloadId>,
    target: Option<SocketAddr>,
    count: u64,
    last: Option<Timestamp>,
}

/// One line of the access log, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Line {
    time: Option<Timestamp>,
    direction: String,
    decision: Outcome,
    #[serde(rename = "src.addr")]
    source: Option<SocketAddr>,
    #[serde(rename = "src.workload")]
    source_workload: Option<String>,
    #[serde(rename = "src.namespace")]
    source_namespace: Option<String>,
    #[serde(rename = "src.identity")]
    identity: Option<String>,
    #[serde(rename = "dst.addr")]
    destination: Option<SocketAddr>,
    #[serde(rename = "dst.hbone_addr")]
    hbone: Option<SocketAddr>,
    #[serde(rename = "dst.workload")]
    workload: Option<String>,
    #[serde(rename = "dst.namespace")]
    namespace: Option<String>,
}

impl Recording {
    /// Adds what an access log says.
    pub(super) fn read_log(&mut self, path: &Path) -> Result<(), Failure> {
        let failed = |error: &std::io::Error| {
            Failure::new(format!("{} cannot be read: {error}", path.display()))
        };
        let file = File::open(path).map_err(|error| failed(&error))?;
        let (mut reader, mut line, mut understood) = (BufReader::new(file), Vec::new(), 0_u64);
        loop {
            line.clear();
            let most = u64::try_from(LONGEST_LINE).unwrap_or(u64::MAX);
            let mut limited = (&mut reader).take(most);
            let read = limited.read_until(b'\n', &mut line);
            if read.map_err(|error| failed(&error))? == 0 {
                break;
            }
            match serde_json::from_slice::<Line>(&line) {
                Ok(line) => {
                    understood += 1;
                    self.add(line.into());
                }
                Err(_) if line.iter().all(u8::is_ascii_whitespace) => {}
                Err(_) => self.unusable += 1,
            }
        }
        if understood == 0 {
            return Err(Failure::new(format!(
                "{} has no line of an access log in JSON",
                path.display()
            ))
            .try_next("the agent writes one with telemetry.accessLog.format: json"));
        }
        Ok(())
    }

    /// Adds what the running agent knows: what is open now, and what it has seen since it started.
    pub(super) fn read_agent(&mut self, socket: &Path) -> Result<(), Failure> {
        let answer: connections::Answer = client::fetch(socket, "/connections")?;
        for view in answer.live.iter().flatten() {
            self.add(view.into());
        }
        let over: calls::Report = client::fetch(socket, "/calls")?;
        self.read_report(over);
        Ok(())
    }

    /// Adds what an agent has counted.
    pub(super) fn read_report(&mut self, report: calls::Report) {
        self.unusable = self.unusable.saturating_add(report.overflowed);
        for call in report.calls {
            self.add(call.into());
        }
    }

    fn add(&mut self, entry: Entry) {
        let room = self.calls.len().saturating_add(self.departures.len()) < MOST;
        let (reporter, count, last) = (entry.reporter, entry.count, entry.last);
        let seen = match entry.kind() {
            Some(Kind::Arrival(call)) if room || self.calls.contains_key(&call) => {
                self.calls.entry(call).or_default()
            }
            Some(Kind::Departure(left)) if room || self.departures.contains_key(&left) => {
                self.departures.entry(left).or_default()
            }
            _ => {
                self.unusable = self.unusable.saturating_add(count);
                return;
            }
        };
        let own = match reporter {
            Reporter::Source => &mut seen.at_source,
            Reporter::Destination => &mut seen.at_destination,
        };
        *own = own.saturating_add(count);
        seen.last = seen.last.max(last);
    }
}

/// Where a connection is judged.
enum Kind {
    Arrival(Call),
    Departure(Departure),
}

impl Entry {
    /// What is kept of the connection, if enough is known of it.
    fn kind(self) -> Option<Kind> {
        let allowed = match self.outcome {
            Outcome::Allowed | Outcome::Cut => true,
            Outcome::Denied => false,
            Outcome::Failed => return None,
        };
        let target = self.target?;
        if self.reporter == Reporter::Source && self.identity.is_none() {
            return Some(Kind::Departure(Departure {
                source: self.source?,
                to: target,
                allowed,
            }));
        }
        let identity = match self.identity {
            Some(identity) => Some(identity.parse().ok()?),
            None => None,
        };
        Some(Kind::Arrival(Call {
            destination: self.destination?,
            target,
            identity,
            source_ip: self.source_ip?.to_canonical(),
            allowed,
        }))
    }
}

impl From<Line> for Entry {
    fn from(line: Line) -> Self {
        let id = |namespace: Option<String>, name: Option<String>| {
            Some(WorkloadId {
                namespace: namespace?.into(),
                name: name?.into(),
            })
        };
        Self {
            reporter: match line.direction.as_str() {
                "inbound" => Reporter::Destination,
                _ => Reporter::Source,
            },
            outcome: line.decision,
            source: id(line.source_namespace, line.source_workload),
            source_ip: line.source.map(|source| source.ip()),
            identity: line.identity,
            destination: id(line.namespace, line.workload),
            target: line.hbone.or(line.destination),
            count: 1,
            last: line.time,
        }
    }
}

impl From<&ConnectionView> for Entry {
    fn from(view: &ConnectionView) -> Self {
        // In plaintext nothing was proven, whatever is known of the workload.
        let proven = view.security.proves_identity();
        Self {
            reporter: view.reporter,
            outcome: view.decision,
            source: view.source.workload.as_deref().and_then(workload_id),
            source_ip: view.source.address.map(|source| source.ip()),
            identity: view.source.identity.clone().filter(|_| proven),
            destination: view.destination.workload.as_deref().and_then(workload_id),
            target: view.hbone_address.or(view.destination.address),
            count: 1,
            last: Some(view.at),
        }
    }
}

impl From<calls::Call> for Entry {
    fn from(call: calls::Call) -> Self {
        Self {
            reporter: call.reporter,
            outcome: if call.refused {
                Outcome::Denied
            } else {
                Outcome::Allowed
            },
            source: call.source.as_deref().and_then(workload_id),
            source_ip: Some(call.source_ip),
            identity: call.identity,
            destination: call.destination.as_deref().and_then(workload_id),
            target: Some(call.to),
            count: call.connections,
            last: Some(call.last),
        }
    }
}

/// The workload that `namespace/name` names.
fn workload_id(text: &str) -> Option<WorkloadId> {
    let (namespace, name) = text.split_once('/')?;
    Some(WorkloadId {
        namespace: namespace.into(),
        name: name.into(),
    })
}
