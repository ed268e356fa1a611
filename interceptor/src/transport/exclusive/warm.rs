//! Warm carriers: which one a connection gets, and what becomes of it afterwards.
//!
//! ```text
//!  the one used last ──▶ one that comes home, or a new one, whichever is first ──▶ a shared carrier
//! ```
//!
//! A connection that finds no idle carrier starts a dial and waits for whatever carrier is free
//! first. If that is one that came home, the new one joins the others when it is ready: a pool that
//! has run dry under load is larger afterwards. Unless messages are known to be large, only the first
//! [`Config::max_carriers`] connections at a time have a carrier to themselves, and all others are
//! together on one (`mux`; [`Grain`] says why). Beyond [`Config::max_exclusive`] carriers, and for
//! peers that do not speak the protocol, connections share carriers (`hbone/pool.rs`).
//!
//! Idle carriers have no task. Once a second all of them are looked at: what has arrived is read,
//! silent ones are asked for a sign of life, and those that are old or dead are closed.
//!
//! # Invariants
//!
//! * A carrier is used for one [`Key`] only, and with the certificate it was made with.
//! * A carrier whose certificate was renewed, or has ended, or that was retired, gets no new
//!   stream; its current one goes on.
//! * Nobody waits for a carrier that nobody is making.
//! * What a peer speaks is what its carriers speak: it is asked when it has none, and remembered
//!   nowhere else, so that whoever follows it at its address is found out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::super::codec::frame;
use super::super::config::Config;
use super::super::error::TunnelError;
use super::super::grain::Grain;
use super::super::hbone::{Choice, Key};
use super::super::tls::SessionFacts;
use super::carrier::Carrier;
use super::handed::{Checkout, Dialled, Handed};
use super::quota::{Quota, Share};
use super::stream::settle;
use crate::drain::Tasks;
use crate::identity::Svid;

/// How often idle carriers are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The warm carriers of one workload on one lane.
pub(in crate::transport) struct Warm {
    config: Arc<Config>,
    quota: Quota,
    tasks: Tasks,
    shelves: Mutex<Shelves>,
}

#[derive(Default)]
struct Shelves {
    by_key: HashMap<Key, Arc<Shelf>>,
    /// Somebody looks after them.
    kept: bool,
}

/// The carriers of one key.
struct Shelf {
    config: Arc<Config>,
    tasks: Tasks,
    /// Carriers that exist or are being made.
    open: AtomicUsize,
    /// The same on all lanes together: this is what is bounded.
    open_in_all: Arc<AtomicUsize>,
    /// Of what the connections of this key carry.
    grain: Arc<Grain>,
    state: Mutex<State>,
}

struct State {
    svid: Arc<Svid>,
    /// Carriers of an earlier one are not taken back.
    generation: u64,
    /// The one used last is the last one.
    idle: Vec<Idle>,
    dialling: usize,
    waiting: VecDeque<oneshot::Sender<Handed>>,
}

struct Idle {
    carrier: Box<Carrier>,
    place: Place,
    since: Instant,
}

/// The right to have one carrier.
struct Right {
    shelf: Arc<Shelf>,
    _share: Share,
}

/// A carrier's place among those of its key.
pub(in crate::transport) struct Place {
    right: Right,
    generation: u64,
    pub(in crate::transport) facts: SessionFacts,
    /// When the first of the two certificates ends.
    until: Instant,
}

/// A carrier to be made: whoever gets this has to call [`Warm::dialled`].
pub(in crate::transport) struct Dial {
    pub(in crate::transport) svid: Arc<Svid>,
    generation: u64,
    shelf: Arc<Shelf>,
    right: Option<Right>,
}

/// A carrier for one stream.
pub(in crate::transport) struct Ready {
    pub(in crate::transport) carrier: Box<Carrier>,
    pub(in crate::transport) place: Place,
    /// It has carried a stream before.
    pub(in crate::transport) reused: bool,
}

impl Warm {
    pub(in crate::transport) fn new(config: Arc<Config>, quota: Quota, tasks: Tasks) -> Self {
        Self {
            config,
            quota,
            tasks,
            shelves: Mutex::default(),
        }
    }

    /// A carrier for `key` that presents `svid`. `is_foreign` tells whether its peer speaks only what
    /// everybody speaks.
    pub(in crate::transport) fn checkout(
        self: &Arc<Self>,
        key: &Key,
        svid: &Arc<Svid>,
        choice: Choice,
        is_foreign: impl FnOnce() -> bool,
    ) -> Checkout {
        let shelf = self.shelf(key, svid);
        if choice == Choice::Any && shelf.gathers() {
            return Checkout::Now(Handed::Gather(Arc::clone(&shelf.grain)));
        }
        loop {
            let (found, retired) = shelf.find(svid, choice);
            dismiss(retired);
            let Some(Idle {
                mut carrier, place, ..
            }) = found
            else {
                return Shelf::wait(&shelf, is_foreign);
            };
            if place.until > Instant::now() && carrier.look() {
                return Checkout::Now(Handed::Ready(Ready {
                    carrier,
                    place,
                    reused: true,
                }));
            }
        }
    }

