//! Tasks: the only way to start concurrent work, so that shutting down can wait for all of it, and so
//! that none of it ends unnoticed.
//!
//! Draining has two steps. [`Tasks::stop`] asks: every task sees [`Tasks::stopping`] resolve and
//! ends at its own pace (a listener stops accepting, a connection runs on). [`Tasks::finish`]
//! waits until a deadline, then cancels what is left at its next await point.
//!
//! A task that panics ends alone: it is logged by its name and counted ([`panics`]), and the others go
//! on. Some the agent cannot do without: one that took verdicts again would leave connections open that
//! no policy allows any more, and nobody would see it. Those are [vital](Tasks::spawn_vital), and the
//! agent ends with them ([`Tasks::lost`]): its ports close, and whoever supervises it starts it again.
//!
//! Not here: what a task does when it is asked to stop; one that never comes back (`lanes`).

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

/// Tasks of this process that have panicked.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many tasks have panicked since the process began. Each is a fault of the agent's.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// A task has ended that the agent cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task {0:?} has ended, without which the agent cannot go on")]
pub struct TaskLost(pub &'static str);

/// A handle through which tasks are started, asked to stop, and waited for.
///
/// Clones share the same set of tasks. [`Tasks::child`] makes a set that stops with its parent
/// and can also be stopped alone (one workload's listeners, for example).
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
    /// Of the set that this one was made from.
    parent_stopping: CancellationToken,
    cancelled: Cancelled,
    /// The first vital task that has ended unasked.
    lost: Arc<watch::Sender<Option<TaskLost>>>,
}

impl Tasks {
    /// An empty set of tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// A set whose tasks are waited for together with the parent's, and that stops when the
    /// parent stops or when it is stopped itself.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            tracker: self.tracker.clone(),
            stopping: self.stopping.child_token(),
            parent_stopping: self.stopping.clone(),
            cancelled: self.cancelled.child(),
            lost: Arc::clone(&self.lost),
        }
    }

    /// Starts `future` on the current runtime under `name`, which appears in debug logs.
    ///
    /// The future is dropped at an await point if the drain deadline passes first, so it must be
    /// cancel safe in the sense that dropping it loses nothing but its own connection.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, as every spawn does.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(Cancellable {
            name,
            flag: Arc::clone(&self.cancelled.flag),
            is_waiting: false,
            cancelled: self.cancelled.token.clone().cancelled_owned(),
            future,
        });
    }

    /// The same for what the agent cannot do without: if it panics, or ends before it was asked to,
    /// [`Tasks::lost`] resolves.
    ///
    /// # Panics
    ///
    /// As [`Tasks::spawn`].
    pub fn spawn_vital<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let vital = Vital {
            name,
            stopping: self.stopping.clone(),
            lost: Arc::clone(&self.lost),
        };
        self.spawn(name, async move {
            let _vital = vital;
            future.await;
        });
    }

    /// Resolves when a vital task of this set, or of one that shares its root, has ended unasked.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop and call again.
    pub async fn lost(&self) -> TaskLost {
        let mut lost = self.lost.subscribe();
        match lost.wait_for(Option::is_some).await.map(|lost| *lost) {
            Ok(Some(lost)) => lost,
            // Fails only without a sender, and this is one.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Asks every task of this set to stop. Idempotent.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// Drops every task of this set at its next await point, without waiting. For a workload that
    /// is gone, where there is nothing to drain.
    pub fn cancel(&self) {
        self.stopping.cancel();
        self.cancelled.cancel();
    }

    /// True once [`Tasks::stop`] was called here or on a parent.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// True if this set was asked to stop, and the one that it was made from was not.
    pub fn is_stopping_alone(&self) -> bool {
        self.is_stopping() && !self.parent_stopping.is_cancelled()
    }

    /// Resolves when this set is asked to stop.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop and call again.
    pub async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Stops, waits up to `deadline` for the tasks of this set and of all sets that share its
    /// root, then cancels the rest. Returns how many had to be cancelled.
    pub async fn finish(&self, deadline: Duration) -> usize {
        self.stop();
        self.tracker.close();
        if tokio::time::timeout(deadline, self.tracker.wait())
            .await
            .is_ok()
        {
            return 0;
        }
        let left = self.tracker.len();
        self.cancelled.cancel();
        self.tracker.wait().await;
        left
    }
}

/// Whether tasks are to be dropped.
///
/// The token wakes them; asking it takes a lock that all of them share. The flags beside it are for
/// asking at every poll.
#[derive(Clone, Debug, Default)]
struct Cancelled {
    token: CancellationToken,
    flag: Arc<Flag>,
}

#[derive(Debug, Default)]
struct Flag {
    set: AtomicBool,
    parent: Option<Arc<Self>>,
}

impl Cancelled {
    fn child(&self) -> Self {
        Self {
            token: self.token.child_token(),
            flag: Arc::new(Flag {
                set: AtomicBool::new(false),
                parent: Some(Arc::clone(&self.flag)),
            }),
        }
    }

    fn cancel(&self) {
        // Before anybody is woken by it.
        self.flag.set.store(true, Ordering::Release);
        self.token.cancel();
    }
}

/// Tells of a vital task that is gone, however it went.
struct Vital {
    name: &'static str,
    stopping: CancellationToken,
    lost: Arc<watch::Sender<Option<TaskLost>>>,
}

impl Drop for Vital {
    fn drop(&mut self) {
        if !self.stopping.is_cancelled() {
            self.lost.send_if_modified(|lost| {
                let first = lost.is_none();
                lost.get_or_insert(TaskLost(self.name));
                first
            });
        }
    }
}

impl Flag {
    fn is_set(&self) -> bool {
        let here = self.set.load(Ordering::Acquire);
        here || self.parent.as_ref().is_some_and(|parent| parent.is_set())
    }
}

pin_project! {
    /// A task until it ends or is cancelled.
    ///
    /// A type, because an `async` block would have room for `future` twice: as what it was given and
    /// as what it awaits. There is one of these for every open connection.
    struct Cancellable<F> {
        name: &'static str,
        flag: Arc<Flag>,
        // The token knows whom to wake: a task is always woken in the same way.
        is_waiting: bool,
        #[pin]
        cancelled: WaitForCancellationFutureOwned,
        #[pin]
        future: F,
    }
}

impl<F: Future<Output = ()>> Future for Cancellable<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let begins = !*this.is_waiting;
        if begins && this.flag.is_set() {
            return Poll::Ready(());
        }
        // A future that has panicked is not asked again.
        match catch_unwind(AssertUnwindSafe(|| this.future.poll(cx))) {
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(())) => return Poll::Ready(()),
            Err(panic) => {
                has_panicked(this.name, &*panic);
                return Poll::Ready(());
            }
        }
        if !begins && !this.flag.is_set() {
            return Poll::Pending;
        }
        *this.is_waiting = true;
        let cancelled = this.cancelled.poll(cx);
        if cancelled.is_ready() {
            tracing::debug!(task = this.name, "cancelled at the drain deadline");
        }
        cancelled
    }
}

