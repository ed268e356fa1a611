//! Metrics: Istio's counters with Istio's labels, and ours.
//!
//! ```text
//!  connection ──open──▶ Cells of one label set ◀──flush── scrape (bytes of live connections)
//!                             ▲
//!             close ──────────┘   Status ──▶ gauges, read at the scrape
//! ```
//!
//! Label sets are resolved once per connection; while it lives, bytes are counted in its
//! [`Traffic`] and moved to the counters when somebody scrapes and when it ends. Gauges are not
//! stored at all: they are read from the same [`Status`] that `interceptor status` prints.
//!
//! # Invariants
//!
//! * The number of label sets has a bound. What does not fit is counted under `unknown` names, and
//!   `interceptor_metric_label_sets_overflowed_total` says so.
//! * Every metric is in [`catalogue`]; a test compares.
//!
//! Not here: serving them (`admin`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;

use super::access::AccessLog;
use super::record::{ConnectionId, Outcome, Record, Reporter, ResponseFlags, Security, Tally};
use super::shadow::{Count, Effect};
use super::status::Status;
use crate::net::Traffic;
use crate::reason::Label;

pub mod catalogue;
mod encode;
mod live;
mod process;
mod table;
mod traffic;

use live::{Live, LiveSet};
use table::Table;
use traffic::{Cells, TrafficTable};

/// Makes a [`Status`]; called at every scrape.
pub type Observe = Arc<dyn Fn() -> Status + Send + Sync>;

/// All metrics of the agent. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    traffic: TrafficTable,
    live: LiveSet,
    denied: Table<(&'static str, String, &'static str)>,
    failed: Table<(&'static str, &'static str)>,
    cut: Table<(&'static str, String, &'static str)>,
    plaintext: Table<(&'static str, &'static str)>,
    shadows: Table<(String, Effect, String)>,
    handshakes: Table<&'static str>,
    suppressed_warnings: AtomicU64,
    observe: Mutex<Option<Observe>>,
    access: Mutex<Option<AccessLog>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics that are all zero.
    pub fn new() -> Self {
        Self {
            inner: Arc::default(),
        }
    }

    /// Reads gauges and kernel counters from `observe` at every scrape.
    pub fn observe(&self, observe: Observe) {
        *self.inner.observe.lock() = Some(observe);
    }

    /// Counts the lines that `access` lost.
    pub(super) fn watch_access_log(&self, access: AccessLog) {
        *self.inner.access.lock() = Some(access);
    }

    /// Counts a connection that is now being carried and resolves its label sets.
    pub fn open(&self, record: &Record, traffic: Arc<Traffic>) -> OpenMetrics {
        let cells = self.inner.traffic.resolve(record);
        cells.opened.fetch_add(1, Ordering::Relaxed);
        self.count_shadows(record);
        let live = Arc::new(Live::new(record.reporter, cells, traffic));
        self.inner.live.insert(record.id, Arc::clone(&live));
        OpenMetrics {
            metrics: self.clone(),
            id: record.id,
            live,
            counted: false,
        }
    }

    /// Where connections like `record` are counted, looked up once for all of them. They were
    /// allowed, not in plaintext, and no policy that only reports said anything.
    pub(super) fn counted(&self, record: &Record) -> Counted {
        Counted(self.inner.traffic.resolve(record))
    }

    /// Counts a connection that was never carried: opened, closed and failed at once, as ztunnel
    /// counts it.
    pub fn refused(&self, record: &Record) {
        let cells = self.inner.traffic.resolve(record);
        cells.opened.fetch_add(1, Ordering::Relaxed);
        self.count_shadows(record);
        self.count_end(record, cells);
    }

    /// Counts a TLS handshake with a peer that failed, here as the server.
    pub fn handshake_failed(&self, reason: Label) {
        self.inner.handshakes.add(reason.as_str());
    }

    /// Counts warnings of the agent's own log that were left out because they repeated.
    pub fn warnings_suppressed(&self, count: u64) {
        self.inner
            .suppressed_warnings
            .fetch_add(count, Ordering::Relaxed);
    }

    /// How many connections are being carried.
    pub fn open_connections(&self) -> u64 {
        let (source, destination) = self.inner.live.count();
        source + destination
    }

    /// The exposition, as `OpenMetrics` text.
    ///
    /// # Errors
    ///
    /// When a metric cannot be rendered, which would be a mistake in this module.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(encode::Exposition(self.clone())));
        let mut text = String::with_capacity(16 * 1024);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }

    /// What policies that only report said since the agent started, and how often there was no
    /// room to say it.
    pub fn shadows(&self) -> (Vec<Count>, u64) {
        let shadows = &self.inner.shadows;
        let counts = shadows.counts().into_iter();
        let counts = counts.map(|((policy, effect, caller), connections)| Count {
            policy,
            effect,
            caller,
            connections,
        });
        (counts.collect(), shadows.overflowed())
    }

    fn count_shadows(&self, record: &Record) {
        for shadow in &record.shadows {
            let proven = record.source.identity.as_ref();
            let caller = proven.map_or_else(|| "unknown".to_owned(), ToString::to_string);
            let policy = shadow.policy.to_string();
            self.inner.shadows.add((policy, shadow.effect, caller));
        }
    }

    /// `open` are the cells that it was counted in when it was opened.
    fn count_end(&self, record: &Record, open: Arc<Cells>) {
        let inner = &self.inner;
        let cells = match record.flags {
            // Nothing else in the labels changes while it lives.
            ResponseFlags::None => open,
            _ => inner.traffic.resolve_end(record),
        };
        cells.closed.fetch_add(1, Ordering::Relaxed);
        let reporter = record.reporter.label();
        let reason = record.reason.label.as_str();
        match record.outcome {
            Outcome::Allowed => {}
            Outcome::Denied => inner.denied.add((reporter, policy_label(record), reason)),
            Outcome::Failed => inner.failed.add((reporter, reason)),
            Outcome::Cut => inner.cut.add((reporter, policy_label(record), reason)),
        }
        if record.outcome != Outcome::Allowed {
            cells.failed.fetch_add(1, Ordering::Relaxed);
        }
        let carried = matches!(record.outcome, Outcome::Allowed | Outcome::Cut);
        if record.security == Security::None && carried {
            inner.plaintext.add((reporter, reason));
        }
    }
}