    /// Takes what a dial has led to. Returns the next one, if somebody still waits.
    pub(in crate::transport) fn dialled(mut dial: Dial, dialled: Dialled) -> Option<Dial> {
        let shelf = Arc::clone(&dial.shelf);
        let right = dial.right.take()?;
        let mut state = shelf.state.lock();
        state.dialling -= 1;
        match dialled {
            Dialled::Exclusive(carrier, facts, until) if state.generation == dial.generation => {
                let place = Place {
                    right,
                    generation: dial.generation,
                    facts,
                    until,
                };
                state.hand(Ready {
                    carrier,
                    place,
                    reused: false,
                });
            }
            // Made for an identity that was renewed meanwhile.
            Dialled::Exclusive(..) => drop(right),
            Dialled::Http2 => {
                drop(right);
                state.answer_all(|| Handed::Share);
            }
            Dialled::Failed(error) => {
                drop(right);
                state.answer_all_but_dialling(|| Handed::Failed(error.clone()));
            }
        }
        if state.waiting.len() <= state.dialling {
            return None;
        }
        let next = Shelf::begin_dial(&shelf, &mut state);
        if next.is_none() {
            state.answer_all_but_dialling(|| Handed::Share);
        }
        next
    }

    /// Gives up all carriers: those in use when their stream is over.
    pub(in crate::transport) fn retire_all(&self) {
        let shelves: Vec<_> = self.shelves.lock().by_key.values().cloned().collect();
        for shelf in shelves {
            dismiss(shelf.state.lock().retire());
        }
    }

    /// Carriers that exist or are being made.
    pub(in crate::transport) fn len(&self) -> usize {
        let shelves = self.shelves.lock();
        let open = |shelf: &Arc<Shelf>| shelf.open.load(Ordering::Relaxed);
        shelves.by_key.values().map(open).sum()
    }

    /// Carriers that are not in use.
    #[cfg(test)]
    pub(in crate::transport) fn idle(&self) -> usize {
        let shelves = self.shelves.lock();
        let idle = |shelf: &Arc<Shelf>| shelf.state.lock().idle.len();
        shelves.by_key.values().map(idle).sum()
    }

    fn shelf(self: &Arc<Self>, key: &Key, svid: &Arc<Svid>) -> Arc<Shelf> {
        let mut shelves = self.shelves.lock();
        if let Some(shelf) = shelves.by_key.get(key) {
            return Arc::clone(shelf);
        }
        let shelf = Arc::new(Shelf {
            config: Arc::clone(&self.config),
            tasks: self.tasks.clone(),
            open: AtomicUsize::new(0),
            open_in_all: self.quota.of(key),
            grain: Arc::default(),
            state: Mutex::new(State {
                svid: Arc::clone(svid),
                generation: 0,
                idle: Vec::new(),
                dialling: 0,
                waiting: VecDeque::new(),
            }),
        });
        shelves.by_key.insert(key.clone(), Arc::clone(&shelf));
        if !std::mem::replace(&mut shelves.kept, true) {
            let warm = Arc::clone(self);
            self.tasks
                .spawn("warm carriers", async move { warm.keep().await });
        }
        shelf
    }

    /// Looks after the idle carriers until there is nothing to look after.
    async fn keep(&self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.tasks.stopping() => {
                    return self.retire_all();
                }
                _ = looks.tick() => {}
            }
            let shelves: Vec<_> = self.shelves.lock().by_key.values().cloned().collect();
            for shelf in shelves {
                dismiss(shelf.look());
            }
            let mut shelves = self.shelves.lock();
            // One that somebody has in his hands may be about to get a carrier.
            (shelves.by_key).retain(|_, shelf| Arc::strong_count(shelf) > 1 || shelf.is_used());
            if shelves.by_key.is_empty() {
                shelves.kept = false;
                return;
            }
        }
    }
}

impl Shelf {
    /// The idle carrier that was used last, and those that are of no use any more.
    fn find(&self, svid: &Arc<Svid>, choice: Choice) -> (Option<Idle>, Vec<Idle>) {
        let mut state = self.state.lock();
        let mut retired = Vec::new();
        if !Arc::ptr_eq(&state.svid, svid) {
            state.svid = Arc::clone(svid);
            retired = state.retire();
        }
        match choice {
            Choice::Any => (state.idle.pop(), retired),
            // The one that was asked has come home, and is as good as the others for the next one.
            Choice::Another => (None, retired),
            // One of them has just turned out dead: so will the others.
            Choice::Fresh => {
                retired.append(&mut state.idle);
                (None, retired)
            }
        }
    }