/// Counts a panic, and says whose it was: where it was has been said when it began.
fn has_panicked(task: &'static str, panic: &(dyn Any + Send)) {
    PANICS.fetch_add(1, Ordering::Relaxed);
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    let said = owned.or_else(|| panic.downcast_ref::<&str>().copied());
    let panic = said.unwrap_or_default();
    tracing::error!(task, panic, "a task has panicked: a fault of the agent's");
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// What [`Tasks::lost`] says now.
    fn lost_now(tasks: &Tasks) -> Option<TaskLost> {
        let lost = std::pin::pin!(tasks.lost());
        match lost.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(lost) => Some(lost),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn a_task_that_panics_is_counted_and_others_go_on() {
        let (tasks, before) = (Tasks::new(), panics());
        tasks.spawn("faulty", async { panic!("on purpose") });
        tasks.spawn("other", async {});
        assert_eq!(tasks.finish(Duration::from_secs(5)).await, 0);
        assert!(panics() > before);
        assert_eq!(lost_now(&tasks), None);
    }

    #[tokio::test]
    async fn a_vital_task_that_panics_is_missed() {
        let tasks = Tasks::new();
        tasks.child().spawn_vital("faulty", async {
            tokio::task::yield_now().await;
            panic!("on purpose")
        });
        tasks.spawn_vital("other", std::future::pending());
        assert_eq!(tasks.lost().await, TaskLost("faulty"));
        assert_eq!(tasks.lost().await, TaskLost("faulty"), "for good");
    }

    #[tokio::test]
    async fn a_vital_task_that_ends_unasked_is_missed_and_one_that_was_asked_is_not() {
        let tasks = Tasks::new();
        let polite = tasks.child();
        let asked = polite.clone();
        polite.spawn_vital("polite", async move { asked.stopping().await });
        polite.stop();
        tokio::task::yield_now().await;
        assert_eq!(lost_now(&tasks), None);
        tasks.spawn_vital("hasty", async {});
        assert_eq!(tasks.lost().await, TaskLost("hasty"));
    }

    #[tokio::test]
    async fn vital_tasks_that_are_cancelled_are_not_missed() {
        let tasks = Tasks::new();
        tasks.spawn_vital("stubborn", std::future::pending());
        assert_eq!(tasks.finish(Duration::ZERO).await, 1);
        assert_eq!(lost_now(&tasks), None);
    }

    #[tokio::test(start_paused = true)]
    async fn finish_waits_for_tasks_that_end_in_time() {
        let tasks = Tasks::new();
        let inner = tasks.clone();
        tasks.spawn("polite", async move {
            inner.stopping().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        assert_eq!(tasks.finish(Duration::from_secs(5)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn finish_cancels_tasks_that_outlive_the_deadline() {
        let tasks = Tasks::new();
        tasks.spawn("stubborn", std::future::pending());
        assert_eq!(tasks.finish(Duration::from_secs(5)).await, 1);
    }

    #[tokio::test]
    async fn stopping_a_child_leaves_the_parent_running() {
        let parent = Tasks::new();
        let child = parent.child();
        child.stop();
        assert!(child.is_stopping() && child.is_stopping_alone());
        assert!(!parent.is_stopping());
        parent.stop();
        assert!(!child.is_stopping_alone());
        assert!(parent.child().is_stopping());
    }
}
