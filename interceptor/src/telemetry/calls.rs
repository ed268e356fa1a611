//! Who called whom since the agent started, counted: what `interceptor policy suggest` and
//! `interceptor ports` know of connections that are over.
//!
//! The ring of recent refusals forgets, and what went well is in no ring at all. Here every
//! connection that was decided is counted, and what is kept follows how many callers and ports there
//! are, not how many connections. A caller that proved who it is is one caller, whatever addresses
//! its Pods have; one that did not is known by its address only, and has a smaller share of the
//! room, so that a scan does not push anybody else out.
//!
//! Not here: what failed for reasons that are not policy.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use interceptor_policy::SpiffeId;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::record::{Outcome, Record, Reporter};
use crate::workload::WorkloadId;

/// So many different calls of callers that proved who they are: about 2 MB.
const PROVEN: usize = 8192;

/// So many different calls of others.
const UNPROVEN: usize = 2048;

/// Calls by caller and destination. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    proven: HashMap<Key, Counting>,
    unproven: HashMap<Key, Counting>,
    overflowed: u64,
}

/// Where one caller's connections are counted.
type Counting = Arc<Mutex<Count>>;

/// Where connections like one that was seen are counted: looked up once for all of them.
#[derive(Clone, Debug)]
pub(super) struct Line {
    calls: Calls,
    /// `None` if there was no room for them.
    count: Option<Counting>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    reporter: Reporter,
    caller: Caller,
    destination: Option<WorkloadId>,
    to: SocketAddr,
    refused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Caller {
    /// What it proved.
    Proven(SpiffeId),
    /// Its address, and the workload if it is one of this node's.
    Unproven(IpAddr, Option<WorkloadId>),
}

#[derive(Clone, Copy, Debug)]
struct Count {
    connections: u64,
    first: Timestamp,
    last: Timestamp,
    source: IpAddr,
}

/// The document at `/calls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Every call, by destination.
    pub calls: Vec<Call>,
    /// How many connections had no room to be counted.
    pub overflowed: u64,
}

/// How often somebody called a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Which end reports.
    pub reporter: Reporter,
    /// The SPIFFE ID that the caller proved; absent for plaintext.
    pub identity: Option<String>,
    /// `namespace/name` of the caller, if it is a workload of this node and proved nothing.
    pub source: Option<String>,
    /// An address of the caller: the last one.
    pub source_ip: IpAddr,
    /// `namespace/name` of the workload that was called, if it is known.
    pub destination: Option<String>,
    /// The address and port of the application that was called.
    pub to: SocketAddr,
    /// Whether it was refused; it went through otherwise.
    pub refused: bool,
    /// How many connections.
    pub connections: u64,
    /// When the first of them ended.
    pub first: Timestamp,
    /// When the last of them ended.
    pub last: Timestamp,
}

impl Calls {
    /// Counts a connection that is over, if it was decided whether it may be.
    pub fn note(&self, record: &Record) {
        self.note_at(record, Timestamp::now());
    }

    fn note_at(&self, record: &Record, at: Timestamp) {
        if let Some((line, source)) = self.find(record, at) {
            line.add(at, source, 1);
        }
    }

    /// Where connections like `record` are counted, if they are.
    pub(super) fn line(&self, record: &Record) -> Option<Line> {
        let (line, _) = self.find(record, Timestamp::now())?;
        Some(line)
    }

    /// Where `record` is counted, and its caller's address.
    fn find(&self, record: &Record, at: Timestamp) -> Option<(Line, IpAddr)> {
        let (key, source) = Key::of(record)?;
        let mut seen = self.seen.lock();
        let (calls, room) = match key.caller {
            Caller::Proven(_) => (&mut seen.proven, PROVEN),
            Caller::Unproven(..) => (&mut seen.unproven, UNPROVEN),
        };
        let count = match calls.get(&key) {
            Some(count) => Some(Arc::clone(count)),
            None if calls.len() < room => {
                let count = Arc::new(Mutex::new(Count {
                    connections: 0,
                    first: at,
                    last: at,
                    source,
                }));
                calls.insert(key, Arc::clone(&count));
                Some(count)
            }
            None => None,
        };
        drop(seen);
        let calls = self.clone();
        Some((Line { calls, count }, source))
    }

    /// What was counted, in a stable order.
    pub fn report(&self) -> Report {
        let seen = self.seen.lock();
        let all = seen.proven.iter().chain(&seen.unproven);
        let mut calls: Vec<Call> = all
            .map(|(key, count)| (key, *count.lock()))
            // Looked up by somebody who will count soon.
            .filter(|(_, count)| count.connections > 0)
            .map(|(key, count)| Call::of(key, count))
            .collect();
        let overflowed = seen.overflowed;
        drop(seen);
        calls.sort_by(|a, b| a.order().cmp(&b.order()));
        Report { calls, overflowed }
    }
}

