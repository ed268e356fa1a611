//! The threads behind the lanes: starting, ending, and noticing that one does not go on.
//!
//! A task that panics ends alone. What ends a whole lane is a fault of ours or of the runtime, and
//! what stops it is work without an await point. Either way its listeners would stay open and answer
//! nobody. There is no mending that from outside, so the agent ends, its ports close, and whoever
//! supervises it starts it again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{HERE, Lane, Lanes};

/// How often the lanes are asked whether they go on.
const KNOCK: Duration = Duration::from_secs(1);
/// Unanswered knocks after which people are told.
const TELL: usize = 3;
/// Unanswered knocks after which a lane is given up. Counted, not timed: a machine that slept has
/// not knocked.
const GIVE_UP: usize = 30;

/// Why the data plane cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LaneLost {
    /// Its thread is gone.
    #[error("the thread lane-{lane} has ended, and the connections on it with it")]
    Ended {
        /// Which.
        lane: usize,
    },
    /// It does not come back to its tasks.
    #[error(
        "the thread lane-{lane} has not come back to its connections for {} s",
        GIVE_UP
    )]
    Stalled {
        /// Which.
        lane: usize,
    },
}

/// The running threads of the lanes; they end with [`Threads::end`].
#[derive(Debug)]
pub struct Threads {
    stop: CancellationToken,
    /// Closed by a thread that ends.
    ends: Vec<Receiver<()>>,
}

impl Lanes {
    /// Starts this many.
    ///
    /// # Errors
    ///
    /// If a thread or its epoll cannot be had.
    pub fn start(count: usize) -> io::Result<(Self, Threads)> {
        let (lost, noticed) = watch::channel(None);
        let stop = CancellationToken::new();
        let (mut all, mut ends) = (Vec::new(), Vec::new());
        for index in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            all.push(Lane::new(index, runtime.handle().clone()));
            let (end, ended) = sync_channel(0);
            ends.push(ended);
            let life = Life {
                index,
                stop: stop.clone(),
                lost: lost.clone(),
                _end: end,
            };
            std::thread::Builder::new()
                .name(format!("lane-{index}"))
                .spawn(move || life.live(runtime))?;
        }
        let lanes = Self {
            all: all.into(),
            lost: Some(noticed),
        };
        Ok((lanes, Threads { stop, ends }))
    }

    /// Resolves when a lane has ended unasked or stands still.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop and call again.
    pub async fn lost(&self) -> LaneLost {
        tokio::select! {
            lane = self.ended() => LaneLost::Ended { lane },
            lane = self.stalled() => LaneLost::Stalled { lane },
        }
    }

    async fn ended(&self) -> usize {
        let Some(mut lost) = self.lost.clone() else {
            return std::future::pending().await;
        };
        match lost.wait_for(Option::is_some).await.map(|lane| *lane) {
            Ok(Some(lane)) => lane,
            // All have ended, as they were asked to.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    async fn stalled(&self) -> usize {
        let mut knocks = interval(KNOCK);
        knocks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            knocks.tick().await;
            for lane in self.all.iter() {
                match lane.knock() {
                    GIVE_UP => return lane.index,
                    TELL => tracing::warn!(
                        lane = lane.index,
                        "a thread of the data plane does not come back to its connections"
                    ),
                    _ => {}
                }
            }
        }
    }
}

impl Lane {
    /// Asks for a sign of life. Returns how many it owes by now.
    fn knock(self: &Arc<Self>) -> usize {
        let owed = self.knocks.fetch_add(1, Ordering::Relaxed);
        if owed == 0 {
            let lane = Arc::clone(self);
            // Nothing that shutting down would wait for.
            drop(self.handle.spawn(async move {
                lane.knocks.store(0, Ordering::Relaxed);
            }));
        }
        owed
    }
}

impl Threads {
    /// Ends the lanes and what is left on them. Waits for that until the deadline.
    pub fn end(self, deadline: Duration) {
        self.stop.cancel();
        let until = Instant::now() + deadline;
        for end in self.ends {
            // Closed is what it waits for; late is what it does not wait for.
            let _closed_or_late = end.recv_timeout(until.saturating_duration_since(Instant::now()));
        }
    }
}

/// What a lane's thread does, and says when it ends for whatever reason.
struct Life {
    index: usize,
    stop: CancellationToken,
    lost: watch::Sender<Option<usize>>,
    /// Closed last.
    _end: SyncSender<()>,
}

impl Life {
    fn live(self, runtime: Runtime) {
        HERE.set(Some(self.index));
        runtime.block_on(self.stop.cancelled());
        runtime.shutdown_background();
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            self.lost.send_replace(Some(self.index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_ends_unasked_is_noticed() {
        let (lost, noticed) = watch::channel(None);
        let (end, _ended) = sync_channel(0);
        let life = Life {
            index: 1,
            stop: CancellationToken::new(),
            lost,
            _end: end,
        };
        let thread = std::thread::spawn(move || {
            let _life = life;
            panic!("not a task's panic");
        });
        thread.join().unwrap_err();
        let lanes = Lanes {
            all: [].into(),
            lost: Some(noticed),
        };
        assert!(matches!(lanes.lost().await, LaneLost::Ended { lane: 1 }));
    }
}
