//! The task that keeps the kernel's grants equal to the mesh and takes in what it tells.
//!
//! ```text
//!  first mesh ▶ void what an earlier agent granted ▶ workloads enrolled ▶ adopt what is open
//!  events ────▶ records                mesh changed ▶ void, judge, grant again
//!  five times a second ▶ the kernel's table
//!  twice a second ▶ losses, what could not be done before
//!  a certificate's end ▶ void, judge, grant again
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::flows::{compare, judge, refresh};
use super::grants::IDLE;
use super::intake::{YOUNG, look_up, take_in};
use super::{DirectPath, Plane};
use crate::capture::Events;
use crate::drain::Tasks;
use crate::workload::source::Published;

/// How often it is looked at what no event tells: events that are lost, clocks that jump. When a
/// certificate ends before that, then.
const INTERVAL: Duration = Duration::from_millis(500);

/// How often the kernel's table is looked at, if something was entered.
const TABLE: Duration = Duration::from_millis(200);

/// So often, in those, it is looked at whatever the counter says, which promises nothing: what may
/// not go on ends within a second.
const ANYWAY: u32 = 4;

/// So often, in intervals, everything is compared with the sockets though nothing was lost: should the
/// kernel ever not have told of an end. And room is made for pairs that have none.
const COMPARE: u32 = 120;

/// So often the counters of long connections move without anybody asking.
const REFRESH: u32 = 10;

/// At most so many events are taken in before something else is looked at.
const BATCH: usize = 4096;

/// Follows the mesh and the kernel until the tasks are asked to stop. `passed` tells when the
/// workloads of the first mesh are enrolled. Open connections go on after that, and the next agent
/// takes them over.
pub async fn run(
    plane: Arc<Plane>,
    events: Events,
    (published, passed): (Published, watch::Receiver<bool>),
    tasks: Tasks,
) {
    let lost = plane.direct.kernel.lost();
    let follower = Follower {
        path: Arc::clone(&plane.direct),
        plane,
        events,
        published,
        is_void: false,
        lost,
        compare: true,
        ticks: 0,
        young: false,
        news: News::default(),
    };
    tokio::select! {
        () = tasks.stopping() => {}
        () = follower.run(passed) => {}
    }
}

struct Follower {
    plane: Arc<Plane>,
    path: Arc<DirectPath>,
    events: Events,
    published: Published,
    /// Whether what was granted by the mesh before this one is void.
    is_void: bool,
    /// Lost events that have been looked into.
    lost: u64,
    /// Whether to compare with the sockets that are open.
    compare: bool,
    ticks: u32,
    /// Some connection was opened just now.
    young: bool,
    news: News,
}

/// Whether the kernel's table is to be looked at.
#[derive(Default)]
struct News {
    /// How many connections had been entered when it was looked at last, if all that were in it then
    /// are known.
    settled: Option<u64>,
    /// How often this was asked.
    asked: u32,
}

impl News {
    /// Whether there is likely anything new, or the table was not looked at lately.
    const fn are_due(&mut self, entered: u64) -> bool {
        self.asked = self.asked.wrapping_add(1);
        let is_settled = matches!(self.settled, Some(settled) if settled == entered);
        !is_settled || self.asked.is_multiple_of(ANYWAY)
    }
}

