//! What was decided of pairs on this node: granted to the kernel, or left on the agent's path.
//!
//! A pair (a workload and an address that it connects to) is decided when its first connection
//! passes, and the answer is kept for the generation in which it was given. After a change, pairs
//! that were granted and in use are decided again at once, so that they stay in the kernel; all
//! others when their next connection passes.
//!
//! The kernel's table has a bound. What does not fit takes the agent's path until there is room: after a
//! change, when a workload has gone, or when what nobody uses was given back for it. Ours has room for all
//! that the kernel's has, so that whatever is granted is known, renewed and counted, and for some more.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::judge::is_certified;
use super::{Captured, DirectPath, Kernel};
use crate::capture::{DirectFlow, Grant, GrantError, outbound_captured};
use crate::connection::Plane;
use crate::decide::{self, Way};
use crate::identity::Identities;
use crate::workload::{Mesh, Workload, WorkloadId};

/// Pairs that are not granted and about which something is known: three for each grant that fits by
/// default. What is not known is decided again at its next connection.
pub(super) const OTHERS: usize = 49_152;

/// A pair of which no connection was heard for so long is not granted anew, and gives way to others.
pub(super) const IDLE: Duration = Duration::from_mins(10);

/// The generation in which nothing is granted.
const NONE: u64 = 0;

/// Who connects to what: the kernel's key of the workload, and the address.
type Key = (u64, SocketAddr);

/// What is known of all pairs.
pub(super) struct Grants {
    /// The most pairs that are known.
    most: usize,
    /// The kernel's generation; read before the mesh.
    generation: AtomicU64,
    /// Counts what is no change of the mesh and may change an answer all the same.
    epoch: AtomicU64,
    pairs: Mutex<HashMap<Key, Pair>>,
    /// How often a pair was not granted for want of room.
    refused: AtomicU64,
}

/// What is known of one pair.
#[derive(Clone)]
struct Pair {
    source: WorkloadId,
    /// When it was decided.
    moment: Moment,
    answer: Answer,
    /// When a connection of it was heard of last.
    used: Instant,
}

/// What an answer depends on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Moment {
    generation: u64,
    epoch: u64,
}

#[derive(Clone)]
enum Answer {
    /// Every connection takes the agent's path.
    Agent,
    /// The kernel was told where some of them, or all, may go.
    Granted(Arc<[Way]>),
    /// They may go past the agent, and the kernel has no room.
    NoRoom,
}

impl Grants {
    /// For a kernel that has room for so many.
    pub(super) fn beside(room: usize) -> Self {
        Self {
            most: room.saturating_add(OTHERS),
            generation: AtomicU64::new(NONE),
            epoch: AtomicU64::default(),
            pairs: Mutex::default(),
            refused: AtomicU64::default(),
        }
    }

