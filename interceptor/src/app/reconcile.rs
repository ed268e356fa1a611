//! Keeping the enrolled workloads equal to the mesh's local workloads.
//!
//! ```text
//!  Mesh changed ─┐
//!  every second ─┼─▶ wanted (mesh.local) ── compare ──▶ enrol · update · un-enrol
//!                └─▶ a namespace or cgroup vanished or was replaced
//! ```
//!
//! A workload is enrolled only when its certificate is there, so that its first connection does
//! not fail; one that cannot be enrolled is retried with growing pauses and shown by `status`
//! meanwhile. Nothing that fails for one workload holds up another.
//!
//! Not here: what enrolling does to the kernel (`capture`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::succession::{Predecessor, Succession};
use super::take_over::Petition;
use crate::capture::{Capture, EnrolError, Listeners};
use crate::connection::accept::{self, Door};
use crate::connection::{Bounds, Local, Plane};
use crate::drain::Tasks;
use crate::error::chain;
use crate::lanes::Lane;
use crate::transport;
use crate::workload::source::Published;
use crate::workload::{Workload, WorkloadId};

/// How often vanished namespaces and failed enrolments are looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// Longest pause between two attempts to enrol the same workload.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The enrolled workloads and those that should be.
pub(super) struct Reconciler {
    /// What connections need.
    pub(super) plane: Arc<Plane>,
    /// Limits of the tunnels.
    pub(super) transport: Arc<transport::Config>,
    /// How many connections each workload may have open.
    pub(super) bounds: Bounds,
    /// The kernel programs.
    pub(super) capture: Capture,
    /// How many workloads have been given a lane for their listeners.
    pub(super) turn: usize,
    /// Parent of every workload's tasks.
    pub(super) tasks: Tasks,
    /// Parent of every workload's tunnels. They outlive the connections: one that was accepted just
    /// before the agent stops has still to open one.
    pub(super) tunnels: Tasks,
    /// What is enrolled, for `status`.
    pub(super) enrolled: Enrolled,
    /// The agent that this one takes over from, until that is through.
    pub(super) predecessor: Option<Predecessor>,
    /// Who may take over from this one.
    pub(super) succession: Succession,
    /// Whether a successor has been here and left its traces.
    pub(super) unsettled: bool,
    /// One that did not take over and may not know it yet.
    pub(super) rejected: Option<Petition>,
}

/// The state of each local workload, shared with `status`. Clones share the same table.
#[derive(Clone, Default)]
pub(super) struct Enrolled(Arc<Mutex<HashMap<WorkloadId, State>>>);

/// Where a local workload stands.
#[derive(Clone)]
pub(super) enum State {
    /// Captured.
    Enrolled {
        /// As it was enrolled or last updated.
        workload: Arc<Workload>,
        /// The kernel's key of it.
        key: u64,
        /// Its accept loops and connections.
        tasks: Tasks,
        /// Its tunnels.
        tunnels: Tasks,
    },
    /// Not captured, though it should be.
    Failed {
        /// Why, with all sources.
        error: String,
        /// Whether its ports refuse meanwhile. Not if it is not known where it is, or its owner
        /// prefers plaintext.
        closed: bool,
        /// Whether it is the lack of room.
        full: bool,
        /// How often it was tried.
        attempts: u32,
        /// When to try again.
        retry_at: Instant,
    },
}

impl Enrolled {
    /// Each local workload's state now.
    pub(super) fn snapshot(&self) -> HashMap<WorkloadId, State> {
        self.0.lock().clone()
    }

    fn state(&self, id: &WorkloadId) -> Option<State> {
        self.0.lock().get(id).cloned()
    }

    fn set(&self, id: WorkloadId, state: State) {
        self.0.lock().insert(id, state);
    }
}

