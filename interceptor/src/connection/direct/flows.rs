//! The connections past the agent that it knows of: from what the kernel tells to their records.
//!
//! Which of what the kernel tells comes here, [`intake`](super::intake) decides.
//!
//! The kernel loses events rather than hold up a connection. What that leaves behind is found by
//! comparing with the sockets that are open: one that is not known is entered, one that is known
//! and is not there is over. A socket may be missing because its last event is still on its way,
//! so it must be missing twice.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::intake::enter_all;
use super::judge::Pair;
use super::records::{Ended, Told, complete, measured, told};
use super::{DirectPath, Plane};
use crate::capture::{DirectFlow, End, Open, Totals, monotonic};
use crate::connection::registry::{Basis, Entry};
use crate::telemetry::OpenMetrics;
use crate::telemetry::record::{Reason, Record};

/// Sockets are asked at most this often, however many ask.
const FRESH: Duration = Duration::from_secs(1);

/// So many connections whose end was not seen are remembered, should it be told after all.
const REMEMBERED: usize = 4096;

/// How often a socket must be missing for its connection to be over.
const MISSING: u32 = 2;

/// A connection: the cookie of its socket, and when it was opened.
pub(super) type Id = (u64, u64);

/// The connections that are open.
#[derive(Default)]
pub(super) struct Flows {
    open: HashMap<Id, Followed, RandomState>,
    /// Those that were found to be over, the older first.
    unseen: VecDeque<Id>,
    /// When the sockets were asked last.
    refreshed: Option<Instant>,
}

/// A connection that is open.
struct Followed {
    flow: DirectFlow,
    pair: Option<Pair>,
    near: Side,
    far: Side,
    /// What it had carried when the sockets were asked last.
    totals: Totals,
    /// Why it was cut.
    cut: Option<Reason>,
    /// How often its socket was not there.
    missing: u32,
}

/// One end of it, as it is reported.
struct Side {
    entry: Entry,
    open: OpenMetrics,
}

/// How the kernel says that a connection ended.
#[derive(Clone, Copy)]
pub(super) struct Ending {
    pub(super) totals: Totals,
    pub(super) established: bool,
    pub(super) end: End,
}

impl Flows {
    /// How many are open.
    pub(super) fn len(&self) -> u64 {
        u64::try_from(self.open.len()).unwrap_or(u64::MAX)
    }

    /// Its end was not seen; should it be told after all, it is no news.
    fn forget(&mut self, id: Id) {
        if self.unseen.len() >= REMEMBERED {
            self.unseen.pop_front();
        }
        self.unseen.push_back(id);
    }
}

/// Which connection it is.
pub(super) const fn id(flow: &DirectFlow) -> Id {
    (flow.id, flow.since_ns)
}

// === what the kernel tells ===

/// Whether nothing can be said of a connection yet: one of its workloads is in the kernel, from an
/// earlier agent, and is not enrolled, or is just being so. Judged now, it would be cut for a
/// workload that is not gone. It is judged when that is enrolled, or released.
pub(super) fn waits(path: &DirectPath, flow: &DirectFlow) -> bool {
    let waits = [flow.source, flow.destination]
        .into_iter()
        .any(|key| !path.names.know(key) && path.kernel.is_workload(key));
    if waits {
        path.waiting.store(true, Ordering::Relaxed);
    }
    waits
}

/// Enters a connection that is open, and cuts it if it may not be.
pub(super) fn opened(path: &DirectPath, plane: &Plane, flow: &DirectFlow) {
    let mut flows = path.flows.lock();
    if flows.open.contains_key(&id(flow)) {
        return;
    }
    let Told {
        pair,
        verdict,
        near,
        far,
    } = told(plane, path, flow);
    let mut followed = Followed {
        near: Side::open(plane, near, flow),
        far: Side::open(plane, far, flow),
        flow: *flow,
        pair,
        totals: Totals::default(),
        cut: None,
        missing: 0,
    };
    if let Err(reason) = verdict
        && !followed.cut(path, reason)
    {
        path.overdue.store(true, Ordering::Relaxed);
    }
    flows.open.insert(id(flow), followed);
}