/// The policy as a label. At the source the name is what the peer says, which is for reading and
/// not for a label: a peer could invent any number of names.
fn policy_label(record: &Record) -> String {
    match (&record.reason.policy, record.reporter) {
        (Some(policy), Reporter::Destination) => policy.to_string(),
        _ => "none".to_owned(),
    }
}

/// Where connections of one label set are counted that are over when they are heard of.
#[derive(Clone, Debug)]
pub(super) struct Counted(Arc<Cells>);

impl Counted {
    /// Counts them: opened and closed, with what they carried.
    pub(super) fn add(&self, tally: &Tally) {
        let Self(cells) = self;
        (cells.opened).fetch_add(tally.connections, Ordering::Relaxed);
        (cells.closed).fetch_add(tally.connections, Ordering::Relaxed);
        // Istio's are seen from the server, ours from the client.
        (cells.sent).fetch_add(tally.bytes_received, Ordering::Relaxed);
        (cells.received).fetch_add(tally.bytes_sent, Ordering::Relaxed);
    }
}

/// Counter handles of one connection that is being carried.
///
/// Dropped without [`OpenMetrics::close`] (its task was cancelled), the connection is counted as
/// closed with the bytes that it carried.
#[derive(Debug)]
#[must_use = "a connection that was opened must be closed"]
pub struct OpenMetrics {
    metrics: Metrics,
    id: ConnectionId,
    live: Arc<Live>,
    counted: bool,
}

impl OpenMetrics {
    /// Counts the end of the connection and the bytes that were not counted yet.
    pub fn close(mut self, record: &Record) {
        self.counted = true;
        self.metrics.count_end(record, self.live.shared_cells());
    }
}

impl Drop for OpenMetrics {
    fn drop(&mut self) {
        self.metrics.inner.live.remove(self.id, &self.live);
        self.live.flush();
        if !self.counted {
            let cells: &Cells = self.live.cells();
            cells.closed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
