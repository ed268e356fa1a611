//! The kernel's table of direct connections, as the agent reads it.
//!
//! The kernel enters a connection before its SYN and takes it out when its socket says that it is
//! over. Should a socket ever vanish without a word, its entry is removed here, and so is what calls
//! have left that failed before their SYN.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use interceptor_common::{Call, FlowKey, FlowKind, OpenFlow};
use parking_lot::Mutex;

use super::{DirectFlow, since};
use crate::net::bpf;

/// So long an entry without a socket stays: a socket that ends takes its entry along at once.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The same where the namespace of the socket cannot be asked any more: its workload was released.
pub(super) const LONGER: Duration = Duration::from_mins(10);

/// So long after `connect(2)` its SYN has left, or never will.
const CALL: Duration = Duration::from_secs(10);

/// The same when more than half of their room is taken.
const CROWDED_CALL: Duration = Duration::from_secs(1);

/// The table.
pub(super) struct Table {
    map: OwnedFd,
    /// Connections before their SYN, by the cookie of the socket.
    calls: OwnedFd,
    /// For so many of those there is room.
    room_for_calls: usize,
    /// Entries whose sockets were not found, by cookie and since when.
    missing: Mutex<HashMap<u64, Instant>>,
}

/// An entry of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// The connection.
    pub flow: DirectFlow,
    /// Whether it was accepted.
    pub established: bool,
}

impl Table {
    /// Of the two maps, and how many calls fit.
    pub(super) fn new(map: OwnedFd, (calls, room_for_calls): (OwnedFd, u32)) -> Self {
        Self {
            map,
            calls,
            room_for_calls: usize::try_from(room_for_calls).unwrap_or(usize::MAX),
            missing: Mutex::default(),
        }
    }

    /// Everything that is in it.
    pub(super) fn read(&self) -> io::Result<HashMap<FlowKey, OpenFlow>> {
        Ok(bpf::entries(self.map.as_fd())?.into_iter().collect())
    }

    /// The same for people.
    pub(super) fn entered(&self) -> io::Result<Vec<Entered>> {
        let all = bpf::entries::<FlowKey, OpenFlow>(self.map.as_fd())?;
        let entered = all.iter().map(|(key, open)| Entered {
            flow: DirectFlow::new(open.socket, &open.flow, key),
            established: open.flow.is(FlowKind::Settled),
        });
        Ok(entered.collect())
    }

    /// Removes entries whose sockets were not found repeatedly: not among `found`, for as long as
    /// `patience` says, if it ever ends.
    pub(super) fn sweep(
        &self,
        entries: &HashMap<FlowKey, OpenFlow>,
        found: impl Fn(&OpenFlow) -> bool,
        patience: impl Fn(&OpenFlow) -> Option<Duration>,
    ) {
        let now = Instant::now();
        let mut missing = self.missing.lock();
        let mut still = HashMap::new();
        for (key, open) in entries.iter().filter(|(_, open)| !found(open)) {
            let since = missing.get(&open.socket).copied().unwrap_or(now);
            let is_over = patience(open).is_some_and(|it| now.duration_since(since) >= it);
            if !is_over || !self.remove(key, open) {
                still.insert(open.socket, since);
            }
        }
        *missing = still;
        drop(missing);
        if let Err(error) = self.sweep_calls() {
            tracing::warn!(%error, "cannot remove same-node connections that failed");
        }
    }

    /// Removes what calls to `connect(2)` have left that failed before their SYN: the sooner, the less
    /// room there is, for one workload whose calls fail must not take it from the others.
    pub(super) fn sweep_calls(&self) -> io::Result<()> {
        let calls = self.calls.as_fd();
        let all = bpf::entries::<u64, Call>(calls)?;
        let is_crowded = all.len().saturating_mul(2) > self.room_for_calls;
        let patience = if is_crowded { CROWDED_CALL } else { CALL };
        let mut over =
            (all.into_iter()).filter(|(_, call)| since(call.open.flow.since_ns) > patience);
        over.try_for_each(|(socket, _)| bpf::remove(calls, &socket))
    }

    /// Removes an entry, unless the 4-tuple is another socket's by now. Returns whether it is gone.
    fn remove(&self, key: &FlowKey, open: &OpenFlow) -> bool {
        let map = self.map.as_fd();
        let removed = match bpf::entry::<FlowKey, OpenFlow>(map, key) {
            Ok(Some(now)) if now.socket == open.socket => bpf::remove(map, key),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = &removed {
            tracing::warn!(%error, "cannot remove a same-node connection whose socket is gone");
        }
        removed.is_ok()
    }
}