    /// Makes all answers be looked for again, though the mesh has not changed.
    pub(super) fn look_again(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Changes with every workload that comes and goes.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Pairs that are granted, and pairs that are not for want of room.
    pub(super) fn counts(&self) -> (u64, u64) {
        let now = self.moment().generation;
        let (mut granted, mut without) = (0, 0);
        for pair in self.pairs.lock().values() {
            match pair.answer {
                Answer::Granted(_) if pair.moment.generation == now => granted += 1,
                Answer::NoRoom if pair.moment.generation == now => without += 1,
                _ => {}
            }
        }
        (granted, without)
    }

    /// How often a pair was not granted for want of room, so far.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// See [`super::DirectPath::choice`].
    pub(super) fn choice(&self, captured: &Captured<'_>) -> u64 {
        let choice = rand::random();
        let Some(ways) = self.granted(&(captured.local.key, captured.original)) else {
            return choice;
        };
        let is_rest = captured.local.origin.is_rest_of_grant(captured.socket);
        if is_rest.unwrap_or(false) {
            decide::beside_the_kernel(&ways, choice)
        } else {
            choice
        }
    }

    /// See [`super::DirectPath::offer`].
    pub(super) fn offer(&self, path: &DirectPath, plane: &Plane, (id, key): (&WorkloadId, Key)) {
        // Before the mesh.
        let moment = self.moment();
        if moment.generation == NONE || self.is_answered(&key, moment) {
            return;
        }
        let left = path.left.read();
        if *left {
            return;
        }
        let mesh = plane.mesh.load_full();
        let answer = answer(&*path.kernel, &mesh, &plane.identities, (id, key, moment));
        drop(left);
        if let Some(answer) = answer {
            self.count(&answer);
            self.keep(key, id.clone(), moment, answer);
        }
    }

    /// A connection of the pair was heard of.
    pub(super) fn used(&self, flow: &DirectFlow) {
        let key = (flow.source, flow.original);
        if let Some(pair) = self.pairs.lock().get_mut(&key) {
            pair.used = Instant::now();
        }
    }

    /// The kernel has this generation from now on, and none of an earlier one is in force.
    pub(super) fn advanced(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
    }

    /// Decides again what was granted and is in use; forgets everything else.
    pub(super) fn renew(&self, kernel: &dyn Kernel, mesh: &Mesh, identities: &Identities) {
        let moment = self.moment();
        let before = std::mem::take(&mut *self.pairs.lock());
        let granted =
            (before.into_iter()).filter(|(_, pair)| matches!(pair.answer, Answer::Granted(_)));
        for (key, pair) in granted {
            let is_used = pair.used.elapsed() < IDLE;
            let asked = (&pair.source, key, moment);
            let answer = is_used.then(|| answer(kernel, mesh, identities, asked));
            match answer.flatten() {
                Some(answer @ Answer::Granted(_)) => {
                    let renewed = Pair {
                        moment,
                        answer,
                        ..pair
                    };
                    // A connection that passed meanwhile knows it better.
                    self.pairs.lock().entry(key).or_insert(renewed);
                }
                _ => withdraw(kernel, key),
            }
        }
    }

    /// If some pair has no room, gives back what nobody has used for as long as `idle`; who has no
    /// room is then asked again.
    pub(super) fn make_room(&self, kernel: &dyn Kernel, idle: Duration) {
        let now = self.moment().generation;
        let unused: Vec<Key> = {
            let mut pairs = self.pairs.lock();
            let has_no_room = |pair: &Pair| {
                matches!(pair.answer, Answer::NoRoom) && pair.moment.generation == now
            };
            if !pairs.values().any(has_no_room) {
                return;
            }
            let unused = pairs.extract_if(|_, pair| {
                matches!(pair.answer, Answer::Granted(_)) && pair.used.elapsed() >= idle
            });
            unused.map(|(key, _)| key).collect()
        };
        if unused.is_empty() {
            return;
        }
        for key in unused {
            withdraw(kernel, key);
        }
        // Last: one that was granted again meanwhile is asked about again, too.
        self.look_again();
    }

    /// Whether some workload of a pair that is granted has no certificate any more.
    pub(super) fn lacks_certificate(&self, mesh: &Mesh, identities: &Identities) -> bool {
        let pairs: Vec<_> = {
            let pairs = self.pairs.lock();
            let granted = pairs.values().filter_map(|pair| match &pair.answer {
                Answer::Granted(ways) => Some((pair.source.clone(), Arc::clone(ways))),
                Answer::Agent | Answer::NoRoom => None,
            });
            granted.collect()
        };
        pairs.iter().any(|(source, ways)| {
            let source = mesh.workload(source);
            let ends = ways.iter().filter_map(|way| way.direct.as_ref().ok());
            let mut ends = ends.map(|direct| &direct.destination).chain(source);
            !ends.all(|workload| is_certified(identities, workload))
        })
    }

    fn moment(&self) -> Moment {
        Moment {
            generation: self.generation.load(Ordering::Acquire),
            epoch: self.epoch.load(Ordering::Acquire),
        }
    }

    /// The ways of a pair that is granted now. Of another generation they mean nothing.
    fn granted(&self, key: &Key) -> Option<Arc<[Way]>> {
        let now = self.generation.load(Ordering::Acquire);
        let pairs = self.pairs.lock();
        let pair = pairs.get(key).filter(|pair| pair.moment.generation == now);
        match &pair?.answer {
            Answer::Granted(ways) => Some(Arc::clone(ways)),
            Answer::Agent | Answer::NoRoom => None,
        }
    }

    fn is_answered(&self, key: &Key, moment: Moment) -> bool {
        let pairs = self.pairs.lock();
        pairs.get(key).is_some_and(|pair| pair.moment == moment)
    }

    /// Counts an answer that there was no room for.
    fn count(&self, answer: &Answer) {
        if matches!(answer, Answer::NoRoom) {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn keep(&self, key: Key, source: WorkloadId, moment: Moment, answer: Answer) {
        let mut pairs = self.pairs.lock();
        if pairs.len() >= self.most && !pairs.contains_key(&key) {
            // What is not granted costs a second look at most.
            pairs.retain(|_, pair| matches!(pair.answer, Answer::Granted(_)));
        }
        if pairs.len() < self.most || pairs.contains_key(&key) {
            let used = Instant::now();
            let pair = Pair {
                source,
                moment,
                answer,
                used,
            };
            pairs.insert(key, pair);
        }
    }
}

/// Decides a pair and tells the kernel. Nothing to be remembered if that may change at any time.
fn answer(
    kernel: &dyn Kernel,
    mesh: &Mesh,
    identities: &Identities,
    (id, key, moment): (&WorkloadId, Key, Moment),
) -> Option<Answer> {
    let (key, address) = key;
    let source = mesh.workload(id)?;
    if !outbound_captured(&source.capture, address).captured {
        return Some(Answer::Agent);
    }
    let ways = decide::ways(mesh, source, address);
    if !are_certified(identities, source, &ways) {
        return None;
    }
    let targets = decide::slots(&ways, rand::random());
    if targets.is_empty() {
        return Some(Answer::Agent);
    }
    let grant = Grant {
        source: key,
        address,
        targets,
        generation: moment.generation,
        tag: 0,
    };
    match kernel.publish(&grant) {
        Ok(()) => Some(Answer::Granted(ways.into())),
        Err(GrantError::Full) => {
            tracing::warn!(workload = %id, %address, "the kernel has no room for another pair of this node; it takes the agent's path");
            Some(Answer::NoRoom)
        }
        // Whoever connects to everything there is would fill the log as well.
        Err(GrantError::Share) => {
            tracing::debug!(workload = %id, %address, "the workload has a quarter of all pairs of this node; this one takes the agent's path");
            Some(Answer::NoRoom)
        }
        Err(error) => {
            tracing::debug!(workload = %id, %address, reason = error.reason(), "a pair of this node takes the agent's path");
            Some(Answer::Agent)
        }
    }
}

/// Whether both ends of every direct way have a certificate.
fn are_certified(identities: &Identities, source: &Workload, ways: &[Way]) -> bool {
    let mut direct = ways.iter().filter_map(|way| way.direct.as_ref().ok());
    is_certified(identities, source)
        && direct.all(|direct| is_certified(identities, &direct.destination))
}

/// Takes back what holds no more. The kernel ignores it already: this makes room.
fn withdraw(kernel: &dyn Kernel, (source, address): Key) {
    if let Err(error) = kernel.withdraw(source, address) {
        tracing::debug!(reason = error.reason(), %address, "cannot withdraw a grant");
    }
}
