//! Lanes: the threads of the data plane, each with a runtime, an epoll and connections of its own.
//!
//! ```text
//!  listener ── accept ──▶ the lane with least to do ── connection · carrier · last leg ──▶ end
//! ```
//!
//! A message that crosses threads costs more than its encryption: one thread sees the event, wakes
//! another, and the sockets' state travels between caches. So a connection stays on the lane where
//! it was put when it was accepted, together with everything that belongs to it. Where that is, is
//! decided by what the lanes have open (`place.rs`); the kernel's hash (`SO_REUSEPORT`) would put a
//! ping-pong beside a bulk transfer by chance.
//!
//! # Invariants
//!
//! * What was counted on a lane is counted off when its [`Seat`] is dropped, so no path forgets it.
//! * A lane that ends unasked, or stands still, is noticed ([`Lanes::lost`]): a port behind which
//!   nobody works must not stay open.
//!
//! Nothing breaks if something is used on another lane than the one it was made on; it is slower.
//!
//! Not here: what runs on a lane.

mod place;
mod thread;

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::runtime::{EnterGuard, Handle};
use tokio::sync::watch;

use place::Open;
pub use thread::{LaneLost, Threads};

thread_local! {
    /// Which lane this thread is.
    static HERE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// What is counted on a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// A connection, or a stream of a carrier: work while it is open.
    Stream,
    /// A carrier that peers send streams on: work when one begins.
    Carrier,
}

/// The lanes of the data plane. Clones are the same lanes. Without any ([`Lanes::default`])
/// everything stays on the runtime where it is.
#[derive(Clone, Debug, Default)]
pub struct Lanes {
    all: Arc<[Arc<Lane>]>,
    lost: Option<watch::Receiver<Option<usize>>>,
}

/// One lane.
#[derive(Debug)]
pub struct Lane {
    index: usize,
    handle: Handle,
    streams: AtomicUsize,
    carriers: AtomicUsize,
    /// Knocks that it has not answered.
    knocks: AtomicUsize,
}

/// Something that is open on a lane, for as long as this lives.
#[derive(Debug)]
pub struct Seat {
    lane: Arc<Lane>,
    load: Load,
}

impl Lanes {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The lane for something that never moves, such as a listener: in turn, by its `number`.
    pub fn turn(&self, number: usize) -> Option<&Arc<Lane>> {
        let index = number.checked_rem(self.len())?;
        self.all.get(index)
    }

    /// The lane where a new `load` does best; this thread's own if that is as good.
    pub fn best(&self, load: Load) -> Option<&Arc<Lane>> {
        let open = self.all.iter().map(|lane| lane.open());
        self.all.get(place::best(HERE.get(), open, load)?)
    }

    /// The lane to which a new stream of a carrier on this thread should be moved, if that is worth
    /// it. It has a seat there from now on.
    pub fn elsewhere(&self) -> Option<Seat> {
        let best = self.best(Load::Stream)?;
        (Some(best.index) != HERE.get()).then(|| best.seat(Load::Stream))
    }

    /// A seat for `load` where this thread is.
    pub fn here(&self, load: Load) -> Option<Seat> {
        let lane = self.all.get(HERE.get()?)?;
        Some(lane.seat(load))
    }
}

impl Lanes {
    /// Has `work` done on every lane, as soon as each has time; here, if there are none.
    ///
    /// # Cancel safety
    ///
    /// What has begun goes on.
    pub async fn each(&self, work: fn()) {
        if self.is_empty() {
            return work();
        }
        let begin = |lane: &Arc<Lane>| lane.handle.spawn(async move { work() });
        let begun: Vec<_> = self.all.iter().map(begin).collect();
        for done in begun {
            // A lane that ends is noticed elsewhere.
            let _ended = done.await;
        }
    }
}

impl Lane {
    /// Whatever is spawned, and every socket and timer that is made as long as the guard lives,
    /// belongs to this lane.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.handle.enter()
    }

    /// Counts `load` on this lane.
    pub fn seat(self: &Arc<Self>, load: Load) -> Seat {
        self.count(load).fetch_add(1, Ordering::Relaxed);
        Seat {
            lane: Arc::clone(self),
            load,
        }
    }

    fn new(index: usize, handle: Handle) -> Arc<Self> {
        Arc::new(Self {
            index,
            handle,
            streams: AtomicUsize::new(0),
            carriers: AtomicUsize::new(0),
            knocks: AtomicUsize::new(0),
        })
    }

    fn open(&self) -> Open {
        Open {
            streams: self.streams.load(Ordering::Relaxed),
            carriers: self.carriers.load(Ordering::Relaxed),
        }
    }

    const fn count(&self, load: Load) -> &AtomicUsize {
        match load {
            Load::Stream => &self.streams,
            Load::Carrier => &self.carriers,
        }
    }
}

impl Seat {
    /// Where it is.
    pub const fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }
}

pin_project! {
    /// A future that has a seat until it ends. A type, because an `async` block would have room for
    /// both twice.
    #[derive(Debug)]
    pub struct Seated<F> {
        #[pin]
        future: F,
        seat: Option<Seat>,
    }
}

impl<F> Seated<F> {
    /// `future`, counted as that seat says.
    pub const fn new(seat: Option<Seat>, future: F) -> Self {
        Self { future, seat }
    }
}

impl<F: Future> Future for Seated<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(cx)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lane.count(self.load).fetch_sub(1, Ordering::Relaxed);
    }
}

/// One `T` for each lane, so that what a connection needs is on its own. With fewer of them than
/// lanes, lanes share.
#[derive(Clone, Debug)]
pub struct PerLane<T> {
    first: T,
    others: Vec<T>,
}

impl<T> PerLane<T> {
    /// This many, made by `make`; at least one.
    pub fn new(count: usize, mut make: impl FnMut() -> T) -> Self {
        Self {
            first: make(),
            others: (1..count).map(|_| make()).collect(),
        }
    }

    /// The one of this thread's lane.
    pub fn here(&self) -> &T {
        let lane = HERE.get().unwrap_or_default();
        let index = lane % (1 + self.others.len());
        index
            .checked_sub(1)
            .and_then(|other| self.others.get(other))
            .unwrap_or(&self.first)
    }

    /// All of them.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

/// Lets a task have its next turn behind all that are ready, those included of whom the runtime has
/// yet to hear.
///
/// A task that wakes itself is ready again at once, and as long as anything is ready the runtime asks
/// the kernel for news only every 61 turns: behind some bulk transfers, whose turns are milliseconds,
/// a message would wait for a second to be noticed.
pub fn after_others(cx: &mut Context<'_>) {
    let mut others = std::pin::pin!(tokio::task::yield_now());
    // Its first poll asks to be woken after the kernel was asked.
    let _their_turn = others.as_mut().poll(cx);
}

#[cfg(test)]
mod tests;
