//! Which carrier a connection gets.
//!
//! ```text
//!  idle ──▶ new, while there are fewer than max_carriers ──▶ least loaded ──▶ new
//! ```
//!
//! One stream at a time per carrier is what makes bulk fast and keeps it from holding up others
//! (reference/transport.md 2); warm carriers are what makes connections cheap. Beyond the bound
//! streams share, spread by load. A carrier that is full is passed over; if all are, there is one
//! more, so that the number of connections is never limited here. Streams that are here because
//! they say little ([`Crowd::Together`]) go to as few carriers as they fit on: what they say at the
//! same moment then goes in one record.
//!
//! A carrier enters the pool when its set-up begins: later connections see it, wait for it or make
//! their own, and nothing is locked meanwhile.
//!
//! # Invariants
//!
//! * A carrier is used for one key only: local identity, peer identity, gateway. The pool belongs
//!   to one workload, so its sockets are in that workload's namespace.
//! * A carrier that is retired (dead, renewed, idle, draining) never gets a new stream.
//! * A stream holds a [`Lease`]; leases are only taken under the pool's lock, so that a carrier
//!   cannot idle out under a new stream.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use h2::client::SendRequest;
use interceptor_policy::SpiffeId;
use parking_lot::Mutex;
use tokio::sync::SetOnce;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::buffer::Segment;
use super::super::config::Config;
use super::super::error::TunnelError;
use super::super::mux::{Hub, MAX_STREAMS};
use super::super::tls::SessionFacts;
use crate::identity::Svid;

/// What makes carriers interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::transport) struct Key {
    pub(in crate::transport) source: SpiffeId,
    pub(in crate::transport) peer: SpiffeId,
    pub(in crate::transport) gateway: SocketAddr,
}

/// Which carriers will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Choice {
    /// Any that lives.
    Any,
    /// Any but those that have just refused this stream, and may take others.
    Another,
    /// None that was established before now: one of those has just turned out dead.
    Fresh,
}

/// How streams are given to carriers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crowd {
    /// Over as many as there may be.
    Spread,
    /// To as few as they fit on.
    Together,
}

/// How streams are begun on a carrier.
#[derive(Clone)]
pub(super) enum Requests {
    /// As everybody does.
    Http2(SendRequest<Segment>),
    /// As our agents do.
    Mux(Arc<Hub>),
}

/// A carrier's place in the pool, from the beginning of its set-up.
pub(super) struct Slot {
    pub(super) key: Key,
    pub(super) svid: Arc<Svid>,
    pub(super) requests: Mutex<Option<Requests>>,
    pub(super) outcome: SetOnce<Result<SessionFacts, TunnelError>>,
    pub(super) retired: CancellationToken,
    /// Streams that the peer allows; set with the outcome.
    allowed: AtomicUsize,
    leases: AtomicUsize,
    idle_since: Mutex<Instant>,
}

impl Slot {
    fn new(key: Key, svid: Arc<Svid>, allowed: usize) -> Self {
        Self {
            key,
            svid,
            requests: Mutex::new(None),
            outcome: SetOnce::new(),
            retired: CancellationToken::new(),
            allowed: AtomicUsize::new(allowed),
            leases: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
        }
    }

    /// Publishes an established carrier to those who wait for it.
    pub(super) fn ready(&self, requests: Requests, facts: SessionFacts, allowed: usize) {
        match &requests {
            Requests::Http2(_) => self.allowed.fetch_min(allowed.max(1), Ordering::Relaxed),
            // Known beforehand, and nothing to be spared.
            Requests::Mux(_) => self.allowed.swap(allowed, Ordering::Relaxed),
        };
        *self.requests.lock() = Some(requests);
        self.publish(Ok(facts));
    }

    /// Publishes the outcome of the set-up; only the first one counts.
    pub(super) fn publish(&self, outcome: Result<SessionFacts, TunnelError>) {
        // An earlier outcome stands.
        let _earlier = self.outcome.set(outcome);
    }

    fn is_ready(&self) -> bool {
        self.outcome.initialized()
    }

    /// Whether its peer has said that it takes no more streams. (Of others the driver hears it.)
    fn is_leaving(&self) -> bool {
        matches!(&*self.requests.lock(), Some(Requests::Mux(hub)) if hub.is_leaving())
    }

    /// Whether it is established, and not one of ours.
    fn is_foreign(&self) -> bool {
        let speaks_http2 = matches!(&*self.requests.lock(), Some(Requests::Http2(_)));
        speaks_http2 && !self.retired.is_cancelled()
    }

    fn load(&self) -> usize {
        self.leases.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        self.load() < self.allowed.load(Ordering::Relaxed)
    }
}

/// The right to one stream on a carrier.
pub(in crate::transport) struct Lease {
    pub(super) slot: Arc<Slot>,
    /// Whether the carrier was established before this lease was taken.
    pub(super) reused: bool,
}

impl Lease {
    fn take(slot: &Arc<Slot>) -> Self {
        slot.leases.fetch_add(1, Ordering::Relaxed);
        Self {
            reused: slot.is_ready(),
            slot: Arc::clone(slot),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.slot.leases.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.slot.idle_since.lock() = Instant::now();
        }
    }
}