impl Reconciler {
    /// Follows the mesh until the tasks are asked to stop, or a successor does. `first` is told
    /// when the first pass is through.
    pub(super) async fn run(mut self, mut published: Published, first: watch::Sender<bool>) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.resume();
            if self.reconcile().await {
                if !self.settle().await {
                    return;
                }
                self.retire_unclaimed();
                first.send_if_modified(|passed| !std::mem::replace(passed, true));
            }
            tokio::select! {
                () = self.tasks.stopping() => return,
                Some(petition) = self.succession.petitions.recv() => {
                    if self.hand_over(petition).await {
                        return;
                    }
                }
                () = Self::is_gone(&mut self.rejected) => self.unsettled = true,
                () = published.changed() => {}
                _ = tick.tick() => {}
            }
        }
    }

    /// Makes one pass, if there is a mesh to make it by.
    async fn reconcile(&mut self) -> bool {
        if let Err(error) = self.capture.follow_prober() {
            tracing::warn!(error = %chain(&error), "kubelet's probes are not recognised");
        }
        self.look_after();
        let mesh = self.plane.mesh.load_full();
        if mesh.version() == 0 {
            // Nothing is known yet: what an earlier agent captured stays refused.
            return false;
        }
        let wanted: HashMap<WorkloadId, Arc<Workload>> = mesh
            .local()
            .map(|workload| (workload.id.clone(), Arc::clone(workload)))
            .collect();
        let vanished = self.capture.vanished();
        for (id, state) in self.enrolled.snapshot() {
            if !wanted.contains_key(&id) {
                self.release(&id, &state, "it is no longer configured for this node");
            } else if vanished.contains(&id) {
                self.release(&id, &state, "its namespace or cgroup is gone");
            }
        }
        let identities = wanted.values().map(|workload| workload.identity.clone());
        self.plane.identities.want(identities);
        for (id, workload) in wanted {
            self.follow(&id, workload).await;
        }
        true
    }

    /// Sees to it that what captures stays in its place. Not while a successor is at work there.
    fn look_after(&mut self) {
        if self.unsettled || self.rejected.is_some() {
            return;
        }
        for loss in self.capture.look_after() {
            let (pin, what) = (loss.pin.display(), loss.lost.what());
            let consequence = loss.lost.consequence();
            match &loss.error {
                None => {
                    tracing::error!(%pin, what, "the kernel half was tampered with; put back. Find out who does that");
                }
                Some(error) => {
                    tracing::error!(%pin, what, error, consequence, "the kernel half was tampered with and cannot be put back; trying again");
                }
            }
        }
    }

    /// After the first complete pass: removes what an earlier agent enrolled and this
    /// configuration does not.
    fn retire_unclaimed(&mut self) {
        match self.capture.retire_unclaimed() {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "released workloads of an earlier configuration"),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "a workload of an earlier configuration could not be released");
            }
        }
    }

    /// Brings one workload to where the mesh wants it.
    async fn follow(&mut self, id: &WorkloadId, workload: Arc<Workload>) {
        match self.enrolled.state(id) {
            None => self.enrol(workload, 0).await,
            Some(State::Failed {
                attempts, retry_at, ..
            }) => {
                if Instant::now() >= retry_at {
                    self.enrol(workload, attempts).await;
                }
            }
            Some(
                ref state @ State::Enrolled {
                    workload: ref old, ..
                },
            ) => {
                if old.binding != workload.binding {
                    self.release(id, state, "it moved to another namespace or cgroup");
                    self.enrol(workload, 0).await;
                } else if *old != workload || self.capture.may_take_more(id) {
                    self.update(workload, state).await;
                }
            }
        }
    }

    async fn enrol(&mut self, workload: Arc<Workload>, attempts: u32) {
        let id = workload.id.clone();
        if let Err(error) = self.plane.identities.ensure(&workload.identity).await {
            return self.failed(&workload, &error, (attempts, false));
        }
        // Listeners belong to the lane on which they are made; those of a workload are on one.
        let lane = self.next_lane();
        let enrolled = {
            let _lane = lane.as_deref().map(Lane::enter);
            self.capture.enrol(&workload)
        };
        match enrolled {
            Err(error) => {
                let full = matches!(error, EnrolError::Full { .. });
                self.failed(&workload, &error, (attempts, full));
            }
            Ok(enrolled) => {
                tracing::info!(workload = %id, identity = %workload.identity, "enrolled");
                let (tasks, carriers) = (self.tasks.child(), self.tunnels.child());
                let tunnels = transport::Client::per_lane(
                    self.plane.lanes.len(),
                    &self.transport,
                    &self.plane.identities,
                    &enrolled.dialer,
                    &carriers,
                );
                let key = enrolled.key;
                self.plane.direct.enrolled(key, id.clone());
                let local = Arc::new(Local {
                    id: id.clone(),
                    key,
                    dialer: enrolled.dialer,
                    origin: enrolled.origin,
                    tunnels,
                    open: AtomicUsize::new(0),
                    bounds: self.bounds,
                });
                let _lane = lane.as_deref().map(Lane::enter);
                self.open(&local, enrolled.listeners, &tasks);
                self.enrolled.set(
                    id,
                    State::Enrolled {
                        workload,
                        key,
                        tasks,
                        tunnels: carriers,
                    },
                );
            }
        }
    }

    /// The lane of the next workload's listeners: in turn.
    fn next_lane(&mut self) -> Option<Arc<Lane>> {
        self.turn = self.turn.wrapping_add(1);
        self.plane.lanes.turn(self.turn).cloned()
    }

    fn open(&self, local: &Arc<Local>, listeners: Listeners, tasks: &Tasks) {
        let doors = [
            (Door::Outbound, listeners.outbound),
            (Door::Plaintext, listeners.inbound),
            (Door::Hbone, listeners.hbone),
        ];
        for (door, listeners) in doors {
            for listener in listeners {
                accept::serve(&self.plane, local, door, listener, tasks);
            }
        }
    }

    /// Publishes what changed about an enrolled workload; its listeners stay.
    async fn update(&mut self, workload: Arc<Workload>, state: &State) {
        let State::Enrolled {
            key,
            tasks,
            tunnels,
            ..
        } = state
        else {
            return;
        };
        let id = workload.id.clone();
        let issued = self.plane.identities.ensure(&workload.identity).await;
        if let Err(error) = issued {
            // The old certificate must not be used for the new identity: refused until it is there.
            tracing::warn!(workload = %id, error = %chain(&error), "no certificate for its new identity");
            return;
        }
        if let Err(error) = self.capture.update(&workload) {
            tracing::warn!(workload = %id, error = %chain(&error), "its capture rules could not be changed");
            return;
        }
        tracing::info!(workload = %id, "updated");
        let (key, tasks, tunnels) = (*key, tasks.clone(), tunnels.clone());
        self.enrolled.set(
            id,
            State::Enrolled {
                workload,
                key,
                tasks,
                tunnels,
            },
        );
    }

    fn release(&mut self, id: &WorkloadId, state: &State, why: &str) {
        if let State::Enrolled {
            tasks,
            tunnels,
            key,
            ..
        } = state
        {
            // First the kernel, so that what has been handed to the listeners is all there will be.
            if let Err(error) = self.capture.unenrol(id) {
                tracing::warn!(workload = %id, error = %chain(&error), "not everything could be removed");
            }
            tasks.stop();
            tunnels.stop();
            self.plane.direct.released(*key);
            tracing::info!(workload = %id, why, "un-enrolled");
        } else if let Err(error) = self.capture.open_closed(id) {
            tracing::warn!(workload = %id, error = %chain(&error), "its ports stay closed");
        }
        self.enrolled.0.lock().remove(id);
    }

    fn failed(
        &mut self,
        workload: &Workload,
        error: &dyn std::error::Error,
        (attempts, full): (u32, bool),
    ) {
        let id = workload.id.clone();
        let error = chain(error);
        let pause = INTERVAL.saturating_mul(1 << attempts.min(5)).min(MAX_PAUSE);
        let closed = self.capture.keep_closed(workload);
        if closed {
            tracing::warn!(workload = %id, error, ?pause, "cannot enrol; its ports stay closed");
        } else {
            tracing::warn!(workload = %id, error, ?pause, "cannot enrol; its ports are not captured");
        }
        let attempts = attempts.saturating_add(1);
        let retry_at = Instant::now() + pause;
        self.enrolled.set(
            id,
            State::Failed {
                error,
                closed,
                full,
                attempts,
                retry_at,
            },
        );
    }
}