impl Follower {
    async fn run(mut self, mut passed: watch::Receiver<bool>) {
        while self.plane.mesh.load().version() == 0 {
            self.published.changed().await;
        }
        self.follow_mesh();
        if passed.wait_for(|passed| *passed).await.is_err() {
            return;
        }
        self.look();
        let mut tick = tokio::time::interval(INTERVAL);
        let mut table = tokio::time::interval(TABLE);
        table.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => {
                    let soon = until_next(self.look());
                    tick.reset_after(soon);
                }
                _ = table.tick() => self.look_up(),
                () = self.published.changed() => {
                    self.follow_mesh();
                    // However often it changes, what the kernel tells is heard.
                    self.take_in(None);
                }
                event = self.events.next() => self.take_in(Some(event)),
                () = tokio::time::sleep(YOUNG), if self.young => self.take_in(None),
            }
        }
    }

    /// The mesh has changed, or something that weighs as much: nothing that was granted before
    /// holds, and nothing that is open unless it is allowed now.
    fn follow_mesh(&mut self) {
        let path = Arc::clone(&self.path);
        let left = path.left.read();
        if *left {
            return;
        }
        self.is_void = match self.path.kernel.advance() {
            Ok(generation) => {
                self.path.grants.advanced(generation);
                true
            }
            Err(error) => {
                tracing::error!(%error, "cannot void the verdicts in the kernel; trying again");
                false
            }
        };
        self.judge();
        if self.is_void {
            let mesh = self.plane.mesh.load_full();
            let kernel = &*self.path.kernel;
            (self.path.grants).renew(kernel, &mesh, &self.plane.identities);
        }
    }

    fn judge(&self) {
        let all = judge(&self.path, &self.plane);
        self.path.overdue.store(!all, Ordering::Relaxed);
    }

    /// Takes in events: this one, and those that are there.
    fn take_in(&mut self, first: Option<crate::capture::Event>) {
        let events = &mut self.events;
        let more = std::iter::from_fn(|| events.try_next());
        let events = first.into_iter().chain(more).take(BATCH);
        self.young = take_in(&self.path, &self.plane, events);
    }

    /// Looks at the kernel's table, if that is due.
    fn look_up(&mut self) {
        let path = Arc::clone(&self.path);
        let left = path.left.read();
        // Before the table: what is entered in between counts for the next time.
        let entered = path.kernel.entered();
        if *left || !self.news.are_due(entered) {
            return;
        }
        match path.kernel.table() {
            Ok(table) => {
                let others = look_up(&path, &self.plane, &table);
                self.news.settled = (!others).then_some(entered);
            }
            Err(error) => tracing::warn!(%error, "cannot read the table of same-node connections"),
        }
    }

    /// What nobody tells. Returns how long all certificates that are valid stay so.
    fn look(&mut self) -> Duration {
        let current_for = self.plane.identities.current_for();
        if *self.path.left.read() {
            return current_for;
        }
        if let Err(error) = self.path.kernel.sweep() {
            tracing::warn!(%error, "cannot remove same-node connections that failed");
        }
        let uncertified = current_for.is_zero();
        let mesh = self.plane.mesh.load_full();
        let identities = &self.plane.identities;
        let lacks = uncertified && self.path.grants.lacks_certificate(&mesh, identities);
        let foreign = self.path.foreign.swap(false, Ordering::Relaxed);
        if lacks || foreign || !self.is_void {
            self.follow_mesh();
        } else if uncertified || self.path.overdue.load(Ordering::Relaxed) {
            self.judge();
        }
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(REFRESH) {
            refresh(&self.path);
            self.path.intake.lock().forget();
        }
        if self.ticks.is_multiple_of(COMPARE) {
            self.compare = true;
            self.path.grants.make_room(&*self.path.kernel, IDLE);
        }
        self.compare |= self.path.awaited.swap(false, Ordering::Relaxed);
        let lost = self.path.kernel.lost();
        if lost != self.lost {
            let events = lost.saturating_sub(self.lost);
            tracing::warn!(
                events,
                "events of same-node connections were lost; comparing with what is open"
            );
            self.lost = lost;
            self.compare = true;
        }
        if self.compare {
            let (path, plane) = (Arc::clone(&self.path), Arc::clone(&self.plane));
            self.compare = compare(&path, &plane, || {
                let events = &mut self.events;
                take_in(&path, &plane, std::iter::from_fn(|| events.try_next()));
            });
        }
        current_for
    }
}

/// When to look again, if all certificates are valid for so long. Zero says that one is not, which
/// was seen to.
fn until_next(current_for: Duration) -> Duration {
    if current_for.is_zero() {
        INTERVAL
    } else {
        current_for.min(INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_not_slept_through() {
        let soon = Duration::from_millis(3);
        assert_eq!(until_next(soon), soon);
        assert_eq!(until_next(Duration::MAX), INTERVAL);
        assert_eq!(until_next(Duration::ZERO), INTERVAL, "once is enough");
    }

    #[test]
    fn the_table_is_looked_at_within_a_second_though_nothing_was_counted() {
        let mut news = News::default();
        assert!(news.are_due(7), "nothing is known yet");
        news.settled = Some(7);
        assert!(news.are_due(8), "something was entered");
        news.settled = Some(8);
        let due: Vec<bool> = (0..8).map(|_| news.are_due(8)).collect();
        assert_eq!(due.iter().filter(|due| **due).count(), 2);
        assert!(TABLE * ANYWAY < Duration::from_secs(1));
    }
}
