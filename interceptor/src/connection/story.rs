//! The bookkeeping that all stories share: from the first fact to the one record.
//!
//! A [`Story`] writes its record exactly once: when it ends, or when it is dropped because its
//! task was cancelled at the drain deadline. No path can forget it.
//!
//! What is here is kept for every open connection, most of which are idle: so there is one
//! [`Record`], which the registry shares, and the future that carries is held in one place.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use interceptor_policy::Verdict;
use pin_project_lite::pin_project;
use tokio::net::TcpStream;

use super::Plane;
use super::recheck;
use super::registry::{Basis, Cutting, Entry};
use crate::error::chain;
use crate::net::{self, Traffic};
use crate::reason::Label;
use crate::telemetry::OpenMetrics;
use crate::telemetry::record::{
    ConnectionId, End, Outcome, Reason, Record, Reporter, ResponseFlags, Security,
};
use crate::transport::HandshakeError;
use crate::transport::splice::{Closed, How};

/// One connection on its way to its record.
pub(super) struct Story {
    plane: Arc<Plane>,
    since: Instant,
    /// Nobody else's until the connection is carried, and after it was.
    record: Arc<Record>,
    carried: Option<Carried>,
}

/// What there is besides while a connection is carried.
struct Carried {
    entry: Entry,
    open: OpenMetrics,
    ending: Option<Box<Ending>>,
}

/// How a connection ended that was carried.
struct Ending {
    outcome: Outcome,
    flags: ResponseFlags,
    /// What allowed it, unless something else is to be told.
    reason: Option<Reason>,
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

impl Story {
    /// Begins with what is known at accept.
    pub(super) fn begin(
        plane: &Arc<Plane>,
        id: ConnectionId,
        reporter: Reporter,
        (source, destination): (End, End),
    ) -> Self {
        Self {
            plane: Arc::clone(plane),
            since: Instant::now(),
            record: Arc::new(Record {
                id,
                reporter,
                source,
                destination,
                hbone_address: None,
                service: None,
                security: Security::None,
                outcome: Outcome::Failed,
                reason: because(
                    Label::AgentStopped,
                    "the agent stopped before it was decided",
                ),
                shadows: Vec::new(),
                flags: ResponseFlags::None,
                tls: None,
                tcp: None,
                bytes_sent: 0,
                bytes_received: 0,
                duration: Duration::ZERO,
            }),
            carried: None,
        }
    }

    /// The same story, which began earlier.
    pub(super) const fn since(mut self, since: Instant) -> Self {
        self.since = since;
        self
    }

    /// The record so far, to add facts to.
    pub(super) fn facts(&mut self) -> &mut Record {
        Arc::make_mut(&mut self.record)
    }

    /// Ends: nothing was carried.
    pub(super) fn end(mut self, stop: Stop) {
        let facts = self.facts();
        facts.outcome = stop.outcome;
        facts.flags = stop.flags;
        facts.reason = stop.reason;
    }

    /// Ends and makes closing `socket` a reset: an orderly end would claim that all data had
    /// arrived. Returns nothing, for whoever should have returned something.
    pub(super) fn reset<T>(self, socket: &TcpStream, stop: Stop) -> Option<T> {
        if let Err(error) = net::reset_on_close(socket) {
            tracing::debug!(%error, "cannot reset a connection; it is closed instead");
        }
        self.end(stop);
        None
    }

    /// Carries the connection with what `work` makes until it ends or is cut.
    ///
    /// `work` gets the byte counters. When the verdict stops holding, what it made is dropped, which
    /// must reset both ends.
    pub(super) fn carry<W, F>(
        mut self,
        basis: Basis,
        allowed_by: Reason,
        work: W,
    ) -> impl Future<Output = ()> + use<W, F>
    where
        W: FnOnce(Arc<Traffic>) -> F,
        F: Future<Output = Closed>,
    {
        let facts = self.facts();
        facts.outcome = Outcome::Allowed;
        facts.reason = allowed_by;
        let entry = (self.plane.registry).open(Arc::clone(&self.record), basis, self.since);
        let live = entry.live();
        let traffic = Arc::clone(&live.traffic);
        let open = (self.plane.telemetry).opened(&self.record, Arc::clone(&traffic));
        self.carried = Some(Carried {
            entry,
            open,
            ending: None,
        });
        // The mesh may have changed between the verdict and the entry in the registry.
        recheck::one(&live, &self.plane.mesh.load());
        Carrying {
            work: work(traffic),
            cutting: Cutting::of(live),
            story: self,
        }
    }

