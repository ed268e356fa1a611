//! Where the reconciler stands between a predecessor and a successor: finishing a take-over once
//! everything is enrolled, and handing over when asked.
//!
//! The reconciler does this itself, because nothing else may change the kernel's entries
//! meanwhile.
//!
//! Not here: what the agents say to each other (`take_over`).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot, watch};

use super::reconcile::{Reconciler, State};
use super::take_over::{Petition, TakeOverError, Taking};
use crate::error::chain;

/// Open ports and where they listen.
pub(super) type Ports = Vec<(SocketAddr, OwnedFd)>;

/// The agent that this one takes over from.
pub(super) struct Predecessor {
    /// The take-over that has begun.
    pub(super) taking: Taking,
    /// Told how it ended.
    pub(super) settled: oneshot::Sender<Result<(), TakeOverError>>,
    /// Whose word counts: the reconciler's, or that of whoever waits for it.
    pub(super) word: LastWord,
}

/// A decision that two may take, and the first of them does.
#[derive(Clone, Default)]
pub(super) struct LastWord(Arc<AtomicBool>);

impl LastWord {
    /// Takes the decision. False if the other one has.
    pub(super) fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// What a successor may ask for, and what it means for this agent.
pub(super) struct Succession {
    /// Successors that ask.
    pub(super) petitions: mpsc::Receiver<Petition>,
    /// The node's own ports.
    pub(super) ports: Ports,
    /// Told when the node is a successor's.
    pub(super) replaced: watch::Sender<bool>,
}

impl Reconciler {
    /// After the first pass: takes the node over, if everything that its workloads had is served.
    /// Returns whether to go on.
    pub(super) async fn settle(&mut self) -> bool {
        let Some(predecessor) = self.predecessor.take() else {
            return true;
        };
        let Predecessor {
            taking,
            settled,
            word,
        } = predecessor;
        let outcome = match self.not_served() {
            // Whoever waits for this has given up: this process is about to end.
            _ if !word.take() => {
                taking.give_up(TakeOverError::Stopping.to_string()).await;
                Err(TakeOverError::Stopping)
            }
            None => taking.finish().await,
            Some(why) => {
                taking.give_up(why.clone()).await;
                Err(TakeOverError::NotServed(why))
            }
        };
        let goes_on = outcome.is_ok();
        if goes_on {
            // Until now the other one has granted, too, by a mesh of its own.
            self.plane.direct.distrust();
        } else {
            self.plane.direct.leave();
        }
        // Who waits for this is the process itself.
        let _ended = settled.send(outcome);
        goes_on
    }

    /// A workload that the predecessor serves and that could not be enrolled here.
    fn not_served(&self) -> Option<String> {
        let mut states = self.enrolled.snapshot().into_iter();
        states.find_map(|(id, state)| match state {
            State::Failed {
                error,
                closed: true,
                ..
            } if self.capture.is_served_elsewhere(&id) => {
                Some(format!("{id} could not be served: {error}"))
            }
            State::Failed { .. } | State::Enrolled { .. } => None,
        })
    }

    /// Hands everything to a successor. Returns whether it is the successor's now.
    pub(super) async fn hand_over(&mut self, mut petition: Petition) -> bool {
        let version = petition.version.clone();
        tracing::info!(version, "a successor takes over");
        let (tasks, direct) = (self.tasks.clone(), self.capture.direct());
        let outcome = match self.capture.estate() {
            Err(error) => Err(error.into()),
            Ok(estate) => tokio::select! {
                // Whoever stops this agent wants it to end; the successor starts anew.
                () = tasks.stopping() => Err(TakeOverError::Stopping),
                outcome = petition.conduct(&estate, &self.succession.ports, || {
                    self.plane.direct.leave();
                    direct.leave_events();
                }) => outcome,
            },
        };
        match outcome {
            Ok(()) => {
                self.succession.replaced.send_replace(true);
                true
            }
            Err(error) => {
                direct.resume_events();
                self.plane.direct.go_on();
                tracing::warn!(version, error = %chain(&error), "the successor did not take over; this agent goes on");
                self.unsettled = true;
                self.rejected = Some(petition);
                false
            }
        }
    }

    /// Waits until a successor that did not take over is gone. What it has done until then may have
    /// undone what was put back.
    pub(super) async fn is_gone(rejected: &mut Option<Petition>) {
        match rejected {
            Some(petition) => petition.gone().await,
            None => std::future::pending().await,
        }
        *rejected = None;
    }

    /// Puts everything of this agent back in its place, if a successor has been at it.
    pub(super) fn resume(&mut self) {
        if !self.unsettled {
            return;
        }
        self.plane.direct.distrust();
        match self.capture.resume() {
            Ok(failed) => {
                self.unsettled = !failed.is_empty();
                for (id, error) in failed {
                    tracing::error!(workload = %id, error = %chain(&error), "cannot be put back after a failed take-over; trying again");
                }
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), "cannot put the programs back after a failed take-over; trying again");
            }
        }
    }
}
