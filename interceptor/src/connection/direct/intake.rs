//! What the kernel tells, taken in a batch at a time.
//!
//! Most connections are over before the agent hears of them: opening and end are in one batch of
//! events, and they are reported as a whole ([`Kinds`]). The others are entered among the open
//! connections, like those that the agent carries itself, once they are old enough: one that was
//! opened just now is most likely over with the next batch, and a place in a table that others lock
//! costs more than all the rest.

use std::collections::HashMap;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::flows::{Ending, Id, closed, id, opened, whole};
use super::kinds::Kinds;
use super::{DirectPath, Plane};
use crate::capture::{DirectFlow, Event, monotonic};

/// So old is a connection when it is entered. With the time that its opening may wait in the
/// buffer, that is how long one may go on that was opened under a mesh that has changed since.
pub(super) const YOUNG: Duration = Duration::from_millis(100);

/// Between the kernel's events and the connections that are known.
#[derive(Default)]
pub(super) struct Intake {
    /// Opened just now.
    fresh: HashMap<Id, DirectFlow, RandomState>,
    kinds: Kinds,
}

impl Intake {
    /// Forgets what was looked up, which may not hold any more or be of no use, and gives room back.
    pub(super) fn forget(&mut self) {
        self.kinds.forget();
        self.fresh.shrink_to_fit();
    }

    /// Enters connections that are older than this. Returns whether there are others.
    fn enter(&mut self, path: &DirectPath, plane: &Plane, age: Duration) -> bool {
        let now = monotonic();
        self.fresh.retain(|_, flow| {
            if now.saturating_sub(flow.opened()) < age {
                return true;
            }
            path.grants.used(flow);
            opened(path, plane, flow);
            false
        });
        !self.fresh.is_empty()
    }
}

/// Takes in what has happened, in its order. Returns whether some connection is too young to be
/// entered, so that this should be called again soon.
pub(super) fn take_in(
    path: &DirectPath,
    plane: &Plane,
    events: impl IntoIterator<Item = Event>,
) -> bool {
    let mut intake = path.intake.lock();
    let Intake { fresh, kinds } = &mut *intake;
    let mut round = kinds.begin(path, plane);
    for event in events {
        match event {
            Event::Opened(flow) => {
                fresh.insert(id(&flow), flow);
            }
            Event::Closed {
                flow,
                totals,
                established,
                end,
            } => {
                fresh.remove(&id(&flow));
                let ending = Ending {
                    totals,
                    established,
                    end,
                };
                if closed(path, plane, &flow, ending) || round.report(&flow, &ending) {
                    continue;
                }
                path.grants.used(&flow);
                whole(path, plane, &flow, ending);
            }
        }
    }
    drop(round);
    intake.enter(path, plane, YOUNG)
}

/// Enters all connections that were told to be open, however young.
pub(super) fn enter_all(path: &DirectPath, plane: &Plane) {
    path.intake.lock().enter(path, plane, Duration::ZERO);
}
