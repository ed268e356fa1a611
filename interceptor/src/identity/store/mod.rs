//! The identities of this node: the one place where the data plane finds a key.
//!
//! [`Identities::current`] is a lookup in an immutable map, without a lock. Behind it, every
//! wanted identity is renewed at half-life on its own task, bounded in time and number, with a
//! growing pause after failures: one identity that cannot be issued never holds up another.
//!
//! # Invariants
//!
//! * `current` never returns an SVID that has expired.
//! * An identity that is no longer wanted is dropped at once, also if an answer for it is still on
//!   its way; its key is wiped when the last connection that uses it ends.
//! * Per identity at most one request is under way.
//!
//! Not here: which identities are wanted (`app`, from the mesh), making them (`issuer`), when the
//! issuer itself changes (`authority`).

mod attempt;
mod authority;
mod entry;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use interceptor_policy::{SpiffeId, TrustDomain};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{Notify, watch};

use self::attempt::Attempt;
pub use self::authority::{AuthorityStatus, RootStatus};
use self::entry::{Entry, Phase};
use super::bundle::{Trust, TrustBundle};
use super::certificate::Serial;
use super::issuer::{IssueError, Issuer};
use super::peer::Verifier;
use super::svid::Svid;
use crate::drain::Tasks;
use crate::error::chain;

/// Requests under way at once: a node that starts with hundreds of identities must not flood a
/// remote CA.
const MAX_UNDER_WAY: usize = 16;
/// The schedule is looked at this often even if nothing is due, because wall clocks jump.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Tells the time of day. Tests move it; the agent passes [`SystemTime::now`].
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The SVIDs of this node's workloads, renewed in time.
pub struct Identities {
    issuer: Arc<dyn Issuer>,
    lifetime: Duration,
    clock: Clock,
    /// What the data plane reads.
    published: ArcSwap<HashMap<SpiffeId, Arc<Svid>>>,
    /// What is wanted, and how far it is. Never held across an await.
    entries: Mutex<BTreeMap<SpiffeId, Entry>>,
    trust: Arc<ArcSwap<Trust>>,
    /// Follows `trust`; everybody has a clone, so that all know the peers that one has met.
    verifier: Verifier,
    /// Wakes the renewal loop.
    wake: Notify,
    /// What is wrong with what the issuer would be otherwise.
    problem: Mutex<Option<String>>,
    /// Counts changes of anything above.
    version: watch::Sender<u64>,
    issued: AtomicU64,
    failed: AtomicU64,
}

/// One identity as `status` and `certificates` show it.
#[derive(Clone, Debug, Serialize)]
pub struct SvidStatus {
    /// Whose.
    pub id: SpiffeId,
    /// Serial number of the SVID in force, if there is one.
    pub serial: Option<Serial>,
    /// Start of its validity.
    #[serde(serialize_with = "serialize_time")]
    pub not_before: Option<SystemTime>,
    /// End of its validity.
    #[serde(serialize_with = "serialize_time")]
    pub not_after: Option<SystemTime>,
    /// When it is renewed, or issuing is tried again.
    #[serde(serialize_with = "serialize_time")]
    pub renew_at: Option<SystemTime>,
    /// Who issues it.
    pub issuer: String,
    /// Why the last attempt failed, if it did.
    pub last_error: Option<String>,
}

/// How issuing went since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IdentityCounts {
    /// SVIDs obtained.
    pub issued: u64,
    /// Attempts that failed.
    pub failed: u64,
}

/// What [`Identities::begin`] found.
enum Begin<'a> {
    Mine(Attempt<'a>),
    UnderWay,
}

// === impl Identities ===

impl Identities {
    /// A store that obtains SVIDs of `lifetime` from `issuer`. Nothing is wanted yet.
    pub fn new(issuer: Arc<dyn Issuer>, lifetime: Duration) -> Self {
        Self::with_clock(issuer, lifetime, Arc::new(SystemTime::now))
    }

