//! What a shared carrier's task and the tasks of its streams have in common.
//!
//! A stream's task reads its application and lays out what it said; the carrier's task sends it, and
//! gives what comes from the peer to the applications. All of them are on one lane, so that nobody
//! waits for the lock; on a carrier that is used from another lane somebody may.
//!
//! The carrier's task is woken when there is something to be sent, and runs behind the streams that
//! were ready at the same moment: that is what puts their messages into one record.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use parking_lot::{Mutex, MutexGuard};

use super::super::codec::frame;
use super::super::config::Config;
use super::super::error::SessionError;
use super::MAX_STREAMS;
use super::out::Out;
use super::slot::{End, Slot};
use super::window::RESERVE;

/// Streams that wait for room and are woken at once: each takes a record's worth.
const WOKEN_AT_ONCE: usize = 8;

/// Frames of ours that may wait to be sent before there are no new streams: requests of all streams
/// that there may be, each with a record's worth of what its application has said.
pub(super) const MOST_WAITING: usize = MAX_STREAMS * (20 << 10);

/// Which end of a carrier we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Role {
    /// We ask.
    Client,
    /// We are asked.
    Server,
}

/// One shared carrier, for its task and its streams.
pub(in crate::transport) struct Hub {
    pub(super) config: Arc<Config>,
    inner: Mutex<Inner>,
}

/// What they share.
pub(super) struct Inner {
    pub(super) role: Role,
    pub(super) streams: HashMap<u32, Box<Slot>>,
    /// The highest number that a stream had.
    pub(super) highest: u32,
    pub(super) out: Out,
    /// Bytes among them that the peer has caused, since it had last taken all of them.
    pub(super) answers: usize,
    /// By how much all windows together may still grow.
    pub(super) reserve: u32,
    /// Streams that wait for room in `out`, in turn.
    pub(super) queue: VecDeque<u32>,
    /// The peer has sent its settings.
    pub(super) is_greeted: bool,
    /// The peer takes no more streams.
    pub(super) is_going: bool,
    /// There shall be no more streams.
    pub(super) is_retired: bool,
    /// The session is over.
    pub(super) ended: Option<SessionError>,
    driver: Alarm,
}

/// Wakes the carrier's task, once for all that there is to be done.
#[derive(Default)]
struct Alarm {
    waker: Option<Waker>,
    is_woken: bool,
}

impl Hub {
    pub(super) fn new(role: Role, out: Out, config: &Arc<Config>) -> Arc<Self> {
        Arc::new(Self {
            config: Arc::clone(config),
            inner: Mutex::new(Inner {
                role,
                streams: HashMap::new(),
                highest: 0,
                out,
                answers: 0,
                reserve: RESERVE,
                queue: VecDeque::new(),
                is_greeted: false,
                is_going: false,
                is_retired: false,
                ended: None,
                driver: Alarm::default(),
            }),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// No new streams: when the last one is over, so is the carrier.
    pub(in crate::transport) fn retire(&self) {
        let mut inner = self.lock();
        if std::mem::replace(&mut inner.is_retired, true) {
            return;
        }
        if inner.role == Role::Server {
            let last = inner.highest;
            frame::push_go_away(inner.out.frames(), last, frame::NO_ERROR);
        }
        inner.wake_driver();
    }

    /// Whether there shall be no more streams on it.
    pub(in crate::transport) fn is_leaving(&self) -> bool {
        let inner = self.lock();
        inner.is_retired || inner.is_going || inner.ended.is_some()
    }

    /// Whether nobody has a stream on it.
    pub(in crate::transport) fn is_idle(&self) -> bool {
        self.lock().streams.is_empty()
    }
}

impl Inner {
    /// A stream of ours.
    pub(super) fn begin(&mut self) -> Result<u32, SessionError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        let full = self.streams.len() >= MAX_STREAMS || self.highest > u32::MAX / 4;
        // A carrier that has stalled is not given ever more requests that nobody waits for any more.
        let has_stalled = self.out.frames().len() > MOST_WAITING;
        if self.is_going || full || has_stalled {
            return Err(SessionError::goodbye());
        }
        // Odd numbers, beginning with 1 (RFC 9113 5.1.1).
        let stream = if self.highest == 0 {
            1
        } else {
            self.highest + 2
        };
        self.highest = stream;
        self.streams.insert(stream, Box::new(Slot::new(false)));
        Ok(stream)
    }

    /// Forgets a stream.
    pub(super) fn remove(&mut self, stream: u32) -> Option<Box<Slot>> {
        let slot = self.streams.remove(&stream)?;
        self.reserve += slot.window.borrowed();
        if self.streams.is_empty() {
            self.streams = HashMap::new();
            if self.is_retired {
                self.wake_driver();
            }
        }
        Some(slot)
    }

    /// The application of a stream has taken so much: the peer may have to be told.
    pub(super) fn took(&mut self, stream: u32, count: usize) {
        let Some(slot) = self.streams.get_mut(&stream) else {
            return;
        };
        let more = slot.window.took(count, &mut self.reserve);
        if let Some(more) = more
            && !slot.peer_finished
        {
            frame::push_window(self.out.frames(), stream, more);
            self.wake_driver();
        }
    }

    /// The session is over, and everybody learns why.
    pub(super) fn fail(&mut self, error: &SessionError) {
        self.ended.get_or_insert_with(|| error.clone());
        for slot in self.streams.values() {
            slot.wake();
        }
    }

    /// The peer will not look at streams above `last`.
    pub(super) fn unserved(&mut self, last: u32) {
        for (number, slot) in &mut self.streams {
            if *number > last {
                slot.end(End::Unserved);
            }
        }
    }

    /// Lets the carrier's task run behind all that are ready now.
    pub(super) fn wake_driver(&mut self) {
        if !self.driver.is_woken
            && let Some(waker) = &self.driver.waker
        {
            self.driver.is_woken = true;
            waker.wake_by_ref();
        }
    }

    /// The carrier's task runs: it need not be woken before it sends.
    pub(super) fn driven_by(&mut self, waker: &Waker) {
        self.driver.is_woken = true;
        match &mut self.driver.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// The carrier's task is about to send: it is to be woken for what comes from now on.
    pub(super) const fn sends(&mut self) {
        self.driver.is_woken = false;
    }

    /// Lets some of those who wait for room go on. The carrier's task runs again behind them, so
    /// that nobody is forgotten if they need none any more.
    pub(super) fn make_way(&mut self) {
        for _ in 0..WOKEN_AT_ONCE {
            let Some(stream) = self.queue.pop_front() else {
                return;
            };
            if let Some(slot) = self.streams.get_mut(&stream) {
                slot.is_queued = false;
                slot.wake();
            }
        }
        if !self.queue.is_empty() {
            self.wake_driver();
        }
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.lock();
        write!(f, "Hub({:?}, {} streams)", inner.role, inner.streams.len())
    }
}