    fn wait(shelf: &Arc<Self>, is_foreign: impl FnOnce() -> bool) -> Checkout {
        if is_foreign() {
            return Checkout::Now(Handed::Share);
        }
        let mut state = shelf.state.lock();
        let dial = Self::begin_dial(shelf, &mut state);
        // Without a dial under way there was no room for one, though there may be again by now.
        let none_comes = state.dialling == 0 || shelf.is_full();
        if dial.is_none() && state.dialling <= state.waiting.len() && none_comes {
            return Checkout::Now(Handed::Share);
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.push_back(sender);
        Checkout::Wait(receiver, dial)
    }

    /// Whether the next connection is better off together with others.
    fn gathers(&self) -> bool {
        let few = self.config.max_carriers;
        !self.grain.is_large() && {
            let open = self.open.load(Ordering::Relaxed);
            open >= few && open.saturating_sub(self.state.lock().idle.len()) >= few
        }
    }

    fn is_full(&self) -> bool {
        self.open_in_all.load(Ordering::Relaxed) >= self.config.max_exclusive
    }

    fn is_used(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// A new carrier, if there may be one more, and one more under way.
    fn begin_dial(shelf: &Arc<Self>, state: &mut State) -> Option<Dial> {
        if state.dialling >= shelf.config.max_carriers {
            return None;
        }
        let share = Share::take(&shelf.open_in_all, shelf.config.max_exclusive)?;
        shelf.open.fetch_add(1, Ordering::Relaxed);
        state.dialling += 1;
        Some(Dial {
            svid: Arc::clone(&state.svid),
            generation: state.generation,
            shelf: Arc::clone(shelf),
            right: Some(Right {
                shelf: Arc::clone(shelf),
                _share: share,
            }),
        })
    }

    /// Looks at every idle carrier. Returns those that are to be closed.
    fn look(&self) -> Vec<Idle> {
        let now = Instant::now();
        let idle_timeout = self.config.idle_timeout;
        let keep = |idle: &mut Idle| {
            let young = now.duration_since(idle.since) < idle_timeout;
            young && idle.place.until > now && idle.carrier.look()
        };
        let mut state = self.state.lock();
        let (kept, retired) = std::mem::take(&mut state.idle)
            .into_iter()
            .map(|mut idle| (keep(&mut idle), idle))
            .partition::<Vec<_>, _>(|(kept, _)| *kept);
        state.idle = kept.into_iter().map(|(_, idle)| idle).collect();
        retired.into_iter().map(|(_, idle)| idle).collect()
    }
}

impl State {
    /// Gives a carrier to whoever has waited longest, or keeps it.
    fn hand(&mut self, ready: Ready) {
        let mut handed = Handed::Ready(ready);
        while let Some(waiting) = self.waiting.pop_front() {
            match waiting.send(handed) {
                Ok(()) => return,
                Err(back) => handed = back,
            }
        }
        if let Handed::Ready(Ready { carrier, place, .. }) = handed {
            let since = Instant::now();
            self.idle.push(Idle {
                carrier,
                place,
                since,
            });
        }
    }

    fn answer_all(&mut self, answer: impl Fn() -> Handed) {
        for waiting in self.waiting.drain(..) {
            // Gone meanwhile.
            let _gone = waiting.send(answer());
        }
    }

    /// Answers those for whom nobody is making a carrier.
    fn answer_all_but_dialling(&mut self, answer: impl Fn() -> Handed) {
        while self.waiting.len() > self.dialling
            && let Some(waiting) = self.waiting.pop_front()
        {
            let _gone = waiting.send(answer());
        }
    }

    fn retire(&mut self) -> Vec<Idle> {
        self.generation += 1;
        std::mem::take(&mut self.idle)
    }
}

impl Place {
    /// Who wants to know how large the messages of its stream are.
    pub(in crate::transport) fn grain(&self) -> Arc<Grain> {
        Arc::clone(&self.right.shelf.grain)
    }

    /// The stream is over: the carrier is for the next one, if it is good for one.
    pub(super) fn give_back(self, mut carrier: Box<Carrier>) {
        if carrier.is_clean() {
            return self.put(carrier);
        }
        let tasks = self.right.shelf.tasks.clone();
        // Dropped with its runtime: there will be no next one.
        if tokio::runtime::Handle::try_current().is_ok() {
            tasks.spawn("farewell", async move {
                if settle(&mut carrier).await && carrier.is_clean() {
                    self.put(carrier);
                }
            });
        }
    }

    fn put(self, carrier: Box<Carrier>) {
        let shelf = Arc::clone(&self.right.shelf);
        let mut state = shelf.state.lock();
        let good = state.generation == self.generation && self.until > Instant::now();
        if good && !shelf.tasks.is_stopping() {
            state.hand(Ready {
                carrier,
                place: self,
                reused: true,
            });
        } else {
            drop(state);
            let since = Instant::now();
            dismiss(vec![Idle {
                carrier,
                place: self,
                since,
            }]);
        }
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        self.shelf.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Dial {
    fn drop(&mut self) {
        // Cancelled: nobody shall wait for it.
        if self.right.is_some() {
            let mut state = self.shelf.state.lock();
            state.dialling -= 1;
            state.answer_all_but_dialling(|| Handed::Failed(TunnelError::Draining));
        }
    }
}

/// Closes idle carriers.
fn dismiss(retired: Vec<Idle>) {
    for mut idle in retired {
        idle.carrier.say_goodbye(frame::NO_ERROR);
    }
}