/// Whether it is among the open ones.
pub(super) fn is_known(path: &DirectPath, flow: &DirectFlow) -> bool {
    path.flows.lock().open.contains_key(&id(flow))
}

/// Records a connection that is over, if it was known. Returns whether it was.
pub(super) fn closed(path: &DirectPath, plane: &Plane, flow: &DirectFlow, ending: Ending) -> bool {
    let mut flows = path.flows.lock();
    if let Some(followed) = flows.open.remove(&id(flow)) {
        drop(flows);
        followed.conclude(plane, ending);
        return true;
    }
    let known = flows.unseen.iter().position(|unseen| *unseen == id(flow));
    known.is_some_and(|known| flows.unseen.remove(known).is_some())
}

/// Records a connection of which nothing was known until it was over.
pub(super) fn whole(path: &DirectPath, plane: &Plane, flow: &DirectFlow, ending: Ending) {
    let Told { near, far, .. } = told(plane, path, flow);
    let Ending {
        totals,
        established,
        end,
    } = ending;
    if established {
        for record in [near, far] {
            let allowed_by = record.reason.clone();
            let ended = Ended::established(end, None, allowed_by);
            Side::open(plane, record, flow).close(plane, &ended, &totals);
        }
        return;
    }
    let ended = Ended::refused(flow, end);
    // Who gave up before an answer came may not have been heard of at the other end.
    let heard = matches!(end, End::Refused | End::Reset | End::TimedOut);
    for mut record in [Some(near), heard.then_some(far)].into_iter().flatten() {
        complete(&mut record, &ended, &totals);
        plane.telemetry.refused(&record);
    }
}

// === what the sockets tell ===

/// Brings what open connections have carried up to date, unless that was done just now.
pub(super) fn refresh(path: &DirectPath) {
    let mut flows = path.flows.lock();
    let is_fresh = flows.refreshed.is_some_and(|at| at.elapsed() < FRESH);
    if flows.open.is_empty() || is_fresh {
        return;
    }
    match path.kernel.open() {
        Ok(open) => flows.update(&open),
        Err(error) => tracing::warn!(%error, "cannot ask the sockets of this node"),
    }
}

/// Compares what is known with the sockets that are open. `drain` takes in what the kernel has
/// told up to now. Returns whether it has to be done once more to be certain.
pub(super) fn compare(path: &DirectPath, plane: &Plane, drain: impl FnOnce()) -> bool {
    let asked = monotonic();
    let open = match path.kernel.open() {
        Ok(open) => open,
        Err(error) => {
            tracing::warn!(%error, "cannot ask the sockets of this node");
            return true;
        }
    };
    // Before the events: an event of the end of one of these comes later.
    for it in open.iter().filter(|it| !waits(path, &it.flow)) {
        opened(path, plane, &it.flow);
    }
    drain();
    enter_all(path, plane);
    let mut flows = path.flows.lock();
    flows.update(&open);
    let there: HashSet<Id> = open.iter().map(|it| id(&it.flow)).collect();
    // What was opened after the sockets were asked could not be there.
    let older = (flows.open.iter()).filter(|(_, followed)| followed.flow.opened() < asked);
    let missing: Vec<Id> = older
        .map(|(id, _)| *id)
        .filter(|id| !there.contains(id))
        .collect();
    drop(flows);
    let mut again = false;
    for id in missing {
        again |= is_over(path, plane, id);
    }
    again
}

/// A socket was not there. If it is so again, its connection is over. Returns whether that remains
/// to be seen.
fn is_over(path: &DirectPath, plane: &Plane, id: Id) -> bool {
    let mut flows = path.flows.lock();
    let Some(followed) = flows.open.get_mut(&id) else {
        return false;
    };
    followed.missing += 1;
    if followed.missing < MISSING {
        return true;
    }
    let followed = flows.open.remove(&id);
    flows.forget(id);
    drop(flows);
    if let Some(followed) = followed {
        path.unseen.fetch_add(1, Ordering::Relaxed);
        let ending = Ending {
            totals: Totals {
                duration: followed.flow.since().elapsed(),
                ..followed.totals
            },
            established: true,
            end: match followed.cut {
                Some(_) => End::Cut,
                None => End::Unknown,
            },
        };
        followed.conclude(plane, ending);
    }
    false
}

