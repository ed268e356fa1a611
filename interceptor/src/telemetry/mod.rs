//! What we saw: metrics, access lines, the agent's own log, and the views that `status` and
//! `connections` show.
//!
//! ```text
//!  connection ──Record──▶ Telemetry ─┬─▶ metrics   Istio's counters and ours, label sets resolved once
//!                                    ├─▶ access    one line per connection, one per refusal
//!                                    ├─▶ recent    the last refusals, and whoever follows them
//!                                    ├─▶ ledger    what went out or came in unprotected
//!                                    └─▶ calls     who called whom, counted
//! ```
//!
//! # Invariants
//!
//! * Everything is made from one [`record::Record`], so metrics, lines and views cannot disagree.
//! * Nothing here blocks the data plane: queues are bounded, and what does not fit is dropped,
//!   counted and reported.
//! * A label value is never free text from a peer; text from a peer is bounded and escaped.
//!
//! Not here: who serves it (`admin`) and how people see it (`cli`).

use std::sync::Arc;

use crate::net::Traffic;

pub mod access;
pub mod calls;
pub mod ledger;
pub mod logging;
pub mod metrics;
pub mod queue;
pub mod recent;
pub mod record;
pub mod shadow;
mod shape;
pub mod status;
pub mod text;
pub mod view;

pub use access::AccessLog;
pub use calls::Calls;
pub use ledger::Ledger;
pub use metrics::{Metrics, OpenMetrics};
pub use recent::Recent;
pub use record::{ConnectionId, Numbers, Record};
pub use shape::{Batch, Shape};
pub use status::Status;
pub use view::ConnectionView;

/// Where a connection reports to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// The metrics of the agent.
    pub metrics: Metrics,
    /// The access log.
    pub access: AccessLog,
    /// The latest refusals and failures, and the live feed.
    pub recent: Recent,
    /// What was carried in plaintext.
    pub ledger: Ledger,
    /// Who called whom.
    pub calls: Calls,
}

impl Telemetry {
    /// Telemetry that writes its access lines to `access`.
    pub fn new(access: AccessLog) -> Self {
        let metrics = Metrics::new();
        metrics.watch_access_log(access.clone());
        Self {
            metrics,
            access,
            recent: Recent::default(),
            ledger: Ledger::default(),
            calls: Calls::default(),
        }
    }

    /// Counts a connection that is now being carried. `traffic` is where its bytes are counted
    /// while it lives.
    ///
    /// The label sets are resolved here, once; what is returned goes back into [`Self::closed`].
    pub fn opened(&self, record: &Record, traffic: Arc<Traffic>) -> OpenMetrics {
        self.recent.opened(record);
        self.metrics.open(record, traffic)
    }

    /// Reports the end of a connection that was [opened](Self::opened).
    pub fn closed(&self, open: OpenMetrics, record: &Record) {
        open.close(record);
        self.finish(record);
    }

    /// Reports a connection that was never carried: refused by policy, or impossible to carry.
    pub fn refused(&self, record: &Record) {
        self.metrics.refused(record);
        self.finish(record);
    }

    fn finish(&self, record: &Record) {
        self.ledger.note(record);
        self.calls.note(record);
        self.recent.ended(record);
        self.access.write(record);
    }
}
