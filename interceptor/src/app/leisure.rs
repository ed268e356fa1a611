//! What is done when there is nothing else to do: giving back memory that is not needed any more.
//!
//! Most of an agent's code and a good part of its memory are for starting. And connections leave
//! holes: those that are opened have needed more than they keep, and those that have ended have left
//! everything. The allocator gives back only what is at its end, so it is asked to look, which takes
//! a millisecond for every ten MiB; therefore not while connections come and go.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::connection::{Plane, Registry};
use crate::drain::Tasks;
use crate::net::{give_back_memory, let_go_of_code, let_go_of_stack};
use crate::transport::let_go_of_buffers;

/// How often it is looked whether there is time.
const LOOK: Duration = Duration::from_secs(1);

/// So many connections have come or gone at least before it is worth while.
const MANY: u64 = 256;

/// At most so many come or go between two looks when there is time.
const FEW: u64 = 16;

/// Gives memory back when there is time, until asked to stop.
pub(super) async fn run(plane: Arc<Plane>, tasks: Tasks) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut leisure = Leisure::default();
    loop {
        tokio::select! {
            () = tasks.stopping() => return,
            _ = looks.tick() => {}
        }
        let seen = Seen::of(&plane.registry, plane.mesh.load().version() > 0);
        if leisure.look(seen) == Todo::GiveBack {
            tokio::select! {
                () = tasks.stopping() => return,
                () = plane.lanes.each(let_go_of_lane) => {}
            }
            give_back_memory();
            // Of starting, or of opening connections. What carries them comes back by itself.
            let_go_of_code();
        }
    }
}

/// What only a lane's own thread can let go of.
fn let_go_of_lane() {
    let_go_of_buffers();
    let_go_of_stack();
}

/// What a look shows.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Connections that have been opened so far.
    opened: u64,
    /// Connections that are open.
    open: u64,
    /// There is a mesh.
    configured: bool,
}

impl Seen {
    fn of(registry: &Registry, configured: bool) -> Self {
        Self {
            opened: registry.opened(),
            open: u64::try_from(registry.len()).unwrap_or(u64::MAX),
            configured,
        }
    }

    /// How many have been opened and ended by now.
    const fn changes(self) -> u64 {
        let ended = self.opened.saturating_sub(self.open);
        self.opened.saturating_add(ended)
    }
}

/// What there is time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Todo {
    Nothing,
    GiveBack,
}

/// What has happened since memory was given back.
#[derive(Debug, Default)]
struct Leisure {
    /// At the last look.
    seen: Seen,
    /// Changes until memory was last given back.
    settled: u64,
    started: bool,
}

impl Leisure {
    const fn look(&mut self, now: Seen) -> Todo {
        let before = std::mem::replace(&mut self.seen, now);
        let changes = now.changes();
        // A mesh was there at the last look already: what followed from the first one is done.
        let is_quiet = before.configured && changes.saturating_sub(before.changes()) <= FEW;
        if !is_quiet {
            return Todo::Nothing;
        }
        if !self.started {
            (self.started, self.settled) = (true, changes);
            return Todo::GiveBack;
        }
        if changes.saturating_sub(self.settled) < MANY {
            return Todo::Nothing;
        }
        self.settled = changes;
        Todo::GiveBack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is done at each of these looks: connections opened so far, and open.
    fn looks(counts: &[(u64, u64)]) -> Vec<Todo> {
        let mut leisure = Leisure::default();
        let mut look = |&(opened, open): &(u64, u64)| {
            leisure.look(Seen {
                opened,
                open,
                configured: true,
            })
        };
        counts.iter().map(&mut look).collect()
    }

    #[test]
    fn once_the_start_is_over_its_memory_is_given_back() {
        use Todo::{GiveBack, Nothing};
        let mut leisure = Leisure::default();
        assert_eq!(leisure.look(Seen::default()), Nothing);
        assert_eq!(leisure.look(Seen::default()), Nothing);
        assert_eq!(
            looks(&[(0, 0), (0, 0), (0, 0)]),
            [Nothing, GiveBack, Nothing]
        );
    }

    #[test]
    fn nothing_is_done_while_connections_come_and_go() {
        let counts: Vec<_> = (0..100).map(|n| (n * 100, 50)).collect();
        assert!(looks(&counts).iter().all(|todo| *todo == Todo::Nothing));
    }

    #[test]
    fn what_many_connections_leave_is_given_back_when_they_are_quiet() {
        use Todo::{GiveBack, Nothing};
        let opened_then_ended = [(0, 0), (0, 0), (900, 900), (1000, 1000), (1001, 1001)];
        let done = [Nothing, GiveBack, Nothing, Nothing, GiveBack];
        assert_eq!(looks(&opened_then_ended), done);
        let ended = [(0, 0), (0, 0), (300, 300), (300, 300), (300, 0), (300, 0)];
        let done = [Nothing, GiveBack, Nothing, GiveBack, Nothing, GiveBack];
        assert_eq!(looks(&ended), done);
    }

    #[test]
    fn a_few_connections_are_not_worth_while() {
        use Todo::{GiveBack, Nothing};
        let done = [Nothing, GiveBack, Nothing, Nothing, Nothing];
        assert_eq!(
            looks(&[(0, 0), (0, 0), (100, 100), (100, 0), (100, 0)]),
            done
        );
    }
}
