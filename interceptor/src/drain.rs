//! Tasks: the only way to start concurrent work, so that shutting down can wait for all of it.
//!
//! Draining has two steps. [`Tasks::stop`] asks: every task sees [`Tasks::stopping`] resolve and
//! ends at its own pace (a listener stops accepting, a connection runs on). [`Tasks::finish`]
//! waits until a deadline, then cancels what is left at its next await point.
//!
//! Not here: what a task does when it is asked to stop.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

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
        if this.future.poll(cx).is_ready() {
            return Poll::Ready(());
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

#[cfg(test)]
mod tests {
    use super::*;

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
