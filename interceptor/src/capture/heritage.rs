//! What a running agent leaves to its successor, and going on when the successor gives up.
//!
//! The successor gets the node's lock and the workloads' listeners. A listener is the same socket
//! in both processes, so its place in the kernel's map of listeners and the connections that wait
//! in it stay what they are, whoever of the two ends first.
//!
//! # Invariants
//!
//! * As long as both run, both serve: nothing that a successor does takes a captured connection
//!   away from the predecessor that it does not itself accept.
//!
//! Not here: how the two talk (`app::take_over`).

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use interceptor_common::ListenerKey;

use super::config::Config;
use super::enrol::{self, Enrolment};
use super::error::{CaptureError, EnrolError};
use super::lock::NodeLock;
use super::prober::{self, Probers};
use super::{Capture, WorkloadId};

/// What an agent can hand over. The listeners stay its own, too.
#[derive(Debug)]
pub struct Estate {
    /// The node's lock.
    pub lock: OwnedFd,
    /// The listeners of all workloads.
    pub listeners: Vec<(ListenerKey, Arc<tokio::net::TcpListener>)>,
}

/// What an agent was handed.
#[derive(Debug)]
pub struct Heritage {
    /// The node's lock.
    pub lock: OwnedFd,
    /// The listeners of all workloads.
    pub listeners: Vec<(ListenerKey, OwnedFd)>,
}

/// Listeners that wait for the enrolment of their workload.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    waiting: HashMap<ListenerKey, TcpListener>,
    /// The workloads that the predecessor serves.
    served: HashSet<u64>,
}

impl Heritage {
    /// Checks that it is this node's.
    pub(super) fn open(self, config: &Config) -> Result<(NodeLock, Inherited), CaptureError> {
        let lock = NodeLock::inherit(self.lock, config)?;
        let listeners = self.listeners.into_iter();
        let listeners = listeners.map(|(key, socket)| (key, TcpListener::from(socket)));
        let waiting: HashMap<_, _> = listeners.collect();
        let served = waiting.keys().map(|key| key.workload).collect();
        Ok((lock, Inherited { waiting, served }))
    }
}

impl Inherited {
    /// Takes the listener for this key, if there is one and it listens where it is wanted: the
    /// configuration may name other ports by now.
    pub(super) fn take(&mut self, key: ListenerKey, wanted: SocketAddr) -> Option<TcpListener> {
        let listener = self.waiting.remove(&key)?;
        let found = listener.local_addr().ok()?;
        let same_port = wanted.port() == 0 || wanted.port() == found.port();
        (same_port && wanted.ip() == found.ip()).then_some(listener)
    }

    /// Whether the predecessor serves the workload with this key.
    pub(super) fn serves(&self, key: u64) -> bool {
        self.served.contains(&key)
    }

    /// Closes those that nobody claimed.
    pub(super) fn close(&mut self) {
        self.waiting.clear();
    }
}

/// Puts everything of ours back in its place.
pub(super) fn resume(capture: &mut Capture) -> Result<Vec<(WorkloadId, EnrolError)>, CaptureError> {
    capture.loaded.attach_again()?;
    let read = capture.loaded.maps.read_all();
    let (entries, probers) = read.map_err(|source| CaptureError::Load {
        what: "the pinned maps".to_owned(),
        source: source.into(),
    })?;
    capture.adopted = entries;
    capture.probers = Probers::adopted(probers);
    let ours: Vec<_> = (capture.enrolled.iter())
        .map(|(id, enrolment)| (id.clone(), Enrolment::key(enrolment)))
        .collect();
    let mut failed = Vec::new();
    for (id, key) in ours {
        let found = capture.adopted.remove(&key).unwrap_or_default();
        if let Err(error) = enrol::write_again(capture, &id, &found) {
            failed.push((id, error));
        }
    }
    enrol::publish(capture);
    // What it trusted and granted is nobody's verdict any more.
    capture.direct.advance();
    prober::follow(capture).map_err(|error| CaptureError::Load {
        what: "the probers".to_owned(),
        source: error.into(),
    })?;
    Ok(failed)
}
