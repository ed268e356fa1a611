//! The ledger of what was carried in plaintext: who talked to whom without protection, and why.
//!
//! It counts what was seen; what *could* be unprotected by configuration (workloads that are not
//! enrolled, excluded ports) is read from the mesh by whoever makes the [`Status`](super::Status).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::record::{Outcome, Record, Reporter, Security};
use super::status::Unprotected;

/// How many different pairs are remembered. What comes after is counted together.
const PAIRS: usize = 1000;

/// Plaintext connections by workload, destination and reason. Clones share the ledger.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    pairs: BTreeMap<Pair, u64>,
    others: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    subject: String,
    what: What,
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    To(SocketAddr),
    /// The port of the local workload; client addresses are not kept, there is no end to them.
    Into(u16),
}

impl Ledger {
    /// Notes `record` if it was carried in plaintext.
    pub fn note(&self, record: &Record) {
        if record.security != Security::None || record.outcome == Outcome::Denied {
            return;
        }
        let Some(pair) = Pair::of(record) else { return };
        let mut seen = self.seen.lock();
        if let Some(count) = seen.pairs.get_mut(&pair) {
            *count += 1;
        } else if seen.pairs.len() < PAIRS {
            seen.pairs.insert(pair, 1);
        } else {
            seen.others += 1;
        }
    }

    /// What was seen, for `status`.
    pub fn entries(&self) -> Vec<Unprotected> {
        let seen = self.seen.lock();
        let mut entries: Vec<_> = seen
            .pairs
            .iter()
            .map(|(pair, count)| Unprotected {
                subject: pair.subject.clone(),
                what: match pair.what {
                    What::To(address) => format!("outbound to {address}"),
                    What::Into(port) => format!("inbound port {port}"),
                },
                why: pair.why.to_owned(),
                connections: Some(*count),
            })
            .collect();
        if seen.others > 0 {
            entries.push(Unprotected {
                subject: "others".to_owned(),
                what: format!("more than {PAIRS} different destinations"),
                why: "plaintext".to_owned(),
                connections: Some(seen.others),
            });
        }
        entries
    }
}

impl Pair {
    fn of(record: &Record) -> Option<Self> {
        let (local, what) = match record.reporter {
            Reporter::Source => (&record.source, What::To(record.destination.address?)),
            Reporter::Destination => (
                &record.destination,
                What::Into(record.destination.address?.port()),
            ),
        };
        Some(Self {
            subject: local.workload.as_ref()?.id.to_string(),
            what,
            why: record.reason.label.as_str(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::record::fixtures;

    #[test]
    fn plaintext_that_went_out_is_counted_by_destination_and_reason() {
        let ledger = Ledger::default();
        ledger.note(&fixtures::allowed());
        ledger.note(&fixtures::passthrough());
        ledger.note(&fixtures::passthrough());
        assert_eq!(
            ledger.entries(),
            [Unprotected {
                subject: "demo/caller".to_owned(),
                what: "outbound to 192.0.2.7:443".to_owned(),
                why: "unknown_destination".to_owned(),
                connections: Some(2),
            }]
        );
    }

    #[test]
    fn a_scan_of_the_world_does_not_grow_the_ledger_without_bound() {
        let ledger = Ledger::default();
        let mut record = fixtures::passthrough();
        for port in 1..=2000 {
            record.destination.address = Some(SocketAddr::from(([192, 0, 2, 7], port)));
            ledger.note(&record);
        }
        let entries = ledger.entries();
        assert_eq!(entries.len(), PAIRS + 1);
        assert_eq!(entries.last().unwrap().connections, Some(1000));
    }
}
