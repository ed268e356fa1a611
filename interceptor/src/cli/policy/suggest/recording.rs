//! Connections of the past: from access logs (JSON), or from the running agent.
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
use crate::telemetry::ConnectionView;
use crate::telemetry::record::{Outcome, Reporter};
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
    /// Records that say too little: of connections that failed, whose destination is not known, or
    /// that are not understood.
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

/// One line of the access log, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Line {
    time: Option<Timestamp>,
    direction: String,
    decision: Outcome,
    #[serde(rename = "src.addr")]
    source: Option<SocketAddr>,
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
                    self.add_line(&line);
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

    /// Adds what the running agent knows: what is open now, and what it refused recently.
    pub(super) fn read_agent(&mut self, socket: &Path) -> Result<(), Failure> {
        let answer: connections::Answer = client::fetch(socket, "/connections")?;
        for view in answer.live.iter().flatten().chain(&answer.recent) {
            self.add_view(view);
        }
        Ok(())
    }

    fn add_line(&mut self, line: &Line) {
        let workload = line.namespace.as_ref().zip(line.workload.as_ref());
        let destination = workload.map(|(namespace, name)| WorkloadId {
            namespace: namespace.as_str().into(),
            name: name.as_str().into(),
        });
        let reporter = match line.direction.as_str() {
            "inbound" => Reporter::Destination,
            _ => Reporter::Source,
        };
        let ends = (line.source, line.hbone.or(line.destination));
        let identity = line.identity.as_deref();
        let call = call(destination, ends, identity, line.decision);
        self.add(call, reporter, line.time);
    }

    fn add_view(&mut self, view: &ConnectionView) {
        let workload = view.destination.workload.as_deref();
        let destination = workload.and_then(|workload| {
            let (namespace, name) = workload.split_once('/')?;
            Some(WorkloadId {
                namespace: namespace.into(),
                name: name.into(),
            })
        });
        let reached = view.hbone_address.or(view.destination.address);
        // In plaintext nothing was proven, whatever is known of the workload.
        let proven = view.security.proves_identity();
        let identity = view.source.identity.as_deref().filter(|_| proven);
        let ends = (view.source.address, reached);
        let call = call(destination, ends, identity, view.decision);
        self.add(call, view.reporter, Some(view.at));
    }

    fn add(&mut self, call: Option<Call>, reporter: Reporter, at: Option<Timestamp>) {
        let room = self.calls.len() < MOST;
        let Some(call) = call.filter(|call| room || self.calls.contains_key(call)) else {
            self.unusable += 1;
            return;
        };
        let seen = self.calls.entry(call).or_default();
        match reporter {
            Reporter::Source => seen.at_source += 1,
            Reporter::Destination => seen.at_destination += 1,
        }
        seen.last = seen.last.max(at);
    }
}

/// The connection, if enough is known of it.
fn call(
    destination: Option<WorkloadId>,
    (source, target): (Option<SocketAddr>, Option<SocketAddr>),
    identity: Option<&str>,
    outcome: Outcome,
) -> Option<Call> {
    let identity = match identity {
        Some(identity) => Some(identity.parse().ok()?),
        None => None,
    };
    Some(Call {
        destination: destination?,
        target: target?,
        identity,
        source_ip: source?.ip().to_canonical(),
        allowed: match outcome {
            Outcome::Allowed | Outcome::Cut => true,
            Outcome::Denied => false,
            Outcome::Failed => return None,
        },
    })
}
