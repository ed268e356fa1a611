//! The bookkeeping that all stories share: from the first fact to the one record.
//!
//! A [`Story`] writes its record exactly once: when it ends, or when it is dropped because its
//! task was cancelled at the drain deadline. No path can forget it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use interceptor_policy::Verdict;
use tokio::net::TcpStream;

use super::Plane;
use super::recheck;
use super::registry::{Basis, Entry};
use crate::error::chain;
use crate::net::{self, Traffic};
use crate::telemetry::OpenMetrics;
use crate::telemetry::record::{
    ConnectionId, End, Outcome, Reason, Record, Reporter, ResponseFlags, Security,
};
use crate::transport::splice::{Closed, How};

/// One connection on its way to its record.
pub(super) struct Story<'a> {
    plane: &'a Plane,
    since: Instant,
    record: Record,
    carried: Option<(Entry, OpenMetrics)>,
}

/// Why nothing was carried.
pub(super) struct Stop {
    /// Whose doing.
    pub(super) outcome: Outcome,
    /// For metrics.
    pub(super) flags: ResponseFlags,
    /// Why.
    pub(super) reason: Reason,
}

impl Stop {
    /// A refusal of ours.
    pub(super) const fn denied(reason: Reason) -> Self {
        Self {
            outcome: Outcome::Denied,
            flags: ResponseFlags::Deny,
            reason,
        }
    }

    /// Something that should have worked.
    pub(super) const fn failed(flags: ResponseFlags, reason: Reason) -> Self {
        Self {
            outcome: Outcome::Failed,
            flags,
            reason,
        }
    }
}

impl<'a> Story<'a> {
    /// Begins with what is known at accept.
    pub(super) fn begin(
        plane: &'a Plane,
        id: ConnectionId,
        reporter: Reporter,
        (source, destination): (End, End),
    ) -> Self {
        Self {
            plane,
            since: Instant::now(),
            record: Record {
                id,
                reporter,
                source,
                destination,
                hbone_address: None,
                service: None,
                security: Security::None,
                outcome: Outcome::Failed,
                reason: because("agent_stopped", "the agent stopped before it was decided"),
                shadows: Vec::new(),
                flags: ResponseFlags::None,
                tls: None,
                tcp: None,
                bytes_sent: 0,
                bytes_received: 0,
                duration: Duration::ZERO,
            },
            carried: None,
        }
    }

    /// The same story, which began earlier.
    pub(super) const fn since(mut self, since: Instant) -> Self {
        self.since = since;
        self
    }

    /// The record so far, to add facts to.
    pub(super) const fn facts(&mut self) -> &mut Record {
        &mut self.record
    }

    /// Ends: nothing was carried.
    pub(super) fn end(mut self, stop: Stop) {
        self.record.outcome = stop.outcome;
        self.record.flags = stop.flags;
        self.record.reason = stop.reason;
    }

    /// Ends and makes closing `socket` a reset: an orderly end would claim that all data had
    /// arrived.
    pub(super) fn reset(self, socket: &TcpStream, stop: Stop) {
        if let Err(error) = net::reset_on_close(socket) {
            tracing::debug!(%error, "cannot reset a connection; it is closed instead");
        }
        self.end(stop);
    }

    /// Carries the connection with `work` until it ends or is cut.
    ///
    /// `work` gets the byte counters. When the verdict stops holding, `work` is dropped, which
    /// must reset both ends.
    pub(super) async fn carry(
        mut self,
        basis: Basis,
        allowed_by: Reason,
        work: impl AsyncFnOnce(Arc<Traffic>) -> Closed,
    ) {
        self.record.outcome = Outcome::Allowed;
        self.record.reason = allowed_by.clone();
        let entry = (self.plane.registry).open(self.record.clone(), basis, self.since);
        let live = entry.live();
        let traffic = Arc::clone(&live.traffic);
        let open = (self.plane.telemetry).opened(&self.record, Arc::clone(&traffic));
        self.carried = Some((entry, open));
        // The mesh may have changed between the verdict and the entry in the registry.
        recheck::one(&live, &self.plane.mesh.load());
        self.record.outcome = Outcome::Cut;
        self.record.reason = because("agent_stopped", "the drain deadline passed");
        tokio::select! {
            biased;
            reason = live.cutting() => {
                self.record.reason = reason;
                self.record.flags = ResponseFlags::Deny;
            }
            closed = work(traffic) => {
                (self.record.outcome, self.record.reason) = concluded(&closed, allowed_by);
            }
        }
    }
}

impl Drop for Story<'_> {
    fn drop(&mut self) {
        self.record.duration = self.since.elapsed();
        match self.carried.take() {
            None => self.plane.telemetry.refused(&self.record),
            Some((entry, open)) => {
                let (sent, received) = (entry.traffic.sent(), entry.traffic.received());
                (self.record.bytes_sent, self.record.bytes_received) = match self.record.reporter {
                    Reporter::Source => (sent, received),
                    // The local application is the server here.
                    Reporter::Destination => (received, sent),
                };
                self.plane.telemetry.closed(open, &self.record);
            }
        }
    }
}

/// A reason without a policy.
pub(super) fn because(label: &'static str, detail: impl Into<String>) -> Reason {
    Reason {
        label,
        policy: None,
        rule: None,
        detail: Some(detail.into()),
    }
}

/// What a verdict says, as the record keeps it.
pub(super) fn reason_of(verdict: &Verdict) -> Reason {
    Reason {
        label: verdict.reason(),
        policy: verdict.policy().cloned(),
        rule: verdict.rule(),
        detail: Some(verdict.to_string()),
    }
}

/// What a carried connection's record says after it ended by itself. How it was allowed stays the
/// reason unless something broke.
fn concluded(closed: &Closed, allowed_by: Reason) -> (Outcome, Reason) {
    match &closed.how {
        How::Eof | How::Reset => (Outcome::Allowed, allowed_by),
        How::Cut => {
            let detail = "the peer's agent cut it: what allowed it no longer holds there";
            (Outcome::Cut, because(closed.reason(), detail))
        }
        How::Error(error) => (Outcome::Failed, because(closed.reason(), chain(error))),
    }
}