impl Flows {
    /// Takes over what these connections have carried.
    fn update(&mut self, open: &[Open]) {
        self.refreshed = Some(Instant::now());
        for it in open {
            if let Some(followed) = self.open.get_mut(&id(&it.flow)) {
                followed.missing = 0;
                followed.count(&it.totals);
            }
        }
    }
}

// === what has changed ===

/// Judges every open connection again and cuts those that may not go on. Returns whether all of
/// them could be.
pub(super) fn judge(path: &DirectPath, plane: &Plane) -> bool {
    path.intake.lock().forget();
    let mesh = plane.mesh.load_full();
    let mut flows = path.flows.lock();
    let (mut cut, mut all) = (0, true);
    for followed in flows.open.values_mut().filter(|it| it.cut.is_none()) {
        let verdict = match &followed.pair {
            Some(pair) => pair.holds(&mesh, &plane.identities).map(|_| ()),
            None => Ok(()),
        };
        if let Err(reason) = verdict {
            all &= followed.cut(path, reason);
            cut += usize::from(followed.cut.is_some());
        }
    }
    drop(flows);
    if cut > 0 {
        let version = mesh.version();
        tracing::info!(
            cut,
            version,
            "cut same-node connections whose verdict no longer holds"
        );
    }
    all
}

impl Followed {
    /// Cuts it for `reason`, unless it ends by itself in this moment. Returns whether it could.
    fn cut(&mut self, path: &DirectPath, reason: Reason) -> bool {
        match path.kernel.cut(&self.flow) {
            Ok(true) => {
                self.cut = Some(reason);
                true
            }
            Ok(false) => true,
            Err(error) => {
                let (from, to) = (self.flow.source_address, self.flow.destination_address);
                tracing::error!(%from, %to, %error, why = %reason.label, "cannot cut a same-node connection; trying again");
                false
            }
        }
    }

    /// It has carried so much by now.
    fn count(&mut self, totals: &Totals) {
        let sent = totals.sent.saturating_sub(self.totals.sent);
        let received = totals.received.saturating_sub(self.totals.received);
        self.near.entry.traffic.add_sent(sent);
        self.near.entry.traffic.add_received(received);
        self.far.entry.traffic.add_sent(received);
        self.far.entry.traffic.add_received(sent);
        for side in [&self.near, &self.far] {
            *side.entry.tcp.lock() = measured(totals);
        }
        self.totals = *totals;
    }

    /// Records both ends.
    fn conclude(mut self, plane: &Plane, ending: Ending) {
        self.count(&ending.totals);
        for side in [self.near, self.far] {
            let allowed_by = side.entry.record.reason.clone();
            let ended = Ended::established(ending.end, self.cut.clone(), allowed_by);
            side.finish(plane, &ended, &ending.totals);
        }
    }
}

impl Side {
    /// Enters one end among the open connections.
    fn open(plane: &Plane, record: Record, flow: &DirectFlow) -> Self {
        let entry = plane.registry.open(record, Basis::Direct, flow.since());
        let open = (plane.telemetry).opened(&entry.record, Arc::clone(&entry.traffic));
        Self { entry, open }
    }

    /// Ends it, with everything that it has carried.
    fn close(self, plane: &Plane, ended: &Ended, totals: &Totals) {
        let reporter = self.entry.record.reporter;
        let (sent, received) = reporter.turned((totals.sent, totals.received));
        self.entry.traffic.add_sent(sent);
        self.entry.traffic.add_received(received);
        self.finish(plane, ended, totals);
    }

    /// Ends it; what it has carried is counted.
    fn finish(self, plane: &Plane, ended: &Ended, totals: &Totals) {
        let mut record = Record::clone(&self.entry.record);
        complete(&mut record, ended, totals);
        plane.telemetry.closed(self.open, &record);
    }
}
