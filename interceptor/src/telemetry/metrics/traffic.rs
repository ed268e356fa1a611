//! Istio's traffic counters: one set of cells per label set.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use interceptor_policy::SpiffeId;
use parking_lot::RwLock;

use super::table::MAX_LABEL_SETS;
use crate::telemetry::record::{End, Record, Reporter, ResponseFlags, Security};
use crate::workload::ServiceName;

/// The counters of one label set.
#[derive(Debug, Default)]
pub(super) struct Cells {
    pub(super) opened: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) failed: AtomicU64,
    /// Bytes that the server sent.
    pub(super) sent: AtomicU64,
    /// Bytes that the server received.
    pub(super) received: AtomicU64,
}

/// Istio's labels, as values that are cheap to compare and to keep.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TrafficLabels {
    pub(super) reporter: Reporter,
    pub(super) source: EndLabels,
    pub(super) service: Option<ServiceName>,
    pub(super) destination: EndLabels,
    pub(super) flags: ResponseFlags,
    pub(super) security: Security,
}

/// The labels of one end. Empty means unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct EndLabels {
    pub(super) workload: Arc<str>,
    pub(super) namespace: Arc<str>,
    pub(super) service: Arc<str>,
    pub(super) revision: Arc<str>,
    pub(super) app: Arc<str>,
    pub(super) version: Arc<str>,
    pub(super) principal: Option<SpiffeId>,
}

impl EndLabels {
    fn of(end: &End) -> Self {
        let Some(workload) = &end.workload else {
            return Self {
                principal: end.identity.clone(),
                ..Self::default()
            };
        };
        let canonical = &workload.canonical;
        Self {
            workload: Arc::clone(&canonical.workload),
            namespace: Arc::clone(&workload.id.namespace),
            service: Arc::clone(&canonical.service),
            revision: Arc::clone(&canonical.revision),
            app: Arc::clone(&canonical.app),
            version: Arc::clone(&canonical.version),
            principal: end.identity.clone(),
        }
    }
}

impl TrafficLabels {
    fn of(record: &Record, flags: ResponseFlags) -> Self {
        Self {
            reporter: record.reporter,
            source: EndLabels::of(&record.source),
            service: record.service.clone(),
            destination: EndLabels::of(&record.destination),
            flags,
            security: record.security,
        }
    }

    /// The same without names, for when there is no room for more of them.
    fn nameless(self) -> Self {
        Self {
            source: EndLabels::default(),
            destination: EndLabels::default(),
            service: None,
            ..self
        }
    }
}

/// The cells of all label sets.
#[derive(Debug, Default)]
pub(super) struct TrafficTable {
    cells: RwLock<HashMap<TrafficLabels, Arc<Cells>>>,
    overflowed: AtomicU64,
}

impl TrafficTable {
    /// The cells of a connection that is open: response flags `-`.
    pub(super) fn resolve(&self, record: &Record) -> Arc<Cells> {
        self.get(TrafficLabels::of(record, ResponseFlags::None))
    }

    /// The cells of a connection that has ended, with its response flags.
    pub(super) fn resolve_end(&self, record: &Record) -> Arc<Cells> {
        self.get(TrafficLabels::of(record, record.flags))
    }

    /// All cells in the order of their labels.
    pub(super) fn sorted(&self) -> Vec<(TrafficLabels, Arc<Cells>)> {
        let cells = self.cells.read();
        let mut all: Vec<_> = cells
            .iter()
            .map(|(labels, cells)| (labels.clone(), Arc::clone(cells)))
            .collect();
        drop(cells);
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// How often there was no room for a label set.
    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    fn get(&self, labels: TrafficLabels) -> Arc<Cells> {
        if let Some(cells) = self.cells.read().get(&labels) {
            return Arc::clone(cells);
        }
        let mut cells = self.cells.write();
        let labels = if cells.len() < MAX_LABEL_SETS || cells.contains_key(&labels) {
            labels
        } else {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            labels.nameless()
        };
        Arc::clone(cells.entry(labels).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::record::fixtures;

    #[test]
    fn names_that_do_not_fit_are_counted_together() {
        let table = TrafficTable::default();
        let mut record = fixtures::allowed();
        for n in 0..MAX_LABEL_SETS + 7 {
            let service = record.service.as_mut().unwrap();
            service.name = n.to_string().into();
            table.resolve(&record);
        }
        assert_eq!(table.overflowed(), 7);
        assert_eq!(table.sorted().len(), MAX_LABEL_SETS + 1);
        let nameless = table.resolve(&record);
        nameless.opened.fetch_add(1, Ordering::Relaxed);
        assert!(
            table
                .sorted()
                .iter()
                .any(|(labels, cells)| labels.service.is_none()
                    && labels.source == EndLabels::default()
                    && cells.opened.load(Ordering::Relaxed) == 1)
        );
    }
}