    /// The same with another clock.
    pub fn with_clock(issuer: Arc<dyn Issuer>, lifetime: Duration, clock: Clock) -> Self {
        let trust = Arc::new(ArcSwap::from_pointee(Trust::new(issuer.bundle())));
        Self {
            verifier: Verifier::following(Arc::clone(&trust)),
            trust,
            issuer,
            lifetime,
            clock,
            published: ArcSwap::default(),
            entries: Mutex::default(),
            wake: Notify::new(),
            problem: Mutex::default(),
            version: watch::Sender::new(0),
            issued: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// The SVID in force for `id`; `None` if it has not been issued or has expired.
    pub fn current(&self, id: &SpiffeId) -> Option<Arc<Svid>> {
        let published = self.published.load();
        let svid = published.get(id)?;
        ((self.clock)() < svid.not_after).then(|| Arc::clone(svid))
    }

    /// Makes `ids` the identities of this node: new ones are issued, others are dropped.
    pub fn want(&self, ids: impl IntoIterator<Item = SpiffeId>) {
        let wanted: BTreeSet<SpiffeId> = ids.into_iter().collect();
        let now = (self.clock)();
        let mut entries = self.entries.lock();
        if entries.keys().eq(&wanted) {
            return;
        }
        entries.retain(|id, _| wanted.contains(id));
        for id in wanted {
            entries.entry(id).or_insert_with(|| Entry::due(now));
        }
        let kept = |id: &SpiffeId| entries.contains_key(id);
        let published = self.published.load();
        if !published.keys().all(kept) {
            let left = published.iter().filter(|(id, _)| kept(id));
            let left = left.map(|(id, svid)| (id.clone(), Arc::clone(svid)));
            self.published.store(Arc::new(left.collect()));
        }
        drop(entries);
        self.changed();
    }

    /// Returns the SVID for `id`, issuing it first if there is none. `id` is wanted from now on.
    ///
    /// # Errors
    ///
    /// Why it could not be issued; the renewal loop goes on trying.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop: the attempt is given back.
    pub async fn ensure(&self, id: &SpiffeId) -> Result<Arc<Svid>, IssueError> {
        loop {
            let mut changes = self.version.subscribe();
            if let Some(svid) = self.current(id) {
                return Ok(svid);
            }
            match self.begin(id) {
                Begin::Mine(attempt) => return attempt.ask().await,
                // The sender lives in `self`, so waiting cannot fail.
                Begin::UnderWay => drop(changes.changed().await),
            }
        }
    }

    /// Renews what is due until `tasks` is asked to stop.
    pub async fn run(self: Arc<Self>, tasks: Tasks) {
        loop {
            let pause = self.start_due(&tasks);
            tokio::select! {
                () = tasks.stopping() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// A receiver that sees a new number whenever an SVID, the bundle, or a failure changed.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Every wanted identity, in order.
    pub fn list(&self) -> Vec<SvidStatus> {
        let published = self.published.load();
        let entries = self.entries.lock();
        entries
            .iter()
            .map(|(id, entry)| {
                let svid = published.get(id);
                SvidStatus {
                    id: id.clone(),
                    serial: svid.map(|svid| svid.serial.clone()),
                    not_before: svid.map(|svid| svid.not_before),
                    not_after: svid.map(|svid| svid.not_after),
                    renew_at: Some(entry.due),
                    issuer: self.issuer.name().to_owned(),
                    last_error: entry.last_error.clone(),
                }
            })
            .collect()
    }

    /// How long every identity of this node will have the SVID that it has: zero if one has none in
    /// force already.
    pub fn current_for(&self) -> Duration {
        let published = self.published.load();
        let now = (self.clock)();
        let left = |id: &SpiffeId| {
            let svid = published.get(id)?;
            svid.not_after.duration_since(now).ok()
        };
        let entries = self.entries.lock();
        let lefts = entries.keys().map(|id| left(id).unwrap_or_default());
        lefts.min().unwrap_or(Duration::MAX)
    }

    /// When the SVID of `id` ended, if it had one and that is over.
    pub fn ended(&self, id: &SpiffeId) -> Option<SystemTime> {
        let end = self.published.load().get(id)?.not_after;
        ((self.clock)() >= end).then_some(end)
    }

    /// How issuing went since the start.
    pub fn counts(&self) -> IdentityCounts {
        IdentityCounts {
            issued: self.issued.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    /// The roots that are trusted now.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.trust.load().bundle)
    }

    /// Replaces the roots; verifiers follow at once, and whoever relies on one that is gone is told.
    pub fn trust(&self, bundle: TrustBundle) {
        Trust::replace(&self.trust, bundle);
        self.changed();
    }

    /// Lets the roots of `domain` vouch for its `aliases`, too; verifiers follow at once.
    pub fn trust_aliases(&self, domain: &TrustDomain, aliases: &[TrustDomain]) {
        let mut bundle = TrustBundle::clone(&self.bundle());
        for alias in aliases {
            bundle.add_alias(alias.clone(), domain.clone());
        }
        self.trust(bundle);
    }

    /// A verifier that follows this store's bundle.
    pub fn verifier(&self) -> Verifier {
        self.verifier.clone()
    }

    /// Starts as many due requests as may be under way; returns how long nothing else is due.
    fn start_due(self: &Arc<Self>, tasks: &Tasks) -> Duration {
        let now = (self.clock)();
        let (due, pause) = {
            let mut entries = self.entries.lock();
            let under_way = entries
                .values()
                .filter(|entry| entry.is_under_way())
                .count();
            let due: Vec<SpiffeId> = entries
                .iter_mut()
                .filter(|(_, entry)| entry.is_due(now))
                .take(MAX_UNDER_WAY.saturating_sub(under_way))
                .map(|(id, entry)| {
                    entry.phase = Phase::UnderWay;
                    id.clone()
                })
                .collect();
            let next = entries.values().filter(|entry| !entry.is_under_way());
            let next = next.map(|entry| entry.due).filter(|due| *due > now).min();
            let pause = next.and_then(|due| due.duration_since(now).ok());
            (due, pause.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN))
        };
        for id in due {
            let identities = Arc::clone(self);
            tasks.spawn("identity renewal", async move {
                // Counted, logged and shown by `list` where it happens.
                drop(Attempt::of(&identities, id).ask().await);
            });
        }
        pause
    }

    /// Takes the right to ask for `id`, if nobody has it.
    fn begin(&self, id: &SpiffeId) -> Begin<'_> {
        let now = (self.clock)();
        let mut entries = self.entries.lock();
        let entry = entries.entry(id.clone()).or_insert_with(|| Entry::due(now));
        if entry.is_under_way() {
            return Begin::UnderWay;
        }
        entry.phase = Phase::UnderWay;
        drop(entries);
        Begin::Mine(Attempt::of(self, id.clone()))
    }

    fn publish(&self, svid: &Arc<Svid>) -> Result<(), IssueError> {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(&svid.id) else {
            return Err(IssueError::NotWanted(svid.id.clone()));
        };
        entry.succeeded(svid);
        let mut published = HashMap::clone(&self.published.load());
        published.insert(svid.id.clone(), Arc::clone(svid));
        self.published.store(Arc::new(published));
        drop(entries);
        self.issued.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn record_failure(&self, id: &SpiffeId, error: &IssueError) {
        let now = (self.clock)();
        let text = chain(error);
        tracing::warn!(%id, reason = error.reason(), error = %text, "no SVID was issued");
        self.failed.fetch_add(1, Ordering::Relaxed);
        if let Some(entry) = self.entries.lock().get_mut(id) {
            entry.failed(text, now);
        }
    }

    fn changed(&self) {
        self.version
            .send_modify(|version| *version = version.wrapping_add(1));
        self.wake.notify_one();
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities")
            .field("issuer", &self.issuer.name())
            .field("published", &self.published.load().len())
            .finish_non_exhaustive()
    }
}

#[expect(clippy::ref_option, reason = "serde passes the field by reference")]
fn serialize_time<S: serde::Serializer>(
    time: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(&humantime::format_rfc3339_seconds(*time)),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests;