impl Line {
    /// Counts so many connections of a caller at this address.
    pub(super) fn add(&self, at: Timestamp, source: IpAddr, connections: u64) {
        if let Some(count) = &self.count {
            let mut count = count.lock();
            count.connections = count.connections.saturating_add(connections);
            count.last = at;
            count.source = source;
        } else {
            let mut seen = self.calls.seen.lock();
            seen.overflowed = seen.overflowed.saturating_add(connections);
        }
    }
}

impl Key {
    /// What is counted of a connection, and the caller's address.
    fn of(record: &Record) -> Option<(Self, IpAddr)> {
        let refused = match record.outcome {
            Outcome::Allowed | Outcome::Cut => false,
            Outcome::Denied => true,
            Outcome::Failed => return None,
        };
        let ip = record.source.address?.ip().to_canonical();
        let proven = record.source.identity.as_ref();
        let caller = match proven.filter(|_| record.security.proves_identity()) {
            Some(identity) => Caller::Proven(identity.clone()),
            None => Caller::Unproven(ip, local_source(record)),
        };
        let destination = record.destination.workload.as_ref();
        let key = Self {
            reporter: record.reporter,
            caller,
            destination: destination.map(|workload| workload.id.clone()),
            to: record.hbone_address.or(record.destination.address)?,
            refused,
        };
        Some((key, ip))
    }
}

/// The workload that called, where that is certain: at its own node.
fn local_source(record: &Record) -> Option<WorkloadId> {
    let workload = record.source.workload.as_ref();
    let workload = workload.filter(|_| record.reporter == Reporter::Source)?;
    Some(workload.id.clone())
}

impl Call {
    fn of(key: &Key, count: Count) -> Self {
        let (identity, source) = match &key.caller {
            Caller::Proven(identity) => (Some(identity.to_string()), None),
            Caller::Unproven(_, source) => (None, source.as_ref().map(ToString::to_string)),
        };
        Self {
            reporter: key.reporter,
            identity,
            source,
            source_ip: count.source,
            destination: key.destination.as_ref().map(ToString::to_string),
            to: key.to,
            refused: key.refused,
            connections: count.connections,
            first: count.first,
            last: count.last,
        }
    }

    fn order(&self) -> impl Ord + '_ {
        let caller = (&self.identity, &self.source, self.source_ip);
        let reporter = self.reporter.label();
        (&self.destination, self.to, caller, self.refused, reporter)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::telemetry::record::fixtures;

    fn at(minute: u8) -> Timestamp {
        format!("2025-03-01T12:{minute:02}:00Z").parse().unwrap()
    }

    #[test]
    fn callers_are_counted_by_what_they_proved() {
        let calls = Calls::default();
        calls.note_at(&fixtures::allowed_inbound(), at(1));
        let mut other_pod = fixtures::allowed_inbound();
        other_pod.source.address = Some("10.1.0.9:1234".parse().unwrap());
        calls.note_at(&other_pod, at(3));
        calls.note_at(&fixtures::denied(), at(4));
        calls.note_at(&fixtures::failed(), at(5));
        let report = serde_json::to_string_pretty(&calls.report()).unwrap();
        insta::assert_snapshot!(report);
    }

    #[test]
    fn what_leaves_the_mesh_is_counted_under_its_workload() {
        let calls = Calls::default();
        calls.note_at(&fixtures::passthrough(), at(1));
        let report = calls.report();
        let [call] = report.calls.as_slice() else {
            panic!("one call: {report:?}")
        };
        assert_eq!(call.source.as_deref(), Some("demo/caller"));
        assert_eq!((call.destination.as_deref(), call.to.port()), (None, 443));
        assert!(call.identity.is_none(), "nothing was proven");
    }

    #[test]
    fn a_scan_leaves_room_for_those_who_prove_who_they_are() {
        let calls = Calls::default();
        let mut scan = fixtures::allowed_inbound();
        scan.security = crate::telemetry::record::Security::None;
        let addresses = (0..3000_u32).map(|n| Ipv4Addr::from_bits(0x0a09_0000 + n));
        for address in addresses {
            scan.source.address = Some(SocketAddr::from((address, 1)));
            calls.note(&scan);
        }
        calls.note(&fixtures::allowed_inbound());
        let report = calls.report();
        assert_eq!(report.calls.len(), UNPROVEN + 1);
        assert_eq!(report.overflowed, 952);
    }
}