/// The carriers of one workload.
pub(super) struct Pool {
    pub(super) config: Arc<Config>,
    slots: Mutex<HashMap<Key, Vec<Arc<Slot>>>>,
}

impl Pool {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            slots: Mutex::default(),
        }
    }

    /// A lease on a carrier for `key` that presents `svid`; with a slot if the caller has to set
    /// it up. Not on one that has `refused` the stream.
    pub(super) fn lease(
        &self,
        key: &Key,
        svid: &Arc<Svid>,
        (choice, refused): (Choice, &[Arc<Slot>]),
        crowd: Crowd,
    ) -> (Lease, Option<Arc<Slot>>) {
        let mut keys = self.slots.lock();
        let slots = keys.entry(key.clone()).or_default();
        // Carriers with an old certificate live as long as their streams, and no longer.
        slots.retain(|slot| {
            let serves = Arc::ptr_eq(&slot.svid, svid) && !slot.is_leaving();
            if !serves {
                slot.retired.cancel();
            }
            serves && !slot.retired.is_cancelled()
        });
        let will_do = |slot: &&Arc<Slot>| {
            let is_new = choice != Choice::Fresh || !slot.is_ready();
            is_new && !refused.iter().any(|other| Arc::ptr_eq(other, slot))
        };
        let candidates = || slots.iter().filter(will_do);
        let (chosen, allowed) = match crowd {
            Crowd::Spread => {
                let most = self.config.max_carriers;
                (spread(candidates, most), self.config.max_streams)
            }
            // Only agents of ours get that many together.
            Crowd::Together => (together(candidates()), MAX_STREAMS),
        };
        if let Some(slot) = chosen {
            return (Lease::take(slot), None);
        }
        let slot = Slot::new(key.clone(), Arc::clone(svid), allowed);
        let slot = Arc::new(slot);
        slots.push(Arc::clone(&slot));
        (Lease::take(&slot), Some(slot))
    }

    /// Takes a carrier out of the pool: no new streams.
    pub(super) fn retire(&self, slot: &Arc<Slot>) {
        slot.retired.cancel();
        let mut keys = self.slots.lock();
        if let Some(slots) = keys.get_mut(&slot.key) {
            slots.retain(|other| !Arc::ptr_eq(other, slot));
            if slots.is_empty() {
                keys.remove(&slot.key);
            }
        }
    }

    /// Retires a carrier that has been idle for long enough; returns when to look again.
    pub(super) fn retire_if_idle(&self, slot: &Arc<Slot>) -> Instant {
        let now = Instant::now();
        let timeout = self.config.idle_timeout;
        let idle = {
            // No lease is taken while the pool is locked.
            let _pool = self.slots.lock();
            let idle_since = *slot.idle_since.lock();
            if slot.load() > 0 {
                return now + timeout;
            }
            if now.duration_since(idle_since) < timeout {
                return idle_since + timeout;
            }
            slot.retired.cancel();
            now + timeout
        };
        self.retire(slot);
        idle
    }

    /// Whether the peer of `key` speaks HTTP/2 as everybody does: there is a carrier that does.
    pub(super) fn is_foreign(&self, key: &Key) -> bool {
        let keys = self.slots.lock();
        let slots = keys.get(key).map(Vec::as_slice).unwrap_or_default();
        slots.iter().any(|slot| slot.is_foreign())
    }

    /// Takes in a carrier that was made without a lease.
    pub(super) fn adopt(&self, key: &Key, svid: &Arc<Svid>) -> Arc<Slot> {
        let slot = Slot::new(key.clone(), Arc::clone(svid), self.config.max_streams);
        let slot = Arc::new(slot);
        let mut keys = self.slots.lock();
        keys.entry(key.clone()).or_default().push(Arc::clone(&slot));
        slot
    }

    /// Retires every carrier.
    pub(super) fn retire_all(&self) {
        for slot in self.slots.lock().drain().flat_map(|(_, slots)| slots) {
            slot.retired.cancel();
        }
    }

    /// Carriers in the pool: established ones and ones being set up.
    pub(super) fn len(&self) -> usize {
        self.slots.lock().values().map(Vec::len).sum()
    }
}

/// The fullest of these carriers that has room, or `None` if there should be a new one.
fn together<'s>(candidates: impl Iterator<Item = &'s Arc<Slot>>) -> Option<&'s Arc<Slot>> {
    candidates
        .filter(|slot| slot.has_room())
        .max_by_key(|slot| (slot.load(), slot.is_ready()))
}

/// The one of these carriers with least to do, or `None` if there should be a new one.
fn spread<'s, I>(candidates: impl Fn() -> I, max_carriers: usize) -> Option<&'s Arc<Slot>>
where
    I: Iterator<Item = &'s Arc<Slot>>,
{
    // The one used last, so that surplus carriers idle out.
    let idle = candidates()
        .filter(|slot| slot.is_ready() && slot.load() == 0)
        .max_by_key(|slot| *slot.idle_since.lock());
    if idle.is_some() {
        return idle;
    }
    if candidates().count() < max_carriers {
        return None;
    }
    candidates()
        .filter(|slot| slot.has_room())
        .min_by_key(|slot| (slot.load(), !slot.is_ready()))
}
