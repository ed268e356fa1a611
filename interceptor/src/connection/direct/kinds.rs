//! Connections that were over before the agent heard of them, reported by what they have in common.
//!
//! Who connects to what decides everything about a connection but its numbers: names, identities,
//! Service, verdict, labels. It is looked up once for each such kind ([`Shape`]) and holds while
//! the mesh does, and while the kernel's keys mean the same workloads. Whoever hears of anything
//! else that may change an answer, a certificate that has expired, calls [`Kinds::forget`].
//!
//! # Invariant
//!
//! What is reported here is what [`whole`](super::flows::whole) would report.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use foldhash::fast::RandomState;
use jiff::Timestamp;

use super::flows::Ending;
use super::records::{Told, measured, told};
use super::{DirectPath, Plane};
use crate::capture::{DirectFlow, End, monotonic};
use crate::telemetry::record::ConnectionId;
use crate::telemetry::{Batch, Numbers, Shape};
use crate::workload::Mesh;

/// So many kinds are remembered: about 4 MB.
const KINDS: usize = 1024;

/// What has been looked up.
#[derive(Default)]
pub(super) struct Kinds {
    known: HashMap<Key, Kind, RandomState>,
    /// What it was looked up in.
    mesh: Weak<Mesh>,
    epoch: u64,
    /// Which batch this is.
    round: u64,
}

/// Who connects to what. All of it is the kernel's knowledge.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    source: u64,
    destination: u64,
    from: IpAddr,
    to: SocketAddr,
    original: SocketAddr,
}

/// The records of both ends, without numbers.
struct Kind {
    shape: Arc<Shape>,
    /// The batch in which there was one of them last.
    round: u64,
}

/// One batch.
pub(super) struct Round<'a> {
    kinds: &'a mut Kinds,
    path: &'a DirectPath,
    plane: &'a Plane,
    batch: Batch,
    now: Now,
}

impl Kinds {
    /// Nothing that was looked up holds any more.
    pub(super) fn forget(&mut self) {
        self.known = HashMap::default();
    }

    /// Begins a batch.
    pub(super) fn begin<'a>(&'a mut self, path: &'a DirectPath, plane: &'a Plane) -> Round<'a> {
        let epoch = path.grants.epoch();
        let mesh = plane.mesh.load();
        let is_full = self.known.len() >= KINDS;
        if is_full || epoch != self.epoch || !std::ptr::eq(self.mesh.as_ptr(), Arc::as_ptr(&mesh)) {
            self.forget();
            self.mesh = Arc::downgrade(&mesh);
            self.epoch = epoch;
        }
        self.round += 1;
        Round {
            kinds: self,
            path,
            plane,
            batch: plane.telemetry.batch(),
            now: Now::new(),
        }
    }
}

impl Round<'_> {
    /// Reports both ends of a connection that ended well. False if there is more to be told of it
    /// than that; then nothing was.
    pub(super) fn report(&mut self, flow: &DirectFlow, ending: &Ending) -> bool {
        let Ending {
            totals,
            established,
            end,
        } = ending;
        let is_plain = !matches!(end, End::Cut | End::TimedOut | End::Failed(_));
        if !established || !is_plain {
            return false;
        }
        let Some(kind) = self.kinds.of(self.path, self.plane, flow) else {
            return false;
        };
        let numbers = Numbers {
            id: ConnectionId::random(),
            source: Some(flow.source_address),
            bytes_sent: totals.sent,
            bytes_received: totals.received,
            duration: totals.duration,
            tcp: measured(totals),
        };
        let at = self.now.at(flow.opened() + totals.duration);
        self.batch.whole(&kind.shape, at, &numbers);
        true
    }
}

impl Kinds {
    /// What connections like this one share. `None` if there is no room for it, or more to tell.
    fn of(&mut self, path: &DirectPath, plane: &Plane, flow: &DirectFlow) -> Option<&Kind> {
        let has_room = self.known.len() < KINDS;
        let kind = match self.known.entry(Key::of(flow)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) if has_room => unknown.insert(Kind::new(path, plane, flow)?),
            Entry::Vacant(_) => return None,
        };
        if kind.round != self.round {
            kind.round = self.round;
            path.grants.used(flow);
        }
        Some(kind)
    }
}

impl Key {
    const fn of(flow: &DirectFlow) -> Self {
        Self {
            source: flow.source,
            destination: flow.destination,
            from: flow.source_address.ip(),
            to: flow.destination_address,
            original: flow.original,
        }
    }
}

impl Kind {
    fn new(path: &DirectPath, plane: &Plane, flow: &DirectFlow) -> Option<Self> {
        let Told { near, far, .. } = told(plane, path, flow);
        Some(Self {
            shape: Arc::new(plane.telemetry.shape([near, far])?),
            round: 0,
        })
    }
}

/// This moment on both clocks.
struct Now {
    monotonic: Duration,
    wall: Timestamp,
}

impl Now {
    fn new() -> Self {
        Self {
            monotonic: monotonic(),
            wall: Timestamp::now(),
        }
    }

    /// When this was on the wall's clock.
    fn at(&self, then: Duration) -> Timestamp {
        let ago = self.monotonic.saturating_sub(then);
        self.wall.checked_sub(ago).unwrap_or(self.wall)
    }
}