    /// How it ended is told when this is dropped.
    fn ended(&mut self, outcome: Outcome, flags: ResponseFlags, reason: Option<Reason>) {
        if let Some(carried) = &mut self.carried {
            carried.ending = Some(Box::new(Ending {
                outcome,
                flags,
                reason,
            }));
        }
    }

    /// Writes the record of a connection that was carried.
    fn close(&mut self, carried: Carried) {
        let Carried {
            entry,
            open,
            ending,
        } = carried;
        let by_local = (entry.traffic.sent(), entry.traffic.received());
        // With it goes the other reference to the record.
        drop(entry);
        let ending = ending.map_or_else(Ending::of_the_agent, |ending| *ending);
        let since = self.since;
        let facts = self.facts();
        (facts.bytes_sent, facts.bytes_received) = facts.reporter.turned(by_local);
        facts.outcome = ending.outcome;
        facts.flags = ending.flags;
        if let Some(reason) = ending.reason {
            facts.reason = reason;
        }
        facts.duration = since.elapsed();
        self.plane.telemetry.closed(open, &self.record);
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if let Some(carried) = self.carried.take() {
            return self.close(carried);
        }
        let since = self.since;
        let facts = self.facts();
        facts.duration = since.elapsed();
        if std::thread::panicking() {
            facts.reason = fault();
        }
        self.plane.telemetry.refused(&self.record);
    }
}

impl Ending {
    /// Its task was dropped, or has panicked.
    fn of_the_agent() -> Self {
        let (outcome, reason) = if std::thread::panicking() {
            (Outcome::Failed, fault())
        } else {
            let reason = because(Label::AgentStopped, "the drain deadline passed");
            (Outcome::Cut, reason)
        };
        Self {
            outcome,
            flags: ResponseFlags::None,
            reason: Some(reason),
        }
    }
}

/// A panic of ours.
fn fault() -> Reason {
    because(
        Label::AgentFault,
        "a fault of the agent's, which its log has more of",
    )
}

pin_project! {
    /// A connection that is being carried. A type, because an `async` block would have room for `work`
    /// twice. In the order in which the parts are dropped: first the connection ends, then it is told.
    struct Carrying<F> {
        #[pin]
        work: F,
        cutting: Cutting,
        story: Story,
    }
}

impl<F: Future<Output = Closed>> Future for Carrying<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let (outcome, flags, reason) = match this.cutting.poll(cx) {
            Poll::Ready(reason) => (Outcome::Cut, ResponseFlags::Deny, Some(reason)),
            Poll::Pending => {
                let closed = std::task::ready!(this.work.poll(cx));
                let (outcome, reason) = concluded(&closed);
                (outcome, ResponseFlags::None, reason)
            }
        };
        this.story.ended(outcome, flags, reason);
        Poll::Ready(())
    }
}

/// A reason without a policy.
pub(super) fn because(label: Label, detail: impl Into<Cow<'static, str>>) -> Reason {
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
        label: Label::of(&verdict.cause),
        policy: verdict.policy().cloned(),
        rule: verdict.rule(),
        detail: Some(verdict.to_string().into()),
    }
}

/// The flag of a handshake that failed, on either end.
pub(super) const fn flags_of(error: &HandshakeError) -> ResponseFlags {
    match error {
        HandshakeError::NotHttp2(_) => ResponseFlags::H2HandshakeFailure,
        _ => ResponseFlags::TlsFailure,
    }
}

/// What a carried connection's record says after it ended by itself. How it was allowed stays the
/// reason unless something broke.
fn concluded(closed: &Closed) -> (Outcome, Option<Reason>) {
    match &closed.how {
        How::Eof | How::Reset => (Outcome::Allowed, None),
        How::Cut => {
            let detail = "the peer's agent cut it: what allowed it no longer holds there";
            (Outcome::Cut, Some(because(Label::CutByPeer, detail)))
        }
        How::Error(error) => {
            let reason = because(error.reason(closed.by), chain(error));
            (Outcome::Failed, Some(reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// Asks for its ending when it is dropped.
    struct Dropped<'a>(&'a mut Option<Label>);

    impl Drop for Dropped<'_> {
        fn drop(&mut self) {
            *self.0 = Ending::of_the_agent().reason.map(|it| it.label);
        }
    }

    #[test]
    fn a_connection_whose_task_panics_is_the_agents_fault() {
        let (mut stopped, mut panicked) = (None, None);
        drop(Dropped(&mut stopped));
        let faulty = AssertUnwindSafe(|| {
            let _dropped = Dropped(&mut panicked);
            panic!("on purpose");
        });
        assert!(catch_unwind(faulty).is_err());
        assert_eq!(stopped, Some(Label::AgentStopped));
        assert_eq!(panicked, Some(Label::AgentFault));
    }
}
