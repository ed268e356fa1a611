//! Where the reconciler stands between a predecessor and a successor: finishing a take-over once
//! everything is enrolled, and handing over when asked.
//!
//! The reconciler does this itself, because nothing else may change the kernel's entries
//! meanwhile.
//!
//! Not here: what the agents say to each other (`take_over`).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

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
        let Some(Predecessor { taking, settled }) = self.predecessor.take() else {
            return true;
        };
        let outcome = match self.not_served() {
            None => taking.finish().await,
            Some(why) => {
                taking.give_up(why.clone()).await;
                Err(TakeOverError::NotServed(why))
            }
        };
        let goes_on = outcome.is_ok();
        // Who waits for this is the process itself.
        let _ended = settled.send(outcome);
        goes_on
    }

    /// A workload that was captured and could not be enrolled here.
    fn not_served(&self) -> Option<String> {
        let mut states = self.enrolled.snapshot().into_iter();
        states.find_map(|(id, state)| match state {
            State::Failed {
                error,
                closed: true,
                ..
            } => Some(format!("{id} could not be served: {error}")),
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
                outcome = petition.conduct(&estate, &self.succession.ports, || direct.leave_events()) => outcome,
            },
        };
        match outcome {
            Ok(()) => {
                self.succession.replaced.send_replace(true);
                true
            }
            Err(error) => {
                direct.resume_events();
                tracing::warn!(version, error = %chain(&error), "the successor did not take over; this agent goes on");
                self.unsettled = true;
                false
            }
        }
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
