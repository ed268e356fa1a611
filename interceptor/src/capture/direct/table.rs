//! The kernel's table of direct connections, as the agent reads it.
//!
//! The kernel enters a connection before its SYN and takes it out when its socket says that it is
//! over. Should a socket ever vanish without a word, its entry is removed here, and so is what calls
//! have left, beside their places, that failed before their SYN.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use interceptor_common::{Call, FlowKey, FlowKind, OpenFlow};
use parking_lot::Mutex;

use super::{DirectFlow, since};
use crate::net::bpf;

/// So long an entry without a socket stays: a socket that ends takes its entry along at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same where the namespace of the socket cannot be asked any more: its workload was released.
const LONGER: Duration = Duration::from_mins(10);

/// So long after `connect(2)` its SYN has left, or never will.
const CALL: Duration = Duration::from_secs(10);

/// The same when more than half of their room is taken.
const CROWDED_CALL: Duration = Duration::from_secs(1);

/// The table.
pub(super) struct Table {
    map: OwnedFd,
    /// Connections before their SYN that have no place, by the cookie of the socket.
    calls: OwnedFd,
    /// For so many of those there is room.
    room_for_calls: usize,
    missing: Mutex<Missing>,
}

/// Entries whose sockets were not found, by cookie and since when.
#[derive(Default)]
struct Missing(HashMap<u64, Instant>);

/// Whose an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A workload whose sockets are asked for.
    Enrolled,
    /// One that is in the kernel and not enrolled, or not yet: somebody may ask for its sockets later.
    Unserved,
    /// One that was released. Its socket may live on, and say that it is over, or be gone for good.
    Released,
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

    /// Removes entries whose sockets were not found for too long: not among `found`.
    pub(super) fn sweep(
        &self,
        entries: &HashMap<FlowKey, OpenFlow>,
        found: impl Fn(&OpenFlow) -> bool,
        owner: impl Fn(&OpenFlow) -> Owner,
    ) {
        let not_found = entries.iter().filter(|(_, open)| !found(open));
        let not_found = not_found.map(|(key, open)| (key, open, owner(open)));
        let over = self.missing.lock().over(not_found, Instant::now());
        for (key, open) in over {
            self.remove(key, open);
        }
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

    /// Removes an entry, unless the 4-tuple is another socket's by now. If it stays, it is tried again.
    fn remove(&self, key: &FlowKey, open: &OpenFlow) {
        let map = self.map.as_fd();
        let removed = match bpf::entry::<FlowKey, OpenFlow>(map, key) {
            Ok(Some(now)) if now.socket == open.socket => bpf::remove(map, key),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, "cannot remove a same-node connection whose socket is gone");
        }
    }
}

impl Missing {
    /// These were not found now: those for which that has gone on for too long, at every look in between.
    fn over<'e>(
        &mut self,
        not_found: impl Iterator<Item = (&'e FlowKey, &'e OpenFlow, Owner)>,
        now: Instant,
    ) -> Vec<(&'e FlowKey, &'e OpenFlow)> {
        let (mut still, mut over) = (HashMap::new(), Vec::new());
        for (key, open, owner) in not_found {
            let since = self.0.get(&open.socket).copied().unwrap_or(now);
            still.insert(open.socket, since);
            let patience = owner.patience();
            if patience.is_some_and(|it| now.duration_since(since) >= it) {
                over.push((key, open));
            }
        }
        self.0 = still;
        over
    }
}

impl Owner {
    /// So long its entry may be without a socket, if not for ever.
    const fn patience(self) -> Option<Duration> {
        match self {
            Self::Enrolled => Some(PATIENCE),
            Self::Unserved => None,
            Self::Released => Some(LONGER),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// Whether an entry is over after so many seconds in which its socket was looked for every second
    /// and not found, but for these.
    fn is_over(owner: Owner, seconds: u64, found_at: &[u64]) -> bool {
        let (key, open) = (FlowKey::default(), OpenFlow::default());
        let (mut missing, began) = (Missing::default(), Instant::now());
        let mut last = Vec::new();
        for second in 0..=seconds {
            let not_found = (!found_at.contains(&second)).then_some((&key, &open, owner));
            let now = began + Duration::from_secs(second);
            last = missing.over(not_found.into_iter(), now);
            assert!(last.is_empty() || second == seconds, "at {second} already");
        }
        !last.is_empty()
    }

    #[rstest]
    #[case::of_a_workload(Owner::Enrolled, 2)]
    #[case::of_one_that_was_released(Owner::Released, 10 * 60)]
    fn an_entry_without_a_socket_is_over_in_time_and_not_before(
        #[case] owner: Owner,
        #[case] after: u64,
    ) {
        assert!(!is_over(owner, after - 1, &[]));
        assert!(is_over(owner, after, &[]));
        // Found once in between, it is looked for anew.
        assert!(!is_over(owner, after, &[1]));
        assert!(is_over(owner, after + 2, &[1]));
    }

    #[test]
    fn what_a_workload_has_that_may_be_enrolled_later_waits_for_that() {
        assert!(!is_over(Owner::Unserved, 24 * 60 * 60, &[]));
    }

    #[test]
    fn a_workload_that_is_released_while_its_entry_waits_has_waited_already() {
        let (key, open) = (FlowKey::default(), OpenFlow::default());
        let (mut missing, began) = (Missing::default(), Instant::now());
        let mut look = |owner, seconds| {
            let not_found = std::iter::once((&key, &open, owner));
            missing
                .over(not_found, began + Duration::from_secs(seconds))
                .len()
        };
        assert_eq!(look(Owner::Unserved, 0), 0);
        assert_eq!(look(Owner::Released, 60), 0);
        assert_eq!(look(Owner::Released, 10 * 60), 1);
        assert_eq!(look(Owner::Released, 10 * 60 + 1), 1, "until it is gone");
    }
}
