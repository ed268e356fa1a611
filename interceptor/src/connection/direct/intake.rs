//! What the kernel tells, taken in a batch at a time.
//!
//! Most connections are over when the agent hears of them, and are reported as a whole ([`Kinds`]). The
//! others it finds in the kernel's table, where it looks a few times a second, or hears of, if they had
//! no room there. They are entered among the open connections, like those that the agent carries
//! itself, once they are old enough: one that was opened just now is most likely over in a moment, and a
//! place in a table that others lock costs more than all the rest.
//!
//! # Order
//!
//! Events and table are read by one task. The kernel takes a connection out of its table before it tells
//! that it is over, so none is entered whose end was read before.

use std::collections::HashMap;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::flows::{Ending, Id, closed, id, is_known, opened, waits, whole};
use super::kinds::Kinds;
use super::{DirectPath, Plane};
use crate::capture::{DirectFlow, Entered, Event, monotonic};

/// So old is a connection when it is entered. With the time until the next look at the table, that is
/// how long one may go on that was opened under a mesh that has changed since.
pub(super) const YOUNG: Duration = Duration::from_millis(100);

/// Between the kernel's events and the connections that are known.
#[derive(Default)]
pub(super) struct Intake {
    /// Opened just now, and not in the table.
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
            if now.saturating_sub(flow.opened()) < age || waits(path, flow) {
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

/// Enters what the kernel's table has, once it is old enough and its workloads are known. Returns
/// whether there is something of which that is not so, or that was not accepted yet, so that this
/// should be called again.
pub(super) fn look_up(path: &DirectPath, plane: &Plane, table: &[Entered]) -> bool {
    let _order = path.intake.lock();
    let now = monotonic();
    let mut others = false;
    for Entered { flow, established } in table {
        let is_young = now.saturating_sub(flow.opened()) < YOUNG;
        if !established || is_young || waits(path, flow) {
            others = true;
        } else if !is_known(path, flow) && is_anybodys(path, flow) {
            path.grants.used(flow);
            opened(path, plane, flow);
        }
    }
    others
}

/// Whether there is anybody to judge it for, and to cut it at. If not, its workloads were released, and
/// its socket is not asked for any more.
fn is_anybodys(path: &DirectPath, flow: &DirectFlow) -> bool {
    path.kernel.is_workload(flow.source) || path.kernel.is_workload(flow.destination)
}

/// Enters all connections that were told to be open, however young.
pub(super) fn enter_all(path: &DirectPath, plane: &Plane) {
    path.intake.lock().enter(path, plane, Duration::ZERO);
}
